/**
 * Looks at what callers give, before anything is done with it. A value is in no error: it may be a secret.
 *
 * @module
 */

import { InvalidRequest } from './errors.js';

/** Says what was expected if a value is wrong, and nothing if it is right. */
export type Check = (value: unknown) => string | undefined;

/** Every method takes one. An abort rejects with its reason and ends what was begun. */
export interface Abortable {
  /** Ends the call: it rejects with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** Refuses an argument. */
export function refuse(what: string, why: string, hint = ''): never {
  throw new InvalidRequest({ what: `cannot ${what}`, why, hint });
}

/** Refuses a value that its check does not accept. */
export function checked(what: string, name: string, value: unknown, check: Check): void {
  const expected = check(value);
  if (expected !== undefined) refuse(what, `${name} is not ${expected}`, `give ${name} as ${expected}`);
}

/** Refuses options that are unknown or wrong. One that is undefined counts as left out. */
export function checkOptions(what: string, options: unknown, checks: Readonly<Record<string, Check>>): void {
  if (typeof options !== 'object' || options === null) refuse(what, 'the options are not an object');
  for (const [name, value] of Object.entries(options)) {
    const check = name === 'signal' ? abortSignal : Object.hasOwn(checks, name) ? checks[name] : undefined;
    if (check === undefined) {
      refuse(
        what,
        `there is no option ${JSON.stringify(name)}`,
        `there are: ${Object.keys(checks).join(', ')}, signal`,
      );
    }
    if (value !== undefined) checked(what, name, value, check);
  }
}

function is(expected: string, right: (value: unknown) => boolean): Check {
  return (value) => (right(value) ? undefined : expected);
}

const isText = (value: unknown): value is string => typeof value === 'string';
const isWord = (value: unknown): boolean => isText(value) && value !== '' && !value.includes('\0');
const inRange = (value: unknown, least: number, most: number): boolean =>
  Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;

export const text = is('a text', isText);
/** What becomes an argument of a process. */
export const word = is('a text that is not empty and has no NUL', isWord);
/** What is a part of a path of the API. */
export const runId = is(
  'the id of a command, such as run-0123456789abcdef',
  (value) => isText(value) && /^[\w-]+$/.test(value),
);
export const flag = is('true or false', (value) => typeof value === 'boolean');
export const callback = is('a function', (value) => typeof value === 'function');
export const count = is('a whole number above zero', (value) => inRange(value, 1, 0xffff_ffff));
export const size = is('a whole number of bytes, zero or more', (value) => inRange(value, 0, Number.MAX_SAFE_INTEGER));
export const mode = is('permissions such as 0o644', (value) => inRange(value, 0, 0o7777));
export const port = is('a port from 0 to 65535', (value) => inRange(value, 0, 65_535));
export const signalNumber = is('the number of a signal, from 1 to 64', (value) => inRange(value, 1, 64));
export const date = is('a date', (value) => value instanceof Date && !Number.isNaN(value.getTime()));
const longest = Number.MAX_SAFE_INTEGER;
export const duration = is(
  'a number of milliseconds above zero',
  (value) => typeof value === 'number' && value > 0 && value <= longest,
);
export const patience = is(
  'a number of milliseconds, zero or more',
  (value) => typeof value === 'number' && value >= 0 && value <= longest,
);
export const life = is(
  'a number of milliseconds above zero, or Infinity',
  (value) => value === Number.POSITIVE_INFINITY || duration(value) === undefined,
);
export const abortSignal = is('an AbortSignal', (value) => value instanceof AbortSignal);
export const words = is('a list of texts', (value) => Array.isArray(value) && value.every(isText));
export const textMap = is('an object of texts', (value) => isPlain(value) && Object.values(value).every(isText));
export const terminalSize = is(
  'an object of rows and cols, each from 1 to 65535',
  (value) => isPlain(value) && inRange(value.rows, 1, 65_535) && inRange(value.cols, 1, 65_535),
);
/** What a command or a file is given at once. */
export const content = is('a text or bytes', (value) => isText(value) || value instanceof Uint8Array);

export function oneOf(...values: readonly string[]): Check {
  return is(`one of ${values.join(', ')}`, (value) => isText(value) && values.includes(value));
}

/** An object that is no list and no instance of something else. */
export function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** Refuses a path that is not one of a guest. What else may be wrong with it the sandbox says. */
export function checkGuestPath(what: string, name: string, path: unknown): asserts path is string {
  if (!isText(path)) refuse(what, `${name} is not a text`, `give ${name} as a path such as /tmp/file`);
  if (path === '') refuse(what, `${name} is empty`, `give ${name} as a path such as /tmp/file`);
  if (!path.startsWith('/')) refuse(what, 'a path in a sandbox is absolute', 'begin it with /');
}

/** A command as a program and its arguments; a text is run by a shell. */
export function commandOf(what: string, argv: unknown): string[] {
  if (isText(argv) && argv !== '') return ['/bin/sh', '-c', argv];
  if (Array.isArray(argv) && argv.length > 0 && argv.every(isText) && argv[0] !== '') return [...argv];
  refuse(
    what,
    'the command is neither a list of texts nor a text',
    "give it as ['ls', '-l'], or as 'ls -l' for a shell",
  );
}
