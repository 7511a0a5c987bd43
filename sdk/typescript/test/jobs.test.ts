import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { inspect } from 'node:util';
import {
  InvalidRequest,
  InvalidState,
  type Job,
  NotFound,
  type Output,
  type OutputGap,
  Sandbox,
  Timeout,
} from '@mvm/sdk';
import { ended, failsAs, IMAGE, sandboxFor, until } from './support.js';

let sandbox: Sandbox;
before(async () => {
  sandbox = await Sandbox.create(IMAGE);
});
after(() => ended(sandbox));

async function outputOf(job: AsyncIterable<Output | OutputGap>): Promise<(Output | OutputGap)[]> {
  const all: (Output | OutputGap)[] = [];
  for await (const piece of job) all.push(piece);
  return all;
}

function textOf(pieces: readonly (Output | OutputGap)[], stream = 'stdout'): string {
  const wanted = pieces.flatMap((piece) => (piece.type === 'output' && piece.stream === stream ? [piece.data] : []));
  return Buffer.concat(wanted).toString();
}

test('a job goes on by itself, and its output is read from any offset to its end', async () => {
  const job = await sandbox.commands.start('echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three');
  const info = await job.info();
  assert.deepEqual([info.runId, info.attached, info.program], [job.runId, false, '/bin/sh']);
  const pieces = await outputOf(job);
  assert.deepEqual([textOf(pieces), textOf(pieces, 'stderr')], ['one\nthree\n', 'two\n']);
  assert.deepEqual(
    pieces.map((piece) => piece.offset),
    [0, 4, 8],
  );
  const result = await job.wait();
  assert.deepEqual([result.exitCode, result.stdoutBytes, result.stderrBytes], [0, 10, 4]);
  const again = await sandbox.commands.attach(job.runId, { offset: 8 });
  assert.equal(textOf(await outputOf(again)), 'three\n');
  assert.deepEqual((await job.info()).result, result);
  assert.equal((await job.receipt()).runId, job.runId);
});

test('what it wrote is not shown unasked', async () => {
  const job = await sandbox.commands.start('echo swordfish; sleep 1000');
  for await (const piece of job) {
    assert.ok(
      piece.type === 'output' && !inspect(piece).includes(Buffer.from('swordfish').toString('hex').slice(0, 2)),
    );
    assert.match(inspect(piece), /^Output \{/);
    break;
  }
  await job.kill();
});

test('input is written bit by bit, and ended', async () => {
  const job = await sandbox.commands.start(['cat'], { stdin: true });
  const output = job[Symbol.asyncIterator]();
  await job.write('first\n');
  const { value } = await output.next();
  assert.ok(value?.type === 'output' && Buffer.from(value.data).toString() === 'first\n');
  await job.write(new Uint8Array([0, 255]));
  await job.closeStdin();
  assert.deepEqual([(await job.wait()).exitCode, (await job.wait()).stdoutBytes], [0, 8]);
});

test('one that takes no input says so, and one that is over too', async () => {
  const deaf = await sandbox.commands.start('sleep 1000');
  await assert.rejects(deaf.write('x'), failsAs(InvalidState));
  await deaf.kill();
  const over = await sandbox.commands.start('true', { stdin: true });
  await over.wait();
  const writing = until('it is refused', async () => {
    await over.write('x');
    return false;
  });
  await assert.rejects(writing, failsAs(InvalidState, /it has ended/));
});

test('a wait that runs out leaves it alone; a kill takes the whole tree, another signal only asks', async () => {
  const job = await sandbox.commands.start('trap "echo asked; exit 4" TERM; sleep 1000 & wait');
  await assert.rejects(job.wait({ timeoutMs: 100 }), (failure) => {
    failsAs(Timeout)(failure);
    return failure instanceof Timeout && failure.result === null;
  });
  await assert.rejects(job.wait({ timeoutMs: 0 }), failsAs(Timeout));
  assert.equal((await job.info()).result, null);
  await job.kill(15);
  const asked = await job.wait();
  assert.deepEqual([asked.exitCode, asked.stdoutBytes], [4, 6]);
  await job.kill();
  const tree = await sandbox.commands.start('sleep 1001 & sleep 1001');
  await tree.kill();
  assert.equal((await tree.wait()).signal, 9);
  assert.equal((await sandbox.commands.run(['pgrep', '-f', 'sleep 1001'])).stdout, '');
});

test('its own time limit is in its result, and is no error of the wait', async () => {
  const job = await sandbox.commands.start('sleep 1000', { timeoutMs: 100 });
  assert.equal((await job.wait()).timedOut, true);
});

test('a terminal has the size that it is given', async () => {
  const job = await sandbox.commands.start('stty size; read line; stty size', {
    stdin: true,
    tty: { rows: 7, cols: 11 },
  });
  await job.resize(9, 13);
  await job.write('\n');
  await job.wait();
  const text = textOf(await outputOf(job));
  assert.match(text, /13/);
});

test('a repeated start with a key starts nothing', async () => {
  const start = (): Promise<Job> => sandbox.commands.start('sleep 1000', { idempotencyKey: 'once' });
  const [first, again] = [await start(), await start()];
  assert.equal(first.runId, again.runId);
  assert.equal((await sandbox.commands.list()).filter(({ runId }) => runId === first.runId).length, 1);
  await first.kill();
});

test('what is no longer kept is a gap with its count', async () => {
  const job = await sandbox.commands.start('head -c 20000000 /dev/zero; echo end >&2');
  await job.wait();
  const [gap, ...rest] = await outputOf(job);
  assert.ok(gap?.type === 'gap' && gap.offset === 0 && gap.bytes > 0);
  const kept = rest.reduce((sum, piece) => sum + (piece.type === 'output' ? piece.data.length : 0), 0);
  assert.equal(gap.bytes + kept, 20_000_004);
});

test('there is no job that nobody started', async () => {
  await assert.rejects(sandbox.commands.attach('run-0000000000000000'), failsAs(NotFound));
  await assert.rejects(sandbox.commands.attach('../sandbox'), failsAs(InvalidRequest));
});

test('leaving its output alone leaves it running', async () => {
  const job = await sandbox.commands.start('while true; do echo on; sleep 0.05; done');
  for await (const piece of job) {
    assert.equal(piece.type, 'output');
    break;
  }
  assert.equal((await job.info()).result, null);
  await job.kill();
});

test('one that was lost with its machine is the error that ended it', async (t) => {
  const other = await sandboxFor(t);
  const job = await other.commands.start('sleep 1000');
  const waiting = job.wait();
  await Promise.all([
    assert.rejects(waiting, (failure) => failsAs(Object.getPrototypeOf(failure).constructor)(failure)),
    other.stop(),
  ]);
});

test('a wait and an output end with an abort', async () => {
  const job = await sandbox.commands.start('sleep 1000');
  const reason = new Error('tired of it');
  const controller = new AbortController();
  setTimeout(() => controller.abort(reason), 50);
  await assert.rejects(job.wait({ signal: controller.signal }), (failure) => failure === reason);
  assert.equal((await job.info()).result, null);
  await job.kill();
});

test('a start with a key that is aborted leaves what was started before', async () => {
  const idempotencyKey = 'aborted';
  const job = await sandbox.commands.start('sleep 1000', { idempotencyKey });
  const controller = new AbortController();
  const again = sandbox.commands.start('sleep 1000', { idempotencyKey, signal: controller.signal });
  controller.abort(new Error('not again'));
  await assert.rejects(again, /not again/);
  // A kill would be done before what is asked after it.
  await assert.rejects(job.wait({ timeoutMs: 500 }), failsAs(Timeout));
  await job.kill();
});

test('a start that is aborted leaves nothing running', async () => {
  const reason = new Error('not this one');
  const controller = new AbortController();
  const started = sandbox.commands.start('exec sleep 4321', { signal: controller.signal });
  setTimeout(() => controller.abort(reason), 1);
  // It may have been quick enough.
  await started.then((job) => job.kill()).catch((failure) => assert.equal(failure, reason));
  await until('it is gone', async () => (await sandbox.commands.run(['pgrep', '-f', 'sleep 4321'])).stdout === '');
});
