import { open, rename, rm } from 'node:fs/promises';
import { resolve } from 'node:path';
import { checked, word } from './check.js';
import { discreet } from './decode.js';
import { fileError } from './host-file.js';

/** Why a receipt, a proof or an opening is not believed. */
export interface Refusal {
  /** A stable name, such as `bad-signature`. */
  readonly name: string;
  /** What is wrong. */
  readonly why: string;
  /** What `mvmctl receipt verify` exits with. */
  readonly exitStatus: number;
}

/** An entry of an audit log. */
export interface Logged {
  readonly origin: string;
  readonly index: number;
  readonly size: number;
  readonly keyid: string;
  readonly entry: unknown;
}

/** A value that an opening proved. The guest may have written it: it is left out where this is shown. */
export interface Opened {
  readonly field: ReceiptField;
  readonly value: Uint8Array;
}

/** What checking a receipt came to. */
export interface Verification {
  /** Whether it is genuine: not a byte was changed since it was signed with one of the keys. */
  readonly verified: boolean;
  /** Why not; null if it is. */
  readonly refusal: Refusal | null;
  /** The key that signed it: SHA-256 of the public key, in hex. Empty if it is refused. */
  readonly keyid: string;
  /** SHA-256 of the signed envelope, in hex. Empty if it is refused. */
  readonly digest: string;
  /** What it says, as JSON: `run`, `image`, `policy`, `limits`, `host_observed`, `guest_reported`, … */
  readonly statement: Readonly<Record<string, unknown>>;
  /** The entry of the audit log that the proof proves; null without a proof. */
  readonly logged: Logged | null;
  /** What the opening proved; null without one. */
  readonly opened: Opened | null;
}

/** What a receipt commits to, and an opening can prove. */
export type ReceiptField = 'argv' | 'env' | 'stdin' | 'stdout' | 'stderr';

/** A proof of one value behind a receipt, or why there is none. The value is in it, so it is as sensitive. */
export interface Opening {
  /** Why there is none: the value is another one, or the receipt is not genuine. Null if there is one. */
  readonly refusal: Refusal | null;
  readonly field: ReceiptField;
  /** The command. Empty if it is refused. */
  readonly runId: string;
  /** Byte for byte what its file is to hold. It is left out where this is shown. */
  readonly content: Uint8Array;
}

/** The receipt of a command: a signed statement, in which there is nothing that went in or came out. */
export class Receipt implements Verification {
  readonly verified: boolean;
  readonly refusal: Refusal | null;
  readonly keyid: string;
  readonly digest: string;
  readonly statement: Readonly<Record<string, unknown>>;
  readonly logged: Logged | null;
  readonly opened: Opened | null;
  /** The command. */
  readonly runId: string;
  /** The signed envelope (DSSE), byte for byte what its file is to hold. */
  readonly envelope: string;
  /** The proof that it is in the audit log (C2SP tlog-proof), byte for byte what the file beside it is to hold. */
  readonly proof: string;

  /** @internal */
  constructor(found: Verification, runId: string, envelope: string, proof: string) {
    this.verified = found.verified;
    this.refusal = found.refusal;
    this.keyid = found.keyid;
    this.digest = found.digest;
    this.statement = found.statement;
    this.logged = found.logged;
    this.opened = found.opened;
    this.runId = runId;
    this.envelope = envelope;
    this.proof = proof;
  }

  /**
   * Writes it into a file of the host, and its proof beside it (`.tlog-proof`), each of them whole or not at all.
   *
   * @throws {FileError} with its `errno`.
   */
  async write(path: string): Promise<void> {
    const what = 'write the receipt';
    checked(what, 'the path', path, word);
    const file = resolve(path);
    // The proof first: whoever finds a receipt finds what goes with it.
    await replace(`${file}.tlog-proof`, this.proof);
    await replace(file, this.envelope);
  }
}

async function replace(path: string, content: string): Promise<void> {
  const draft = `${path}.${process.pid}.tmp`;
  try {
    const file = await open(draft, 'wx', 0o644);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(draft, path);
  } catch (failure) {
    await rm(draft, { force: true });
    throw fileError(`cannot write ${path}`, failure);
  }
}

/** Keeps the value out of what is shown. */
export function sealed<T extends Opened | Opening>(value: T, name: string): T {
  return discreet(value, name, ['value', 'content']);
}
