/** What the programs here have in common that use the TypeScript SDK: the words of the cases in its own, and the other way round. */

import * as mvm from '@mvm/sdk';

const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());

/** What the SDK says, in the names of the API. What has no type in it (`isolation`) is as it was. */
export function plain(value) {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64');
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [snake(key), plain(item)]));
}

/** Those options that the case gives, in the SDK's names. */
export function given(args, ...names) {
  return Object.fromEntries(names.filter((name) => name in args).map((name) => [camel(name), args[name]]));
}

/** What a file is to have in it. */
export function fileContent(args) {
  if (!('pattern' in args)) return args.text ?? Buffer.from(args.base64, 'base64');
  return Uint8Array.from({ length: args.pattern }, (_, i) => Number((BigInt(i) * 2654435761n) >> 13n & 255n));
}

/** What is null in a case has no end. */
export function timeToLive(args) {
  return 'ttl_ms' in args ? { ttlMs: args.ttl_ms ?? Number.POSITIVE_INFINITY } : {};
}

/** Of a sandbox that goes on without its maker, unless it has a lease. */
function ending(args) {
  if (args.lease) return { lease: true };
  return 'ttl_ms' in args ? timeToLive(args) : { lease: false };
}

export function machine(args) {
  const disk = 'disk_bytes' in args ? { diskMib: args.disk_bytes / 2 ** 20 } : {};
  const names = ['memory_mib', 'cpus', 'env', 'secrets', 'profile', 'accept_risk', 'require', 'allow_missing', 'dry_run'];
  return { ...given(args, ...names), ...disk };
}

/** The options of a sandbox that is created. */
export function creation(args) {
  const ports = (args.ports ?? []).map(plainPort);
  return { ...machine(args), ...given(args, 'name', 'owner', 'on_expiry', 'idempotency_key'), ...ending(args), ports };
}

export function holds(condition, what) {
  if (!condition) throw new Error(`the SDK contradicts itself: ${what}`);
}

function plainPort({ host_port: hostPort, guest_port: guestPort, ...others }) {
  holds(Object.keys(others).length === 0, 'a port of a case has more than these');
  return { hostPort, guestPort };
}

export function errorOf(error) {
  if (!(error instanceof mvm.MvmError)) return { code: null, what: null, why: String(error?.stack ?? error), hint: null, errno: null };
  const { code, what, why, hint, errno, capability, denials } = error;
  return { code, what, why, hint, errno, capability, denials: plain(denials) };
}

