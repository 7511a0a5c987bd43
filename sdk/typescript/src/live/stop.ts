import { TransportError } from '../errors.js';

/** How long a supervisor may take to answer what it can answer at once. */
export const ANSWER_MS = 10_000;
/** How long it may take where a machine starts, stops or is saved, and how long a transfer may stand still. */
export const WORK_MS = 120_000;

/** What ends a call before its time: the caller's signal, or its deadline. */
export class Stop {
  readonly #controller = new AbortController();
  readonly #caller: AbortSignal | undefined;
  readonly #aborted = (): void => this.#controller.abort(this.#caller?.reason);
  #timer: NodeJS.Timeout | undefined;

  constructor(caller: AbortSignal | undefined, limitMs: number | null) {
    caller?.throwIfAborted();
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
    if (limitMs !== null) this.#timer = setTimeout(() => this.#controller.abort(silent(limitMs)), limitMs);
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

function silent(limitMs: number): TransportError {
  const why = `nothing came within ${limitMs / 1000} s`;
  const hint = 'mvmctl kill ends a sandbox whose supervisor hangs';
  return new TransportError({ what: 'cannot reach the sandbox', why, hint });
}
