/**
 * Decoders: each takes a value as JSON has it and returns it as its type, or throws that the peer makes no sense. What was
 * there instead is in no error: the guest may have written it.
 *
 * @module
 */

import { inspect } from 'node:util';
import { TransportError } from './errors.js';

/** Reads a value; `at` says where it stands, for the error. */
export type Decoder<T> = (value: unknown, at: string) => T;

/** How a field is called in JSON, how it is read, and what it is if it is left out, where it may be. */
type Field<T> = readonly [name: string, decoder: Decoder<T>, missing?: T];
type Fields<T> = { readonly [Key in keyof T]-?: Field<T[Key]> };

/** A decoder that says of which fields it is made. */
export interface RecordDecoder<T> extends Decoder<T> {
  readonly fields: Fields<T>;
}

type JsonObject = Readonly<Record<string, unknown>>;

/** Throws that something else was expected. */
export function unexpected(at: string, expected: string): never {
  const why = `${at} is not ${expected}`;
  throw new TransportError({ what: 'cannot understand the answer', why, hint: 'update mvmctl and @mvm/sdk together' });
}

function scalar<T>(kind: string, expected: string): Decoder<T> {
  return (value, at) => (typeof value === kind ? (value as T) : unexpected(at, expected));
}

export const text = scalar<string>('string', 'a text');
export const number = scalar<number>('number', 'a number');
export const bool = scalar<boolean>('boolean', 'true or false');
export const json: Decoder<unknown> = (value) => value ?? null;
export const integer: Decoder<number> = (value, at) =>
  Number.isSafeInteger(value) ? (value as number) : unexpected(at, 'an integer');

/** Bytes, which are base64 in JSON. */
export const bytes: Decoder<Uint8Array> = (value, at) => {
  const encoded = text(value, at);
  const decoded = Buffer.from(encoded, 'base64');
  // What Node skips over makes the result shorter.
  const padding = encoded.endsWith('==') ? 2 : encoded.endsWith('=') ? 1 : 0;
  return decoded.length === (encoded.length / 4) * 3 - padding ? decoded : unexpected(at, 'base64');
};

export function nullable<T>(decoder: Decoder<T>): Decoder<T | null> {
  return (value, at) => (value === null ? null : decoder(value, at));
}

export function list<T>(decoder: Decoder<T>): Decoder<readonly T[]> {
  return (value, at) =>
    Array.isArray(value) ? value.map((item, index) => decoder(item, `${at}[${index}]`)) : unexpected(at, 'a list');
}

export function oneOf<const T extends string>(name: string, values: readonly T[]): Decoder<T> {
  return (value, at) => ((values as readonly unknown[]).includes(value) ? (value as T) : unexpected(at, `a ${name}`));
}

/** A JSON object. */
export function object(value: unknown, at: string): JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as JsonObject)
    : unexpected(at, 'an object');
}

/** An object with these fields. Others are left out. `hidden` ones are not shown by `console.log` and its like. */
export function record<T extends object>(
  name: string,
  fields: Fields<T>,
  ...hidden: (keyof T & string)[]
): RecordDecoder<T> {
  const entries = Object.entries(fields) as [string, Field<unknown>][];
  const decoder = (value: unknown, at: string): T => {
    const given = object(value, at);
    const made: Record<string, unknown> = {};
    for (const [key, [called, decode, missing]] of entries) {
      const found = given[called];
      made[key] = found === undefined && missing !== undefined ? missing : decode(found, `${at}.${called}`);
    }
    return (hidden.length > 0 ? discreet(made, name, hidden) : made) as T;
  };
  return Object.assign(decoder, { fields });
}

/** One of several records, told apart by a field. */
export function union<T>(name: string, tag: string, variants: Readonly<Record<string, Decoder<T>>>): Decoder<T> {
  return (value, at) => {
    const kind = object(value, at)[tag];
    const variant = typeof kind === 'string' && Object.hasOwn(variants, kind) ? variants[kind] : undefined;
    return variant ? variant(value, at) : unexpected(`${at}.${tag}`, `one of a ${name}`);
  };
}

/** Has `console.log` and its like leave out what the guest wrote. */
export function discreet<T extends object>(value: T, name: string, hidden: readonly string[]): T {
  const shown = (): string => {
    const open = Object.entries(value).filter(([key]) => !hidden.includes(key));
    return `${name} ${inspect(Object.fromEntries(open))}`;
  };
  return Object.defineProperty(value, inspect.custom, { value: shown });
}
