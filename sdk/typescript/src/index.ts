/**
 * Run code that you do not trust in a real virtual machine on your own computer.
 *
 * @module
 */

export type {
  Capability,
  Cleanup,
  CopyReport,
  DeletionReport,
  Denial,
  Enforced,
  ErrorCode,
  ExplicitCleanup,
  FileInfo,
  GapCause,
  Inspection,
  JobInfo,
  JobResult,
  LeaseCleanup,
  LogGap,
  LogLine,
  LogRule,
  LogSource,
  LogSummary,
  Machine,
  NotStarted,
  OnExpiry,
  Output,
  OutputGap,
  Plan,
  PlanLine,
  Port,
  PortStatus,
  Removed,
  SandboxInfo,
  SecretInfo,
  SecretKind,
  Skipped,
  Snapshot,
  State,
  Stats,
  Stream,
  Transition,
  TtlCleanup,
  Written,
} from './api.js';
export type { Abortable } from './check.js';
export {
  type CapturedOptions,
  type CommandOptions,
  Commands,
  type RunCommandOptions,
  type StartOptions,
} from './commands.js';
export {
  type AppOptions,
  app,
  type BaseImage,
  debian,
  type Entrypoint,
  entrypointCommand,
  entrypointFunction,
  image,
  type LocalPath,
  literal,
  localPath,
  type Network,
  network,
  type PortBinding,
  port,
  type Resources,
  resources,
  secret,
  type Variable,
} from './declare.js';
export {
  AlreadyExists,
  BackendUnsupported,
  ClosedHandle,
  CommandFailed,
  type ErrorFields,
  FileError,
  Incompatible,
  Internal,
  InvalidRequest,
  InvalidState,
  MvmError,
  NotFound,
  NotRecordable,
  PolicyDenied,
  ResourceExhausted,
  RestoreRefused,
  SandboxUnavailable,
  Timeout,
  TransportError,
} from './errors.js';
export { type CopyOptions, type FileContent, Files, type ReadOptions, type WriteOptions } from './files.js';
export { Job } from './job.js';
export { type LogOptions, Logs } from './logs.js';
export type { Collected, Mode, RemovedSnapshot } from './operation.js';
export type { CreateOptions, EndOptions, MachineOptions, RestoreOptions } from './options.js';
export { type PortName, type PortSpec, Ports } from './ports.js';
export {
  type Logged,
  type Opened,
  type Opening,
  Receipt,
  type ReceiptField,
  type Refusal,
  type Verification,
} from './receipt.js';
export { type OpenOptions, receipts, type ShowOptions, type VerifyOptions } from './receipts.js';
export { CommandResult, RunResult } from './results.js';
export { gc, type RunOptions, run } from './run.js';
export { type DetachOptions, type ForkOptions, Sandbox, Secrets } from './sandbox.js';
export { snapshots } from './snapshots.js';
