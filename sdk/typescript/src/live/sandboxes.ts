/**
 * What is done with one sandbox as a whole.
 *
 * @module
 */

import {
  type DeletionReport,
  deletionReport,
  forked,
  inspection,
  logEvent,
  port,
  type SandboxInfo,
  sandboxInfo,
  secretInfo,
  snapshot,
  stats,
} from '../api.js';
import { list, object, record } from '../decode.js';
import { NotFound, SandboxUnavailable, Timeout, TransportError } from '../errors.js';
import type { Made, Operation } from '../operation.js';
import { call, events, inspect, targetOf, tell } from './api.js';
import type { Performers } from './index.js';
import { claim } from './lease.js';
import { mvmctl } from './mvmctl.js';
import { endRequest, post } from './requests.js';
import { ANSWER_MS, orUndo, WORK_MS } from './stop.js';

/** The longest that is waited with one request; the sandbox knows no longer waits. */
const ROUND_MS = 50_000;
/** How long a supervisor may take to destroy its sandbox before mvmctl does. */
const DESTROY_MS = 15_000;

type Here =
  | 'cold'
  | 'freeze'
  | 'resume'
  | 'stop'
  | 'start'
  | 'inspect'
  | 'stats'
  | 'wait'
  | 'keep'
  | 'detach'
  | 'close'
  | 'destroy'
  | 'kill'
  | 'snapshot'
  | 'fork'
  | 'logs'
  | 'secrets.list'
  | 'ports.forward'
  | 'ports.list'
  | 'ports.close';

/** Has the machine start or stop. */
const change = (path: string) => (operation: Operation) =>
  call(operation, { method: 'POST', path, limitMs: WORK_MS }, sandboxInfo);

export const sandboxes: Performers<Here> = {
  cold: change('/v1/sandbox/pause'),
  freeze: change('/v1/sandbox/freeze'),
  resume: change('/v1/sandbox/resume'),
  stop: change('/v1/sandbox/stop'),
  start: change('/v1/sandbox/start'),
  inspect: (operation) => call(operation, { path: '/v1/sandbox' }, inspection),
  stats: (operation) => call(operation, { path: '/v1/sandbox/stats' }, stats),
  wait: waitForState,
  keep: (operation) => {
    const { ttlMs, onExpiry } = operation.arguments;
    return call(operation, post('/v1/sandbox/keep', { ttl_ms: ttlMs, on_expiry: onExpiry }), sandboxInfo);
  },
  detach: (operation) => {
    const { lease: _, ...end } = endRequest({ ...operation.arguments, lease: false });
    return call(operation, post('/v1/sandbox/detach', end), sandboxInfo);
  },
  close: endsWithLease,
  destroy,
  kill: (operation) => end('kill', targetOf(operation).id, operation.signal),
  snapshot: (operation) => {
    const request = { ...post('/v1/snapshots', { name: operation.arguments.name }), limitMs: WORK_MS };
    const saved = call({ ...operation, signal: undefined }, request, snapshot);
    return orUndo(operation.signal, saved, ({ id }) => mvmctl({ args: ['snapshot', 'rm', '--json', '--', id] }));
  },
  fork,
  logs: (operation) => {
    const { sinceMs, untilMs, redact, ...query } = operation.arguments;
    const asked = { ...query, since_ms: sinceMs, until_ms: untilMs, redact: redact ? undefined : 'off' };
    return events(operation, { path: '/v1/logs', query: asked }, logEvent);
  },
  'secrets.list': (operation) => call(operation, { path: '/v1/secrets' }, list(secretInfo)),
  'ports.forward': (operation) => {
    const { address, hostPort, guestPort, protocol } = operation.arguments;
    const body = { address, host_port: hostPort, guest_port: guestPort, protocol };
    return call(operation, post('/v1/ports', body), port);
  },
  'ports.list': (operation) => call(operation, { path: '/v1/ports' }, list(port)),
  'ports.close': (operation) => {
    const { hostPort, address } = operation.arguments;
    return tell(operation, post('/v1/ports/remove', { host_port: hostPort, address }));
  },
};

async function waitForState(operation: Operation<'wait'>) {
  const { state, timeoutMs } = operation.arguments;
  const target = targetOf(operation);
  try {
    return await patiently(timeoutMs, (ms) => {
      const query = { state, timeout_ms: ms };
      return call(operation, { path: '/v1/sandbox/wait', query, limitMs: ms + ANSWER_MS }, sandboxInfo);
    });
  } catch (failure) {
    // Its supervisor ends with it.
    if (state !== 'destroyed' || !isGone(failure)) throw failure;
    const found = await inspect(target.id, operation.signal);
    if (found.state === 'destroyed') return found;
    throw failure;
  }
}

function isGone(failure: unknown): boolean {
  return failure instanceof NotFound || failure instanceof TransportError || failure instanceof SandboxUnavailable;
}

/** Waits in rounds until it is so or the time is up; null is without end. */
export async function patiently<T>(timeoutMs: number | null, round: (ms: number) => Promise<T>): Promise<T> {
  const until = timeoutMs === null ? Number.POSITIVE_INFINITY : performance.now() + timeoutMs;
  while (true) {
    const left = Math.max(0, until - performance.now());
    try {
      return await round(Math.ceil(Math.min(left, ROUND_MS)));
    } catch (failure) {
      if (!(failure instanceof Timeout) || left <= ROUND_MS) throw failure;
    }
  }
}

/** As it knows itself, or else the host. */
async function endsWithLease(operation: Operation<'close'>): Promise<boolean> {
  const gone = (failure: unknown): null => {
    if (failure instanceof NotFound) return null;
    throw failure;
  };
  const found = await call(operation, { path: '/v1/sandbox' }, inspection)
    .catch(gone)
    .catch(() => inspect(targetOf(operation).id, operation.signal).catch(gone));
  return found !== null && found.state !== 'destroyed' && found.cleanup.kind === 'lease';
}

async function destroy(operation: Operation<'destroy'>): Promise<DeletionReport> {
  try {
    const request = { method: 'POST', path: '/v1/sandbox/destroy', limitMs: DESTROY_MS } as const;
    return await call(operation, request, deletionReport);
  } catch (failure) {
    if (!isGone(failure)) throw failure;
    // It was destroyed before, and there is a report; or its supervisor is gone, or hangs.
    return end('destroy', targetOf(operation).id, operation.signal);
  }
}

const destroyedOnes = record<{ destroyed: readonly DeletionReport[] }>('Destroyed', {
  destroyed: ['destroyed', list(deletionReport)],
});

/** Ends a sandbox through mvmctl, whatever its supervisor does. */
export async function end(verb: 'destroy' | 'kill', id: string, signal?: AbortSignal): Promise<DeletionReport> {
  const said = object(await mvmctl({ args: [verb, '--json', '--', id], signal }), 'the report');
  return 'destroyed' in said
    ? onlyOne(destroyedOnes(said, 'the report').destroyed)
    : deletionReport(said, 'the report');
}

function onlyOne<T>(all: readonly T[]): T {
  const [one] = all;
  if (one !== undefined) return one;
  throw new TransportError({ what: 'cannot understand mvmctl', why: 'it reports no deletion' });
}

async function fork(operation: Operation<'fork'>): Promise<readonly Made[]> {
  const { count, name, ...ends } = operation.arguments;
  const request = { ...post('/v1/sandbox/fork', { count, name, ...endRequest(ends) }), limitMs: WORK_MS };
  const made = call({ ...operation, signal: undefined }, request, forked);
  const kill = (copies: readonly SandboxInfo[]) => Promise.allSettled(copies.map(({ id }) => end('kill', id)));
  const { sandboxes: copies } = await orUndo(operation.signal, made, ({ sandboxes }) => kill(sandboxes));
  const hold = async (sandbox: SandboxInfo): Promise<Made> => {
    const lease = ends.lease ? await claim(sandbox.socket, operation.signal) : null;
    return { sandbox, lease, created: true, warnings: [], missingSecrets: [] };
  };
  const held = await Promise.allSettled(copies.map(hold));
  const failed = held.find((one) => one.status === 'rejected');
  if (!failed) return held.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  // All or none.
  await kill(copies);
  throw failed.reason;
}
