// A worker that uses a sandbox of its own, and one of the thread that started it.
import { parentPort, workerData } from 'node:worker_threads';
import { Sandbox } from '@mvm/sdk';

const own = await Sandbox.create('base');
const shared = await Sandbox.connect(workerData);
const [mine, yours] = await Promise.all([own.commands.run('echo own'), shared.commands.run('echo shared')]);
parentPort.postMessage({ id: own.id, said: [mine.stdout, yours.stdout] });
// It stays, with its lease, until it is ended.
parentPort.on('message', () => {});
