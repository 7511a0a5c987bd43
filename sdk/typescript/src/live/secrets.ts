/**
 * Secrets by reference, read in this process for the one command that gets them. How long a value may be the sandbox says. A
 * value is in no error.
 *
 * @module
 */

import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { resolve } from 'node:path';
import { InvalidRequest, MvmError, NotFound } from '../errors.js';
import { fileError } from '../host-file.js';
import { type Reference, referenceOf, SECRET_HINT } from '../secrets.js';

const WORD = /^(?:[a-z]+|[0-9]+|\s+)$/;
/** One that is longer is refused; more need not be read. */
const MAX_VALUE = 64 << 10;

/** Values by name, and what there is to say about how they are kept. */
export interface Secrets {
  readonly values: Readonly<Record<string, string>>;
  readonly warnings: readonly string[];
}

/** Reads what the references name. */
export async function readSecrets(references: Readonly<Record<string, string>> = {}): Promise<Secrets> {
  const values: [string, string][] = [];
  const warnings: string[] = [];
  for (const [name, reference] of Object.entries(references)) {
    const { value, exposed } = await readValue(`cannot use the secret ${name}`, referenceOf(name, reference));
    if (exposed) warnings.push(`the secret ${name} is in a file that others may read: ${exposed} (chmod 600)`);
    if (WORD.test(value)) {
      warnings.push(`the secret ${name} looks like a word: where it is redacted it shows itself`);
    }
    values.push([name, value]);
  }
  // So that one called __proto__ is one like the others.
  return { values: Object.fromEntries(values), warnings };
}

async function readValue(what: string, { kind, place }: Reference): Promise<{ value: string; exposed: string }> {
  if (kind === 'file') return fileValue(what, resolve(place));
  const value = process.env[place];
  if (value === undefined) throw new NotFound({ what, why: `the variable ${place} is not set`, hint: SECRET_HINT });
  return { value, exposed: '' };
}

async function fileValue(what: string, path: string): Promise<{ value: string; exposed: string }> {
  let file: FileHandle | undefined;
  try {
    // Not blocked by a pipe, which is refused below.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const found = await file.stat();
    if (!found.isFile()) throw new InvalidRequest({ what, why: `${path} is no regular file`, hint: SECRET_HINT });
    const { buffer, bytesRead } = await file.read(Buffer.alloc(MAX_VALUE + 3), 0, MAX_VALUE + 3, 0);
    const value = decode(what, buffer.subarray(0, bytesRead)).replace(/\r?\n$/, '');
    return { value, exposed: found.mode & 0o077 ? path : '' };
  } catch (failure) {
    if (failure instanceof MvmError) throw failure;
    const { code } = failure as NodeJS.ErrnoException;
    const error = fileError(`${what}: ${path}`, failure);
    throw code === 'ENOENT' ? new NotFound(error) : error;
  } finally {
    await file?.close();
  }
}

function decode(what: string, bytes: Buffer): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    const why = 'its value is not UTF-8, and variables are text';
    throw new InvalidRequest({ what, why, hint: 'encode it, for instance in base64' });
  }
}
