import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { inspect } from 'node:util';
import { CommandFailed, FileError, InvalidRequest, PolicyDenied, run, Timeout } from '@mvm/sdk';
import { childrenOf, failsAs, folderFor, IMAGE, setEnv, until } from './support.js';

const image = IMAGE;

test('a run is a command in a machine of its own', async () => {
  const result = await run(['sh', '-c', 'echo out; printf "\\377" >&2; exit 3'], { image });
  assert.deepEqual([result.exitCode, result.stdout, result.ok], [3, 'out\n', false]);
  assert.deepEqual([[...result.stderrData], result.stderr, result.stderrBytes], [[0xff], '\ufffd', 1]);
  assert.match(result.imageDigest, /^sha256:/);
  assert.ok(result.isolation && result.sandboxId && result.auditId > 0);
  assert.match(inspect(result), /^RunResult \{/);
  assert.ok(!inspect(result).includes('out\n'));
  assert.equal((await result.receipt()).runId, result.runId);
});

test('what goes in is as asked', async (t) => {
  setEnv(t, { SDK_TEST_RUN: 'Of-The-Run-3456' });
  const result = await run('echo "$A|$(pwd)|$(id -u)|$(cat)|$S"', {
    image,
    env: { A: 'b' },
    cwd: '/tmp',
    user: '1000',
    stdin: 'in\nand more',
    secrets: { S: 'env:SDK_TEST_RUN' },
    memoryMib: 256,
    cpus: 1,
  });
  assert.equal(result.stdout, 'b|/tmp|1000|in\nand more|[redacted:S]\n');
  assert.equal(result.redactions, 1);
});

test('output is bounded, time is, and a wrong end is an error if that is asked for', async () => {
  const cut = await run('printf 1234567890', { image, maxOutput: 4 });
  assert.deepEqual([cut.stdout, cut.stdoutBytes, cut.stdoutTruncated], ['1234', 10, true]);
  await assert.rejects(run('echo begun; sleep 100', { image, timeoutMs: 1000 }), (failure) => {
    failsAs(Timeout)(failure);
    return failure instanceof Timeout && failure.result?.stdout === 'begun\n' && failure.result.timedOut;
  });
  await assert.rejects(run('exit 5', { image, check: true }), (failure) => {
    failsAs(CommandFailed)(failure);
    return failure instanceof CommandFailed && failure.result.exitCode === 5;
  });
  const missing = await run(['/no/such'], { image });
  assert.deepEqual([missing.exitCode, missing.notStarted?.reason], [127, 'command_not_found']);
});

test('output that is large as JSON comes back whole, and a time may be longer than a timer can be set to', async () => {
  const line = 'head -c 8388608 /dev/zero | tee /dev/stderr';
  const result = await run(line, { image, timeoutMs: 2 ** 32 });
  assert.deepEqual([result.stdoutData.length, result.stderrData.length], [8 << 20, 8 << 20]);
  assert.equal(result.stdoutTruncated, false);
});

test('a plan says what would be allowed, and a refusal the same', async () => {
  const wish = { image, profile: 'restrictive', user: 'root' };
  const plan = await run('true', { ...wish, dryRun: true });
  assert.deepEqual([plan.operation, plan.allowed], ['run', false]);
  await assert.rejects(run('true', wish), (failure) => {
    failsAs(PolicyDenied)(failure);
    return failure instanceof PolicyDenied && failure.denials.length === plan.denials.length;
  });
  assert.equal((await run('true', { image, dryRun: true })).allowed, true);
  assert.ok((await run('true', { image, profile: 'restrictive' })).ok);
});

test('a receipt is written beside its proof, and a place where none can be is refused before anything runs', async (t) => {
  const file = join(await folderFor(t), 'receipt.json');
  const result = await run('true', { image, receipt: file });
  assert.equal((await result.receipt()).envelope, await readFile(file, 'utf8'));
  await assert.rejects(run('true', { image, receipt: '/no/such/folder/r' }), failsAs(FileError));
});

test('an abort ends it with its machine', async () => {
  const reason = new Error('that is enough');
  const controller = new AbortController();
  const known = new Set(await childrenOf(process.pid));
  const running = run('sleep 100', { image, signal: controller.signal });
  const mine = async () => (await childrenOf(process.pid)).filter((pid) => !known.has(pid));
  await until('its machine runs', async () => {
    for (const pid of await mine()) if ((await childrenOf(pid)).length > 0) return true;
    return false;
  });
  const [mvmctl] = await mine();
  const machines = await childrenOf(mvmctl ?? 0);
  controller.abort(reason);
  await assert.rejects(running, (failure) => failure === reason);
  for (const pid of [mvmctl, ...machines]) await until('it is gone', () => !existsSync(`/proc/${pid}`));
});

test('each is noted where MVM_SDK_RUNS says', async (t) => {
  const notes = join(await folderFor(t), 'runs');
  setEnv(t, { MVM_SDK_RUNS: notes });
  const { sandboxId, runId } = await run('true', { image });
  assert.equal(await readFile(notes, 'utf8'), `${sandboxId} ${runId}\n`);
  await assert.rejects(run([], { image }), failsAs(InvalidRequest));
});
