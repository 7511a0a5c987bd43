import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { inspect } from 'node:util';
import { CommandFailed, FileError, InvalidRequest, NotFound, Sandbox, Timeout } from '@mvm/sdk';
import { ended, failsAs, folderFor, IMAGE, setEnv, until } from './support.js';

let sandbox: Sandbox;
before(async () => {
  sandbox = await Sandbox.create(IMAGE, { env: { GREETING: 'hello' } });
});
after(() => ended(sandbox));

test('a result is the exit code, both outputs, and who it was', async () => {
  const result = await sandbox.commands.run(['sh', '-c', 'echo out; echo err >&2; exit 3']);
  assert.equal(result.exitCode, 3);
  assert.equal(result.signal, null);
  assert.equal(result.ok, false);
  assert.equal(result.stdout, 'out\n');
  assert.equal(result.stderr, 'err\n');
  assert.deepEqual([result.stdoutBytes, result.stderrBytes], [4, 4]);
  assert.deepEqual([result.stdoutTruncated, result.stderrTruncated], [false, false]);
  assert.deepEqual([result.timedOut, result.oomKilled, result.notStarted], [false, false, null]);
  assert.match(result.runId, /^run-/);
  assert.equal(result.sandboxId, sandbox.id);
  assert.ok(result.auditId > 0 && result.durationMs > 0 && result.unrecorded === null);
  assert.deepEqual([result.redactions, result.warnings], [0, []]);
});

test('a text is a line for the shell', async () => {
  assert.equal((await sandbox.commands.run('echo $((20 + 22)) | cat')).stdout, '42\n');
});

test('a signal is no exit code', async () => {
  const result = await sandbox.commands.run('kill -15 $$');
  assert.deepEqual([result.exitCode, result.signal], [null, 15]);
});

test('output that is no UTF-8 is text with replacements, and its bytes', async () => {
  const result = await sandbox.commands.run(['printf', '\\377a\\303']);
  assert.equal(result.stdout, '\ufffda\ufffd');
  assert.deepEqual([...result.stdoutData], [0xff, 0x61, 0xc3]);
  assert.equal(result.stdoutBytes, 3);
});

test('what was written is not shown unasked', async () => {
  const result = await sandbox.commands.run('echo swordfish; echo swordfish >&2; exit 1');
  assert.ok(!inspect(result, { depth: 9, showHidden: true }).includes('swordfish'));
  assert.match(inspect(result), /^CommandResult \{/);
  const failure = await sandbox.commands
    .run('echo swordfish; exit 1', { check: true })
    .catch((error: unknown) => error);
  assert.ok(!inspect(failure, { depth: 9 }).includes('swordfish\n'));
});

test('with check any end but exit code 0 is an error with its result', async () => {
  assert.ok((await sandbox.commands.run('true', { check: true })).ok);
  await assert.rejects(sandbox.commands.run('echo some; exit 7', { check: true }), (failure) => {
    failsAs(CommandFailed, /exit code 7/)(failure);
    assert.ok(failure instanceof CommandFailed);
    assert.deepEqual([failure.result.exitCode, failure.result.stdout], [7, 'some\n']);
    return true;
  });
  await assert.rejects(sandbox.commands.run('kill -9 $$', { check: true }), failsAs(CommandFailed, /signal 9/));
});

test('what cannot be started is a result that says so', async () => {
  const missing = await sandbox.commands.run(['/no/such']);
  assert.deepEqual([missing.exitCode, missing.notStarted?.reason], [127, 'command_not_found']);
  const denied = await sandbox.commands.run(['/etc/passwd']);
  assert.deepEqual([denied.exitCode, denied.notStarted?.reason], [126, 'command_not_executable']);
  await assert.rejects(sandbox.commands.run(['/no/such'], { check: true }), failsAs(CommandFailed, /not started/));
});

test('past its time the tree is killed, and what it wrote is in the error', async () => {
  const run = sandbox.commands.run('echo begun; sleep 1000 & sleep 1000', { timeoutMs: 500 });
  await assert.rejects(run, (failure) => {
    failsAs(Timeout)(failure);
    assert.ok(failure instanceof Timeout && failure.result);
    assert.deepEqual([failure.result.timedOut, failure.result.stdout], [true, 'begun\n']);
    return true;
  });
  assert.equal((await sandbox.commands.run(['pgrep', 'sleep'])).stdout, '');
});

test('variables, directory, user and input go in', async () => {
  const given = { env: { OWN: 'a=b c' }, cwd: '/tmp', user: '1000:1000', stdin: 'from outside', timeoutMs: 2 ** 32 };
  const { stdout } = await sandbox.commands.run('echo "$GREETING|$OWN|$PWD|$(id -u):$(id -g)|$(cat)"', given);
  assert.equal(stdout, 'hello|a=b c|/tmp|1000:1000|from outside\n');
  assert.equal((await sandbox.commands.run(['cat'])).stdout, '');
  const bytes = new Uint8Array([0, 255, 10]);
  assert.deepEqual([...(await sandbox.commands.run(['cat'], { stdin: bytes })).stdoutData], [0, 255, 10]);
});

test('much goes in and out at once, and a command need not read its input', async () => {
  const data = Buffer.alloc(20 << 20, 'abcdefgh');
  const result = await sandbox.commands.run(['cat'], { stdin: data, maxOutput: data.length });
  assert.ok(data.equals(result.stdoutData));
  assert.ok((await sandbox.commands.run(['true'], { stdin: data })).ok);
});

test('the first bytes are kept up to a bound, and all are counted', async () => {
  const result = await sandbox.commands.run('printf 1234567890; printf 12345 >&2', { maxOutput: 5 });
  assert.deepEqual([result.stdout, result.stdoutBytes, result.stdoutTruncated], ['12345', 10, true]);
  assert.deepEqual([result.stderr, result.stderrBytes, result.stderrTruncated], ['12345', 5, false]);
  const none = await sandbox.commands.run('printf 1', { maxOutput: 0 });
  assert.deepEqual([none.stdout, none.stdoutBytes, none.stdoutTruncated], ['', 1, true]);
});

test('of 128 MiB of output 8 MiB are kept, and no more is held', async () => {
  const before = process.memoryUsage().rss;
  let most = 0;
  const look = setInterval(() => {
    most = Math.max(most, process.memoryUsage().rss);
  }, 50);
  const result = await sandbox.commands.run('head -c 134217728 /dev/zero');
  clearInterval(look);
  assert.deepEqual([result.stdoutBytes, result.stdoutData.length, result.stdoutTruncated], [128 << 20, 8 << 20, true]);
  assert.ok(most - before < 96 << 20, `it held ${(most - before) >> 20} MiB`);
});

test('output is passed on as it comes, in whole characters', async () => {
  const seen: string[] = [];
  const errors: string[] = [];
  const onStdout = async (text: string) => void seen.push(text);
  const line = "printf 'a\\303'; sleep 0.3; printf '\\251'; echo e >&2";
  await sandbox.commands.run(line, { onStdout, onStderr: (text) => errors.push(text) });
  assert.equal(seen.join(''), 'aé');
  assert.deepEqual(errors, ['e\n']);
});

test('what a callback throws is what the caller gets, and the command is gone', async () => {
  const onStdout = () => {
    throw new RangeError('enough');
  };
  await assert.rejects(sandbox.commands.run('yes', { onStdout }), new RangeError('enough'));
  await until('yes is gone', async () => (await sandbox.commands.run(['pgrep', 'yes'])).stdout === '');
});

test('an abort rejects with its reason, and the command is gone with its tree', async () => {
  const controller = new AbortController();
  const reason = new Error('no more');
  const onStdout = () => controller.abort(reason);
  const run = sandbox.commands.run('sleep 1234 & echo up; sleep 1234', { signal: controller.signal, onStdout });
  await assert.rejects(run, (failure) => failure === reason);
  await until('it is gone', async () => (await sandbox.commands.run(['pgrep', 'sleep'])).stdout === '');
  const late = sandbox.commands.run('true', { signal: AbortSignal.abort('never') });
  await assert.rejects(late, (failure) => failure === 'never');
  const own = sandbox.commands.run('sleep 1234', { signal: AbortSignal.timeout(100) });
  await assert.rejects(own, { name: 'TimeoutError' });
});

test('many run at once', async () => {
  const runs = Array.from({ length: 10 }, (_, n) => sandbox.commands.run(`echo ${n}`));
  assert.deepEqual(
    (await Promise.all(runs)).map(({ stdout }) => stdout),
    [...Array(10).keys()].map((n) => `${n}\n`),
  );
});

test('secrets go in by reference, and do not come out', async (t) => {
  const folder = await folderFor(t);
  const file = join(folder, 'secret');
  await writeFile(file, 'of-A-file-1234\r\n', { mode: 0o644 });
  setEnv(t, { SDK_TEST_TOKEN: 'Of-The-Env-5678' });
  const secrets = { ONE: 'env:SDK_TEST_TOKEN', TWO: `file:${file}` };
  const result = await sandbox.commands.run('echo "$ONE $TWO"; echo ${#ONE} ${#TWO} >&2', { secrets });
  assert.equal(result.stdout, '[redacted:ONE] [redacted:TWO]\n');
  assert.equal(result.stderr, '15 14\n');
  assert.equal(result.redactions, 2);
  assert.equal(result.warnings.length, 1);
  assert.match(result.warnings[0] ?? '', /the secret TWO is in a file that others may read/);
});

test('secrets that cannot be read are refused without being shown', async (t) => {
  setEnv(t, { SDK_TEST_SHORT: 'hunter2' });
  const refused = async (
    secrets: Record<string, string>,
    Expected: typeof InvalidRequest | typeof NotFound,
    why: RegExp,
  ) => {
    await assert.rejects(sandbox.commands.run('true', { secrets }), (failure) => {
      assert.ok(!inspect(failure).includes('hunter2'));
      return failsAs(Expected, why)(failure);
    });
  };
  await refused({ A: 'hunter2' }, InvalidRequest, /only where it is/);
  await refused({ hunter2: 'env:SDK_TEST_SHORT', 'hunter2-': 'env:X' }, InvalidRequest, /no variable's/);
  await refused({ A: 'env:NO_SUCH_VARIABLE' }, NotFound, /is not set/);
  await refused({ A: 'file:/no/such/file' }, NotFound, /ENOENT/);
  await refused({ A: 'file:/' }, InvalidRequest, /no regular file/);
  await refused({ A: 'env:SDK_TEST_SHORT' }, InvalidRequest, /shorter than 8/);
  const binary = join(await folderFor(t), 'binary');
  await writeFile(binary, Buffer.from([0xff, 0xfe, 1, 2, 3, 4, 5, 6, 7, 8]));
  await refused({ A: `file:${binary}` }, InvalidRequest, /not UTF-8/);
});

test('a receipt is written where it is asked for, and can be had from the result', async (t) => {
  const file = join(await folderFor(t), 'receipt.json');
  const result = await sandbox.commands.run('echo proven', { receipt: file });
  const receipt = await result.receipt();
  assert.equal(receipt.verified, true);
  assert.equal(receipt.runId, result.runId);
  assert.equal(await readFile(file, 'utf8'), receipt.envelope);
  assert.equal(await readFile(`${file}.tlog-proof`, 'utf8'), receipt.proof);
  const before = await sandbox.commands.list();
  const nowhere = sandbox.commands.run('true', { receipt: '/no/such/folder/r.json' });
  await assert.rejects(nowhere, failsAs(FileError, /cannot write the receipt/));
  assert.equal((await sandbox.commands.list()).length, before.length, 'nothing ran');
});

test('each command is noted where MVM_SDK_RUNS says', async (t) => {
  const folder = await folderFor(t);
  const notes = join(folder, 'runs');
  setEnv(t, { MVM_SDK_RUNS: notes });
  const { runId } = await sandbox.commands.run('true');
  const job = await sandbox.commands.start('true');
  await job.wait();
  assert.equal(await readFile(notes, 'utf8'), `${sandbox.id} ${runId}\n${sandbox.id} ${job.runId}\n`);
  setEnv(t, { MVM_SDK_RUNS: folder });
  await assert.rejects(sandbox.commands.run('true'), failsAs(FileError, /MVM_SDK_RUNS/));
});
