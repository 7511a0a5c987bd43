import { resolve } from 'node:path';
import type { CopyReport, FileInfo, Written } from './api.js';
import {
  type Abortable,
  checked,
  checkGuestPath,
  checkOptions,
  flag,
  mode,
  refuse,
  size,
  text,
  word,
} from './check.js';
import { MvmError } from './errors.js';
import type { Handle } from './handle.js';

/** What a file can be written from: all of it, or pieces as they come. A stream of Node's is one of these. */
export type FileContent = string | Uint8Array | AsyncIterable<string | Uint8Array> | Iterable<string | Uint8Array>;

/** How a file is to be written. */
export interface WriteOptions extends Abortable {
  /** Its permissions, such as `0o644`; as they are, or 0o644, if left out. */
  readonly mode?: number | undefined;
  /** Whose it shall be: name, uid, name:group or uid:gid; as it is, or root, if left out. */
  readonly owner?: string | undefined;
  /** Write at its end instead of replacing it. */
  readonly append?: boolean | undefined;
  /** Return only once the write survives the loss of the machine. */
  readonly sync?: boolean | undefined;
  /** Make missing directories on the way. */
  readonly parents?: boolean | undefined;
}

/** Which part of a file is wanted. */
export interface ReadOptions extends Abortable {
  /** Where to begin, in bytes. */
  readonly offset?: number | undefined;
  /** How many bytes at most. */
  readonly length?: number | undefined;
}

/** Options of {@link Files.upload} and {@link Files.download}. Both paths must be given. */
export interface CopyOptions extends Abortable {
  /** A file or directory of the host. A relative path is one of this process. */
  readonly hostPath: string;
  /** An absolute path in the sandbox. */
  readonly guestPath: string;
}

const WRITE = { mode, owner: text, append: flag, sync: flag, parents: flag };
const READ = { offset: size, length: size };
const COPY = { hostPath: word, guestPath: () => undefined };
const ENOENT = 2;
const ENOTDIR = 20;
const ELOOP = 40;
/** In pieces of this size a whole content is sent. */
const PIECE = 1 << 20;

/** Files of a sandbox, as its root sees them. Their paths are absolute. */
export class Files {
  readonly #handle: Handle;

  /** @internal */
  constructor(handle: Handle) {
    this.#handle = handle;
  }

  /** Writes a file. A reader in the sandbox sees the old content or all of the new. */
  async write(path: string, data: FileContent, options: WriteOptions = {}): Promise<Written> {
    const what = 'write the file';
    checkGuestPath(what, 'the path', path);
    checkContent(what, data);
    checkOptions(what, options, WRITE);
    const { mode, owner, append, sync, parents } = options;
    const given = { path, pieces: piecesOf(what, data), mode, owner, append, sync, parents };
    return this.#handle.perform('files.write', given, options);
  }

  /** Writes several files, one after the other, each with these options. What fails ends it; those before it are written. */
  async writeMany(
    contents: Readonly<Record<string, FileContent>>,
    options: WriteOptions = {},
  ): Promise<readonly Written[]> {
    const what = 'write the files';
    if (typeof contents !== 'object' || contents === null) refuse(what, 'the contents are not an object of paths');
    for (const [path, data] of Object.entries(contents)) {
      checkGuestPath(what, 'a path', path);
      checkContent(what, data);
    }
    const written: Written[] = [];
    for (const [path, data] of Object.entries(contents)) written.push(await this.write(path, data, options));
    return written;
  }

  /** The bytes of a file. */
  async read(path: string, options: ReadOptions = {}): Promise<Uint8Array> {
    return joined(this.#pieces('files.read', path, options));
  }

  /** A file as text. Bytes that are no UTF-8 are U+FFFD. */
  async readText(path: string, options: Abortable = {}): Promise<string> {
    checkOptions('read the file', options, {});
    return (await joined(this.#pieces('files.readText', path, options))).toString('utf8');
  }

  /** The bytes of a file as they come, for one that is too large to be kept. */
  stream(path: string, options: ReadOptions = {}): AsyncIterable<Uint8Array> {
    return this.#pieces('files.stream', path, options);
  }

  /** What is in a directory, sorted by name. */
  async list(path: string, options: Abortable = {}): Promise<readonly FileInfo[]> {
    checkGuestPath('list the directory', 'the path', path);
    checkOptions('list the directory', options, {});
    return this.#handle.perform('files.list', { path }, options);
  }

  /** Describes a file; with `follow` what a link points to, not the link. */
  async stat(path: string, options: { readonly follow?: boolean | undefined } & Abortable = {}): Promise<FileInfo> {
    return this.#stat('files.stat', path, options);
  }

  /** Whether there is something of this name. A link counts if what it points to is there. */
  async exists(path: string, options: Abortable = {}): Promise<boolean> {
    checkOptions('look at the file', options, {});
    try {
      await this.#stat('files.exists', path, { ...options, follow: true });
      return true;
    } catch (failure) {
      // Without a number it is the sandbox that is not found.
      if (failure instanceof MvmError && [ENOENT, ENOTDIR, ELOOP].includes(failure.errno ?? 0)) return false;
      throw failure;
    }
  }

  /** Makes a directory; with `parents` also those on the way, and one that is there is no error. */
  async mkdir(
    path: string,
    options: { readonly parents?: boolean | undefined; readonly mode?: number | undefined } & Abortable = {},
  ): Promise<void> {
    checkGuestPath('make the directory', 'the path', path);
    checkOptions('make the directory', options, { parents: flag, mode });
    return this.#handle.perform('files.mkdir', { path, parents: options.parents, mode: options.mode }, options);
  }

  /** Renames a file. What has the new name is replaced. */
  async move(source: string, destination: string, options: Abortable = {}): Promise<void> {
    checkGuestPath('move the file', 'the source', source);
    checkGuestPath('move the file', 'the destination', destination);
    checkOptions('move the file', options, {});
    return this.#handle.perform('files.move', { source, destination }, options);
  }

  /** Removes a file or an empty directory; with `recursive` a directory with all that is in it. */
  async remove(path: string, options: { readonly recursive?: boolean | undefined } & Abortable = {}): Promise<void> {
    checkGuestPath('remove the file', 'the path', path);
    checkOptions('remove the file', options, { recursive: flag });
    return this.#handle.perform('files.remove', { path, recursive: options.recursive }, options);
  }

  /** Copies a file or directory of the host into the sandbox. */
  async upload(options: CopyOptions): Promise<CopyReport> {
    return this.#handle.perform('files.upload', copyOf('upload', options), options);
  }

  /** Copies a file or directory of the sandbox to the host, under exactly the name given. Nothing is written outside it. */
  async download(options: CopyOptions): Promise<CopyReport> {
    return this.#handle.perform('files.download', copyOf('download', options), options);
  }

  #pieces(call: string, path: string, options: ReadOptions): AsyncIterable<Uint8Array> {
    const what = 'read the file';
    checkGuestPath(what, 'the path', path);
    checkOptions(what, options, READ);
    const { offset = 0, length } = options;
    return deferred(() => this.#handle.perform('files.read', { path, offset, length }, options, call));
  }

  async #stat(
    call: string,
    path: string,
    options: { readonly follow?: boolean | undefined } & Abortable,
  ): Promise<FileInfo> {
    checkGuestPath('look at the file', 'the path', path);
    checkOptions('look at the file', options, { follow: flag });
    return this.#handle.perform('files.stat', { path, follow: options.follow ?? false }, options, call);
  }
}

function copyOf(what: string, options: CopyOptions) {
  checkOptions(what, options, COPY);
  checked(what, 'hostPath', options.hostPath, word);
  checkGuestPath(what, 'guestPath', options.guestPath);
  return { hostPath: resolve(options.hostPath), guestPath: options.guestPath };
}

function checkContent(what: string, data: unknown): void {
  const iterable =
    typeof data === 'object' && data !== null && (Symbol.asyncIterator in data || Symbol.iterator in data);
  if (typeof data !== 'string' && !iterable)
    refuse(what, 'the content is neither a text, nor bytes, nor pieces of these');
}

async function* piecesOf(what: string, data: FileContent): AsyncGenerator<Uint8Array, void, void> {
  if (typeof data === 'string' || data instanceof Uint8Array) {
    const all = typeof data === 'string' ? Buffer.from(data) : data;
    for (let from = 0; from < all.length; from += PIECE) yield all.subarray(from, from + PIECE);
    return;
  }
  for await (const piece of data) {
    if (typeof piece !== 'string' && !(piece instanceof Uint8Array)) {
      refuse(what, 'a piece of the content is neither a text nor bytes');
    }
    yield typeof piece === 'string' ? Buffer.from(piece) : piece;
  }
}

async function joined(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const kept: Uint8Array[] = [];
  for await (const piece of pieces) kept.push(piece);
  return Buffer.concat(kept);
}

async function* deferred<T>(open: () => Promise<AsyncIterable<T>>): AsyncGenerator<T, void, void> {
  yield* await open();
}
