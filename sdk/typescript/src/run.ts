import type { Plan } from './api.js';
import { type Abortable, checkOptions, commandOf, flag, text } from './check.js';
import { CAPTURED, type CapturedOptions, capturedArguments, commandArguments } from './commands.js';
import type { Collected, Mode } from './operation.js';
import { MACHINE, type MachineOptions, mode, wantedOf } from './options.js';
import type { RunResult } from './results.js';
import { transportOf } from './transport.js';

/** Options of {@link run}. */
export interface RunOptions extends CapturedOptions, MachineOptions {
  /** The image to run; `debian` if left out. */
  readonly image?: string | undefined;
  /** Return what the policy would decide, and do nothing. */
  readonly dryRun?: boolean | undefined;
  /** `live`, also if left out and MVM_SDK_MODE says nothing else. It cannot be recorded. */
  readonly mode?: Mode | undefined;
}

const RUN = { ...MACHINE, ...CAPTURED, image: text, dryRun: flag, mode };

/**
 * Runs one command in a fresh machine, of which nothing is left afterwards: a program and its arguments, or a text for
 * `/bin/sh -c`.
 *
 * @throws {Timeout} if its time was up, with its result.
 * @throws {CommandFailed} if `check` is set and it did not end with exit code 0, with its result.
 */
export async function run(
  argv: readonly string[] | string,
  options: RunOptions & { readonly dryRun: true },
): Promise<Plan>;
export async function run(
  argv: readonly string[] | string,
  options?: RunOptions & { readonly dryRun?: false | undefined },
): Promise<RunResult>;
export async function run(argv: readonly string[] | string, options: RunOptions = {}): Promise<Plan | RunResult> {
  const what = 'run the command';
  const command = commandOf(what, argv);
  checkOptions(what, options, RUN);
  const { signal } = options;
  // One that is asked for is the profile's to refuse.
  const captured = { ...capturedArguments(options), maxOutput: options.maxOutput };
  const given = { ...commandArguments(command, options), ...wantedOf(options.image, options), ...captured };
  const transport = transportOf(options.mode);
  if (options.dryRun) return transport.perform({ name: 'run.plan', arguments: given, call: 'run', signal });
  return transport.perform({ name: 'run', arguments: given, signal });
}

/** Sets right what crashes left, and forgets the records of destroyed sandboxes. */
export async function gc(options: Abortable = {}): Promise<Collected> {
  checkOptions('clear up', options, {});
  return transportOf().perform({ name: 'gc', arguments: {}, signal: options.signal });
}
