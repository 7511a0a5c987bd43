/**
 * HTTP on a sandbox's Unix socket: a connection for each call, which ends with it.
 *
 * @module
 */

import { once } from 'node:events';
import { type ClientRequest, type IncomingMessage, request as open } from 'node:http';
import { errorObject } from '../api.js';
import { object } from '../decode.js';
import { errorOf, MvmError, TransportError } from '../errors.js';
import { ANSWER_MS, SILENCE_MS, Stop } from './stop.js';

/** The largest answer, and the longest line of a stream. */
const MAX_ANSWER = 64 << 20;

/** Bytes to send. They are asked for as they are taken. */
export type Pieces = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** What is asked of a sandbox. */
export interface Ask {
  readonly method?: 'GET' | 'POST' | 'PUT';
  readonly path: string;
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>;
  /** A JSON body. */
  readonly json?: unknown;
  /** A body of bytes. */
  readonly pieces?: Pieces;
  /** Whether it does nothing twice if it is asked twice; so is every GET. */
  readonly idempotent?: boolean;
  /** How long the answer may take, in milliseconds: all of it, of a stream its head. Null is any time. */
  readonly limitMs: number | null;
  readonly signal?: AbortSignal | undefined;
}

/** Nobody listens on the socket. Nothing was sent. */
export class Unreachable extends Error {}

/** An answer of which the head is there. */
export interface Answer {
  readonly asked: Ask;
  readonly response: IncomingMessage;
  readonly stop: Stop;
}

/** Asks, and returns once the head of the answer is there, which is no error. */
export async function ask(socket: string, what: Ask): Promise<Answer> {
  const stop = new Stop(what.signal, what.limitMs, isIdempotent(what));
  try {
    const response = await exchange(socket, what, stop);
    if ((response.statusCode ?? 0) < 300) return { asked: what, response, stop };
    throw refusal(response.statusCode, parsed(await collect(response, stop, what)));
  } catch (failure) {
    stop.done();
    throw stop.reason(failure);
  }
}

/** The whole of an answer as JSON; null if there is none. */
export async function answer(socket: string, what: Ask): Promise<unknown> {
  const { response, stop } = await ask(socket, what);
  try {
    return parsed(await collect(response, stop, what));
  } finally {
    stop.done();
  }
}

/** An answer that is one JSON object a line. Whoever ends the iteration ends the connection. */
export async function* lines(answer: Answer): AsyncGenerator<unknown, void, void> {
  let parts: Buffer[] = [];
  let held = 0;
  for await (const piece of pieces(answer, SILENCE_MS)) {
    let from = 0;
    for (let end = piece.indexOf(10); end >= 0; end = piece.indexOf(10, from)) {
      const line = Buffer.concat([...parts, piece.subarray(from, end)]);
      // An empty one is said while there is nothing to say.
      if (line.length > 0) yield parsed(line);
      [parts, held, from] = [[], 0, end + 1];
    }
    parts.push(piece.subarray(from));
    held += piece.length - from;
    if (held > MAX_ANSWER) throw nonsense('it sent a line without an end');
  }
  if (held > 0) throw nonsense('it sent half a line', isIdempotent(answer.asked));
}

/** An answer as bytes, each piece of which may take so long. Whoever ends the iteration ends the connection. */
export async function* pieces(
  { asked, response, stop }: Answer,
  limitMs: number | null = null,
): AsyncGenerator<Buffer, void, void> {
  try {
    stop.within(limitMs);
    for await (const piece of response as AsyncIterable<Buffer>) {
      // As long as the caller takes for it is no fault of the sandbox.
      stop.within(null);
      yield piece;
      stop.within(limitMs);
    }
  } catch (failure) {
    throw stop.reason(broken(failure, asked));
  } finally {
    stop.done();
    response.destroy();
  }
}

async function exchange(socket: string, what: Ask, stop: Stop): Promise<IncomingMessage> {
  const body = what.json === undefined ? undefined : Buffer.from(JSON.stringify(what.json));
  const request = open({
    socketPath: socket,
    agent: false,
    method: what.method ?? 'GET',
    path: target(what),
    headers: {
      host: 'sandbox',
      ...(body ? { 'content-type': 'application/json', 'content-length': body.length } : {}),
      ...(what.pieces ? { 'content-type': 'application/octet-stream' } : {}),
    },
    signal: stop.signal,
  });
  // What goes wrong after the answer has begun is seen where that is read.
  request.on('error', () => {});
  const answered = once(request, 'response') as Promise<[IncomingMessage]>;
  try {
    if (!what.pieces) {
      request.end(body);
      return (await answered)[0];
    }
    const sent = send(request, what.pieces, stop, what.limitMs);
    // What goes wrong with sending is the failure, unless there is an answer, which says more.
    return (await Promise.race([answered, sent.then(() => answered)]))[0];
  } catch (failure) {
    request.destroy();
    answered.catch(() => {});
    throw stop.reason(broken(failure, what));
  }
}

/** A failure of the caller's own iterator, which comes back as it is. */
class OfCaller extends Error {
  readonly failure: unknown;

  constructor(failure: unknown) {
    super();
    this.failure = failure;
  }
}

async function send(request: ClientRequest, pieces: Pieces, stop: Stop, limitMs: number | null): Promise<void> {
  // Nothing is taken of what may be there once before somebody listens.
  request.flushHeaders();
  const [connection] = request.socket ? [request.socket] : await once(request, 'socket');
  if (connection.connecting) await once(connection, 'connect');
  let answered = false;
  const over = new Promise<void>((resolve) => request.once('response', () => resolve()).once('close', resolve));
  request.once('response', () => {
    answered = true;
  });
  for await (const piece of ofCaller(pieces, stop)) {
    if (answered) return;
    stop.within(limitMs);
    if (!request.write(piece)) {
      await Promise.race([new Promise((resolve) => request.once('drain', resolve)), over]);
    }
    if (answered || request.destroyed) return;
  }
  stop.within(limitMs);
  request.end();
}

/** What the caller gives. The time that it takes is no fault of the sandbox. */
async function* ofCaller(pieces: Pieces, stop: Stop): AsyncGenerator<Uint8Array, void, void> {
  const iterator =
    Symbol.asyncIterator in pieces
      ? pieces[Symbol.asyncIterator]()
      : (pieces[Symbol.iterator]() as Iterator<Uint8Array>);
  try {
    while (true) {
      stop.within(null);
      const next = await Promise.resolve(iterator.next()).catch((failure: unknown) => {
        throw new OfCaller(failure);
      });
      if (next.done) return;
      yield next.value;
    }
  } finally {
    await iterator.return?.();
  }
}

function target({ path, query = {} }: Ask): string {
  const given = Object.entries(query).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${encodeURIComponent(value)}`],
  );
  return given.length > 0 ? `${path}?${given.join('&')}` : path;
}

async function collect(response: IncomingMessage, stop: Stop, what: Partial<Ask>): Promise<Buffer> {
  const parts: Buffer[] = [];
  let length = 0;
  try {
    for await (const part of response as AsyncIterable<Buffer>) {
      length += part.length;
      if (length > MAX_ANSWER) throw nonsense('its answer has no end');
      parts.push(part);
    }
  } catch (failure) {
    throw stop.reason(broken(failure, what));
  }
  return Buffer.concat(parts);
}

function parsed(bytes: Buffer): unknown {
  if (bytes.length === 0) return null;
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch {
    throw nonsense('what it sent is no JSON');
  }
}

/** Throws the error that an answer is; reads none that is a success. */
export async function refusalOf(response: IncomingMessage): Promise<void> {
  if ((response.statusCode ?? 0) < 300) {
    response.resume();
    return;
  }
  const stop = new Stop(undefined, ANSWER_MS);
  try {
    throw refusal(response.statusCode, parsed(await collect(response, stop, { idempotent: false })));
  } finally {
    stop.done();
  }
}

/** The error that an answer is. */
function refusal(status: number | undefined, body: unknown): Error {
  try {
    return remoteError(object(body, 'answer').error);
  } catch {
    return nonsense(`it answered ${status}`);
  }
}

/** An error as the API and mvmctl write it. */
export function remoteError(error: unknown): Error {
  const { code, ...fields } = errorObject(error, 'error');
  return errorOf(code, fields);
}

function nonsense(why: string, retryable = false): TransportError {
  const fields = { what: 'cannot understand the sandbox', why, hint: 'mvmctl ps shows its state' };
  return new TransportError(fields, retryable);
}

/** Whether it does nothing twice if it is asked twice. */
function isIdempotent({ method = 'GET', idempotent = method === 'GET' }: Partial<Ask>): boolean {
  return idempotent;
}

/** What a failed call is, to the caller. */
function broken(failure: unknown, asked: Partial<Ask>): unknown {
  if (failure instanceof OfCaller) return failure.failure;
  if (failure instanceof MvmError) return failure;
  const { code, syscall, message } = failure as NodeJS.ErrnoException;
  const connecting = syscall === 'connect';
  if (connecting && (code === 'ENOENT' || code === 'ECONNREFUSED')) return new Unreachable(message);
  if (code === undefined && !connecting) return failure;
  const why = code === undefined ? message : `${code}${connecting ? ' while connecting' : ''}`;
  const fields = { what: 'lost the connection to the sandbox', why, hint: 'mvmctl ps shows its state' };
  return new TransportError(fields, connecting || isIdempotent(asked));
}
