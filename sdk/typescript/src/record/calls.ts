/**
 * What can be recorded: with which arguments, and what stands for its answer.
 *
 * @module
 */

import { Job } from '../job.js';
import type {
  ArgumentsOf,
  CommandArguments,
  CreateArguments,
  End,
  Lease,
  Made,
  OperationName,
  PortArguments,
  ResultOf,
  Target,
} from '../operation.js';
import { CommandResult } from '../results.js';
import { referenceOf } from '../secrets.js';
import { answer } from './answer.js';
import { place } from './place.js';
import { at, type Origin, recording, type Step } from './recording.js';
import { entriesOf } from './tree.js';

/** How a call is recorded. */
export interface Recorded<Name extends OperationName> {
  /** Its arguments in the recording, in this order. What is undefined is left out. */
  readonly given: (given: ArgumentsOf<Name>, step: Step) => object | Promise<object>;
  readonly answer: (origin: Origin, given: ArgumentsOf<Name>) => ResultOf<Name>;
}

type Texts = Readonly<Record<string, string>>;

const nothing = () => ({});
const nobody = () => undefined;

/** Every call that can be recorded. What is not in it needs a live sandbox. */
export const calls: { readonly [Name in OperationName]?: Recorded<Name> } = {
  create: { given: creation, answer: made },
  keep: {
    given: ({ ttlMs, onExpiry }) => ({ ttl_ms: ttlMs, on_expiry: onExpiry }),
    answer: (origin) => answer('SandboxInfo', origin),
  },
  detach: { given: end, answer: (origin) => left(answer('SandboxInfo', origin)) },
  close: { given: nothing, answer: () => left(true) },
  destroy: { given: nothing, answer: (origin) => left(answer('DeletionReport', origin)) },
  kill: { given: nothing, answer: (origin) => left(answer('DeletionReport', origin)) },
  snapshot: { given: ({ name }) => ({ name }), answer: (origin) => answer('Snapshot', origin) },
  'commands.run': {
    given: async (given, step) => {
      const { stdin, check, onStdout, onStderr, receipt } = given;
      refuseOptions(step, { onStdout, onStderr, receipt });
      return { ...command(given), stdin: stdin && (await step.take([stdin])), check: yes(check) };
    },
    answer: (origin) => answer('CommandResult', origin, CommandResult.prototype),
  },
  'commands.start': {
    given: (given, step) => {
      refuseOptions(step, { stdin: yes(given.stdin), tty: given.tty });
      return command(given);
    },
    answer: (origin) => answer('Job', origin, Job.prototype),
  },
  'files.write': {
    given: async ({ path, pieces, mode, owner, append, parents }, step) => {
      const content = await step.take(pieces);
      return { path, content, mode, owner, append: yes(append), parents: yes(parents) };
    },
    answer: (origin) => answer('Written', origin),
  },
  'files.mkdir': { given: ({ path, parents, mode }) => ({ path, parents: yes(parents), mode }), answer: nobody },
  'files.move': { given: ({ source, destination }) => ({ source, destination }), answer: nobody },
  'files.remove': { given: ({ path, recursive }) => ({ path, recursive: yes(recursive) }), answer: nobody },
  'files.upload': {
    given: async ({ hostPath, guestPath }, step) => {
      return { guest_path: guestPath, entries: await entriesOf(hostPath, step) };
    },
    answer: (origin) => answer('CopyReport', origin),
  },
  'ports.forward': { given: port, answer: (origin) => answer('Port', origin) },
};

function creation(given: CreateArguments, step: Step) {
  const { image, name, cpus, memoryMib, diskMib, env, secrets, ports, profile, require = [] } = given;
  refuseOptions(step, { require: require.length > 0 ? require : undefined });
  return {
    image,
    name,
    cpus,
    memory_mib: memoryMib,
    disk_mib: diskMib,
    env: some(env),
    secrets: references(secrets),
    ports: ports.length > 0 ? ports.map(port) : undefined,
    profile,
    ...end(given, step),
  };
}

function made(origin: Origin, { lease, name }: CreateArguments): Made {
  recording.leased = lease;
  const known = { socket: '', recorded: at(origin), ...(name === undefined ? {} : { name }) };
  const target = answer<Target>('Sandbox', origin, Object.prototype, known);
  const rest = { created: true, warnings: [], missingSecrets: [] };
  return { sandbox: answer('SandboxInfo', origin), target, lease: lease ? held : null, ...rest };
}

/** A lease that is dropped is a handle that closes. */
const held: Lease = {
  get held() {
    return recording.leased;
  },
  drop() {
    if (!recording.leased) return;
    recording.leased = false;
    recording.begin({ call: 'close', place: place() }).complete({});
  },
};

/** The answer of what ends the sandbox, or has it go on without its handle. */
function left<Answer>(answer: Answer): Answer {
  recording.leased = false;
  return answer;
}

/** How the sandbox ends. Who answers for it is whoever launches the workload. */
function end({ ttlMs, noTtl, onExpiry }: Omit<End, 'lease'>, step: Step) {
  if (noTtl) throw step.refusal('a workload ends after a time');
  return { ttl_ms: ttlMs ?? undefined, on_expiry: onExpiry };
}

function command({ argv, env, secrets, cwd, user, timeoutMs }: CommandArguments) {
  return { argv, env: some(env), secrets: references(secrets), cwd, user, timeout_ms: timeoutMs };
}

function port({ guestPort, hostPort, address, protocol }: PortArguments) {
  return { guest_port: guestPort, host_port: hostPort, host: address, protocol };
}

/** What is false is left out, as is what is empty: that is what each of them is if it is not given. */
function yes(flag: boolean | undefined): true | undefined {
  return flag || undefined;
}

/** A copy: it is written when the program ends, whatever becomes of the caller's. */
function some(texts: Texts = {}): Texts | undefined {
  return Object.keys(texts).length > 0 ? { ...texts } : undefined;
}

/** Only where secrets are: what names no place may be a value, and is refused. */
function references(secrets: Texts = {}): Texts | undefined {
  for (const [name, reference] of Object.entries(secrets)) referenceOf(name, reference);
  return some(secrets);
}

/** Refuses options that are given. */
function refuseOptions(step: Step, options: Readonly<Record<string, unknown>>): void {
  const name = Object.keys(options).find((one) => options[one] !== undefined);
  if (name !== undefined) throw step.refusal(`a workload has no place for ${name}`);
}
