import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { Sandbox } from '@mvm/sdk';
import { childrenOf, endOf, isDestroyed, next, sandboxFor, startScript, supervisorsOf, until } from './support.js';

test('a script that is done ends, and its sandbox with it', async (t) => {
  const script = startScript(t, 'hold.mjs', '1', 'leave');
  const [id] = await next<string[]>(script);
  assert.deepEqual(await endOf(script), { code: 0, signal: null });
  await isDestroyed(id ?? '');
});

test('one that exits in the middle, or throws, leaves nothing either', async (t) => {
  for (const [how, code] of [
    ['exit', 3],
    ['throw', 1],
  ] as const) {
    const script = startScript(t, 'hold.mjs', '1', how);
    const [id] = await next<string[]>(script);
    assert.deepEqual(await endOf(script), { code, signal: null });
    await isDestroyed(id ?? '');
  }
});

test('three sandboxes of a script that is killed are gone', async (t) => {
  const script = startScript(t, 'hold.mjs', '3', 'wait');
  const ids = await next<string[]>(script);
  for (const id of ids) assert.equal((await supervisorsOf(id)).length, 1);
  script.child.kill('SIGKILL');
  assert.equal((await endOf(script)).signal, 'SIGKILL');
  await Promise.all(ids.map(isDestroyed));
});

test('Ctrl-C in a script ends it and what it runs', async (t) => {
  const script = startScript(t, 'hold.mjs', '1', 'wait');
  const [id] = await next<string[]>(script);
  // As a terminal does it: to all of its process group.
  process.kill(-(script.child.pid ?? 0), 'SIGINT');
  assert.equal((await endOf(script)).signal, 'SIGINT');
  await isDestroyed(id ?? '');
});

test('a script that is killed while it makes a sandbox leaves none', async (t) => {
  const name = `killed-${process.pid}`;
  const script = startScript(t, 'create.mjs', name);
  await next(script);
  let mvmctl = 0;
  await until('mvmctl runs', async () => {
    [mvmctl = 0] = await childrenOf(script.child.pid ?? 0);
    return mvmctl > 0;
  });
  script.child.kill('SIGKILL');
  await endOf(script);
  await until('mvmctl is done', () => !existsSync(`/proc/${mvmctl}`));
  // It may have been made: then nobody claims it.
  const found = (await Sandbox.list({ all: true })).find((one) => one.name === name);
  if (found) await isDestroyed(found.id);
});

test('threads use sandboxes of their own and of each other, and leave nothing', async (t) => {
  const sandbox = await sandboxFor(t);
  const path = fileURLToPath(new URL('scripts/worker.mjs', import.meta.url));
  const worker = new Worker(path, { workerData: sandbox.id });
  const [{ id, said }] = await once(worker, 'message');
  assert.deepEqual(said, ['own\n', 'shared\n']);
  assert.equal((await supervisorsOf(id)).length, 1);
  await worker.terminate();
  await isDestroyed(id);
  assert.equal((await sandbox.commands.run('echo on')).stdout, 'on\n');
});

test('a lease that is lost is known to be', async () => {
  const sandbox = await Sandbox.create('base');
  assert.equal(sandbox.leased, true);
  await (await Sandbox.connect(sandbox.id)).destroy();
  await until('it is known', () => !sandbox.leased);
  await sandbox.close();
});
