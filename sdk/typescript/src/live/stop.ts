import { TransportError } from '../errors.js';

/** How long a supervisor may take to answer what it can answer at once. */
export const ANSWER_MS = 10_000;
/** How long it may take where a machine starts, stops or is saved, and how long a transfer may stand still. */
export const WORK_MS = 120_000;

/** How long a stream of events may be silent: its supervisor says something every 10 seconds. */
export const SILENCE_MS = 60_000;

/** The longest time that a timer of Node's can be set to. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** What ends a call before its time: the caller's signal, or its deadline. */
export class Stop {
  readonly #controller = new AbortController();
  readonly #caller: AbortSignal | undefined;
  readonly #aborted = (): void => this.#controller.abort(this.#caller?.reason);
  readonly #retryable: boolean;
  #timer: NodeJS.Timeout | undefined;

  constructor(caller: AbortSignal | undefined, limitMs: number | null, retryable = false) {
    caller?.throwIfAborted();
    this.#retryable = retryable;
    this.#caller = caller;
    caller?.addEventListener('abort', this.#aborted, { once: true });
    this.within(limitMs);
  }

  /** Aborted when the call is to end. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Sets the deadline anew, from now; null is none. */
  within(limitMs: number | null): void {
    clearTimeout(this.#timer);
    if (limitMs === null || limitMs > MAX_TIMER_MS) return;
    this.#timer = setTimeout(() => this.#controller.abort(new Silence(limitMs, this.#retryable)), limitMs);
  }

  /** The call is over. */
  done(): void {
    clearTimeout(this.#timer);
    this.#caller?.removeEventListener('abort', this.#aborted);
  }

  /** What a failure was: if the call was to end, that. */
  reason(failure: unknown): unknown {
    return this.signal.aborted ? this.signal.reason : failure;
  }
}

/** That a deadline passed. */
export class Silence extends TransportError {
  constructor(limitMs: number, retryable: boolean) {
    const why = `nothing came within ${limitMs / 1000} s`;
    const hint = 'mvmctl kill ends a sandbox whose supervisor hangs';
    super({ what: 'cannot reach the sandbox', why, hint }, retryable);
  }
}

/**
 * Waits for something that an abort cannot stop once it was asked for. If it is aborted, what comes of it is taken back when
 * it is there, while its caller goes on.
 */
export async function orUndo<T>(
  signal: AbortSignal | undefined,
  work: Promise<T>,
  undo: (made: T) => Promise<unknown>,
): Promise<T> {
  const over = new AbortController();
  const aborted = new Promise<never>((_, reject) => {
    const taken = () => {
      // What failed has made nothing, and there is nobody to tell.
      work.then(undo).catch(() => {});
      reject(signal?.reason);
    };
    if (signal?.aborted) taken();
    signal?.addEventListener('abort', taken, { once: true, signal: over.signal });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    over.abort();
  }
}
