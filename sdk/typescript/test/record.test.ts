import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { Commands, Files, Job, Logs, Ports, receipts, Sandbox, Secrets, snapshots } from '@mvm/sdk';
import { argumentsOf, CALLS, type Caught, callsOf, EACH, type Ended, LAST, recorded, recordedBy } from './recorded.js';
import { folderFor } from './support.js';

const LIVE = 'mvmctl run --mode live SCRIPT runs it live';
const NO_ANSWER = 'it needs an answer that only a live sandbox has';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
const caughtBy = ({ said }: Ended): readonly (Caught | null)[] => said as readonly (Caught | null)[];
/** What each caught call failed for. */
const whysOf = (ended: Ended) => caughtBy(ended).map((failure) => failure && [failure.code, failure.call, failure.why]);

/** Ends the process as soon as it starts a program or opens a connection. */
const NOTHING_STARTS = `
import child_process from 'node:child_process';
import http from 'node:http';
import net from 'node:net';
import { syncBuiltinESMExports } from 'node:module';
const started = () => process.exit(99);
child_process.spawn = http.request = net.connect = net.createConnection = started;
syncBuiltinESMExports();
`;

/** Uses everything that can be recorded. Its first line is line 10. */
const WHOLE = `${NOTHING_STARTS}const sandbox = await Sandbox.create('base', {
  name: 'web', cpus: 2, memoryMib: 512, diskMib: 1024, env: { LANG: 'C' }, secrets: { TOKEN: 'env:API_TOKEN' },
  ports: [{ guestPort: 80, hostPort: 0 }, { guestPort: 81, hostPort: 8081, host: '0.0.0.0', protocol: 'tcp' }],
  profile: 'dev', ttlMs: 60_000.5, onExpiry: 'stop', owner: 'me', idempotencyKey: 'k', acceptRisk: true,
  allowMissing: ['seccomp'], require: [],
});
await sandbox.commands.run('true');
await sandbox.commands.run(['cat', '-n'], {
  env: { A: '1' }, secrets: { KEY: 'file:/run/key' }, cwd: '/srv', user: 'nobody', timeoutMs: 1500.2, stdin: 'in', check: true,
  maxOutput: 1,
});
await sandbox.commands.run(['x'], { check: false, env: {} });
await sandbox.commands.start(['sleep', '1'], { cwd: '/', stdin: false, idempotencyKey: 'k' });
await sandbox.files.write('/a', 'text', { mode: 0o600, owner: '0:0', append: true, sync: true, parents: true });
await sandbox.files.write('/b', [new Uint8Array([0x69]), 'n'], { append: false });
await sandbox.files.writeMany({ '/c': Buffer.from('c'), '/d': '' });
await sandbox.files.mkdir('/m', { parents: true, mode: 0o700 });
await sandbox.files.move('/a', '/e');
await sandbox.files.remove('/m', { recursive: true });
await sandbox.ports.forward({ guestPort: 90, hostPort: 9090 });
await sandbox.snapshot('saved');
await sandbox.snapshot();
await sandbox.keep(1000, { onExpiry: 'cold' });
await sandbox.detach({ ttlMs: 2000, owner: 'me', onExpiry: 'destroy' });
await sandbox.kill();
`;

const WHOLE_CALLS = [
  {
    create: {
      image: 'base',
      name: 'web',
      cpus: 2,
      memory_mib: 512,
      disk_mib: 1024,
      env: { LANG: 'C' },
      secrets: { TOKEN: 'env:API_TOKEN' },
      ports: [
        { guest_port: 80, host_port: 0 },
        { guest_port: 81, host_port: 8081, host: '0.0.0.0', protocol: 'tcp' },
      ],
      profile: 'dev',
      ttl_ms: 60_001,
      on_expiry: 'stop',
    },
  },
  { 'commands.run': { argv: ['/bin/sh', '-c', 'true'] } },
  {
    'commands.run': {
      argv: ['cat', '-n'],
      env: { A: '1' },
      secrets: { KEY: 'file:/run/key' },
      cwd: '/srv',
      user: 'nobody',
      timeout_ms: 1501,
      stdin: sha256('in'),
      check: true,
    },
  },
  { 'commands.run': { argv: ['x'] } },
  { 'commands.start': { argv: ['sleep', '1'], cwd: '/' } },
  {
    'files.write': { path: '/a', content: sha256('text'), mode: 0o600, owner: '0:0', append: true, parents: true },
  },
  { 'files.write': { path: '/b', content: sha256('in') } },
  { 'files.write': { path: '/c', content: sha256('c') } },
  { 'files.write': { path: '/d', content: sha256('') } },
  { 'files.mkdir': { path: '/m', parents: true, mode: 0o700 } },
  { 'files.move': { source: '/a', destination: '/e' } },
  { 'files.remove': { path: '/m', recursive: true } },
  { 'ports.forward': { guest_port: 90, host_port: 9090 } },
  { snapshot: { name: 'saved' } },
  { snapshot: {} },
  { keep: { ttl_ms: 1000, on_expiry: 'cold' } },
  { detach: { ttl_ms: 2000, on_expiry: 'destroy' } },
  { kill: {} },
];
const WHOLE_LINES = [10, 16, 17, 21, 22, 23, 24, 25, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34];

test('a recording has every call with what was given, where, and the contents once', async (t) => {
  const folder = await folderFor(t);
  const ended = await recorded(t, WHOLE, { folder, env: { API_TOKEN: 'hunter2-token' } });
  assert.deepEqual([ended.code, ended.complaint], [0, '']);
  const contents = { in: 'aW4=', text: 'dGV4dA==', c: 'Yw==', '': '' };
  const expected = {
    schema: 'mvm.recording/v1',
    program: 'agent.mjs',
    calls: WHOLE_CALLS.map((call, index) => ({ place: `agent.mjs:${WHOLE_LINES[index]}`, call })),
    contents: Object.fromEntries(Object.entries(contents).map(([text, base64]) => [sha256(text), base64])),
  };
  // As text: in the same order.
  assert.equal(JSON.stringify(ended.recording, null, 1), JSON.stringify(expected, null, 1));
  assert.equal((await stat(join(folder, 'out.json'))).mode & 0o777, 0o600);
});

test('a secret is only where it is: what is no reference is refused, and in no file', async (t) => {
  const ended = await recorded(
    t,
    `await caught(() => Sandbox.create('base', { secrets: { KEY: 'hunter2' } }));
const sandbox = await Sandbox.create('base', { secrets: { KEY: 'env:HUNTER' } });
for (const secrets of [{ KEY: 'hunter2' }, { KEY: 'env:' }, { KEY: 'file:' }, { 'A=hunter2': 'env:A' }]) {
  await caught(() => sandbox.commands.run('true', { secrets }));
  await caught(() => sandbox.commands.start('true', { secrets }));
}`,
    { env: { HUNTER: 'hunter2' } },
  );
  assert.deepEqual(
    caughtBy(ended).map((failure) => failure?.code),
    Array(9).fill('InvalidRequest'),
  );
  assert.ok(!JSON.stringify(ended).includes('hunter2'));
  assert.deepEqual(argumentsOf(ended, 'create'), [{ image: 'base', secrets: { KEY: 'env:HUNTER' } }]);
  assert.deepEqual([ended.code, callsOf(ended)], [0, ['create']]);
});

test('the lines are those of the source, also of TypeScript, and of who awaits', async (t) => {
  const program = `interface Shape {
  readonly cpus: number;
}
const shape: Shape = { cpus: 1 };
async function work(): Promise<void> {
  using sandbox = await Sandbox.create('base', shape);
  await sandbox.files.writeMany({ '/a': 'a', '/b': 'b' });
  await Promise.all([
    sandbox.files.write('/c', 'c'),
    sandbox.commands.run('true'),
  ]);
}
await work();`;
  const ended = await recorded(t, program, { name: 'agent 2.mts' });
  assert.equal(ended.complaint, '');
  assert.equal(ended.recording?.program, 'agent 2.mts');
  assert.deepEqual(
    ended.recording?.calls.map(({ place }) => place),
    [7, 8, 8, 10, 11, 7].map((line) => `agent 2.mts:${line}`),
  );
  assert.deepEqual(callsOf(ended).slice(-2), ['commands.run', 'close']);
});

test('an answer can be awaited and shown, and whoever uses it is told that nothing ran', async (t) => {
  const ended = await recorded(
    t,
    `import { inspect } from 'node:util';
const sandbox = await Sandbox.create('base');
const result = await sandbox.commands.run('true');
const job = await sandbox.commands.start('true');
const [written] = await sandbox.files.writeMany({ '/a': '' });
say([result instanceof CommandResult, job instanceof Job, Boolean(result), typeof written]);
say([result, job, written, sandbox].map((one) => inspect(one)));
await caught(() => result.exitCode);
await caught(() => \`\${result}\`);
await caught(() => ({ ...result }));
await caught(() => 'ok' in result);
await caught(async () => { for await (const _ of job); });
await caught(() => JSON.stringify(written));
await caught(() => [...written]);`,
  );
  const [classes, shown, ...caught] = ended.said as [unknown, unknown, ...Caught[]];
  assert.deepEqual(classes, [true, true, true, 'object']);
  assert.deepEqual(shown, [
    '<CommandResult of commands.run at agent.mjs:4, which was recorded>',
    '<Job of commands.start at agent.mjs:5, which was recorded>',
    '<Written of files.write at agent.mjs:6, which was recorded>',
    '<Sandbox of create at agent.mjs:3, which was recorded>',
  ]);
  const ran = (call: string) => `only a live sandbox knows it: ${call}, and did not run`;
  const command = ran('commands.run at agent.mjs:4 was recorded');
  const file = ran('files.write at agent.mjs:6 was recorded');
  const expected = [
    ['CommandResult.exitCode', command],
    ['CommandResult.toString', command],
    ['CommandResult', command],
    ['CommandResult.ok', command],
    ['Job[Symbol.asyncIterator]', ran('commands.start at agent.mjs:5 was recorded')],
    ['Written.toJSON', file],
    ['Written[Symbol.iterator]', file],
  ].map(([call, why], index) => {
    const place = `agent.mjs:${9 + index}`;
    return { code: 'NotRecordable', call, place, what: `cannot record ${call} at ${place}`, why };
  });
  assert.deepEqual(caught, expected);
  assert.equal(ended.recording, null);
});

test('of a sandbox is known what was given', async (t) => {
  const ended = await recorded(
    t,
    `const sandbox = await Sandbox.create('base', { name: 'web' });
say([sandbox.name, sandbox.created, sandbox.leased, sandbox.warnings, sandbox.missingSecrets]);
await caught(() => sandbox.id);
await caught(() => sandbox.info.state);`,
  );
  assert.deepEqual(ended.said[0], ['web', true, true, [], []]);
  assert.deepEqual(
    (ended.said.slice(1) as Caught[]).map(({ code, call, place }) => [code, call, place]),
    [
      ['NotRecordable', 'Sandbox.id', 'agent.mjs:4'],
      ['NotRecordable', 'SandboxInfo.state', 'agent.mjs:5'],
    ],
  );
  const unnamed = await recorded(t, "const { name } = await Sandbox.create('base', { lease: false, ttlMs: 5 });");
  assert.equal(unnamed.code, 1);
  assert.match(unnamed.complaint, /NotRecordable: cannot record Sandbox\.name at agent\.mjs:2: only a live/);
});

/** The methods of a class or object. */
function methodsOf(prefix: string, value: object): string[] {
  const all = Object.entries(Object.getOwnPropertyDescriptors(value));
  const methods = all.filter(([name, { value }]) => typeof value === 'function' && name !== 'constructor');
  return methods.map(([name]) => prefix + name);
}

test('the list of calls has every public one', () => {
  const functions = ['run', 'gc'];
  const classes = { commands: Commands, files: Files, ports: Ports, secrets: Secrets, job: Job, logs: Logs };
  const all = [
    ...functions,
    ...methodsOf('', Sandbox).filter((name) => name !== 'prototype'),
    ...methodsOf('', Sandbox.prototype),
    ...methodsOf('snapshots.', snapshots),
    ...methodsOf('receipts.', receipts),
    ...Object.entries(classes).flatMap(([name, { prototype }]) => methodsOf(`${name}.`, prototype)),
  ];
  assert.deepEqual(CALLS.map(([name]) => name).sort(), all.sort());
});

test('the page on recording says of every call what becomes of it', async () => {
  const page = await readFile(new URL('../../../docs/recording.md', import.meta.url), 'utf8');
  const rows = [...page.matchAll(/^\| `([\w.]+)` \| (.*) \|$/gm)].map(
    ([, name = '', says = '']) => [name, says] as const,
  );
  const told = new Map(rows);
  assert.equal(told.size, rows.length);
  for (const [name, , outcome] of CALLS) {
    // Python's names are those of the page.
    const says = told.get(name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`));
    assert.ok(says?.startsWith(outcome), `${name}: ${says}`);
  }
});

for (const last of LAST) {
  test(`every call is recorded, or says that it cannot be, up to ${last}`, async (t) => {
    const out = join(await folderFor(t), 'out.json');
    const ended = await recordedBy(EACH, [last], { MVM_SDK_OUT_PATH: out });
    const found = ended.said as { name: string; outcome: string; call?: string; place?: string }[];
    const wanted = CALLS.filter(([name]) => name !== 'create' && (name === last || !LAST.includes(name)));
    assert.deepEqual(
      found.map(({ name, outcome }) => [name, outcome]),
      wanted.map(([name, , outcome]) => [name, outcome]),
    );
    for (const { name, outcome, call, place } of found) {
      if (outcome === 'recorded') continue;
      assert.equal(call, name.replace(/^job\./, 'Job.'));
      assert.match(place ?? '', /^recorded\.ts:\d+$/, name);
    }
    assert.equal(ended.code, 1);
    assert.equal(ended.recording, null);
    assert.match(ended.complaint, /^mvm: no recording was written: cannot record connect at recorded\.ts:\d+: .*\n$/);
  });
}

test('options that a workload has no place for are refused by name', async (t) => {
  const ended = await recorded(
    t,
    `await caught(() => Sandbox.create('base', { require: ['seccomp'] }));
await caught(() => Sandbox.create('base', { ttlMs: Infinity, owner: 'me' }));
await caught(() => Sandbox.create('base', { dryRun: true }));
await caught(() => run('true', { dryRun: true }));
const sandbox = await Sandbox.create('base');
await caught(() => sandbox.detach({ ttlMs: Infinity }));
await caught(() => sandbox.commands.run('true', { onStdout: () => {} }));
await caught(() => sandbox.commands.run('true', { onStderr: () => {} }));
await caught(() => sandbox.commands.run('true', { receipt: 'r.json' }));
await caught(() => sandbox.commands.start('true', { stdin: true }));
await caught(() => sandbox.commands.start('true', { tty: { rows: 1, cols: 1 } }));
say(sandbox.leased);`,
  );
  const place = (option: string) => `a workload has no place for ${option}`;
  const end = 'a workload ends after a time';
  const expected = [
    ['create', place('require')],
    ['create', end],
    ['create', NO_ANSWER],
    ['run', NO_ANSWER],
    ['detach', end],
    ['commands.run', place('onStdout')],
    ['commands.run', place('onStderr')],
    ['commands.run', place('receipt')],
    ['commands.start', place('stdin')],
    ['commands.start', place('tty')],
  ];
  assert.equal(ended.said.at(-1), true);
  const failed = whysOf({ ...ended, said: ended.said.slice(0, -1) });
  assert.deepEqual(
    failed,
    expected.map(([call, why]) => ['NotRecordable', call, why]),
  );
});

test('arguments are looked at as ever, and what is refused is not recorded', async (t) => {
  const ended = await recorded(
    t,
    `const sandbox = await Sandbox.create('base');
await caught(() => sandbox.commands.run([]));
await caught(() => sandbox.commands.run('true', { timeoutMs: 2 ** 60 }));
await caught(() => sandbox.files.write('relative', ''));
await caught(() => sandbox.files.write('/a', [1]));
await caught(() => sandbox.files.upload({ hostPath: 'no-such-file', guestPath: '/a' }));
await caught(() => sandbox.files.upload({ hostPath: '/dev/null/a', guestPath: '/a' }));
await caught(() => sandbox.commands.run('\\ud800'));
await caught(() => sandbox.commands.run('true', { env: { A: '\\udc00' } }));
await caught(() => sandbox.keep(Infinity));
const env = { A: '1' };
await sandbox.commands.run('true', { env });
env.A = '2';
await sandbox.commands.run(['\\u{1f600}'], { env });`,
  );
  const codes = caughtBy(ended).map((failure) => failure?.code);
  const no = 'InvalidRequest';
  assert.deepEqual(codes, [no, no, no, no, 'NotFound', 'FileError', no, no, no]);
  assert.deepEqual(argumentsOf(ended, 'commands.run'), [
    { argv: ['/bin/sh', '-c', 'true'], env: { A: '1' } },
    { argv: ['\u{1f600}'], env: { A: '2' } },
  ]);
  assert.deepEqual(callsOf(ended), ['create', 'commands.run', 'commands.run']);
});

test('a mode is live or record, one process is of one kind, and its workload is one sandbox', async (t) => {
  const twice = await recorded(
    t,
    `await Sandbox.create('base');
await caught(() => Sandbox.create('base'));
await caught(() => Sandbox.create('base', { mode: 'live' }));
await caught(() => run('true', { mode: 'live' }));`,
  );
  const boots = 'MVM_SDK_MODE says record, and a process that records boots nothing';
  assert.deepEqual(whysOf(twice), [
    ['NotRecordable', 'create', 'a workload is one sandbox, and agent.mjs:2 creates one'],
    ['NotRecordable', 'create', boots],
    ['NotRecordable', 'run', boots],
  ]);
  assert.ok(twice.recording === null && twice.complaint.includes('agent.mjs:2 creates one') && twice.code === 1);
  const nonsense = await recorded(t, "await caught(() => Sandbox.create('base'));", { env: { MVM_SDK_MODE: 'dream' } });
  assert.deepEqual(
    caughtBy(nonsense).map((failure) => failure?.code),
    ['InvalidRequest'],
  );
  const asked = "await caught(() => Sandbox.create('base', { mode: 'record' }));";
  const explicit = await recorded(t, asked, { env: { MVM_SDK_MODE: undefined } });
  assert.deepEqual([explicit.said, callsOf(explicit)], [[null], ['create']]);
  const unasked = await recorded(t, "await caught(() => Sandbox.create('base'));", { env: { MVM_SDK_MODE: '' } });
  assert.deepEqual([caughtBy(unasked)[0]?.code, unasked.recording], ['NotFound', null]);
});

test('the error says what to do, and has the place and the call', async (t) => {
  const ended = await recorded(t, "const sandbox = await Sandbox.create('base');\nawait sandbox.files.read('/a');");
  assert.equal(ended.code, 1);
  const says = `NotRecordable: cannot record files.read at agent.mjs:3: ${NO_ANSWER}\n  try: ${LIVE}\n`;
  assert.ok(ended.complaint.includes(says), ended.complaint);
  assert.ok(ended.complaint.includes("call: 'files.read',\n  place: 'agent.mjs:3'"));
});
