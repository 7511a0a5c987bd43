/**
 * The types of the host API. Written by `make sdk-types` from docs/openapi.json; changes here are lost.
 *
 * @module
 */

import { bool, bytes, integer, json, list, nullable, number, oneOf, record, text, union } from './decode.js';

/** Something that a backend can do or not. */
export interface Capability {
  /** Its limits; or why it cannot be had. */
  readonly limits: string;
  /** Its name, which the error `BackendUnsupported` has too. */
  readonly name: string;
  /** Whether it can be had. */
  readonly supported: boolean;
}
export const capability = record<Capability>('Capability', {
  limits: ['limits', text],
  name: ['name', text],
  supported: ['supported', bool],
});

/** What happens when a sandbox's time is up. */
export type OnExpiry = 'destroy' | 'stop' | 'cold';
export const onExpiry = oneOf<OnExpiry>('OnExpiry', ['destroy', 'stop', 'cold']);

/** After a time, in every state and also if mvmctl is never called again. */
export interface TtlCleanup {
  readonly kind: 'ttl';
  /** When that is: milliseconds since 1970. */
  readonly expiresAtMs: number;
  /** What happens then. */
  readonly onExpiry: OnExpiry;
  /** Milliseconds from when it was set. */
  readonly ttlMs: number;
}
export const ttlCleanup = record<TtlCleanup>('TtlCleanup', {
  kind: ['kind', oneOf('kind', ['ttl'])],
  expiresAtMs: ['expires_at_ms', integer],
  onExpiry: ['on_expiry', onExpiry],
  ttlMs: ['ttl_ms', number],
});

/** Within a second of its owner's end. */
export interface LeaseCleanup {
  readonly kind: 'lease';
}
export const leaseCleanup = record<LeaseCleanup>('LeaseCleanup', {
  kind: ['kind', oneOf('kind', ['lease'])],
});

/** Only when somebody asks; the owner answers for it. */
export interface ExplicitCleanup {
  readonly kind: 'explicit';
}
export const explicitCleanup = record<ExplicitCleanup>('ExplicitCleanup', {
  kind: ['kind', oneOf('kind', ['explicit'])],
});

/** How a sandbox ends when nobody ends it. */
export type Cleanup = TtlCleanup | LeaseCleanup | ExplicitCleanup;
export const cleanup = union<Cleanup>('Cleanup', 'kind', {
  ttl: ttlCleanup,
  lease: leaseCleanup,
  explicit: explicitCleanup,
});

/** Something that was not copied. */
export interface Skipped {
  /** Its path where it lies, made harmless. */
  readonly path: string;
  /** Why. */
  readonly why: string;
}
export const skipped = record<Skipped>('Skipped', {
  path: ['path', text],
  why: ['why', text],
});

/** What was copied. */
export interface CopyReport {
  /** Bytes in files. */
  readonly bytes: number;
  /** Directories. */
  readonly directories: number;
  /** Regular files. */
  readonly files: number;
  /** Symbolic links. */
  readonly links: number;
  /** What was left out, and why. */
  readonly skipped: readonly Skipped[];
}
export const copyReport = record<CopyReport>('CopyReport', {
  bytes: ['bytes', integer],
  directories: ['directories', integer],
  files: ['files', integer],
  links: ['links', integer],
  skipped: ['skipped', list(skipped)],
});

/** One thing that was deleted. */
export interface Removed {
  /** How much it was, in bytes. */
  readonly bytes: number;
  /** How it was removed. */
  readonly how: string;
  /** Where it was. */
  readonly place: string;
  /** What it was. */
  readonly what: string;
}
export const removed = record<Removed>('Removed', {
  bytes: ['bytes', integer],
  how: ['how', text],
  place: ['place', text],
  what: ['what', text],
});

/** What was deleted, and what this storage cannot promise. */
export interface DeletionReport {
  /** The entry of the audit log that recorded its end (`mvmctl audit show`). */
  readonly auditId: number | null;
  /** The sandbox's id. */
  readonly id: string;
  /** What remains, and what deletion does not mean here. */
  readonly limits: readonly string[];
  /** Its name, free again. */
  readonly name: string;
  /** What is gone, and how. */
  readonly removed: readonly Removed[];
}
export const deletionReport = record<DeletionReport>('DeletionReport', {
  auditId: ['audit_id', nullable(integer), null],
  id: ['id', text],
  limits: ['limits', list(text)],
  name: ['name', text],
  removed: ['removed', list(removed)],
});

/** Why something may not happen. */
export interface Denial {
  /** What was asked for and what the profile says to it. */
  readonly reason: string;
  /** The flag, or the field of a profile, that would allow it. */
  readonly remedy: string;
  /** The rule's id (`mvmctl policy explain RULE`). */
  readonly rule: string;
}
export const denial = record<Denial>('Denial', {
  reason: ['reason', text],
  remedy: ['remedy', text],
  rule: ['rule', text],
});

/** What kind of failure this is. Codes are stable: scripts and SDK classes are keyed by them. */
export type ErrorCode = 'CommandFailed' | 'Timeout' | 'PolicyDenied' | 'InvalidState' | 'SandboxUnavailable' | 'NotFound' | 'AlreadyExists' | 'FileError' | 'ResourceExhausted' | 'BackendUnsupported' | 'RestoreRefused' | 'Incompatible' | 'NotRecordable' | 'ClosedHandle' | 'TransportError' | 'InvalidRequest' | 'Internal';
export const errorCode = oneOf<ErrorCode>('ErrorCode', ['CommandFailed', 'Timeout', 'PolicyDenied', 'InvalidState', 'SandboxUnavailable', 'NotFound', 'AlreadyExists', 'FileError', 'ResourceExhausted', 'BackendUnsupported', 'RestoreRefused', 'Incompatible', 'NotRecordable', 'ClosedHandle', 'TransportError', 'InvalidRequest', 'Internal']);

/** An error: what failed, why, what to do. */
export interface ErrorObject {
  /** The capability that is missing, for `BackendUnsupported`. */
  readonly capability: string | null;
  /** Stable code. */
  readonly code: ErrorCode;
  /** Every reason why a policy refused it, for `PolicyDenied`. */
  readonly denials: readonly Denial[];
  /** The Linux error number behind it, where there is one. */
  readonly errno: number | null;
  /** What to do about it; may be empty. */
  readonly hint: string;
  /** What could not be done. */
  readonly what: string;
  /** The cause. */
  readonly why: string;
}
export const errorObject = record<ErrorObject>('ErrorObject', {
  capability: ['capability', nullable(text), null],
  code: ['code', errorCode],
  denials: ['denials', list(denial), []],
  errno: ['errno', nullable(integer), null],
  hint: ['hint', text],
  what: ['what', text],
  why: ['why', text],
});

/** A command whose program could not be started. */
export interface NotStarted {
  /** The program, made harmless. */
  readonly command: string;
  /** Linux error number. */
  readonly errno: number;
  /** `command_not_found` or `command_not_executable`. */
  readonly reason: string;
}
export const notStarted = record<NotStarted>('NotStarted', {
  command: ['command', text],
  errno: ['errno', integer],
  reason: ['reason', text],
});

/** How a command ended. Reported only when all of its processes are gone. */
export interface JobResult {
  /** The entry of the audit log that authorised it (`mvmctl audit show`). */
  readonly auditId: number;
  /** Milliseconds from its start to its end. */
  readonly durationMs: number;
  /** Why there is no result: it could not be started as asked, or its machine ended first. */
  readonly error: ErrorObject | null;
  /** Exit code; null if a signal ended it or it did not start. */
  readonly exitCode: number | null;
  /** Why its program could not be started. */
  readonly notStarted: NotStarted | null;
  /** The guest's kernel killed something of it for lack of memory. */
  readonly oomKilled: boolean;
  /** How often a secret was redacted in its output. */
  readonly redactions: number;
  /** Its run id. */
  readonly runId: string;
  /** Signal that ended it. */
  readonly signal: number | null;
  /** Bytes it wrote to standard error, counted before secrets were redacted. */
  readonly stderrBytes: number;
  /** Whether the policy's limit kept back some of its standard error. */
  readonly stderrTruncated: boolean;
  /** Bytes it wrote to standard output, counted before secrets were redacted. */
  readonly stdoutBytes: number;
  /** Whether the policy's limit kept back some of its standard output. */
  readonly stdoutTruncated: boolean;
  /** It was killed because its time was up. */
  readonly timedOut: boolean;
  /** Why its end is not on record, and no receipt can be had; null if it is. */
  readonly unrecorded: string | null;
}
export const jobResult = record<JobResult>('JobResult', {
  auditId: ['audit_id', integer, 0],
  durationMs: ['duration_ms', number],
  error: ['error', nullable(errorObject), null],
  exitCode: ['exit_code', nullable(integer), null],
  notStarted: ['not_started', nullable(notStarted), null],
  oomKilled: ['oom_killed', bool],
  redactions: ['redactions', integer, 0],
  runId: ['run_id', text, ''],
  signal: ['signal', nullable(integer), null],
  stderrBytes: ['stderr_bytes', integer],
  stderrTruncated: ['stderr_truncated', bool, false],
  stdoutBytes: ['stdout_bytes', integer],
  stdoutTruncated: ['stdout_truncated', bool, false],
  timedOut: ['timed_out', bool],
  unrecorded: ['unrecorded', nullable(text), null],
});

/** The end, always last. */
export interface Ended {
  readonly type: 'ended';
  /** How it ended. */
  readonly result: JobResult;
}
export const ended = record<Ended>('Ended', {
  type: ['type', oneOf('type', ['ended'])],
  result: ['result', jobResult],
});

/** The bounds that hold for what was admitted. Null is no bound but the machine's own. */
export interface Enforced {
  /** Virtual processors. */
  readonly cpus: number;
  /** Size of the disk in bytes. */
  readonly diskBytes: number;
  /** Memory in MiB. */
  readonly memoryMib: number;
  /** Bytes of each of a command's output streams that are passed on. */
  readonly outputBytes: number | null;
  /** Processes and threads of one command at once. */
  readonly processes: number | null;
  /** Commands cannot write to the root file system, and find this much room, in bytes, in `/tmp`. */
  readonly scratchBytes: number | null;
  /** Milliseconds that a command may run. */
  readonly timeoutMs: number | null;
  /** Commands run as an ordinary user, and never gain privileges. */
  readonly unprivileged: boolean;
  /** User of the guest that commands run as; the image's if empty. */
  readonly user: string;
}
export const enforced = record<Enforced>('Enforced', {
  cpus: ['cpus', integer],
  diskBytes: ['disk_bytes', integer],
  memoryMib: ['memory_mib', integer],
  outputBytes: ['output_bytes', nullable(integer), null],
  processes: ['processes', nullable(integer), null],
  scratchBytes: ['scratch_bytes', nullable(integer), null],
  timeoutMs: ['timeout_ms', nullable(number), null],
  unprivileged: ['unprivileged', bool],
  user: ['user', text],
});

/** A file of the guest. */
export interface FileInfo {
  /** Its group. */
  readonly gid: number;
  /** `file`, `directory`, `symlink`, `fifo`, `socket`, `char-device`, `block-device` or `unknown`. */
  readonly kind: string;
  /** Its permissions, as a number. */
  readonly mode: number;
  /** When its content changed, milliseconds since 1970. */
  readonly mtimeMs: number;
  /** Its name in its directory. Bytes that are no UTF-8 are shown as U+FFFD. */
  readonly name: string;
  /** The name's bytes in base64, where it is no UTF-8. */
  readonly nameBase64: string | null;
  /** Its size in bytes. */
  readonly size: number;
  /** What a symbolic link says. */
  readonly target: string | null;
  /** Its owner. */
  readonly uid: number;
}
export const fileInfo = record<FileInfo>('FileInfo', {
  gid: ['gid', integer],
  kind: ['kind', text],
  mode: ['mode', integer],
  mtimeMs: ['mtime_ms', integer],
  name: ['name', text],
  nameBase64: ['name_base64', nullable(text), null],
  size: ['size', integer],
  target: ['target', nullable(text), null],
  uid: ['uid', integer],
});

/** A machine's shape. */
export interface Machine {
  /** Virtual processors. */
  readonly cpus: number;
  /** Size of the disk in bytes. */
  readonly diskBytes: number;
  /** Memory in MiB. */
  readonly memoryMib: number;
}
export const machine = record<Machine>('Machine', {
  cpus: ['cpus', integer],
  diskBytes: ['disk_bytes', integer],
  memoryMib: ['memory_mib', integer],
});

/** Where a sandbox is in its life. */
export type State = 'creating' | 'running' | 'frozen' | 'cold' | 'restoring' | 'stopped' | 'failed' | 'destroyed';
export const state = oneOf<State>('State', ['creating', 'running', 'frozen', 'cold', 'restoring', 'stopped', 'failed', 'destroyed']);

/** A sandbox. */
export interface SandboxInfo {
  /** The entry of the audit log that authorised it (`mvmctl audit show`). */
  readonly auditId: number | null;
  /** Why it is in this state. */
  readonly cause: string;
  /** How it ends when nobody ends it. */
  readonly cleanup: Cleanup;
  /** Milliseconds since 1970. */
  readonly createdAtMs: number;
  /** Its id, `mvm-` and 12 hex digits, never used again. */
  readonly id: string;
  /** Image. */
  readonly image: string;
  /** Digest of the image. */
  readonly imageDigest: string;
  /** What callers can ask for now. */
  readonly legal: readonly string[];
  /** Shape. */
  readonly machine: Machine;
  /** Its name, unique among live sandboxes. */
  readonly name: string;
  /** Who answers for it; may be empty. */
  readonly owner: string;
  /** Since when, milliseconds since 1970. */
  readonly sinceMs: number;
  /** The Unix socket of its API. */
  readonly socket: string;
  /** Its state. */
  readonly state: State;
}
export const sandboxInfo = record<SandboxInfo>('SandboxInfo', {
  auditId: ['audit_id', nullable(integer), null],
  cause: ['cause', text],
  cleanup: ['cleanup', cleanup],
  createdAtMs: ['created_at_ms', integer],
  id: ['id', text],
  image: ['image', text],
  imageDigest: ['image_digest', text],
  legal: ['legal', list(text)],
  machine: ['machine', machine],
  name: ['name', text],
  owner: ['owner', text],
  sinceMs: ['since_ms', integer],
  socket: ['socket', text],
  state: ['state', state],
});

/** The copies that were made: all that were asked for. */
export interface Forked {
  /**
   * The copies. Each has an id, a name and an identity of its own, and the parent's commands under the same run
   * ids.
   */
  readonly sandboxes: readonly SandboxInfo[];
}
export const forked = record<Forked>('Forked', {
  sandboxes: ['sandboxes', list(sandboxInfo)],
});

/** Why lines are missing. */
export type GapCause = 'overrun' | 'flood';
export const gapCause = oneOf<GapCause>('GapCause', ['overrun', 'flood']);

/** A change of state. */
export interface Transition {
  /** Milliseconds since 1970. */
  readonly atMs: number;
  /** Why. */
  readonly cause: string;
  /** Before. */
  readonly from: State;
  /** After. */
  readonly to: State;
}
export const transition = record<Transition>('Transition', {
  atMs: ['at_ms', integer],
  cause: ['cause', text],
  from: ['from', state],
  to: ['to', state],
});

/** What one rule came to. */
export interface PlanLine {
  /** What it came to, in words. */
  readonly effect: string;
  /** The rule's id (`mvmctl policy explain RULE`). */
  readonly rule: string;
}
export const planLine = record<PlanLine>('PlanLine', {
  effect: ['effect', text],
  rule: ['rule', text],
});

/** What a policy decided about one request, before anything of it happened. */
export interface Plan {
  /** Whether it may happen. */
  readonly allowed: boolean;
  /** Layers of isolation that may be missing, because the caller said so. */
  readonly allowedMissing: readonly string[];
  /** Why it may not happen; empty if it may. */
  readonly denials: readonly Denial[];
  /** What holds for it. */
  readonly enforced: Enforced;
  /** Each rule that had a say, and what it came to. */
  readonly lines: readonly PlanLine[];
  /** What was asked for: `run`, `up`, `exec`, `port`, `files.in`, `files.out`, `snapshot`, `keep`. */
  readonly operation: string;
  /** The profile that decided. */
  readonly profile: string;
  /** SHA-256 of the profile with all that it inherits, in hex. */
  readonly profileDigest: string;
  /** `mvm.plan/v1`. */
  readonly schema: string;
}
export const plan = record<Plan>('Plan', {
  allowed: ['allowed', bool],
  allowedMissing: ['allowed_missing', list(text)],
  denials: ['denials', list(denial)],
  enforced: ['enforced', enforced],
  lines: ['lines', list(planLine)],
  operation: ['operation', text],
  profile: ['profile', text],
  profileDigest: ['profile_digest', text],
  schema: ['schema', text],
});

/** What becomes of a connection. */
export type PortStatus = 'open' | 'refused' | 'failed';
export const portStatus = oneOf<PortStatus>('PortStatus', ['open', 'refused', 'failed']);

/** A port of the host that leads into a sandbox. */
export interface Port {
  /** The address it listens on. */
  readonly address: string;
  /** The entry of the audit log that authorised it, in the answer to the request that opened it. */
  readonly auditId: number | null;
  /** Connections at this moment. */
  readonly connections: number;
  /** Whether other machines can reach it. */
  readonly exposed: boolean;
  /** The port in the sandbox. */
  readonly guestPort: number;
  /** The port of the host. */
  readonly hostPort: number;
  /** `tcp`. */
  readonly protocol: string;
  /** The rule of the policy that admitted it (`mvmctl policy explain RULE`). */
  readonly rule: string;
  /** What becomes of a connection now. */
  readonly status: PortStatus;
  /** Why it is so, or what became of the last connection that failed; empty if there is nothing to say. */
  readonly why: string;
}
export const port = record<Port>('Port', {
  address: ['address', text],
  auditId: ['audit_id', nullable(integer), null],
  connections: ['connections', integer],
  exposed: ['exposed', bool],
  guestPort: ['guest_port', integer],
  hostPort: ['host_port', integer],
  protocol: ['protocol', text],
  rule: ['rule', text],
  status: ['status', portStatus],
  why: ['why', text],
});

/** More about a sandbox. */
export interface Inspection extends SandboxInfo {
  /** What its backend can do, and what not. */
  readonly capabilities: readonly Capability[];
  /** Names of its environment variables; their values are not shown. */
  readonly env: readonly string[];
  /** All changes of state, the first one first. */
  readonly history: readonly Transition[];
  /** What keeps its machine apart from the host; null without a machine. */
  readonly isolation: unknown;
  /** What the policy decided when it was made. */
  readonly plan: Plan;
  /** Ports of the host that lead into it; none without a supervisor. */
  readonly ports: readonly Port[];
  /** Names of the secrets that every command in it has; more about them says `/v1/secrets`. */
  readonly secrets: readonly string[];
  /** What was deleted; null while it lives. */
  readonly deletion: DeletionReport | null;
}
export const inspection = record<Inspection>('Inspection', {
  ...sandboxInfo.fields,
  capabilities: ['capabilities', list(capability)],
  env: ['env', list(text)],
  history: ['history', list(transition)],
  isolation: ['isolation', json, null],
  plan: ['plan', plan],
  ports: ['ports', list(port)],
  secrets: ['secrets', list(text)],
  deletion: ['deletion', nullable(deletionReport), null],
});

/** The job runs. */
export interface Started {
  readonly type: 'started';
  /** The entry of the audit log that authorised it. */
  readonly auditId: number;
  /** Its run id. */
  readonly runId: string;
}
export const started = record<Started>('Started', {
  type: ['type', oneOf('type', ['started'])],
  auditId: ['audit_id', integer],
  runId: ['run_id', text],
});

/** Which output a piece belongs to. */
export type Stream = 'stdout' | 'stderr';
export const stream = oneOf<Stream>('Stream', ['stdout', 'stderr']);

/** A piece of output. */
export interface Output {
  readonly type: 'output';
  /** The bytes, in base64. The guest wrote it: it is left out where this is shown. */
  readonly data: Uint8Array;
  /** Where it begins, counted over both streams. */
  readonly offset: number;
  /** Of which stream. */
  readonly stream: Stream;
}
export const output = record<Output>('Output', {
  type: ['type', oneOf('type', ['output'])],
  data: ['data', bytes],
  offset: ['offset', integer],
  stream: ['stream', stream],
}, 'data');

/** Output that is no longer kept. */
export interface OutputGap {
  readonly type: 'gap';
  /** How many bytes. */
  readonly bytes: number;
  /** Where it begins. */
  readonly offset: number;
}
export const outputGap = record<OutputGap>('OutputGap', {
  type: ['type', oneOf('type', ['gap'])],
  bytes: ['bytes', integer],
  offset: ['offset', integer],
});

/** One line of a job's output stream. */
export type JobEvent = Started | Output | OutputGap | Ended;
export const jobEvent = union<JobEvent>('JobEvent', 'type', {
  started: started,
  output: output,
  gap: outputGap,
  ended: ended,
});

/** A command that was started. */
export interface JobInfo {
  /** Whether it ends with the connection that started it. */
  readonly attached: boolean;
  /** The entry of the audit log that authorised it (`mvmctl audit show`). */
  readonly auditId: number;
  /** Bytes of output so far, on both streams together, as they are kept: with secrets redacted. */
  readonly endOffset: number;
  /** Offset of the first byte of output that is still kept. */
  readonly firstOffset: number;
  /** Its program. */
  readonly program: string;
  /** Its result; null while it runs. */
  readonly result: JobResult | null;
  /** Its run id. */
  readonly runId: string;
  /** When it was started, milliseconds since 1970. */
  readonly startedAtMs: number;
}
export const jobInfo = record<JobInfo>('JobInfo', {
  attached: ['attached', bool],
  auditId: ['audit_id', integer],
  endOffset: ['end_offset', integer],
  firstOffset: ['first_offset', integer],
  program: ['program', text],
  result: ['result', nullable(jobResult), null],
  runId: ['run_id', text],
  startedAtMs: ['started_at_ms', integer],
});

/** Where a line came from. */
export type LogSource = 'console' | 'supervisor' | 'job';
export const logSource = oneOf<LogSource>('LogSource', ['console', 'supervisor', 'job']);

/** A line of the log. */
export interface LogLine {
  readonly type: 'line';
  /** When it was complete, milliseconds since 1970, by the host's clock. */
  readonly atMs: number;
  /** How often something was redacted in it. */
  readonly redactions: number;
  /** Which command wrote it. */
  readonly runId: string | null;
  /** Its number; they go up by one. */
  readonly seq: number;
  /** Where it came from. */
  readonly source: LogSource;
  /** On which of its outputs. */
  readonly stream: Stream | null;
  /**
   * The line without its end. Bytes that are no UTF-8 are U+FFFD; what is over 4 KiB is on the next line. The
   * guest wrote it: it is left out where this is shown.
   */
  readonly text: string;
}
export const logLine = record<LogLine>('LogLine', {
  type: ['type', oneOf('type', ['line'])],
  atMs: ['at_ms', integer],
  redactions: ['redactions', integer, 0],
  runId: ['run_id', nullable(text), null],
  seq: ['seq', integer],
  source: ['source', logSource],
  stream: ['stream', nullable(stream), null],
  text: ['text', text],
}, 'text');

/** Lines that are missing. */
export interface LogGap {
  readonly type: 'gap';
  /** When it was noticed, milliseconds since 1970; null if nobody knows. */
  readonly atMs: number | null;
  /** Why. */
  readonly cause: GapCause;
  /** How many lines. */
  readonly lines: number;
  /** Which command wrote them. */
  readonly runId: string | null;
  /** The number of the first line that is missing, or of this entry if they never had one. */
  readonly seq: number;
  /** Where they came from, if from one source. */
  readonly source: LogSource | null;
}
export const logGap = record<LogGap>('LogGap', {
  type: ['type', oneOf('type', ['gap'])],
  atMs: ['at_ms', nullable(integer), null],
  cause: ['cause', gapCause],
  lines: ['lines', integer],
  runId: ['run_id', nullable(text), null],
  seq: ['seq', integer],
  source: ['source', nullable(logSource), null],
});

/** A rule that knows credentials by their shape, and what it found. */
export interface LogRule {
  /** How often it found something. */
  readonly redactions: number;
  /** Its id (`mvmctl logs --redact show-rules`). */
  readonly rule: string;
}
export const logRule = record<LogRule>('LogRule', {
  redactions: ['redactions', integer],
  rule: ['rule', text],
});

/** What an answer had. */
export interface LogSummary {
  readonly type: 'summary';
  /** How many lines. */
  readonly lines: number;
  /** How many of these only for this answer: what is kept has it still. */
  readonly onReading: number;
  /** How often something was redacted in them. */
  readonly redactions: number;
  /** The rules that found these, in the order of their first finding. */
  readonly rules: readonly LogRule[];
}
export const logSummary = record<LogSummary>('LogSummary', {
  type: ['type', oneOf('type', ['summary'])],
  lines: ['lines', integer],
  onReading: ['on_reading', integer],
  redactions: ['redactions', integer],
  rules: ['rules', list(logRule), []],
});

/** One line of the log, or lines that are missing, or the end. */
export type LogEvent = LogLine | LogGap | LogSummary;
export const logEvent = union<LogEvent>('LogEvent', 'type', {
  line: logLine,
  gap: logGap,
  summary: logSummary,
});

/** How a secret was given. */
export type SecretKind = 'env' | 'file' | 'request';
export const secretKind = oneOf<SecretKind>('SecretKind', ['env', 'file', 'request']);

/** A secret that commands of a sandbox have. Its value is shown nowhere. */
export interface SecretInfo {
  /** How it was given. */
  readonly kind: SecretKind;
  /** Whether its value is known. Without it no command can have it, and it cannot be redacted. */
  readonly known: boolean;
  /** The variable that it is in the guest. */
  readonly name: string;
  /** Which variable of the host, or which file: `env:VAR` or `file:PATH`; null with a request. */
  readonly reference: string | null;
  /** The one command that has it; null if all have. */
  readonly runId: string | null;
  /** Since when, milliseconds since 1970. */
  readonly sinceMs: number;
}
export const secretInfo = record<SecretInfo>('SecretInfo', {
  kind: ['kind', secretKind],
  known: ['known', bool],
  name: ['name', text],
  reference: ['reference', nullable(text), null],
  runId: ['run_id', nullable(text), null],
  sinceMs: ['since_ms', integer],
});

/** A saved point of a sandbox: memory, devices, disk. Whatever secrets were in the memory are in it. */
export interface Snapshot {
  /** What executed the guest's instructions. */
  readonly accelerator: string;
  /** The entry of the audit log that authorised it (`mvmctl audit show`). */
  readonly auditId: number | null;
  /** The VMM and its version. */
  readonly backend: string;
  /** Milliseconds since 1970. */
  readonly createdAtMs: number;
  /**
   * Why nothing can come back from it, as far as is known: what its records no longer tell is empty or 0; null if
   * its records are whole.
   */
  readonly damage: string | null;
  /** A digest of its content. */
  readonly digest: string;
  /** Disk space that it takes, in bytes. Layers that it shares count for each that has them. */
  readonly diskBytes: number;
  /** Its id, `snap-` and 12 hex digits. */
  readonly id: string;
  /** Image. */
  readonly image: string;
  /** Digest of the image. */
  readonly imageDigest: string;
  /** Digest of the guest's kernel. */
  readonly kernel: string;
  /** Shape. */
  readonly machine: Machine;
  /** Its name. */
  readonly name: string;
  /** Commands that ran, and run again in what is restored from it. */
  readonly runningJobs: number;
  /** Id of the sandbox that it was saved of. */
  readonly sandbox: string;
  /** Name of that sandbox then. */
  readonly sandboxName: string;
  /** Always true: it holds the guest's memory. Its files can be read by their owner alone. */
  readonly sensitive: boolean;
}
export const snapshot = record<Snapshot>('Snapshot', {
  accelerator: ['accelerator', text],
  auditId: ['audit_id', nullable(integer), null],
  backend: ['backend', text],
  createdAtMs: ['created_at_ms', integer],
  damage: ['damage', nullable(text), null],
  digest: ['digest', text],
  diskBytes: ['disk_bytes', integer],
  id: ['id', text],
  image: ['image', text],
  imageDigest: ['image_digest', text],
  kernel: ['kernel', text],
  machine: ['machine', machine],
  name: ['name', text],
  runningJobs: ['running_jobs', integer],
  sandbox: ['sandbox', text],
  sandboxName: ['sandbox_name', text],
  sensitive: ['sensitive', bool],
});

/** What a sandbox uses. */
export interface Stats {
  /** Processor time that the VMM used, in seconds; null without a machine. */
  readonly cpuSeconds: number | null;
  /** Disk space that the sandbox's own disk takes. */
  readonly diskBytes: number;
  /** Commands that run. */
  readonly runningJobs: number;
  /** Disk space that its saved memory takes, in bytes: 0 unless it is cold. */
  readonly savedBytes: number;
  /** The same of the supervisor. */
  readonly supervisorPrivateBytes: number;
  /** Memory of the VMM that no other process shares, in bytes. */
  readonly vmmPrivateBytes: number | null;
}
export const stats = record<Stats>('Stats', {
  cpuSeconds: ['cpu_seconds', nullable(number), null],
  diskBytes: ['disk_bytes', integer],
  runningJobs: ['running_jobs', integer],
  savedBytes: ['saved_bytes', integer],
  supervisorPrivateBytes: ['supervisor_private_bytes', integer],
  vmmPrivateBytes: ['vmm_private_bytes', nullable(integer), null],
});

/** How much was written. */
export interface Written {
  /** Bytes. */
  readonly bytes: number;
  /** Whether it survives the loss of the machine from now on; otherwise it is in the guest's memory first. */
  readonly synced: boolean;
}
export const written = record<Written>('Written', {
  bytes: ['bytes', integer],
  synced: ['synced', bool],
});
