import type { JobInfo, JobResult, Output, OutputGap } from './api.js';
import { type Abortable, checked, checkOptions, content, patience, signalNumber, terminalSize } from './check.js';
import { TransportError } from './errors.js';
import type { Handle } from './handle.js';
import type { Input } from './operation.js';
import type { Receipt } from './receipt.js';

/** A command that was started. It goes on without this handle, and ends with its sandbox. */
export class Job implements AsyncIterable<Output | OutputGap> {
  /** Its run id. */
  readonly runId: string;
  /** What it was when this handle was made. */
  readonly started: JobInfo;
  /** What there is to say about how its secrets are kept. */
  readonly warnings: readonly string[];
  readonly #handle: Handle;
  #offset: number;
  #input: Promise<Input> | undefined;

  /** @internal */
  constructor(handle: Handle, started: JobInfo, offset = 0, warnings: readonly string[] = []) {
    this.#handle = handle;
    this.runId = started.runId;
    this.started = started;
    this.warnings = warnings;
    this.#offset = offset;
  }

  /** Up to where its output was read, counted over both streams; the next iteration begins there. */
  get offset(): number {
    return this.#offset;
  }

  /** What is known of it now. */
  async info(options: Abortable = {}): Promise<JobInfo> {
    checkOptions('look at the job', options, {});
    return this.#handle.perform('job.info', { runId: this.runId }, options);
  }

  /**
   * Its output on both streams from `offset` on, in the order in which it came, to its end. What is no longer kept is a gap.
   * An iteration that was left, or broke off, is gone on with by the next one.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<Output | OutputGap, void, void> {
    const { runId, offset } = this;
    for await (const event of await this.#handle.perform('job.output', { runId, offset })) {
      if (event.type === 'ended') return;
      if (event.type === 'started') continue;
      this.#offset = event.offset + (event.type === 'output' ? event.data.length : event.bytes);
      yield event;
    }
    const why = 'the stream ended before the job did';
    throw new TransportError({ what: 'lost the output of the job', why, hint: 'attach to it again' }, true);
  }

  /**
   * Sends input, if it was started with `stdin: true`. One handle alone can. It waits for a command that does not read. An abort
   * ends the input, and with it the command.
   */
  async write(data: string | Uint8Array, options: Abortable = {}): Promise<void> {
    checked('write to the job', 'the data', data, content);
    checkOptions('write to the job', options, {});
    const input = await this.#open(options);
    await input.write(typeof data === 'string' ? Buffer.from(data) : data, options.signal);
  }

  /** Ends its input, and waits until the command has taken it or ended. An abort before that ends the command too. */
  async closeStdin(options: Abortable = {}): Promise<void> {
    checkOptions('close the input of the job', options, {});
    const input = await this.#open(options);
    await input.end(options.signal);
  }

  /**
   * Waits for its end, and never kills it.
   *
   * @throws {Timeout} if it runs on after `timeoutMs`; without one it is waited for as long as it takes.
   * @throws what ended it, if it was lost with its machine.
   */
  async wait(options: { readonly timeoutMs?: number | undefined } & Abortable = {}): Promise<JobResult> {
    checkOptions('wait for the job', options, { timeoutMs: patience });
    return this.#handle.perform('job.wait', { runId: this.runId, timeoutMs: options.timeoutMs ?? null }, options);
  }

  /** Sends a signal, by number: 9, the default, to the whole tree, any other to its process group. Harmless if it has ended. */
  async kill(signal = 9, options: Abortable = {}): Promise<void> {
    checked('kill the job', 'the signal', signal, signalNumber);
    checkOptions('kill the job', options, {});
    return this.#handle.perform('job.kill', { runId: this.runId, signal }, options);
  }

  /** Gives its terminal another size. */
  async resize(rows: number, cols: number, options: Abortable = {}): Promise<void> {
    checked('resize the terminal', 'the size', { rows, cols }, terminalSize);
    checkOptions('resize the terminal', options, {});
    return this.#handle.perform('job.resize', { runId: this.runId, rows, cols }, options);
  }

  /** Its signed receipt, once it has ended. */
  async receipt(options: Abortable = {}): Promise<Receipt> {
    checkOptions('get the receipt', options, {});
    const { runId } = this;
    return this.#handle.perform('receipts.show', { runId, sandbox: this.#handle.target.id }, options);
  }

  #open(options: Abortable): Promise<Input> {
    this.#input ??= this.#handle.perform('job.input', { runId: this.runId }, options).catch((failure: unknown) => {
      this.#input = undefined;
      throw failure;
    });
    return this.#input;
  }
}
