import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, test } from 'node:test';
import { AlreadyExists, FileError, InvalidRequest, NotFound, Sandbox } from '@mvm/sdk';
import { ended, failsAs, folderFor, IMAGE } from './support.js';

let sandbox: Sandbox;
before(async () => {
  sandbox = await Sandbox.create(IMAGE);
});
after(() => ended(sandbox));

const withErrno = (errno: number) => (failure: unknown) => {
  failsAs(errno === 2 ? NotFound : errno === 17 ? AlreadyExists : FileError)(failure);
  assert.equal((failure as FileError).errno, errno);
  return true;
};

test('every byte arrives as it is', async () => {
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, n) => n));
  assert.deepEqual(await sandbox.files.write('/tmp/bytes', bytes), { bytes: 256, synced: false });
  assert.ok(bytes.equals(await sandbox.files.read('/tmp/bytes')));
  await sandbox.files.write('/tmp/text', 'Grüße\n');
  assert.equal(await sandbox.files.readText('/tmp/text'), 'Grüße\n');
  await sandbox.files.write('/tmp/empty', '');
  assert.equal((await sandbox.files.read('/tmp/empty')).length, 0);
  await sandbox.files.write('/tmp/odd', new Uint8Array([0xff, 0x41]));
  assert.equal(await sandbox.files.readText('/tmp/odd'), '\ufffdA');
});

test('a range is read', async () => {
  await sandbox.files.write('/tmp/range', '0123456789');
  const part = await sandbox.files.read('/tmp/range', { offset: 3, length: 4 });
  assert.equal(Buffer.from(part).toString(), '3456');
  assert.equal((await sandbox.files.read('/tmp/range', { offset: 100 })).length, 0);
});

test('a file is written at its end, with a mode, an owner and directories, and safely', async () => {
  const options = { mode: 0o640, owner: '1000:1000', parents: true, sync: true };
  assert.equal((await sandbox.files.write('/tmp/a/b/c', 'one', options)).synced, true);
  await sandbox.files.write('/tmp/a/b/c', ' two', { append: true });
  assert.equal(await sandbox.files.readText('/tmp/a/b/c'), 'one two');
  const info = await sandbox.files.stat('/tmp/a/b/c');
  assert.deepEqual([info.kind, info.size, info.mode & 0o777, info.uid, info.gid], ['file', 7, 0o640, 1000, 1000]);
});

test('large files go in and out in pieces', async () => {
  const [sent, got] = [createHash('sha256'), createHash('sha256')];
  const piece = Buffer.alloc(1 << 20, 'a piece ');
  function* pieces(): Generator<Uint8Array> {
    for (let n = 0; n < 32; n += 1) {
      piece.writeUInt32LE(n);
      sent.update(piece);
      yield Buffer.from(piece);
    }
  }
  assert.equal((await sandbox.files.write('/large', Readable.from(pieces()))).bytes, 32 << 20);
  for await (const part of sandbox.files.stream('/large')) got.update(part);
  assert.equal(got.digest('hex'), sent.digest('hex'));
  for await (const part of sandbox.files.stream('/large')) {
    assert.ok(part.length > 0);
    break;
  }
  async function* texts(): AsyncGenerator<string> {
    yield 'from ';
    yield 'texts';
  }
  await sandbox.files.write('/tmp/texts', texts());
  assert.equal(await sandbox.files.readText('/tmp/texts'), 'from texts');
});

test('what breaks off leaves the old file', async () => {
  await sandbox.files.write('/tmp/whole', 'old');
  const thrown = new RangeError('of the caller');
  async function* broken(): AsyncGenerator<string> {
    yield 'new';
    throw thrown;
  }
  await assert.rejects(sandbox.files.write('/tmp/whole', broken()), (failure) => failure === thrown);
  const controller = new AbortController();
  async function* aborted(): AsyncGenerator<string> {
    yield 'new';
    controller.abort(thrown);
    yield 'er';
  }
  const write = sandbox.files.write('/tmp/whole', aborted(), { signal: controller.signal });
  await assert.rejects(write, (failure) => failure === thrown);
  const odd = [1, 2] as unknown as string[];
  await assert.rejects(sandbox.files.write('/tmp/whole', odd), failsAs(InvalidRequest, /neither a text nor bytes/));
  assert.equal(await sandbox.files.readText('/tmp/whole'), 'old');
});

test('several files are written at once, or none if one is wrong', async () => {
  const written = await sandbox.files.writeMany(
    { '/tmp/many/1': 'a', '/tmp/many/2': Buffer.from('bc') },
    { parents: true },
  );
  assert.deepEqual(
    written.map(({ bytes }) => bytes),
    [1, 2],
  );
  await assert.rejects(sandbox.files.writeMany({ '/tmp/many/3': 'x', many: 'y' }), failsAs(InvalidRequest, /absolute/));
  assert.equal(await sandbox.files.exists('/tmp/many/3'), false);
});

test('directories are made, listed, moved and removed', async () => {
  await sandbox.files.mkdir('/tmp/d', { mode: 0o700 });
  await sandbox.files.mkdir('/tmp/d/e/f', { parents: true });
  await sandbox.files.write('/tmp/d/file', 'x');
  await sandbox.commands.run('ln -s /no/where /tmp/d/link; ln -s loop /tmp/d/loop');
  const names = (await sandbox.files.list('/tmp/d')).map(({ name, kind }) => `${name} ${kind}`);
  assert.deepEqual(names, ['e directory', 'file file', 'link symlink', 'loop symlink']);
  assert.equal((await sandbox.files.stat('/tmp/d/link')).target, '/no/where');
  await assert.rejects(sandbox.files.stat('/tmp/d/link', { follow: true }), withErrno(2));
  assert.equal(await sandbox.files.exists('/tmp/d/link'), false);
  assert.equal(await sandbox.files.exists('/tmp/d/loop'), false);
  await sandbox.files.move('/tmp/d/file', '/tmp/d/moved');
  assert.deepEqual(
    [await sandbox.files.exists('/tmp/d/file'), await sandbox.files.exists('/tmp/d/moved')],
    [false, true],
  );
  await assert.rejects(sandbox.files.remove('/tmp/d'), withErrno(39));
  await sandbox.files.remove('/tmp/d', { recursive: true });
  assert.equal(await sandbox.files.exists('/tmp/d'), false);
});

test('failures are told apart by their number', async () => {
  await assert.rejects(sandbox.files.read('/no/such'), withErrno(2));
  await assert.rejects(sandbox.files.list('/etc/passwd'), withErrno(20));
  await assert.rejects(sandbox.files.read('/etc'), withErrno(21));
  await assert.rejects(sandbox.files.mkdir('/etc'), withErrno(17));
  await assert.rejects(sandbox.files.write('/no/such/folder', 'x'), withErrno(2));
  // The sandbox says so before all of it is there.
  await assert.rejects(sandbox.files.write('/no/such/folder', Buffer.alloc(16 << 20)), withErrno(2));
  assert.equal(await sandbox.files.exists('/etc/passwd/below'), false);
});

test('a path that is not plain is refused', async () => {
  for (const path of ['/tmp/../etc/passwd', '/tmp/a\0b', '/..']) {
    await assert.rejects(sandbox.files.read(path), failsAs(InvalidRequest));
    await assert.rejects(sandbox.files.write(path, 'x'), failsAs(InvalidRequest));
    await assert.rejects(sandbox.files.exists(path), failsAs(InvalidRequest));
  }
  for (const path of ['', 'relative', './a', '~/a']) {
    assert.throws(() => sandbox.files.stream(path), failsAs(InvalidRequest));
    await assert.rejects(sandbox.files.list(path), failsAs(InvalidRequest));
  }
});

test('trees are copied both ways, and what leads out of one is left out', async (t) => {
  const folder = await folderFor(t);
  const source = join(folder, 'tree');
  await mkdir(join(source, 'below'), { recursive: true });
  await writeFile(join(source, 'below', 'file'), 'content');
  await symlink('file', join(source, 'below', 'link'));
  const report = await sandbox.files.upload({ hostPath: relative(process.cwd(), source), guestPath: '/tmp/tree' });
  assert.deepEqual([report.files, report.directories, report.links, report.skipped], [1, 2, 1, []]);
  assert.equal(await sandbox.files.readText('/tmp/tree/below/link'), 'content');
  await sandbox.commands.run('ln -s /etc/passwd /tmp/tree/out');
  const back = join(folder, 'back');
  const got = await sandbox.files.download({ guestPath: '/tmp/tree', hostPath: back });
  assert.deepEqual(got.skipped.length, 1);
  assert.equal(await readFile(join(back, 'below', 'file'), 'utf8'), 'content');
  const missing = sandbox.files.upload({ hostPath: join(folder, 'no-such'), guestPath: '/tmp/x' });
  await assert.rejects(missing, withErrno(2));
});
