// Makes every public call in record mode, and says of each what became of it. Argument: the name of the last one.
import { NotRecordable, Sandbox } from '@mvm/sdk';
import { CALLS, LAST } from '../recorded.js';

const [last] = process.argv.slice(2);
const sandbox = await Sandbox.create('base');
const job = await sandbox.commands.start('sleep 1');
for (const [name, call] of CALLS) {
  if (name === 'create' || (LAST.includes(name) && name !== last)) continue;
  try {
    await call(sandbox, job);
    console.log(JSON.stringify({ name, outcome: 'recorded' }));
  } catch (failure) {
    if (!(failure instanceof NotRecordable)) throw failure;
    console.log(JSON.stringify({ name, outcome: 'NotRecordable', call: failure.call, place: failure.place }));
  }
}
