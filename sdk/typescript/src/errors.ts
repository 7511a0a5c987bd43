import type { Denial, ErrorCode } from './api.js';
import type { CommandResult } from './results.js';

/** What an error says. */
export interface ErrorFields {
  /** What could not be done. */
  readonly what: string;
  /** The cause. */
  readonly why: string;
  /** What to do about it; may be empty. */
  readonly hint?: string;
  /** The Linux error number behind it, where there is one. */
  readonly errno?: number | null;
  /** The capability that is missing, for {@link BackendUnsupported}. */
  readonly capability?: string | null;
  /** Every reason why a policy refused it, for {@link PolicyDenied}. */
  readonly denials?: readonly Denial[];
}

/**
 * Everything that goes wrong in mvm. There is one class for each code; the fields are the same in all of them.
 *
 * The message is `what: why`, then the hint on a line of its own. No error holds the value of a secret or of a variable,
 * a command's input or its output.
 */
export abstract class MvmError extends Error {
  /** Stable: scripts may depend on it. It is also the class's name. */
  abstract get code(): ErrorCode;
  /** What could not be done. */
  readonly what: string;
  /** The cause. */
  readonly why: string;
  /** What to do about it; may be empty. */
  readonly hint: string;
  /** The Linux error number behind it, where there is one. */
  readonly errno: number | null;
  /** The capability that is missing, for {@link BackendUnsupported}. */
  readonly capability: string | null;
  /** Every reason why a policy refused it, for {@link PolicyDenied}. */
  readonly denials: readonly Denial[];

  constructor(fields: ErrorFields) {
    super(`${fields.what}: ${fields.why}${fields.hint ? `\n  try: ${fields.hint}` : ''}`);
    this.what = fields.what;
    this.why = fields.why;
    this.hint = fields.hint ?? '';
    this.errno = fields.errno ?? null;
    this.capability = fields.capability ?? null;
    this.denials = fields.denials ?? [];
  }

  override get name(): string {
    return this.code;
  }
}

/** A command failed, and its caller had asked for that to be an error. */
export class CommandFailed extends MvmError {
  get code() {
    return 'CommandFailed' as const;
  }
  /** How it ended. */
  readonly result: CommandResult;

  constructor(fields: ErrorFields, result: CommandResult) {
    super(fields);
    this.result = result;
  }
}

/** A deadline passed. */
export class Timeout extends MvmError {
  get code() {
    return 'Timeout' as const;
  }
  /** What the command had written until it was killed; null where a wait ran out and nothing was killed. */
  readonly result: CommandResult | null;

  constructor(fields: ErrorFields, result: CommandResult | null = null) {
    super(fields);
    this.result = result;
  }
}

/** The policy refused it, for the reasons in `denials`. */
export class PolicyDenied extends MvmError {
  get code() {
    return 'PolicyDenied' as const;
  }
}

/** It is not legal in the sandbox's present state. */
export class InvalidState extends MvmError {
  get code() {
    return 'InvalidState' as const;
  }
}

/** The sandbox is there, but its machine or its supervisor cannot be reached. */
export class SandboxUnavailable extends MvmError {
  get code() {
    return 'SandboxUnavailable' as const;
  }
}

/** There is no such thing. */
export class NotFound extends MvmError {
  get code() {
    return 'NotFound' as const;
  }
}

/** The name is taken. */
export class AlreadyExists extends MvmError {
  get code() {
    return 'AlreadyExists' as const;
  }
}

/** A file operation failed, in the guest or on the host; `errno` says how. */
export class FileError extends MvmError {
  get code() {
    return 'FileError' as const;
  }
}

/** Memory, disk, processes or something else that is bounded ran out. */
export class ResourceExhausted extends MvmError {
  get code() {
    return 'ResourceExhausted' as const;
  }
}

/** This host or its backend cannot do that; `capability` names what is missing. */
export class BackendUnsupported extends MvmError {
  get code() {
    return 'BackendUnsupported' as const;
  }
}

/** What was saved does not match what it would be restored on. */
export class RestoreRefused extends MvmError {
  get code() {
    return 'RestoreRefused' as const;
  }
}

/** Two parts of mvm share no version. */
export class Incompatible extends MvmError {
  get code() {
    return 'Incompatible' as const;
  }
}

/** The call has no meaning in a recording, in which nothing runs that it could ask. */
export class NotRecordable extends MvmError {
  get code() {
    return 'NotRecordable' as const;
  }
  /** What was called or read, such as `files.read` or `CommandResult.exitCode`; empty if it is not known. */
  readonly call: string;
  /** Where, by file and line, such as `agent.ts:3`; empty if it is not known. */
  readonly place: string;

  constructor(fields: ErrorFields, call = '', place = '') {
    super(fields);
    this.call = call;
    this.place = place;
  }
}

/** The handle was closed before. */
export class ClosedHandle extends MvmError {
  get code() {
    return 'ClosedHandle' as const;
  }
}

/** The connection to a sandbox broke, or what came over it makes no sense. */
export class TransportError extends MvmError {
  get code() {
    return 'TransportError' as const;
  }
  /** Whether the call may be made again without doing something twice. */
  readonly retryable: boolean;

  constructor(fields: ErrorFields, retryable = false) {
    super(fields);
    this.retryable = retryable;
  }
}

/** An argument is wrong. Nothing was done. */
export class InvalidRequest extends MvmError {
  get code() {
    return 'InvalidRequest' as const;
  }
}

/** A defect in mvm, or a host that behaves as no host should. */
export class Internal extends MvmError {
  get code() {
    return 'Internal' as const;
  }
}

const SIMPLE = {
  PolicyDenied,
  InvalidState,
  SandboxUnavailable,
  NotFound,
  AlreadyExists,
  FileError,
  ResourceExhausted,
  BackendUnsupported,
  RestoreRefused,
  Incompatible,
  NotRecordable,
  ClosedHandle,
  InvalidRequest,
  Internal,
};

/** The error of this code. */
export function errorOf(code: ErrorCode, fields: ErrorFields): MvmError {
  switch (code) {
    case 'Timeout':
      return new Timeout(fields);
    case 'TransportError':
      return new TransportError(fields);
    // Nobody but this SDK raises it, with its result.
    case 'CommandFailed':
      return new Internal(fields);
    default:
      return new SIMPLE[code](fields);
  }
}

/** That a sandbox is no more. */
export function destroyed(target: { readonly name: string }, cause: string): NotFound {
  const what = `cannot find the sandbox ${target.name}`;
  return new NotFound({ what, why: `it was destroyed: ${cause}`, hint: 'mvmctl ps --all' });
}
