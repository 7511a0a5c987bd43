import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, symlink, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { argumentsOf, type Caught, callsOf, type Ended, recorded } from './recorded.js';
import { folderFor } from './support.js';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
const caughtBy = ({ said }: Ended): readonly (Caught | null)[] => said as readonly (Caught | null)[];
const whysOf = (ended: Ended) => caughtBy(ended).map((failure) => failure && [failure.code, failure.call, failure.why]);

/** Uploads each of these in a program of its own. */
async function uploaded(t: TestContext, ...paths: string[]): Promise<Ended> {
  const uploads = paths.map(
    (path) => `await caught(() => sandbox.files.upload({ hostPath: ${path}, guestPath: '/x' }));`,
  );
  return recorded(t, `const sandbox = await Sandbox.create('base');\n${uploads.join('\n')}`);
}

test('a tree is recorded as it is: sorted by bytes, a directory before what is in it', async (t) => {
  const tree = join(await folderFor(t), 'tree');
  for (const path of ['b/c/d', 'b/c-', 'é', 'z']) await mkdir(join(tree, path), { recursive: true });
  for (const path of ['b/c/d/deep', 'a', 'é/f', '\u{1f600}', '\uff5e']) await writeFile(join(tree, path), path);
  await symlink('../no/such', join(tree, 'b/link'));
  await symlink(tree, join(tree, '..', 'to-tree'));
  for (const [path, mode] of [
    ['', 0o755],
    ['b', 0o700],
    ['a', 0o4755],
    ['b/c/d/deep', 0o600],
  ] as const) {
    await chmod(join(tree, path), mode);
  }
  execFileSync('chmod', ['644', ...['é/f', '\u{1f600}', '\uff5e'].map((path) => join(tree, path))]);
  execFileSync('chmod', ['755', ...['b/c', 'b/c/d', 'b/c-', 'é', 'z'].map((path) => join(tree, path))]);
  const directory = (path: string, mode = 0o755) => ({ path, what: { directory: { mode } } });
  const file = (path: string, mode = 0o644) => ({ path, what: { file: { content: sha256(path), mode } } });
  const entries = [
    directory(''),
    file('a', 0o755),
    directory('b', 0o700),
    directory('b/c'),
    directory('b/c/d'),
    file('b/c/d/deep', 0o600),
    directory('b/c-'),
    { path: 'b/link', what: { link: '../no/such' } },
    directory('z'),
    directory('é'),
    file('é/f'),
    // By their bytes; in UTF-16 they are the other way round.
    file('\uff5e'),
    file('\u{1f600}'),
  ];
  const ended = await uploaded(t, ...[tree, join(tree, '..', 'to-tree')].map((path) => JSON.stringify(path)));
  assert.deepEqual([ended.code, ended.complaint], [0, '']);
  // The root is followed.
  assert.deepEqual(argumentsOf(ended, 'files.upload'), Array(2).fill({ guest_path: '/x', entries }));
  assert.equal(Object.keys(ended.recording?.contents ?? {}).length, 5);
});

test('a single file is a tree, and a relative path is one of the process', async (t) => {
  const folder = await folderFor(t);
  await writeFile(join(folder, 'one'), 'one', { mode: 0o640 });
  const ended = await recorded(
    t,
    `process.chdir(${JSON.stringify(folder)});
const sandbox = await Sandbox.create('base');
await sandbox.files.upload({ hostPath: 'one', guestPath: '/one' });`,
  );
  const entries = [{ path: '', what: { file: { content: sha256('one'), mode: 0o640 } } }];
  assert.deepEqual(argumentsOf(ended, 'files.upload'), [{ guest_path: '/one', entries }]);
});

test('what a tree may not have is named', async (t) => {
  const folder = await folderFor(t);
  const kinds = ['pipe', 'socket', 'name', 'target', 'deep', 'many'];
  for (const kind of kinds) await mkdir(join(folder, kind, 'in'), { recursive: true });
  execFileSync('mkfifo', [join(folder, 'pipe/in/p')]);
  const server = createServer().listen(join(folder, 'socket/in/s'));
  t.after(() => server.close());
  await once(server, 'listening');
  await writeFile(Buffer.concat([Buffer.from(`${folder}/name/in/`), Buffer.from([0xff])]), '');
  await symlink(Buffer.from([0xff]), join(folder, 'target/in/l'));
  await mkdir(join(folder, 'deep/in', 'd/'.repeat(64)), { recursive: true });
  await Promise.all(Array.from({ length: 19_999 }, (_, index) => symlink('x', join(folder, 'many/in', String(index)))));
  const paths = ['/dev/null', ...kinds.map((kind) => join(folder, kind))];
  const ended = await uploaded(t, ...paths.map((path) => JSON.stringify(path)));
  const whys = [
    'it is a device',
    'in/p is a pipe',
    'in/s is a socket',
    'the name in/\ufffd is no UTF-8',
    'in/l is a link to a name that is no UTF-8',
    'it is more than 64 directories deep',
    'there are more than 20,000 files in it',
  ];
  assert.deepEqual(
    whysOf(ended),
    whys.map((why) => ['NotRecordable', 'files.upload', why]),
  );
  assert.equal(ended.recording, null);
});

test('a content is read to its end, whatever it comes from, and may be used again', async (t) => {
  const ended = await recorded(
    t,
    `import { Readable } from 'node:stream';
const sandbox = await Sandbox.create('base');
await sandbox.files.write('/a', Readable.from(['o', 'ne']));
await sandbox.files.write('/b', new Set(['o', 'n', 'e']));
await sandbox.files.write('/c', (function* () {
  const piece = new Uint8Array(1);
  for (piece[0] of Buffer.from('one')) yield piece;
})());
await caught(() => sandbox.files.write('/d', (async function* () { yield 'lost'; throw { code: 'mine' }; })()));`,
  );
  assert.deepEqual(ended.said, [{ code: 'mine' }]);
  assert.deepEqual(
    argumentsOf(ended, 'files.write'),
    ['/a', '/b', '/c'].map((path) => ({ path, content: sha256('one') })),
  );
  assert.deepEqual(ended.recording?.contents, { [sha256('one')]: 'b25l' });
});

test('calls are in the order in which they began', async (t) => {
  const ended = await recorded(
    t,
    `import { setTimeout as sleep } from 'node:timers/promises';
const sandbox = await Sandbox.create('base');
await Promise.all([
  sandbox.files.write('/a', (async function* () { await sleep(50); yield 'a'; })()),
  sandbox.files.mkdir('/d'),
  sandbox.files.write('/b', 'b'),
]);`,
  );
  assert.deepEqual(callsOf(ended), ['create', 'files.write', 'files.mkdir', 'files.write']);
});

test('the contents have 64 MiB together, and no more is read', async (t) => {
  const folder = await folderFor(t);
  await writeFile(join(folder, 'large'), '');
  await truncate(join(folder, 'large'), 2 ** 40);
  const full = `const sandbox = await Sandbox.create('base');
const all = Buffer.alloc(64 << 20);
await sandbox.files.write('/a', all);
await sandbox.commands.run('cat', { stdin: all });
`;
  const exact = await recorded(t, full);
  assert.deepEqual([exact.code, exact.complaint], [0, '']);
  assert.equal(exact.recording?.contents[Object.keys(exact.recording.contents)[0] ?? '']?.length, 89_478_488);
  const ended = await recorded(
    t,
    `${full}await caught(() => sandbox.files.write('/b', 'x'));
let left = false;
await caught(() => sandbox.files.write('/c', (function* () { try { while (true) yield all; } finally { left = true; } })()));
say(left);
await caught(() => sandbox.files.upload({ hostPath: '${folder}/large', guestPath: '/d' }));`,
  );
  const [more, endless, left, large] = ended.said as [Caught, Caught, boolean, Caught];
  const why = 'a recording holds 64 MiB of contents';
  assert.ok(left);
  assert.deepEqual(
    [more.code, more.what, more.why],
    ['ResourceExhausted', 'cannot record files.write at agent.mjs:6', why],
  );
  assert.deepEqual([endless.code, endless.why, large.code, large.why], [more.code, why, more.code, why]);
  assert.deepEqual([ended.code, ended.recording], [1, null]);
  assert.match(ended.complaint, /cannot record files\.write at agent\.mjs:6: a recording holds 64 MiB of contents/);
});
