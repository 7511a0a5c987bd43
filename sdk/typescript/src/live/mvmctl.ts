/**
 * Runs mvmctl: arguments in a list, the request on standard input, one JSON value back.
 *
 * @module
 */

import { type ChildProcess, spawn } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { findBinary } from '../binary.js';
import { integer, type RecordDecoder, record, text } from '../decode.js';
import { Incompatible, Internal, type MvmError } from '../errors.js';
import { remoteError } from './http.js';
import { ANSWER_MS, Stop, WORK_MS } from './stop.js';

/** The API that this SDK speaks. */
const API = 1;
const MAX_OUTPUT = 64 << 20;
/** How much of what it says on standard error goes into an error. */
const MAX_SAID = 2048;
/** How long an aborted call may go on by itself before it is killed. */
const GRACE_MS = 5_000;

/** A call of mvmctl. */
export interface Invocation {
  readonly args: readonly string[];
  /** What it reads on standard input. */
  readonly input?: readonly Uint8Array[];
  /** How long it may take, in milliseconds; two minutes if left out. Null is any time. */
  readonly limitMs?: number | null;
  readonly signal?: AbortSignal | undefined;
  /**
   * What to do with the result of a call that was aborted and had its effect all the same. Such a call is not killed at
   * once: what it was making would go on without it.
   */
  readonly undo?: (value: unknown) => Promise<unknown>;
  /** The most that it may print, in bytes; 64 MiB if left out. */
  readonly maxOutput?: number;
}

const running = new Map<ChildProcess, NodeJS.Signals>();
process.on('exit', () => {
  for (const [child, signal] of running) child.kill(signal);
});

/** Runs mvmctl, and returns the JSON that it prints. An error that it prints is thrown. */
export async function mvmctl(call: Invocation): Promise<unknown> {
  return (await mvmctlOutput(call)).said;
}

/** The same, with the bytes that it printed. */
export async function mvmctlOutput(call: Invocation): Promise<{ stdout: Uint8Array; said: unknown }> {
  const binary = await findBinary();
  await negotiate(binary);
  const finished = await run(binary, call);
  return { stdout: finished.stdout, said: read(finished) };
}

interface Finished {
  readonly stdout: Buffer;
  readonly stderr: string;
  readonly status: number | null;
}

async function run(binary: string, call: Invocation): Promise<Finished> {
  const stop = new Stop(call.signal, call.limitMs === undefined ? WORK_MS : call.limitMs);
  const stopped = new Promise<never>((_, reject) => {
    stop.signal.addEventListener('abort', () => reject(stop.signal.reason), { once: true });
  });
  let child: ChildProcess;
  try {
    child = begin(binary, call);
  } catch (failure) {
    stop.done();
    throw failure;
  }
  // What makes something is asked to end, and takes it back; the rest is ended.
  running.set(child, call.undo ? 'SIGTERM' : 'SIGKILL');
  const finished = finish(child, call.maxOutput ?? MAX_OUTPUT).finally(() => running.delete(child));
  try {
    return await Promise.race([finished, stopped]);
  } catch (failure) {
    abandon(child, finished, call.undo);
    throw failure;
  } finally {
    stop.done();
  }
}

function begin(binary: string, { args, input = [] }: Invocation): ChildProcess {
  let child: ChildProcess;
  try {
    child = spawn(binary, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  } catch (failure) {
    throw internal((failure as Error).message);
  }
  // It need not read what it is told.
  child.stdin?.on('error', () => {});
  for (const piece of input) child.stdin?.write(piece);
  child.stdin?.end();
  return child;
}

/** Ends a call that nobody waits for any more, and takes back what it did. */
function abandon(child: ChildProcess, finished: Promise<Finished>, undo: Invocation['undo']): void {
  if (!undo) {
    child.kill('SIGKILL');
    finished.catch(() => {});
    return;
  }
  const killer = setTimeout(() => child.kill('SIGTERM'), GRACE_MS);
  finished
    .finally(() => clearTimeout(killer))
    .then((done) => undo(read(done)))
    // What failed has made nothing, and there is nobody to tell.
    .catch(() => {});
}

function finish(child: ChildProcess, most: number): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const stdout: Buffer[] = [];
    let length = 0;
    let stderr = Buffer.alloc(0);
    child.stdout?.on('data', (piece: Buffer) => {
      length += piece.length;
      if (length <= most) {
        stdout.push(piece);
        return;
      }
      child.kill('SIGKILL');
      reject(internal(`it printed more than ${most >> 20} MiB`));
    });
    child.stderr?.on('data', (piece: Buffer) => {
      stderr = Buffer.concat([stderr, piece]).subarray(-MAX_SAID);
    });
    child.on('error', (failure) => reject(internal(failure.message)));
    child.on('close', (status) =>
      resolve({ stdout: Buffer.concat(stdout), stderr: stderr.toString('utf8').trim(), status }),
    );
  });
}

function read({ stdout, stderr, status }: Finished): unknown {
  let value: unknown;
  try {
    value = JSON.parse(stdout.toString('utf8'));
  } catch {
    throw internal(`it ended with status ${status} and printed no JSON${stderr && `: ${stderr}`}`);
  }
  const error = typeof value === 'object' && value !== null ? (value as { error?: unknown }).error : undefined;
  if (error !== undefined && error !== null) throw remoteError(error);
  return value;
}

function internal(why: string): MvmError {
  return new Internal({ what: 'cannot use mvmctl', why, hint: 'mvmctl doctor checks this machine' });
}

interface Version {
  readonly version: string;
  readonly api: { readonly oldest: number; readonly newest: number };
}
const version: RecordDecoder<Version> = record<Version>('Version', {
  version: ['version', text],
  api: ['api', record('api', { oldest: ['oldest', integer], newest: ['newest', integer] })],
});

const negotiated = new Map<string, Promise<void>>();

/** Asks a program once which versions of the API it speaks; again when it was replaced. */
async function negotiate(binary: string): Promise<void> {
  const { mtimeMs, size } = await stat(binary);
  const key = `${binary}:${mtimeMs}:${size}`;
  const asked = negotiated.get(key) ?? checkVersion(binary);
  negotiated.set(key, asked);
  // A failure may have been one of the moment.
  await asked.catch((failure: unknown) => {
    negotiated.delete(key);
    throw failure;
  });
}

async function checkVersion(binary: string): Promise<void> {
  const finished = await run(binary, { args: ['version', '--json'], limitMs: ANSWER_MS });
  // A program that does not know the verb says so, each version in its way.
  if (finished.status !== 0) throw incompatible(binary, 'is older than API 1', 'update mvmctl');
  const { version: its, api } = version(read(finished), 'version');
  if (api.newest < API) throw incompatible(binary, `${its} speaks the API only up to ${api.newest}`, 'update mvmctl');
  if (api.oldest > API) throw incompatible(binary, `${its} speaks the API only from ${api.oldest}`, 'update @mvm/sdk');
}

function incompatible(binary: string, why: string, hint: string): Incompatible {
  return new Incompatible({ what: `cannot use ${binary}`, why: `it ${why}, and this SDK speaks ${API}`, hint });
}
