/**
 * Commands that were started and go on by themselves.
 *
 * @module
 */

import { once } from 'node:events';
import { type ClientRequest, type IncomingMessage, request as open } from 'node:http';
import { jobEvent, jobInfo, jobResult } from '../api.js';
import { InvalidState, MvmError, TransportError } from '../errors.js';
import type { Input, Operation } from '../operation.js';
import { call, events, targetOf, tell } from './api.js';
import { unlessLost } from './commands.js';
import { refusalOf } from './http.js';
import type { Performers } from './index.js';
import { post } from './requests.js';
import { patiently } from './sandboxes.js';
import { ANSWER_MS, Stop } from './stop.js';

type OfJobs = `job.${'info' | 'output' | 'input' | 'wait' | 'kill' | 'resize'}`;

function path(runId: string, rest = ''): string {
  return `/v1/jobs/${encodeURIComponent(runId)}${rest}`;
}

export const jobs: Performers<OfJobs> = {
  'job.info': (operation) => call(operation, { path: path(operation.arguments.runId) }, jobInfo),
  'job.output': (operation) => {
    const { runId, offset } = operation.arguments;
    return events(operation, { path: path(runId, '/output'), query: { offset, follow: true } }, jobEvent);
  },
  'job.input': openInput,
  'job.wait': async (operation) => {
    const { runId, timeoutMs } = operation.arguments;
    const result = await patiently(timeoutMs, (ms) => {
      const query = { timeout_ms: ms };
      return call(operation, { path: path(runId, '/wait'), query, limitMs: ms + ANSWER_MS }, jobResult);
    });
    return unlessLost(result);
  },
  'job.kill': (operation) => {
    const { runId, signal } = operation.arguments;
    return tell(operation, post(path(runId, '/signal'), { signal }));
  },
  'job.resize': (operation) => {
    const { runId, rows, cols } = operation.arguments;
    return tell(operation, post(path(runId, '/resize'), { rows, cols }));
  },
};

/** Opens a command's input. It stays open until it is ended, and keeps no process from ending. */
async function openInput(operation: Operation<'job.input'>): Promise<Input> {
  // Who cannot be reached is found out about by a call that can be repeated.
  await call(operation, { path: path(operation.arguments.runId) }, jobInfo);
  const request = open({
    socketPath: targetOf(operation).socket,
    agent: false,
    method: 'PUT',
    path: path(operation.arguments.runId, '/stdin'),
    // The sandbox says whether it takes input before any is sent.
    headers: { host: 'sandbox', 'content-type': 'application/octet-stream', expect: '100-continue' },
  });
  const input = new OpenInput(request);
  await input.begin(operation.signal);
  return input;
}

class OpenInput implements Input {
  readonly #request: ClientRequest;
  readonly #answered: Promise<IncomingMessage>;

  constructor(request: ClientRequest) {
    this.#request = request;
    this.#answered = once(request, 'response').then(([response]) => response as IncomingMessage);
    this.#answered.catch(() => {});
    request.on('error', () => {});
  }

  /** Returns once the sandbox takes input. */
  async begin(signal: AbortSignal | undefined): Promise<void> {
    const ready = once(this.#request, 'continue');
    this.#request.flushHeaders();
    await this.#during(ready, signal);
  }

  async write(data: Uint8Array, signal?: AbortSignal): Promise<void> {
    const sent = new Promise<void>((resolve, reject) => {
      this.#request.write(data, (failure) => (failure ? reject(failure) : resolve()));
    });
    if (await this.#during(sent, signal, null)) {
      throw new InvalidState({ what: 'cannot write to the job', why: 'it has ended or closed its input' });
    }
  }

  async end(signal?: AbortSignal): Promise<void> {
    this.#request.end();
    const answered = this.#answered.then(() => {});
    // It is there when the command has taken all of it, whenever that is.
    await this.#during(answered, signal, null);
  }

  /** Waits for something, or for an answer, which may come before: then there is no more to send, and this is true. */
  async #during(work: Promise<unknown>, signal?: AbortSignal, limitMs: number | null = ANSWER_MS): Promise<boolean> {
    const stop = new Stop(signal, limitMs);
    const stopped = new Promise<never>((_, reject) => {
      stop.signal.addEventListener('abort', () => reject(stop.signal.reason), { once: true });
    });
    work.catch(() => {});
    this.#request.socket?.ref();
    try {
      const over = await Promise.race([work.then(() => undefined), this.#answered, stopped]);
      if (over) await refusalOf(over);
      return over !== undefined;
    } catch (failure) {
      this.#request.destroy();
      throw stop.signal.aborted ? failure : lost(failure);
    } finally {
      stop.done();
      this.#request.socket?.unref();
    }
  }
}

function lost(failure: unknown): unknown {
  const { code } = failure as NodeJS.ErrnoException;
  if (failure instanceof MvmError || code === undefined) return failure;
  return new TransportError({ what: 'cannot send the input', why: code, hint: 'the command may have ended' });
}
