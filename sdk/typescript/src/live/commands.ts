/**
 * Commands whose caller waits for them, in a sandbox or in one of their own.
 *
 * @module
 */

import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type JobInfo, type JobResult, jobEvent, jobInfo, jobResult, plan } from '../api.js';
import { json, list, oneOf, record, text } from '../decode.js';
import { CommandFailed, errorOf, Timeout, TransportError } from '../errors.js';
import { fileError } from '../host-file.js';
import { type AttachedArguments, MAX_OUTPUT, type Operation } from '../operation.js';
import { CommandResult, type Ending, inWords, RunResult } from '../results.js';
import { call, events, targetOf, tell } from './api.js';
import { Capture } from './capture.js';
import { remoteError } from './http.js';
import type { Performers } from './index.js';
import { mvmctl } from './mvmctl.js';
import { note } from './note.js';
import { showReceipt } from './receipts.js';
import { commandRequest, onceRequest, post, requestLine } from './requests.js';
import { readSecrets } from './secrets.js';
import { orUndo, Stop } from './stop.js';

/** How much longer than its own time a command's end may take to arrive. */
const GRACE_MS = 30_000;
const PIECE = 1 << 20;
/** What a result takes beside its output. */
const MAX_RESULT = 64 << 20;
const encoding = oneOf('encoding', ['utf-8', 'base64']);

export const commands: Performers<'commands.run' | 'commands.start' | 'commands.list' | 'run' | 'run.plan'> = {
  'commands.run': async (operation) => settled(await runAttached(operation), operation.arguments.check),
  'commands.start': async (operation) => {
    const { tty, idempotencyKey, stdin, ...command } = operation.arguments;
    const { values, warnings } = await readSecrets(command.secrets);
    const body = { ...commandRequest(command), secrets: values, tty, stdin, idempotency_key: idempotencyKey };
    const unbound = { ...operation, signal: undefined };
    const started = call(unbound, post('/v1/jobs', body), jobInfo);
    const kill = async ({ runId }: JobInfo): Promise<void> => {
      // It may be what an earlier call with this key has started.
      if (idempotencyKey === undefined) await tell(unbound, post(`/v1/jobs/${runId}/signal`, { signal: 9 }));
    };
    const job = await orUndo(operation.signal, started, kill);
    await note(targetOf(operation).id, job.runId);
    return { job, warnings };
  },
  'commands.list': (operation) => call(operation, { path: '/v1/jobs' }, list(jobInfo)),
  run: async (operation) => settled(await runOnce(operation), operation.arguments.check),
  'run.plan': async ({ arguments: given, signal }) => {
    const input = [requestLine(onceRequest(given))];
    return plan(await mvmctl({ args: ['run', '--request', '-', '--json', '--dry-run'], input, signal }), 'the plan');
  },
};

/** Throws what a result is by its caller's wish. */
function settled<Result extends CommandResult>(result: Result, check = false): Result {
  const what = 'the command did not succeed';
  if (result.timedOut) {
    const hint = 'give it more with timeoutMs; what it wrote is in the result';
    throw new Timeout({ what, why: 'its time was up, and it was killed with its whole tree', hint }, result);
  }
  if (check && !result.ok) {
    throw new CommandFailed({ what, why: inWords(result), hint: 'what it wrote is in the result' }, result);
  }
  return result;
}

/** Bytes in pieces that a progress can be seen of. */
export function* sliced(data: Uint8Array): Generator<Uint8Array> {
  for (let from = 0; from < data.length; from += PIECE) yield data.subarray(from, from + PIECE);
}

async function runAttached(operation: Operation<'commands.run'>): Promise<CommandResult> {
  const { onStdout, onStderr, maxOutput, receipt, stdin, ...command } = operation.arguments;
  const target = targetOf(operation);
  await checkReceipt(receipt);
  const { values, warnings } = await readSecrets(command.secrets);
  // Whatever ends this ends the connection, and the command with it.
  const stop = new Stop(operation.signal, null);
  const capture = new Capture(maxOutput, onStdout, onStderr);
  try {
    const body = { ...commandRequest(command), secrets: values, attached: true, stdin: stdin !== undefined };
    if (command.timeoutMs !== undefined) stop.within(command.timeoutMs + GRACE_MS);
    const bound = { ...operation, signal: stop.signal };
    const result = await follow(bound, body, stdin, capture, target.id);
    const file = receipt;
    if (file !== undefined) await showReceipt(result.runId, target.id, { file, signal: operation.signal });
    const ending = { result, sandboxId: target.id, warnings, ...(await capture.end()) };
    return new CommandResult({ ...ending, showReceipt: (signal) => showReceipt(result.runId, target.id, { signal }) });
  } catch (failure) {
    throw stop.reason(failure);
  } finally {
    stop.done();
  }
}

/** Reads a command's events to its end. */
async function follow(
  operation: Operation<'commands.run'>,
  body: unknown,
  stdin: AttachedArguments['stdin'],
  capture: Capture,
  sandboxId: string,
): Promise<JobResult> {
  for await (const event of await events(operation, post('/v1/jobs', body), jobEvent)) {
    switch (event.type) {
      case 'started':
        await note(sandboxId, event.runId);
        // Beside reading: a command may write before it has read all. One that is over need not have read it.
        if (stdin) feed(operation, event.runId, stdin).catch(() => {});
        break;
      case 'output':
        await capture.take(event.stream, event.data);
        break;
      case 'ended':
        return unlessLost(event.result);
    }
  }
  const why = 'the stream ended before the command did';
  throw new TransportError({ what: 'lost the connection to the sandbox', why, hint: 'mvmctl ps shows its state' });
}

function feed(operation: Operation, runId: string, stdin: Uint8Array): Promise<void> {
  const path = `/v1/jobs/${runId}/stdin`;
  return tell(operation, { method: 'PUT', path, pieces: sliced(stdin), limitMs: null });
}

/** A result, if the command has one and was not lost with its machine. */
export function unlessLost(result: JobResult): JobResult {
  if (!result.error) return result;
  const { code, ...fields } = result.error;
  throw errorOf(code, fields);
}

/** Refuses a place where no receipt can be written, before anything runs. */
async function checkReceipt(path: string | undefined): Promise<void> {
  if (path === undefined) return;
  try {
    await access(dirname(path), constants.W_OK);
  } catch (failure) {
    throw fileError(`cannot write the receipt ${path}`, failure);
  }
}

const once = record<{
  sandboxId: string;
  imageDigest: string;
  warnings: readonly string[];
  stdout: string;
  stderr: string;
  stdoutEncoding: 'utf-8' | 'base64';
  stderrEncoding: 'utf-8' | 'base64';
  isolation: unknown;
  receiptError: unknown;
}>('RunResult', {
  sandboxId: ['sandbox_id', text],
  imageDigest: ['image_digest', text],
  warnings: ['warnings', list(text), []],
  stdout: ['stdout', text],
  stderr: ['stderr', text],
  stdoutEncoding: ['stdout_encoding', encoding],
  stderrEncoding: ['stderr_encoding', encoding],
  isolation: ['isolation', json, null],
  receiptError: ['receipt_error', json, null],
});

async function runOnce({ arguments: given, signal }: Operation<'run'>): Promise<RunResult> {
  const { stdin, receipt } = given;
  const args = ['run', '--request', '-', '--json'];
  if (stdin) args.push('-i');
  if (receipt !== undefined) args.push(`--receipt=${receipt}`);
  const input = [requestLine(onceRequest(given)), ...sliced(stdin ?? new Uint8Array())];
  // A byte of output is at most six characters of JSON.
  const maxOutput = MAX_RESULT + 2 * 6 * (given.maxOutput ?? MAX_OUTPUT);
  const said = await mvmctl({ args, input, limitMs: null, signal, maxOutput });
  const { sandboxId, imageDigest, isolation, warnings, ...run } = once(said, 'the result');
  const result = jobResult(said, 'the result');
  await note(sandboxId, result.runId);
  if (run.receiptError) throw remoteError(run.receiptError);
  const ending: Ending = {
    // The status of a shell is of no command.
    result,
    sandboxId,
    warnings,
    stdout: Buffer.from(run.stdout, run.stdoutEncoding),
    stderr: Buffer.from(run.stderr, run.stderrEncoding),
    stdoutTruncated: result.stdoutTruncated,
    stderrTruncated: result.stderrTruncated,
    showReceipt: (signal) => showReceipt(result.runId, sandboxId, { signal }),
  };
  return new RunResult(ending, imageDigest, isolation);
}
