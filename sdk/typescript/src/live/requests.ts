/**
 * Requests as the API and mvmctl take them. What is undefined is left out, and has the server's default.
 *
 * @module
 */

import type { CommandArguments, CreateArguments, End, RunArguments, Wanted } from '../operation.js';
import type { Request } from './api.js';

export function post(path: string, json: unknown): Request {
  return { method: 'POST', path, json };
}

/** A request on the standard input of mvmctl. */
export function requestLine(request: unknown): Uint8Array {
  return Buffer.from(`${JSON.stringify(request)}\n`);
}

/** How a sandbox ends. */
export function endRequest({ lease, ttlMs, noTtl, owner, onExpiry }: End) {
  return { lease, ttl_ms: ttlMs ?? undefined, no_ttl: noTtl, owner, on_expiry: onExpiry };
}

/** A sandbox. */
export function createRequest(given: CreateArguments) {
  const { name, ports, idempotencyKey, snapshot, diskOnly } = given;
  return {
    ...wantedRequest(given),
    ...endRequest(given),
    name,
    ports: ports.map(({ address, hostPort, guestPort, protocol }) => {
      return { address, host_port: hostPort, guest_port: guestPort, protocol };
    }),
    idempotency_key: idempotencyKey,
    snapshot,
    disk_only: diskOnly,
  };
}

/** A command, but for its secrets, which each takes in its own way. */
export function commandRequest({ argv, timeoutMs, env, cwd, user }: Omit<CommandArguments, 'secrets'>) {
  return { argv, timeout_ms: timeoutMs, env, cwd, user };
}

/** A command in a machine of its own. */
export function onceRequest(given: RunArguments) {
  return { ...wantedRequest(given), ...commandRequest(given), max_output: given.maxOutput };
}

function wantedRequest(wanted: Wanted) {
  const { image, cpus, memoryMib, diskMib, env, secrets, profile, acceptRisk, require, allowMissing } = wanted;
  return {
    image,
    cpus,
    memory_mib: memoryMib,
    disk_bytes: diskMib === undefined ? undefined : diskMib * 1024 * 1024,
    env,
    secrets,
    profile,
    accept_risk: acceptRisk,
    require,
    allow_missing: allowMissing,
  };
}
