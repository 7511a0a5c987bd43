/**
 * A file or directory of the host, as it is recorded to be uploaded.
 *
 * @module
 */

import { createReadStream, type Stats } from 'node:fs';
import { lstat, readdir, readlink, stat } from 'node:fs/promises';
import { MvmError, NotFound } from '../errors.js';
import { fileError } from '../host-file.js';
import type { Step } from './recording.js';

const MAX_ENTRIES = 20_000;
const MAX_DEPTH = 64;

/** What is at a path: below the root, with `/`; empty is the root. `content` is a SHA-256 in hex, `mode` the permissions. */
export interface Entry {
  readonly path: string;
  readonly what:
    | { readonly directory: { readonly mode: number } }
    | { readonly file: { readonly content: string; readonly mode: number } }
    | { readonly link: string };
}

/** Something on the host: its path in bytes, as it need not be text, and its path below the root, of so many names. */
interface Item {
  readonly host: Buffer;
  readonly path: string;
  readonly depth: number;
}

/**
 * All that is there, a directory before what is in it, sorted by the bytes of the names. The root is followed if it is a
 * link.
 *
 * @throws {NotFound} if there is nothing.
 * @throws {FileError} if something cannot be read.
 * @throws {NotRecordable} if something is neither a file, a directory nor a link, or no text; or if it is too much.
 */
export async function entriesOf(hostPath: string, step: Step): Promise<readonly Entry[]> {
  const entries: Entry[] = [];
  const visit = async (item: Item): Promise<void> => {
    if (entries.length === MAX_ENTRIES) throw step.refusal('there are more than 20,000 files in it');
    if (item.depth > MAX_DEPTH) throw step.refusal(`it is more than ${MAX_DEPTH} directories deep`);
    const found = await (item.path === '' ? stat(item.host) : lstat(item.host));
    entries.push({ path: item.path, what: await whatOf(item, found, step) });
    if (!found.isDirectory()) return;
    const names = await readdir(item.host, { encoding: 'buffer' });
    for (const name of names.sort(Buffer.compare)) await visit(below(item, name, step));
  };
  try {
    await visit({ host: Buffer.from(hostPath), path: '', depth: 0 });
    return entries;
  } catch (failure) {
    if (failure instanceof MvmError) throw failure;
    const { code, path = hostPath } = failure as NodeJS.ErrnoException;
    const error = fileError(`cannot read ${path}`, failure);
    throw code === 'ENOENT' ? new NotFound(error) : error;
  }
}

async function whatOf({ host, path }: Item, found: Stats, step: Step): Promise<Entry['what']> {
  const mode = found.mode & 0o777;
  if (found.isDirectory()) return { directory: { mode } };
  if (found.isFile()) return { file: { content: await step.take(createReadStream(host)), mode } };
  const name = path === '' ? 'it' : path;
  if (found.isSymbolicLink()) {
    const target = decoded(await readlink(host, { encoding: 'buffer' }));
    if (target === undefined) throw step.refusal(`${name} is a link to a name that is no UTF-8`);
    return { link: target };
  }
  const kind = found.isFIFO() ? 'pipe' : found.isSocket() ? 'socket' : 'device';
  throw step.refusal(`${name} is a ${kind}`);
}

/** What has a name in a directory. */
function below({ host, path, depth }: Item, name: Buffer, step: Step): Item {
  const text = decoded(name);
  const prefix = path === '' ? '' : `${path}/`;
  if (text === undefined) throw step.refusal(`the name ${prefix}${name.toString()} is no UTF-8`);
  return { host: Buffer.concat([host, Buffer.from('/'), name]), path: `${prefix}${text}`, depth: depth + 1 };
}

function decoded(bytes: Buffer): string | undefined {
  const text = bytes.toString();
  return Buffer.from(text).equals(bytes) ? text : undefined;
}
