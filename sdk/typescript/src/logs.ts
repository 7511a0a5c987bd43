import type { LogGap, LogLine, LogSource, LogSummary } from './api.js';
import { type Abortable, checkOptions, date, flag, oneOf, patience, refuse, size } from './check.js';
import { TransportError } from './errors.js';
import type { Handle } from './handle.js';
import type { LogArguments } from './operation.js';

/** Which part of a log is wanted. */
export interface LogOptions extends Abortable {
  /** Stay and wait for more; otherwise what there is. */
  readonly follow?: boolean | undefined;
  /** Nothing earlier. */
  readonly since?: Date | undefined;
  /** Nothing that is older than so many milliseconds. */
  readonly sinceMs?: number | undefined;
  /** Nothing later. Whoever follows the log ends then. */
  readonly until?: Date | undefined;
  /** Nothing that is younger than so many milliseconds. */
  readonly untilMs?: number | undefined;
  /** Of what there is already, only so many of the last lines. */
  readonly tail?: number | undefined;
  /** Only lines from there. */
  readonly source?: LogSource | undefined;
  /**
   * Whether credentials that are known by their shape are redacted; true if left out. Secrets that commands were given were
   * redacted before the log was written.
   */
  readonly redact?: boolean | undefined;
}

const OPTIONS = {
  follow: flag,
  since: date,
  sinceMs: patience,
  until: date,
  untilMs: patience,
  tail: size,
  source: oneOf('console', 'supervisor', 'job'),
  redact: flag,
};

/** The lines of a log, and the gaps in it: what is no longer kept, or came faster than it is logged. To be read once. */
export class Logs implements AsyncIterable<LogLine | LogGap> {
  readonly #handle: Handle;
  readonly #arguments: LogArguments;
  readonly #signal: AbortSignal | undefined;
  #summary: LogSummary | null = null;

  /** @internal */
  constructor(handle: Handle, options: LogOptions) {
    const what = 'read the log';
    for (const name of ['sinceMs', 'untilMs'] as const) refuseText(what, name, options?.[name]);
    checkOptions(what, options, OPTIONS);
    const { follow, since, sinceMs, until, untilMs, tail, source, redact = true, signal } = options;
    this.#handle = handle;
    this.#signal = signal;
    const range = { sinceMs: point(what, 'since', since, sinceMs), untilMs: point(what, 'until', until, untilMs) };
    this.#arguments = { follow, ...range, tail, source, redact };
  }

  /** How many lines there were and what was redacted in them; null until the end was read. */
  get summary(): LogSummary | null {
    return this.#summary;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<LogLine | LogGap, void, void> {
    for await (const event of await this.#handle.perform('logs', this.#arguments, { signal: this.#signal })) {
      if (event.type === 'summary') {
        this.#summary = event;
        return;
      }
      yield event;
    }
    throw new TransportError({ what: 'lost the log', why: 'it ended without its summary' }, true);
  }
}

function point(what: string, name: string, at: Date | undefined, ago: number | undefined): number | undefined {
  if (at !== undefined && ago !== undefined) refuse(what, `${name} and ${name}Ms are both given`, 'give one of them');
  const ms = at?.getTime() ?? (ago === undefined ? undefined : Math.round(Date.now() - ago));
  return ms === undefined ? undefined : Math.max(0, ms);
}

/** A text is often a time in words, which the command line takes and this does not: it is shown, as it is no secret. */
function refuseText(what: string, name: string, value: unknown): void {
  if (typeof value !== 'string') return;
  refuse(
    what,
    `${name} is not a number of milliseconds: ${JSON.stringify(value.slice(0, 40))}`,
    'give a Date, or so long ago',
  );
}
