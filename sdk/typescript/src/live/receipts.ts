/**
 * Receipts: made, checked and opened by mvmctl, outside this process.
 *
 * @module
 */

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { bool, bytes, integer, json, nullable, object, oneOf, record, text } from '../decode.js';
import type { Operation } from '../operation.js';
import {
  type Logged,
  type Opened,
  type Opening,
  Receipt,
  type ReceiptField,
  type Refusal,
  sealed,
  type Verification,
} from '../receipt.js';
import type { Performers } from './index.js';
import { mvmctl, mvmctlOutput } from './mvmctl.js';

const refusal = record<Refusal>('Refusal', {
  name: ['name', text],
  why: ['why', text],
  exitStatus: ['exit_status', integer],
});
const logged = record<Logged>('Logged', {
  origin: ['origin', text],
  index: ['index', integer],
  size: ['size', integer],
  keyid: ['keyid', text],
  entry: ['entry', json],
});
const opened = record<Opened>('Opened', {
  field: ['field', oneOf<ReceiptField>('field', ['argv', 'env', 'stdin', 'stdout', 'stderr'])],
  value: ['value_base64', bytes],
});
const checkedReceipt = record<Omit<Verification, 'refusal'>>('Verification', {
  verified: ['verified', bool],
  keyid: ['keyid', text],
  digest: ['digest', text],
  statement: ['statement', object],
  logged: ['logged', nullable(logged), null],
  opened: ['opened', nullable(opened), null],
});
const refused = record<{ refusal: Refusal | null }>('Verification', { refusal: ['refusal', nullable(refusal), null] });
const signed = record<{ envelope: string; proof: string }>('Receipt', {
  envelope: ['envelope', text],
  proof: ['proof', text],
});
const openingOf = record<{ runId: string }>('Opening', { runId: ['run_id', text] });

const NOTHING = { keyid: '', digest: '', statement: {}, logged: null, opened: null };

export const receiptPerformers: Performers<'receipts.show' | 'receipts.verify' | 'receipts.open'> = {
  'receipts.show': ({ arguments: { runId, sandbox }, signal }) => showReceipt(runId, sandbox, { signal }),
  'receipts.verify': verify,
  'receipts.open': open,
};

/** Has a command's receipt signed, and written into a file too if one is named. */
export async function showReceipt(
  runId: string,
  sandbox: string | undefined,
  { file, signal }: { file?: string; signal?: AbortSignal | undefined } = {},
): Promise<Receipt> {
  const args = ['receipt', 'show', '--json'];
  if (sandbox !== undefined) args.push(`--sandbox=${sandbox}`);
  if (file !== undefined) args.push(`--output=${file}`);
  const said = await mvmctl({ args: [...args, '--', runId], signal });
  const { envelope, proof } = signed(said, 'the receipt');
  return new Receipt(verification(said), runId, envelope, proof);
}

function verification(said: unknown): Verification {
  const no = refused(said, 'the verification').refusal;
  if (no) return { ...NOTHING, verified: false, refusal: no };
  const found = checkedReceipt(said, 'the verification');
  return { ...found, opened: found.opened && sealed(found.opened, 'Opened'), refusal: null };
}

async function verify({ arguments: given, signal }: Operation<'receipts.verify'>): Promise<Verification> {
  const { receipt, keys, proof, opening } = given;
  // What is not in files yet is put into some that nobody else can read.
  const folder = await mkdtemp(join(tmpdir(), 'mvm-receipt-'));
  try {
    let path = join(folder, 'receipt.json');
    if (typeof receipt === 'string') path = receipt;
    else {
      await writeFile(path, receipt.envelope);
      await writeFile(`${path}.tlog-proof`, receipt.proof);
    }
    let proven = typeof opening === 'string' ? opening : undefined;
    if (typeof opening === 'object') {
      proven = join(folder, 'opening.json');
      await writeFile(proven, opening.content);
    }
    const args = ['receipt', 'verify', '--json', ...keys.map((key) => `--key=${key}`)];
    if (proof !== undefined) args.push(`--proof=${proof}`);
    if (proven !== undefined) args.push(`--opening=${proven}`);
    return verification(await mvmctl({ args: [...args, '--', path], signal }));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function open({ arguments: given, signal }: Operation<'receipts.open'>): Promise<Opening> {
  const { path, field, value } = given;
  const args = ['receipt', 'open', '--json'];
  if (value !== undefined) args.push(`--value=${value}`);
  const { stdout, said } = await mvmctlOutput({ args: [...args, '--', path, field], signal });
  const no = refused(said, 'the opening').refusal;
  if (no) return { refusal: no, field, runId: '', content: new Uint8Array() };
  const { runId } = openingOf(said, 'the opening');
  return sealed({ refusal: null, field, runId, content: stdout }, 'Opening');
}
