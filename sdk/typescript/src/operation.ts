/**
 * The seam between what callers see and what is done: every public call is an operation that one transport performs.
 *
 * @module
 */

import type {
  CopyReport,
  DeletionReport,
  FileInfo,
  Inspection,
  JobEvent,
  JobInfo,
  JobResult,
  LogEvent,
  LogSource,
  OnExpiry,
  Plan,
  Port,
  SandboxInfo,
  SecretInfo,
  Snapshot,
  State,
  Stats,
  Written,
} from './api.js';
import type { Job as JobHandle } from './job.js';
import type { Opening, Receipt, ReceiptField, Verification } from './receipt.js';
import type { CommandResult, RunResult } from './results.js';

/** Bytes of each output that a result keeps unless its caller says otherwise; mvmctl keeps as many. */
export const MAX_OUTPUT = 8 << 20;

/** A sandbox as a transport knows it. */
export interface Target {
  readonly id: string;
  readonly name: string;
  readonly socket: string;
  /** The call that recorded it, such as `create at agent.ts:3`, if nothing else was done. */
  readonly recorded?: string | undefined;
}

/** A hold on a sandbox, which ends within a second of its being dropped. */
export interface Lease {
  /** Whether it is held still. */
  readonly held: boolean;
  /** Lets go, at once. */
  drop(): void;
}

/** A sandbox that was made, and the hold on it. */
export interface Made {
  readonly sandbox: SandboxInfo;
  /** What its handle goes by, if that is not `sandbox`. */
  readonly target?: Target | undefined;
  readonly lease: Lease | null;
  readonly created: boolean;
  readonly warnings: readonly string[];
  /** Secrets of the snapshot's sandbox that were not given to this one. */
  readonly missingSecrets: readonly string[];
}

/** How a sandbox ends: by its lease, after a time (the default one if null), or when somebody asks. */
export interface End {
  readonly lease: boolean;
  readonly ttlMs: number | null;
  readonly noTtl: boolean;
  readonly owner: string | undefined;
  readonly onExpiry: OnExpiry | undefined;
}

/** What a machine is to be, and what the policy is to say to it. */
export interface Wanted {
  readonly image: string | undefined;
  readonly cpus: number | undefined;
  readonly memoryMib: number | undefined;
  readonly diskMib: number | undefined;
  readonly env: Readonly<Record<string, string>> | undefined;
  readonly secrets: Readonly<Record<string, string>> | undefined;
  readonly profile: string | undefined;
  readonly acceptRisk: boolean | undefined;
  readonly require: readonly string[] | undefined;
  readonly allowMissing: readonly string[] | undefined;
}

/** A port of the host that shall lead into a sandbox. */
export interface PortArguments {
  readonly guestPort: number;
  readonly hostPort: number;
  readonly address: string | undefined;
  readonly protocol: string | undefined;
}

export interface CreateArguments extends Wanted, End {
  readonly name: string | undefined;
  readonly ports: readonly PortArguments[];
  readonly idempotencyKey: string | undefined;
  readonly snapshot: string | undefined;
  readonly diskOnly: boolean | undefined;
}

/** A command. `secrets` are references. */
export interface CommandArguments {
  readonly argv: readonly string[];
  readonly timeoutMs: number | undefined;
  readonly env: Readonly<Record<string, string>> | undefined;
  readonly secrets: Readonly<Record<string, string>> | undefined;
  readonly cwd: string | undefined;
  readonly user: string | undefined;
}

/** Is called with output as it comes, as text. The command waits for a promise that it returns. */
export type Sink = (text: string) => unknown;

export interface AttachedArguments extends CommandArguments {
  readonly stdin: Uint8Array | undefined;
  /** Whether an end but exit code 0 is an error. */
  readonly check: boolean | undefined;
  readonly maxOutput: number;
  readonly onStdout: Sink | undefined;
  readonly onStderr: Sink | undefined;
  readonly receipt: string | undefined;
}

export interface StartArguments extends CommandArguments {
  readonly stdin: boolean;
  readonly tty: { readonly rows: number; readonly cols: number } | undefined;
  readonly idempotencyKey: string | undefined;
}

export interface RunArguments extends Omit<CommandArguments, 'env' | 'secrets'>, Wanted {
  readonly stdin: Uint8Array | undefined;
  /** Whether an end but exit code 0 is an error. */
  readonly check: boolean | undefined;
  /** What mvmctl keeps, and the profile allows, if undefined. */
  readonly maxOutput: number | undefined;
  readonly receipt: string | undefined;
}

export interface WriteArguments {
  readonly path: string;
  readonly pieces: AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
  readonly mode: number | undefined;
  readonly owner: string | undefined;
  readonly append: boolean | undefined;
  readonly sync: boolean | undefined;
  readonly parents: boolean | undefined;
}

export interface LogArguments {
  readonly follow: boolean | undefined;
  readonly sinceMs: number | undefined;
  readonly untilMs: number | undefined;
  readonly tail: number | undefined;
  readonly source: LogSource | undefined;
  readonly redact: boolean;
}

export interface VerifyArguments {
  readonly receipt: string | Receipt;
  readonly keys: readonly string[];
  readonly proof: string | undefined;
  readonly opening: string | Opening | undefined;
}

/** A snapshot that was removed. */
export interface RemovedSnapshot {
  readonly id: string;
  readonly name: string;
}

/** A job that was started, and what there is to say about how its secrets are kept. */
export interface StartedJob {
  readonly job: JobInfo;
  readonly warnings: readonly string[];
}

/** What was cleared up. */
export interface Collected {
  /** Sandboxes that are there. */
  readonly live: number;
  /** Records of destroyed ones that were forgotten. */
  readonly recordsRemoved: number;
}

/** A command's input, which is open. */
export interface Input {
  write(data: Uint8Array, signal?: AbortSignal): Promise<void>;
  end(signal?: AbortSignal): Promise<void>;
}

type Copy = { readonly hostPath: string; readonly guestPath: string };
type Job = { readonly runId: string };
type Named = { readonly name: string };
type None = Readonly<Record<never, never>>;
/** What is asked for with an operation, and what comes of it. */
type Call<Arguments, Result> = { readonly arguments: Arguments; readonly result: Result };

/** Every operation. Those from `state` to `secrets.list` are of one sandbox. */
export interface Operations {
  create: Call<CreateArguments, Made>;
  'create.plan': Call<CreateArguments, Plan>;
  restore: Call<CreateArguments, Made>;
  run: Call<RunArguments, RunResult>;
  'run.plan': Call<RunArguments, Plan>;
  list: Call<{ readonly all: boolean }, readonly SandboxInfo[]>;
  lookup: Call<Named, Inspection>;
  'snapshots.list': Call<None, readonly Snapshot[]>;
  'snapshots.inspect': Call<Named, Snapshot>;
  'snapshots.remove': Call<Named, RemovedSnapshot>;
  'receipts.show': Call<Job & { readonly sandbox: string | undefined }, Receipt>;
  'receipts.verify': Call<VerifyArguments, Verification>;
  'receipts.open': Call<{ path: string; field: ReceiptField; value: string | undefined }, Opening>;
  gc: Call<None, Collected>;
  inspect: Call<None, Inspection>;
  stats: Call<None, Stats>;
  wait: Call<{ readonly state: State; readonly timeoutMs: number }, SandboxInfo>;
  cold: Call<None, SandboxInfo>;
  freeze: Call<None, SandboxInfo>;
  resume: Call<None, SandboxInfo>;
  stop: Call<None, SandboxInfo>;
  start: Call<None, SandboxInfo>;
  keep: Call<{ readonly ttlMs: number; readonly onExpiry: OnExpiry | undefined }, SandboxInfo>;
  detach: Call<Omit<End, 'lease'>, SandboxInfo>;
  /** First of all when a handle with a lease closes: whether it has to destroy the sandbox, which still ends with the lease. */
  close: Call<None, boolean>;
  destroy: Call<None, DeletionReport>;
  kill: Call<None, DeletionReport>;
  snapshot: Call<{ readonly name: string | undefined }, Snapshot>;
  fork: Call<End & { readonly count: number; readonly name: string | undefined }, readonly Made[]>;
  logs: Call<LogArguments, AsyncIterable<LogEvent>>;
  'commands.run': Call<AttachedArguments, CommandResult>;
  /** A transport that starts nothing answers what stands for the handle. */
  'commands.start': Call<StartArguments, StartedJob | JobHandle>;
  'commands.list': Call<None, readonly JobInfo[]>;
  'job.info': Call<Job, JobInfo>;
  'job.output': Call<Job & { readonly offset: number }, AsyncIterable<JobEvent>>;
  'job.input': Call<Job, Input>;
  'job.wait': Call<Job & { readonly timeoutMs: number | null }, JobResult>;
  'job.kill': Call<Job & { readonly signal: number }, void>;
  'job.resize': Call<Job & { readonly rows: number; readonly cols: number }, void>;
  'files.write': Call<WriteArguments, Written>;
  'files.read': Call<{ path: string; offset: number; length: number | undefined }, AsyncIterable<Uint8Array>>;
  'files.list': Call<{ readonly path: string }, readonly FileInfo[]>;
  'files.stat': Call<{ readonly path: string; readonly follow: boolean }, FileInfo>;
  'files.mkdir': Call<{ path: string; parents: boolean | undefined; mode: number | undefined }, void>;
  'files.move': Call<{ readonly source: string; readonly destination: string }, void>;
  'files.remove': Call<{ readonly path: string; readonly recursive: boolean | undefined }, void>;
  'files.upload': Call<Copy, CopyReport>;
  'files.download': Call<Copy, CopyReport>;
  'ports.forward': Call<PortArguments, Port>;
  'ports.list': Call<None, readonly Port[]>;
  'ports.close': Call<{ readonly hostPort: number; readonly address: string }, void>;
  'secrets.list': Call<None, readonly SecretInfo[]>;
}

export type OperationName = keyof Operations;
export type ArgumentsOf<Name extends OperationName> = Operations[Name]['arguments'];
export type ResultOf<Name extends OperationName> = Operations[Name]['result'];

/** One call. */
export interface Operation<Name extends OperationName = OperationName> {
  readonly name: Name;
  readonly arguments: ArgumentsOf<Name>;
  /** What callers know it by, if that is not its name. */
  readonly call?: string | undefined;
  /** The sandbox that it is of, for those of one sandbox. */
  readonly sandbox?: Target | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Performs operations. */
export interface Transport {
  perform<Name extends OperationName>(operation: Operation<Name>): Promise<ResultOf<Name>>;
}

/**
 * How calls are performed: `live`, now and on this host, or `record`: they are written down as one workload when the program
 * ends, and nothing is started.
 */
export type Mode = 'live' | 'record';
