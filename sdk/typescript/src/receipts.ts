import { resolve } from 'node:path';
import { type Abortable, checked, checkOptions, oneOf, refuse, word, words } from './check.js';
import { type Opening, Receipt, type ReceiptField, type Verification } from './receipt.js';
import { transportOf } from './transport.js';

/** Options of {@link receipts.show}. */
export interface ShowOptions extends Abortable {
  /** The sandbox, by id, if the command ended in several copies of one. */
  readonly sandbox?: string | undefined;
}

/** Options of {@link receipts.verify}. */
export interface VerifyOptions extends Abortable {
  /** Files with public keys that may have signed it; all of this user's own if left out. */
  readonly keys?: readonly string[] | undefined;
  /** The file with the proof that it was logged; what lies beside the receipt if left out. */
  readonly proof?: string | undefined;
  /** An opening of one of its commitments, or a file with one, to be checked too. */
  readonly opening?: string | Opening | undefined;
}

/** Options of {@link receipts.open}. */
export interface OpenOptions extends Abortable {
  /** A file with the value; what the private record keeps, which is `argv`, if left out. */
  readonly value?: string | undefined;
}

const FIELDS: readonly ReceiptField[] = ['argv', 'env', 'stdin', 'stdout', 'stderr'];

/** What proves how commands ran. */
export const receipts = {
  /** The receipt of a command that has ended, also after its sandbox's end. It is signed now if it was not yet. */
  async show(runId: string, options: ShowOptions = {}): Promise<Receipt> {
    const what = 'get the receipt';
    checked(what, 'the run id', runId, word);
    checkOptions(what, options, { sandbox: word });
    return transportOf().perform({
      name: 'receipts.show',
      arguments: { runId, sandbox: options.sandbox },
      signal: options.signal,
    });
  },

  /** Checks a receipt, or a file with one. One that is refused is a result with a `refusal`, no error. */
  async verify(receipt: string | Receipt, options: VerifyOptions = {}): Promise<Verification> {
    const what = 'verify the receipt';
    if (!(receipt instanceof Receipt)) checked(what, 'the receipt', receipt, word);
    checkOptions(what, options, { keys: words, proof: word, opening: openingOrPath });
    const { keys = [], proof, opening, signal } = options;
    if (typeof opening === 'object' && opening.refusal) refuse(what, 'there is no opening: it was refused');
    const file = typeof receipt === 'string' ? resolve(receipt) : receipt;
    const given = { receipt: file, keys: keys.map((key) => resolve(key)), proof: resolved(proof), opening };
    return transportOf().perform({ name: 'receipts.verify', arguments: given, signal });
  },

  /** Proves a value that the receipt in a file commits to, from this host's private record of the command. */
  async open(path: string, field: ReceiptField, options: OpenOptions = {}): Promise<Opening> {
    const what = 'open the receipt';
    checked(what, 'the path', path, word);
    checked(what, 'the field', field, oneOf(...FIELDS));
    checkOptions(what, options, { value: word });
    const given = { path: resolve(path), field, value: resolved(options.value) };
    return transportOf().perform({ name: 'receipts.open', arguments: given, signal: options.signal });
  },
};

function resolved(path: string | undefined): string | undefined {
  return path === undefined ? undefined : resolve(path);
}

function openingOrPath(value: unknown): string | undefined {
  const given = value as Partial<Opening> | null;
  const right = typeof given === 'object' && given !== null && given.content instanceof Uint8Array;
  return right ? undefined : word(value) && 'an opening or the path of one';
}
