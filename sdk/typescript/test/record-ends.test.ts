import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Caught, callsOf, type Ended, recorded } from './recorded.js';
import { folderFor } from './support.js';

const NOTHING = 'mvm: no recording was written: ';
const codesOf = ({ said }: Ended) => (said as (Caught | null)[]).map((failure) => failure?.code ?? null);

test('a handle that closes is recorded once, however it does, if it owns its lease', async (t) => {
  const program = (end: string, options = '') => `const sandbox = await Sandbox.create('base'${options});\n${end}`;
  const ends: [end: string, calls: string[], options?: string][] = [
    ['await sandbox.close(); await sandbox.close(); sandbox[Symbol.dispose]();', ['close']],
    ['sandbox[Symbol.dispose](); await sandbox.close();', ['close']],
    ['sandbox[Symbol.dispose](); process.exit();', ['close']],
    ['await sandbox[Symbol.asyncDispose]();', ['close']],
    ['await sandbox.close(); await sandbox.destroy(); await sandbox.kill();', ['close']],
    ['await sandbox.destroy(); await sandbox.destroy(); await sandbox.close();', ['destroy']],
    ['await sandbox.kill(); sandbox[Symbol.dispose]();', ['kill']],
    ['await sandbox.detach(); await sandbox.close();', ['detach']],
    ['await sandbox.detach(); await sandbox.destroy();', ['detach', 'destroy']],
    ['await sandbox.close();', [], ', { ttlMs: 1000 }'],
    ['', []],
  ];
  for (const [end, calls, options] of ends) {
    const ended = await recorded(t, program(end, options));
    assert.deepEqual([ended.code, ended.complaint, callsOf(ended)], [0, '', ['create', ...calls]], end);
  }
});

test('a handle that was closed refuses, and of that nothing is recorded', async (t) => {
  const ended = await recorded(
    t,
    `const sandbox = await Sandbox.create('base');
say(sandbox.leased);
sandbox[Symbol.dispose]();
say(sandbox.leased);
await caught(() => sandbox.commands.run('true'));
await caught(() => sandbox.files.read('/a'));
await caught(() => sandbox.destroy());`,
  );
  assert.deepEqual(ended.said.slice(0, 2), [true, false]);
  const [failure] = ended.said.slice(2) as Caught[];
  assert.equal(failure?.what, 'cannot use the sandbox of create at agent.mjs:2');
  assert.deepEqual(codesOf({ ...ended, said: ended.said.slice(2) }), Array(3).fill('ClosedHandle'));
  assert.deepEqual([ended.code, callsOf(ended)], [0, ['create', 'close']]);
});

test('what does not end well records nothing', async (t) => {
  const begin = "const sandbox = await Sandbox.create('base');\n";
  const unsaid: [program: string, code: number][] = [
    [`${begin}process.exit(3);`, 3],
    [`${begin}process.exitCode = 2;`, 2],
    [`${begin}await new Promise(() => {});`, 13],
    ['say(1);', 0],
    [`await Sandbox.create('base', { cpus: 0 }).catch(() => {});`, 0],
  ];
  for (const [program, code] of unsaid) {
    const ended = await recorded(t, program);
    assert.deepEqual([ended.code, ended.recording], [code, null], program);
    assert.ok(!ended.complaint.includes(NOTHING), ended.complaint);
  }
  const thrown = await recorded(t, `${begin}throw new Error('of the program');`);
  assert.deepEqual([thrown.code, thrown.recording], [1, null]);
  assert.match(thrown.complaint, /of the program/);
});

test('after what cannot be recorded nothing is, even if it was caught, and one line says why', async (t) => {
  const begin = "const sandbox = await Sandbox.create('base');\n";
  const caught = `${begin}await sandbox.files.read('/a').catch(() => {});\nawait sandbox.files.list('/').catch(() => {});`;
  const read = 'cannot record files.read at agent.mjs:3: it needs an answer that only a live sandbox has\n';
  const first = await recorded(t, caught);
  assert.deepEqual([first.code, first.recording, first.complaint], [1, null, `${NOTHING}${read}`]);
  const other = await recorded(t, `${caught}\nprocess.exit(7);`);
  assert.deepEqual([other.code, other.recording, other.complaint], [7, null, `${NOTHING}${read}`]);
  const without = await recorded(t, "await Sandbox.connect('web').catch(() => {});");
  assert.deepEqual([without.code, without.recording], [1, null]);
  assert.match(without.complaint, /^mvm: no recording was written: cannot record connect at agent\.mjs:2: .*\n$/);
  const early = await recorded(
    t,
    `${begin}sandbox.files.write('/a', (async function* () { await new Promise(() => {}); })());`,
  );
  const late = 'cannot record files.write at agent.mjs:3: it was not over when the program ended\n';
  assert.deepEqual([early.code, early.recording, early.complaint], [1, null, `${NOTHING}${late}`]);
});

test('there must be a place for the recording before anything is recorded', async (t) => {
  const folder = await folderFor(t);
  const program = "await caught(() => Sandbox.create('base'));";
  const places: [path: string | undefined, code: string][] = [
    [undefined, 'InvalidRequest'],
    ['', 'InvalidRequest'],
    [join(folder, 'no', 'out.json'), 'FileError'],
    [join(folder, 'agent.mjs', 'out.json'), 'FileError'],
  ];
  for (const [path, code] of places) {
    const ended = await recorded(t, program, { folder, env: { MVM_SDK_OUT_PATH: path } });
    assert.deepEqual([ended.code, codesOf(ended), ended.complaint], [0, [code], ''], path);
  }
  const again = `${program}\nprocess.env.MVM_SDK_OUT_PATH = '${folder}/out.json';\n${program}`;
  const ended = await recorded(t, again, { env: { MVM_SDK_OUT_PATH: '' } });
  assert.deepEqual([codesOf(ended), ended.complaint], [['InvalidRequest', null], '']);
});

test('a recording that cannot be written is an error, and what was there stays', async (t) => {
  const folder = await folderFor(t);
  const begin = "import fs from 'node:fs';\nawait Sandbox.create('base');\n";
  const path = join(folder, 'gone', 'out.json');
  const gone = await recorded(t, `fs.mkdirSync('${folder}/gone');\n${begin}fs.rmdirSync('${folder}/gone');`, {
    folder,
    env: { MVM_SDK_OUT_PATH: path },
  });
  assert.deepEqual([gone.code, gone.complaint], [1, `${NOTHING}cannot write ${path}: ENOENT\n`]);
  const taken = await recorded(t, `fs.mkdirSync('${folder}/out.json/a', { recursive: true });\n${begin}`, { folder });
  assert.equal(taken.code, 1);
  assert.match(taken.complaint, /^mvm: no recording was written: cannot write .*\/out\.json: E\w+\n$/);
  // Nor is anything left of what was begun.
  assert.deepEqual((await readdir(folder)).sort(), ['agent.mjs', 'out.json', 'tools.mjs']);
});

test('a recording replaces the one before', async (t) => {
  const folder = await folderFor(t);
  for (const name of ['first', 'second']) {
    const ended = await recorded(t, `await Sandbox.create('base', { name: '${name}' });`, { folder });
    assert.deepEqual(ended.recording?.calls[0]?.call, { create: { image: 'base', name } });
  }
});

test('a worker records nothing', async (t) => {
  const ended = await recorded(
    t,
    `import { Worker, isMainThread } from 'node:worker_threads';
if (isMainThread) new Worker(new URL(import.meta.url));
else await caught(() => Sandbox.create('base'));`,
  );
  assert.deepEqual(codesOf(ended), ['NotRecordable']);
  assert.equal(ended.recording, null);
});
