import { inspect } from 'node:util';
import type { JobResult, NotStarted } from './api.js';
import { type Abortable, checkOptions } from './check.js';
import type { Receipt } from './receipt.js';

/** What was kept of a command's output. */
export interface Captured {
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  /** Whether it is less than what was written. */
  readonly stdoutTruncated: boolean;
  readonly stderrTruncated: boolean;
}

/** A command's end, as the transport reports it. */
export interface Ending extends Captured {
  readonly result: JobResult;
  readonly sandboxId: string;
  readonly warnings: readonly string[];
  readonly showReceipt: (signal: AbortSignal | undefined) => Promise<Receipt>;
}

/**
 * How a command ended, and what it wrote.
 *
 * The guest wrote the output: `console.log` and its like say how much there is, and not what.
 */
export class CommandResult {
  /** Its exit code; null if a signal ended it or it was not started. */
  readonly exitCode: number | null;
  /** The signal that ended it, by number. */
  readonly signal: number | null;
  /** Bytes that it wrote to standard output, whether they were kept or not. */
  readonly stdoutBytes: number;
  /** Bytes that it wrote to standard error, whether they were kept or not. */
  readonly stderrBytes: number;
  /** Whether `stdout` is less than it wrote. */
  readonly stdoutTruncated: boolean;
  /** Whether `stderr` is less than it wrote. */
  readonly stderrTruncated: boolean;
  /** It was killed because its time was up. */
  readonly timedOut: boolean;
  /** The guest's kernel killed something of it for lack of memory. */
  readonly oomKilled: boolean;
  /** Why its program could not be started; null if it was. */
  readonly notStarted: NotStarted | null;
  /** How often a secret was redacted in its output. */
  readonly redactions: number;
  /** Milliseconds from its start to its end. */
  readonly durationMs: number;
  /** Its run id. */
  readonly runId: string;
  /** The sandbox that it ran in. */
  readonly sandboxId: string;
  /** The entry of the audit log that authorised it. */
  readonly auditId: number;
  /** Why its end is not on record, and no receipt can be had; null if it is. */
  readonly unrecorded: string | null;
  /** What there is to say about how its secrets are kept. */
  readonly warnings: readonly string[];
  readonly #stdout: Uint8Array;
  readonly #stderr: Uint8Array;
  readonly #showReceipt: Ending['showReceipt'];

  /** @internal */
  constructor(ending: Ending) {
    const { result } = ending;
    this.exitCode = exitCodeOf(result);
    this.signal = result.signal;
    this.stdoutBytes = result.stdoutBytes;
    this.stderrBytes = result.stderrBytes;
    this.stdoutTruncated = ending.stdoutTruncated || result.stdoutTruncated;
    this.stderrTruncated = ending.stderrTruncated || result.stderrTruncated;
    this.timedOut = result.timedOut;
    this.oomKilled = result.oomKilled;
    this.notStarted = result.notStarted;
    this.redactions = result.redactions;
    this.durationMs = result.durationMs;
    this.runId = result.runId;
    this.sandboxId = ending.sandboxId;
    this.auditId = result.auditId;
    this.unrecorded = result.unrecorded;
    this.warnings = ending.warnings;
    this.#stdout = ending.stdout;
    this.#stderr = ending.stderr;
    this.#showReceipt = ending.showReceipt;
  }

  /** Whether it ended with exit code 0. */
  get ok(): boolean {
    return this.exitCode === 0;
  }

  /** What was kept of its standard output, as text. Bytes that are no UTF-8 are U+FFFD. */
  get stdout(): string {
    return textOf(this.#stdout);
  }

  /** What was kept of its standard error, as text. Bytes that are no UTF-8 are U+FFFD. */
  get stderr(): string {
    return textOf(this.#stderr);
  }

  /** What was kept of its standard output. */
  get stdoutData(): Uint8Array {
    return this.#stdout;
  }

  /** What was kept of its standard error. */
  get stderrData(): Uint8Array {
    return this.#stderr;
  }

  /** The signed receipt of the run. It can be had as long as the run's record is kept, also after the sandbox's end. */
  async receipt(options: Abortable = {}): Promise<Receipt> {
    checkOptions('get the receipt', options, {});
    return this.#showReceipt(options.signal);
  }

  [inspect.custom](): string {
    return `${this.constructor.name} ${inspect({ ...this })}`;
  }
}

/** How a one-shot run ended. */
export class RunResult extends CommandResult {
  /** Digest of the image that it ran in. */
  readonly imageDigest: string;
  /** What kept its machine apart from the host. */
  readonly isolation: unknown;

  /** @internal */
  constructor(ending: Ending, imageDigest: string, isolation: unknown) {
    super(ending);
    this.imageDigest = imageDigest;
    this.isolation = isolation;
  }
}

/** The end of a command in a few words. */
export function inWords(result: CommandResult): string {
  if (result.timedOut) return 'its time was up and it was killed';
  if (result.notStarted) return `it was not started (${result.notStarted.reason})`;
  if (result.signal !== null) return `signal ${result.signal} ended it`;
  return `it ended with exit code ${result.exitCode}`;
}

function textOf(data: Uint8Array): string {
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('utf8');
}

/** As a shell has it: also of a program that could not be started. */
function exitCodeOf({ exitCode, notStarted }: JobResult): number | null {
  if (!notStarted) return exitCode;
  return notStarted.reason === 'command_not_found' ? 127 : 126;
}
