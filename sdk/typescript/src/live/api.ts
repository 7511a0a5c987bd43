/**
 * Calls of one sandbox's API. If nobody listens on its socket any more, mvmctl is asked once what became of it: it starts
 * the supervisor again, or knows how the sandbox ended.
 *
 * @module
 */

import { type Inspection, inspection } from '../api.js';
import type { Decoder } from '../decode.js';
import { destroyed, Internal, SandboxUnavailable } from '../errors.js';
import type { Operation, Target } from '../operation.js';
import { type Answer, type Ask, answer, ask, lines, Unreachable } from './http.js';
import { mvmctl } from './mvmctl.js';
import { ANSWER_MS } from './stop.js';

/** What is asked, but for what an operation says by itself. */
export type Request = Omit<Ask, 'signal' | 'limitMs'> & { readonly limitMs?: number | null };

/** The sandbox of an operation that is of one. */
export function targetOf(operation: Operation): Target {
  if (operation.sandbox) return operation.sandbox;
  throw new Internal({ what: `cannot perform ${operation.name}`, why: 'it is of no sandbox' });
}

/** Asks, and decodes the whole of the answer. */
export async function call<T>(operation: Operation, request: Request, decoder: Decoder<T>): Promise<T> {
  const value = await reach(operation, request, answer);
  return decoder(value, 'the answer');
}

/** Asks for what has no answer. */
export async function tell(operation: Operation, request: Request): Promise<void> {
  await reach(operation, request, answer);
}

/** Asks for what is answered bit by bit. */
export function stream(operation: Operation, request: Request): Promise<Answer> {
  return reach(operation, request, ask);
}

/** Asks for one JSON object a line. */
export async function events<T>(
  operation: Operation,
  request: Request,
  decoder: Decoder<T>,
): Promise<AsyncIterable<T>> {
  const answered = await stream(operation, request);
  return decoded(answered, decoder);
}

async function* decoded<T>(answered: Answer, decoder: Decoder<T>): AsyncGenerator<T, void, void> {
  for await (const line of lines(answered)) yield decoder(line, 'an event');
}

/** What mvmctl knows of a sandbox, by name or id. */
export async function inspect(name: string, signal?: AbortSignal): Promise<Inspection> {
  return inspection(await mvmctl({ args: ['inspect', '--json', '--', name], signal }), 'the sandbox');
}

async function reach<T>(
  operation: Operation,
  request: Request,
  exchange: (socket: string, what: Ask) => Promise<T>,
): Promise<T> {
  const target = targetOf(operation);
  const asked = { limitMs: ANSWER_MS, ...request, signal: operation.signal };
  try {
    return await exchange(target.socket, asked);
  } catch (failure) {
    if (!(failure instanceof Unreachable)) throw failure;
  }
  const found = await inspect(target.id, operation.signal);
  if (found.state === 'destroyed') throw destroyed(target, found.cause);
  try {
    return await exchange(target.socket, asked);
  } catch (failure) {
    if (!(failure instanceof Unreachable)) throw failure;
    throw new SandboxUnavailable({
      what: `cannot reach the sandbox ${target.name}`,
      why: failure.message,
      hint: 'mvmctl ps shows its state; mvmctl destroy removes it in any',
    });
  }
}
