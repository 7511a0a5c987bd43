/** Does what a lane asks for with the TypeScript SDK that is installed, and says how long it took. Reads lanes, a line each. */

import { createInterface } from 'node:readline';
import { Sandbox } from '@mvm/sdk';

const content = new Uint8Array(64 * 2 ** 20);
const sandbox = await Sandbox.create('base');
let made;

const lanes = {
  create: async () => {
    made = await Sandbox.create('base');
  },
  exec: () => sandbox.commands.run(['true']),
  write: () => sandbox.files.write('/root/f', content),
  read: async () => {
    if ((await sandbox.files.read('/root/f')).length !== content.length) throw new Error('it is shorter');
  },
};

console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const begun = performance.now();
  await lanes[line.trim()]();
  const took = performance.now() - begun;
  await made?.destroy();
  made = undefined;
  console.log(took / 1000);
}
await sandbox.destroy();
