// Makes sandboxes, says which, and waits for its end. Arguments: how many, and what to do then.
import { Sandbox } from '@mvm/sdk';

const [count, then] = process.argv.slice(2);
const sandboxes = await Promise.all(Array.from({ length: Number(count) }, () => Sandbox.create('base')));
console.log(JSON.stringify(sandboxes.map(({ id }) => id)));

const what = {
  // Nothing is open but the leases: they keep no process from ending.
  leave() {},
  exit() {
    process.exit(3);
  },
  throw() {
    throw new Error('of the script');
  },
  async wait() {
    await Promise.all(sandboxes.map((sandbox) => sandbox.commands.run('sleep 1000')));
  },
};
await what[then]();
