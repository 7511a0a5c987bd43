/**
 * What this process has recorded, and the file that it is written to.
 *
 * @module
 */

import { createHash } from 'node:crypto';
import { closeSync, fsyncSync, openSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { FileError, InvalidRequest, type MvmError, NotRecordable, ResourceExhausted } from '../errors.js';
import { fileError } from '../host-file.js';

const SCHEMA = 'mvm.recording/v1';
/** The most that all contents have together, in bytes. */
const MAX_CONTENTS = 64 << 20;
const HINT = 'mvmctl run --mode live SCRIPT runs it live';
/** Half of a character, which no UTF-8 can say. */
const HALF = /\p{Surrogate}/u;

/** A call as its caller names it, such as `files.read`, and where it is made, such as `agent.ts:3`; empty if not known. */
export interface Origin {
  readonly call: string;
  readonly place: string;
}

/** A call in words. */
export function at({ call, place }: Origin): string {
  return place === '' ? call : `${call} at ${place}`;
}

/** One call of a recording. */
export class Step {
  readonly origin: Origin;
  /** SHA-256, in hex, of the contents that it names. */
  readonly contents = new Set<string>();
  readonly #recording: Recording;
  #call: Readonly<Record<string, object>> | undefined;

  constructor(recording: Recording, origin: Origin) {
    this.#recording = recording;
    this.origin = origin;
  }

  /** What was called, by its name, with its arguments; undefined until all of them are known. */
  get call(): Readonly<Record<string, object>> | undefined {
    return this.#call;
  }

  /** Has the arguments, which make it whole. */
  complete(given: object): void {
    checkTexts(this.origin, given);
    this.#call = { [this.origin.call]: given };
  }

  /** Reads a content to its end, and returns its SHA-256 in hex. */
  async take(pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<string> {
    const digest = await this.#recording.take(this.origin, pieces);
    this.contents.add(digest);
    return digest;
  }

  /** Why it cannot be recorded, to be thrown. */
  refusal(why: string): NotRecordable {
    return this.#recording.refusal(this.origin, why);
  }
}

/** The calls of this process, in the order in which they began. It is written when the process ends with exit code 0. */
class Recording {
  /** Whether the sandbox ends with its handle. */
  leased = false;
  #path = '';
  readonly #steps: Step[] = [];
  readonly #contents = new Map<string, Buffer>();
  #size = 0;
  #spoiled: MvmError | undefined;

  constructor() {
    process.on('exit', (code) => this.#end(code));
  }

  /** Whether the handle closed, after which nothing more can be recorded. */
  get closed(): boolean {
    return this.#steps.at(-1)?.origin.call === 'close';
  }

  /** The place of the next call. The first one is `create`, and it is the only one. */
  begin(origin: Origin): Step {
    if (origin.call === 'create') this.#open(origin);
    const step = new Step(this, origin);
    this.#steps.push(step);
    return step;
  }

  /** Forgets a call that failed. */
  drop(step: Step): void {
    this.#steps.splice(this.#steps.indexOf(step), 1);
  }

  /** Why something cannot be recorded, to be thrown. The recording is void: the program goes another way than it would live. */
  refusal(origin: Origin, why: string): NotRecordable {
    const fields = { what: `cannot record ${at(origin)}`, why, hint: HINT };
    return this.#spoil(new NotRecordable(fields, origin.call, origin.place));
  }

  /** Keeps a content, once. */
  async take(origin: Origin, pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<string> {
    const kept: Buffer[] = [];
    let size = 0;
    for await (const piece of pieces) {
      size += piece.length;
      if (size > MAX_CONTENTS) throw this.#exhausted(origin);
      // A copy: whoever made the piece may use its memory again.
      kept.push(Buffer.from(piece));
    }
    const content = Buffer.concat(kept);
    const digest = createHash('sha256').update(content).digest('hex');
    if (this.#contents.has(digest)) return digest;
    this.#size += size;
    if (this.#size > MAX_CONTENTS) throw this.#exhausted(origin);
    this.#contents.set(digest, content);
    return digest;
  }

  /** Looks whether there can be a recording at all, and where it goes. */
  #open(origin: Origin): void {
    if (!isMainThread) throw this.refusal(origin, 'only the main thread of a program is recorded');
    const [first] = this.#steps;
    if (first) {
      throw this.refusal(origin, `a workload is one sandbox, and ${first.origin.place || 'a call before'} creates one`);
    }
    const what = `cannot record ${at(origin)}`;
    const path = process.env.MVM_SDK_OUT_PATH;
    if (!path) {
      const why = 'MVM_SDK_OUT_PATH does not say where the recording goes';
      throw new InvalidRequest({ what, why, hint: 'set it to the path of a file' });
    }
    this.#path = resolve(path);
    checkDirectory(what, dirname(this.#path));
  }

  #exhausted(origin: Origin): ResourceExhausted {
    const why = 'a recording holds 64 MiB of contents';
    return this.#spoil(new ResourceExhausted({ what: `cannot record ${at(origin)}`, why, hint: HINT }));
  }

  #spoil<Failure extends MvmError>(failure: Failure): Failure {
    this.#spoiled ??= failure;
    return failure;
  }

  #end(code: number): void {
    // Listeners before this one may have set it: Node does if the program still waits for something.
    const clean = Number(process.exitCode ?? code) === 0;
    const open = this.#steps.find(({ call }) => call === undefined);
    if (clean) open?.refusal('it was not over when the program ended');
    if (clean && this.#steps.length > 0 && !this.#spoiled) this.#write();
    if (!this.#spoiled) return;
    process.stderr.write(`mvm: no recording was written: ${this.#spoiled.what}: ${this.#spoiled.why}\n`);
    if (clean) process.exitCode = 1;
  }

  #write(): void {
    try {
      replace(this.#path, `${JSON.stringify(this.#document())}\n`);
    } catch (failure) {
      this.#spoil(fileError(`cannot write ${this.#path}`, failure));
    }
  }

  #document() {
    // In the order in which the calls name them; what only a call has named that failed is left out.
    const named = new Set(this.#steps.flatMap(({ contents }) => [...contents]));
    const contents = [...named].map((digest) => [digest, this.#contents.get(digest)?.toString('base64')]);
    return {
      schema: SCHEMA,
      program: basename(process.argv[1] ?? ''),
      calls: this.#steps.map(({ origin: { place }, call }) => ({ place, call })),
      contents: Object.fromEntries(contents),
    };
  }
}

/** What this process records. There is one workload in a process. */
export const recording = new Recording();

/** Refuses what cannot be written down. The text is in no error: it may be a secret. */
function checkTexts(origin: Origin, given: object): void {
  JSON.stringify(given, (name, value: unknown) => {
    if (HALF.test(name) || (typeof value === 'string' && HALF.test(value))) {
      const why = 'a text in it ends within a character: it has half of a surrogate pair';
      throw new InvalidRequest({ what: `cannot record ${at(origin)}`, why });
    }
    return value;
  });
}

function checkDirectory(what: string, path: string): void {
  const hint = 'MVM_SDK_OUT_PATH is the path of a file in a directory that is there';
  try {
    if (statSync(path).isDirectory()) return;
  } catch (failure) {
    throw fileError(`${what} in ${path}`, failure, hint);
  }
  throw new FileError({ what: `${what} in ${path}`, why: 'ENOTDIR', hint, errno: 20 });
}

/** Writes a file that only its owner may read, whole or not at all. */
function replace(path: string, content: string): void {
  const draft = `${path}.${process.pid}.tmp`;
  try {
    const file = openSync(draft, 'wx', 0o600);
    try {
      writeFileSync(file, content);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(draft, path);
  } catch (failure) {
    rmSync(draft, { force: true });
    throw failure;
  }
}
