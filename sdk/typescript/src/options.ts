import type { OnExpiry } from './api.js';
import { type Abortable, checkOptions, count, flag, life, oneOf, refuse, text, textMap, words } from './check.js';
import type { CreateArguments, End, Mode, Wanted } from './operation.js';
import { checkPort, type PortSpec } from './ports.js';

/** How a sandbox ends when nobody ends it. It has exactly one end. */
export interface EndOptions {
  /**
   * Its time to live in milliseconds, whatever becomes of this process. `Infinity` is none: it ends when somebody asks,
   * and needs an `owner`.
   */
  readonly ttlMs?: number | undefined;
  /** Who answers for it. */
  readonly owner?: string | undefined;
  /** What happens when its time is up; it is destroyed if left out. */
  readonly onExpiry?: OnExpiry | undefined;
  /**
   * Whether it ends with this handle and this process; true unless `ttlMs` is given. False without `ttlMs` is a time to
   * live of an hour, or what the profile allows if that is less.
   */
  readonly lease?: boolean | undefined;
}

/** What a machine is to be, and what the policy is to say to it. */
export interface MachineOptions {
  /** The profile that decides what is allowed: `restrictive`, `standard` (the default), `dev`, `permissive`, or one of your own. */
  readonly profile?: string | undefined;
  /** Virtual processors; 1 if left out. */
  readonly cpus?: number | undefined;
  /** Memory in MiB; 256 if left out. */
  readonly memoryMib?: number | undefined;
  /** Size of its disk in MiB; 4096 if left out. It takes space on the host only as it fills. */
  readonly diskMib?: number | undefined;
  /** Variables of every command in it. Nothing of the host's environment is passed on. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /** Secrets that every command in it has as variables: by name, where the value is, `env:VAR` or `file:PATH`. */
  readonly secrets?: Readonly<Record<string, string>> | undefined;
  /** Say that you know that the profile refuses next to nothing (`permissive`). */
  readonly acceptRisk?: boolean | undefined;
  /** Layers of isolation to demand besides the profile's. */
  readonly require?: readonly string[] | undefined;
  /** Layers of isolation that may be missing all the same; it is recorded. */
  readonly allowMissing?: readonly string[] | undefined;
}

/** Options of {@link Sandbox.create}. */
export interface CreateOptions extends EndOptions, MachineOptions, Abortable {
  /** Lower-case letters, digits and hyphens; made up if left out. */
  readonly name?: string | undefined;
  /** Ports of the host that shall lead into it. */
  readonly ports?: readonly PortSpec[] | undefined;
  /** A repeated request with this key finds the sandbox that the first one made. */
  readonly idempotencyKey?: string | undefined;
  /** Return what the policy would decide, and do nothing. */
  readonly dryRun?: boolean | undefined;
  /** How this sandbox's calls are performed: `live` or `record`; what MVM_SDK_MODE says if left out, else `live`. */
  readonly mode?: Mode | undefined;
}

/** Options of {@link Sandbox.restore}. Image and shape are the snapshot's. */
export interface RestoreOptions extends EndOptions, Omit<MachineOptions, 'cpus' | 'memoryMib' | 'diskMib'>, Abortable {
  /** Lower-case letters, digits and hyphens; made up if left out. */
  readonly name?: string | undefined;
  /** Boot on its disk, without its memory. */
  readonly diskOnly?: boolean | undefined;
  /** Ports of the host that shall lead into it. */
  readonly ports?: readonly PortSpec[] | undefined;
  /** A repeated request with this key finds the sandbox that the first one made. */
  readonly idempotencyKey?: string | undefined;
  /** `live`, also if left out and MVM_SDK_MODE says nothing else. It cannot be recorded. */
  readonly mode?: Mode | undefined;
}

export const onExpiry = oneOf('destroy', 'stop', 'cold');
export const mode = oneOf('live', 'record');
export const END = { ttlMs: life, owner: text, onExpiry, lease: flag };
const POLICY = { profile: text, acceptRisk: flag, require: words, allowMissing: words, env: textMap, secrets: textMap };
export const MACHINE = { ...POLICY, cpus: count, memoryMib: count, diskMib: count };
const anything = () => undefined;
const CREATE = { ...END, ...MACHINE, name: text, ports: anything, idempotencyKey: text, dryRun: flag, mode };
const RESTORE = { ...END, ...POLICY, name: text, diskOnly: flag, ports: anything, idempotencyKey: text, mode };

/** How it ends, of which the defaults are filled in. */
export function endOf(what: string, { ttlMs, owner, onExpiry, lease = ttlMs === undefined }: EndOptions): End {
  if (lease && ttlMs !== undefined) {
    refuse(what, 'a sandbox ends with its client or after a time, not both', 'leave out lease or ttlMs');
  }
  const noTtl = ttlMs === Number.POSITIVE_INFINITY;
  return { lease, ttlMs: noTtl || ttlMs === undefined ? null : Math.ceil(ttlMs), noTtl, owner, onExpiry };
}

/** What a machine is to be, of options that are right. */
export function wantedOf(image: string | undefined, options: MachineOptions): Wanted {
  const { cpus, memoryMib, diskMib, env, secrets, profile, acceptRisk, require, allowMissing } = options;
  return { image, cpus, memoryMib, diskMib, env, secrets, profile, acceptRisk, require, allowMissing };
}

/** A request for a sandbox; refused if it makes no sense. */
export function createArguments(what: string, image: string, options: CreateOptions): CreateArguments {
  checkOptions(what, options, CREATE);
  return argumentsOf(what, image, undefined, options);
}

/** A request for a sandbox that goes on from a snapshot; refused if it makes no sense. */
export function restoreArguments(what: string, snapshot: string, options: RestoreOptions): CreateArguments {
  checkOptions(what, options, RESTORE);
  return argumentsOf(what, undefined, snapshot, options);
}

function argumentsOf(
  what: string,
  image: string | undefined,
  snapshot: string | undefined,
  options: CreateOptions & RestoreOptions,
): CreateArguments {
  const { name, ports = [], idempotencyKey, diskOnly } = options;
  if (!Array.isArray(ports)) refuse(what, 'ports is not a list', 'give ports as [{ guestPort, hostPort }]');
  return {
    ...wantedOf(image, options),
    ...endOf(what, options),
    name,
    ports: ports.map((port) => checkPort(what, port)),
    idempotencyKey,
    snapshot,
    diskOnly,
  };
}
