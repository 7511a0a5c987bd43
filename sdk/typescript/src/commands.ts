import { resolve } from 'node:path';
import type { JobInfo } from './api.js';
import {
  type Abortable,
  callback,
  checked,
  checkOptions,
  commandOf,
  content,
  duration,
  flag,
  runId as runIdCheck,
  size,
  terminalSize,
  text,
  textMap,
  word,
} from './check.js';
import type { Handle } from './handle.js';
import { Job } from './job.js';
import { type CommandArguments, MAX_OUTPUT } from './operation.js';
import type { CommandResult } from './results.js';

/** What a command may be given. */
export interface CommandOptions extends Abortable {
  /** It is killed with its whole tree after so many milliseconds. */
  readonly timeoutMs?: number | undefined;
  /** Variables, on top of the sandbox's. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  /**
   * Secrets that it has as variables: by name, where the value is, `env:VAR` (a variable of this process) or `file:PATH`.
   * They are redacted in all that is kept of its output.
   */
  readonly secrets?: Readonly<Record<string, string>> | undefined;
  /** Its working directory; the image's if left out. */
  readonly cwd?: string | undefined;
  /** The user that it runs as: name, uid, name:group or uid:gid; the image's if left out. */
  readonly user?: string | undefined;
}

/** What a command whose end is waited for may be given. */
export interface CapturedOptions extends CommandOptions {
  /** Its standard input; none if left out. */
  readonly stdin?: string | Uint8Array | undefined;
  /**
   * Bytes of each output that are kept, the first ones; 8 MiB if left out. The rest is read and counted. The profile may pass
   * on less.
   */
  readonly maxOutput?: number | undefined;
  /** Whether any end but exit code 0 is {@link CommandFailed}. */
  readonly check?: boolean | undefined;
  /** A file of the host for its receipt; the proof that it was logged goes beside it (`.tlog-proof`). */
  readonly receipt?: string | undefined;
}

/** Options of {@link Commands.run}. */
export interface RunCommandOptions extends CapturedOptions {
  /** Is called with standard output as it comes. The command waits for a promise that it returns, and ends if it throws. */
  readonly onStdout?: ((text: string) => unknown) | undefined;
  /** The same for standard error. */
  readonly onStderr?: ((text: string) => unknown) | undefined;
}

/** Options of {@link Commands.start}. */
export interface StartOptions extends CommandOptions {
  /** Whether input will be written; otherwise it reads nothing. */
  readonly stdin?: boolean | undefined;
  /** Give it a terminal of this size. */
  readonly tty?: { readonly rows: number; readonly cols: number } | undefined;
  /**
   * A repeated start with this key starts nothing, and returns the job that the first one started. An abort leaves that job
   * alone.
   */
  readonly idempotencyKey?: string | undefined;
}

export const COMMAND = { timeoutMs: duration, env: textMap, secrets: textMap, cwd: text, user: text };
export const CAPTURED = { ...COMMAND, stdin: content, maxOutput: size, check: flag, receipt: word };
const RUN = { ...CAPTURED, onStdout: callback, onStderr: callback };
const START = { ...COMMAND, stdin: flag, tty: terminalSize, idempotencyKey: text };

/** The parts of options that every command has. */
export function commandArguments(argv: readonly string[], options: CommandOptions): CommandArguments {
  const { timeoutMs, env, secrets, cwd, user } = options;
  return { argv, timeoutMs: timeoutMs === undefined ? undefined : Math.ceil(timeoutMs), env, secrets, cwd, user };
}

/** The parts of options that every command has whose end is waited for. */
export function capturedArguments({ stdin, check, receipt }: CapturedOptions) {
  return {
    stdin: typeof stdin === 'string' ? Buffer.from(stdin) : stdin,
    check,
    receipt: receipt === undefined ? undefined : resolve(receipt),
  };
}

/** Commands in a sandbox. */
export class Commands {
  readonly #handle: Handle;

  /** @internal */
  constructor(handle: Handle) {
    this.#handle = handle;
  }

  /**
   * Runs a command to its end: a program and its arguments, or a text for `/bin/sh -c`. It ends with its caller.
   *
   * One that could not be started is a result with `notStarted`.
   *
   * @throws {Timeout} if its time was up, with its result.
   * @throws {CommandFailed} if `check` is set and it did not end with exit code 0, with its result.
   */
  async run(argv: readonly string[] | string, options: RunCommandOptions = {}): Promise<CommandResult> {
    const what = 'run the command';
    const command = commandOf(what, argv);
    checkOptions(what, options, RUN);
    const { onStdout, onStderr, maxOutput = MAX_OUTPUT } = options;
    const captured = { ...capturedArguments(options), maxOutput, onStdout, onStderr };
    const given = { ...commandArguments(command, options), ...captured };
    return this.#handle.perform('commands.run', given, options);
  }

  /** Starts a command that goes on by itself, until it or the sandbox ends. */
  async start(argv: readonly string[] | string, options: StartOptions = {}): Promise<Job> {
    const what = 'start the command';
    const command = commandOf(what, argv);
    checkOptions(what, options, START);
    const { stdin = false, tty, idempotencyKey } = options;
    const given = { ...commandArguments(command, options), stdin, tty, idempotencyKey };
    const started = await this.#handle.perform('commands.start', given, options);
    return started instanceof Job ? started : new Job(this.#handle, started.job, 0, started.warnings);
  }

  /** All commands since the sandbox's supervisor started, the oldest first. */
  async list(options: Abortable = {}): Promise<readonly JobInfo[]> {
    checkOptions('list the commands', options, {});
    return this.#handle.perform('commands.list', {}, options);
  }

  /**
   * A command that was started before, also by another client. Its output is read from `offset` on.
   *
   * @throws {NotFound} if there is none with this run id.
   */
  async attach(runId: string, options: { readonly offset?: number | undefined } & Abortable = {}): Promise<Job> {
    const what = typeof runId === 'string' ? `attach to the job ${runId.slice(0, 60)}` : 'attach to the job';
    checked(what, 'the run id', runId, runIdCheck);
    checkOptions(what, options, { offset: size });
    const found = await this.#handle.perform('job.info', { runId }, options, 'commands.attach');
    return new Job(this.#handle, found, options.offset);
  }
}
