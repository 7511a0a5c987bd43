import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { inspect } from 'node:util';
import { FileError, InvalidRequest, NotFound, type Receipt, receipts, run } from '@mvm/sdk';
import { failsAs, folderFor, IMAGE, sandboxFor } from './support.js';

test('a receipt can be had after the end of its sandbox, and is verified', async (t) => {
  const sandbox = await sandboxFor(t);
  const result = await sandbox.commands.run('echo proven');
  await sandbox.destroy();
  const receipt = await receipts.show(result.runId, { sandbox: sandbox.id });
  assert.deepEqual([receipt.verified, receipt.refusal, receipt.runId], [true, null, result.runId]);
  assert.equal((receipt.statement.run as { sandbox_id: string }).sandbox_id, sandbox.id);
  assert.ok(receipt.logged && receipt.logged.size > 0 && receipt.keyid && receipt.digest);
  const again = await receipts.verify(receipt);
  assert.deepEqual([again.verified, again.keyid, again.digest], [true, receipt.keyid, receipt.digest]);
  assert.deepEqual(again.logged, receipt.logged);
});

test('it is written with its proof, and a changed one is refused by name', async (t) => {
  const file = join(await folderFor(t), 'receipt.json');
  const { runId } = await run('echo proven', { image: IMAGE, receipt: file });
  const receipt = await receipts.show(runId);
  const copy = join(await folderFor(t), 'copy.json');
  await receipt.write(copy);
  for (const ending of ['', '.tlog-proof']) {
    assert.equal(await readFile(`${file}${ending}`, 'utf8'), await readFile(`${copy}${ending}`, 'utf8'));
  }
  assert.equal((await receipts.verify(copy, { proof: `${file}.tlog-proof` })).verified, true);
  await writeFile(
    copy,
    receipt.envelope.replace(/.(?=[^"]*"\}\]\}\s*$)/, (digit) => (digit === 'A' ? 'B' : 'A')),
  );
  const changed = await receipts.verify(copy);
  assert.deepEqual([changed.verified, changed.keyid, changed.logged], [false, '', null]);
  assert.ok(changed.refusal?.name && changed.refusal.why && changed.refusal.exitStatus >= 20);
  await assert.rejects(receipt.write('/no/such/folder/r.json'), failsAs(FileError, /ENOENT/));
});

test('one value behind it is proven, and is not shown unasked', async (t) => {
  const folder = await folderFor(t);
  const [file, value] = [join(folder, 'r.json'), join(folder, 'value')];
  await run(['echo', 'swordfish'], { image: IMAGE, receipt: file });
  const argv = await receipts.open(file, 'argv');
  assert.deepEqual([argv.refusal, argv.field], [null, 'argv']);
  const { opened } = await receipts.verify(file, { opening: argv });
  assert.equal(opened?.field, 'argv');
  assert.deepEqual(JSON.parse(Buffer.from(opened.value).toString()), ['echo', 'swordfish']);
  assert.match(inspect([argv, opened]), /Opening \{[\s\S]*Opened \{/);
  assert.ok(!inspect([argv, opened]).includes(' 73'));
  await writeFile(value, 'swordfish\n');
  const stdout = await receipts.open(file, 'stdout', { value });
  const kept = join(folder, 'opening.json');
  await writeFile(kept, stdout.content);
  assert.equal((await receipts.verify(file, { opening: kept })).opened?.field, 'stdout');
  await writeFile(value, 'another\n');
  const wrong = await receipts.open(file, 'stdout', { value });
  assert.ok(wrong.refusal?.name);
  await assert.rejects(receipts.verify(file, { opening: wrong }), failsAs(InvalidRequest, /was refused/));
  await assert.rejects(receipts.open(file, 'stdin'), failsAs(InvalidRequest, /not kept/));
});

test('what is not there is not found, and what is wrong is refused', async () => {
  await assert.rejects(receipts.show('run-0000000000000000'), failsAs(NotFound));
  await assert.rejects(receipts.show('nonsense'), failsAs(InvalidRequest));
  await assert.rejects(receipts.verify('/no/such/receipt'), failsAs(NotFound));
  await assert.rejects(receipts.verify('/no/such', { keys: ['/no/such/key'] }), failsAs(NotFound));
  await assert.rejects(receipts.verify({} as Receipt), failsAs(InvalidRequest, /receipt is not/));
  await assert.rejects(receipts.open('x', 'result' as 'argv'), failsAs(InvalidRequest, /the field is not one of/));
});
