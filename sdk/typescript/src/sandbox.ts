import { inspect } from 'node:util';
import type {
  Capability,
  DeletionReport,
  Inspection,
  OnExpiry,
  Plan,
  SandboxInfo,
  SecretInfo,
  Snapshot,
  State,
  Stats,
} from './api.js';
import { type Abortable, checked, checkOptions, count, duration, flag, oneOf, patience, text, word } from './check.js';
import { Commands } from './commands.js';
import { destroyed } from './errors.js';
import { Files } from './files.js';
import { Handle } from './handle.js';
import { type LogOptions, Logs } from './logs.js';
import type { Lease, Made, Transport } from './operation.js';
import {
  type CreateOptions,
  createArguments,
  END,
  type EndOptions,
  endOf,
  onExpiry,
  type RestoreOptions,
  restoreArguments,
} from './options.js';
import { Ports } from './ports.js';
import { nameOf } from './snapshots.js';
import { transportOf } from './transport.js';

/** Options of {@link Sandbox.fork}. How copies end is as for {@link Sandbox.create}. */
export interface ForkOptions extends EndOptions, Abortable {
  /** They are called this, a hyphen and a number; made up if left out. */
  readonly name?: string | undefined;
}

/** Options of {@link Sandbox.detach}. */
export type DetachOptions = Omit<EndOptions, 'lease'> & Abortable;

const STATES: readonly State[] = [
  'creating',
  'running',
  'frozen',
  'cold',
  'restoring',
  'stopped',
  'failed',
  'destroyed',
];

/** Secrets of a sandbox, by name. Their values are shown nowhere. */
export class Secrets {
  readonly #handle: Handle;

  /** @internal */
  constructor(handle: Handle) {
    this.#handle = handle;
  }

  /** First those that every command has, then those of single ones that still run. */
  async list(options: Abortable = {}): Promise<readonly SecretInfo[]> {
    checkOptions('list the secrets', options, {});
    return this.#handle.perform('secrets.list', {}, options);
  }
}

/**
 * A handle on a sandbox: a virtual machine that stays until it is ended.
 *
 * A handle that made its sandbox owns its lease, unless another end was asked for: the sandbox lives as long as the handle
 * and this process. `await using` destroys it where the scope is left, and waits; `using` lets go of the lease at once, and
 * the sandbox is destroyed within a second. A handle that owns no lease just closes.
 */
export class Sandbox implements AsyncDisposable, Disposable {
  /** Its id, never used again. */
  get id(): string {
    return this.#handle.target.id;
  }

  /** Its name, unique among those that are there. */
  get name(): string {
    return this.#handle.target.name;
  }

  /** False if it was found: by its name, or by an idempotency key. */
  readonly created: boolean;
  /** What there is to say about how its secrets are kept. */
  readonly warnings: readonly string[];
  /** Secrets of the snapshot's sandbox that this one, restored from it, was not given. */
  readonly missingSecrets: readonly string[];
  /** What was known of it when this handle was made. */
  readonly info: SandboxInfo;
  /** Commands in it. */
  readonly commands: Commands;
  /** Its files. */
  readonly files: Files;
  /** Ports of this host that lead into it. */
  readonly ports: Ports;
  /** Its secrets, without their values. */
  readonly secrets: Secrets;
  readonly #handle: Handle;
  #lease: Lease | null;
  /** What its ends are waited for with: one by force does not wait for one that hangs. */
  readonly #ending: { destroy?: Promise<DeletionReport>; kill?: Promise<DeletionReport> } = {};
  #report: DeletionReport | undefined;

  private constructor(transport: Transport, { sandbox, target, lease, created, warnings, missingSecrets }: Made) {
    this.created = created;
    this.warnings = warnings;
    this.missingSecrets = missingSecrets;
    this.info = sandbox;
    this.#lease = lease;
    this.#handle = new Handle(transport, target ?? sandbox);
    this.commands = new Commands(this.#handle);
    this.files = new Files(this.#handle);
    this.ports = new Ports(this.#handle);
    this.secrets = new Secrets(this.#handle);
  }

  /**
   * Makes a sandbox and returns when commands can run in it; with `dryRun` only what the policy would decide.
   *
   * @throws {PolicyDenied} with every reason.
   * @throws {AlreadyExists} if the name is taken.
   */
  static create(image: string | undefined, options: CreateOptions & { readonly dryRun: true }): Promise<Plan>;
  static create(image?: string, options?: CreateOptions & { readonly dryRun?: false | undefined }): Promise<Sandbox>;
  static async create(image = 'debian', options: CreateOptions = {}): Promise<Sandbox | Plan> {
    const what = 'create the sandbox';
    checked(what, 'the image', image, word);
    const given = createArguments(what, image, options);
    const { dryRun, mode, signal } = options;
    const transport = transportOf(mode);
    if (dryRun) return transport.perform({ name: 'create.plan', arguments: given, call: 'create', signal });
    return new Sandbox(transport, await transport.perform({ name: 'create', arguments: given, signal }));
  }

  /**
   * A handle on one that is there, by name or id. It owns no lease.
   *
   * @throws {NotFound} if there is none, or it was destroyed.
   */
  static async connect(name: string, options: Abortable = {}): Promise<Sandbox> {
    const transport = transportOf();
    const sandbox = await lookup(transport, 'connect', name, options);
    if (sandbox.state === 'destroyed') {
      throw destroyed(sandbox, sandbox.cause);
    }
    return new Sandbox(transport, { sandbox, lease: null, created: false, warnings: [], missingSecrets: [] });
  }

  /** All sandboxes of this user; with `all` also those that were destroyed. */
  static async list(options: { readonly all?: boolean | undefined } & Abortable = {}): Promise<readonly SandboxInfo[]> {
    checkOptions('list the sandboxes', options, { all: flag });
    const { all = false, signal } = options;
    return transportOf().perform({ name: 'list', arguments: { all }, signal });
  }

  /** All that is known of a sandbox, by name or id. Of one that was destroyed that includes the deletion. */
  static async lookup(name: string, options: Abortable = {}): Promise<Inspection> {
    return lookup(transportOf(), 'lookup', name, options);
  }

  /**
   * Makes a sandbox that goes on from a snapshot, with the same commands and an identity of its own.
   *
   * @throws {RestoreRefused} if what was saved does not match this host any more.
   */
  static async restore(snapshot: string | Snapshot, options: RestoreOptions = {}): Promise<Sandbox> {
    const what = 'restore the snapshot';
    const given = restoreArguments(what, nameOf(what, snapshot), options);
    const { mode, signal } = options;
    const transport = transportOf(mode);
    return new Sandbox(transport, await transport.perform({ name: 'restore', arguments: given, signal }));
  }

  /** Whether this handle owns the lease: the sandbox ends with it. */
  get leased(): boolean {
    return this.#lease?.held ?? false;
  }

  /** Its state. */
  async state(options: Abortable = {}): Promise<State> {
    return (await this.#inspect('state', options)).state;
  }

  /** All that is known of it: how it ends, what isolates it, what the policy decided, its history. */
  async inspect(options: Abortable = {}): Promise<Inspection> {
    return this.#inspect('inspect', options);
  }

  /** What its backend can do, and what not. */
  async capabilities(options: Abortable = {}): Promise<readonly Capability[]> {
    return (await this.#inspect('capabilities', options)).capabilities;
  }

  /** What it uses. */
  async stats(options: Abortable = {}): Promise<Stats> {
    checkOptions('look at the sandbox', options, {});
    return this.#handle.perform('stats', {}, options);
  }

  /**
   * Waits until it is in a state.
   *
   * @throws {Timeout} if it is not within `timeoutMs`, a minute if left out.
   */
  async wait(
    state: State,
    options: { readonly timeoutMs?: number | undefined } & Abortable = {},
  ): Promise<SandboxInfo> {
    const what = 'wait for the sandbox';
    checked(what, 'the state', state, oneOf(...STATES));
    checkOptions(what, options, { timeoutMs: patience });
    return this.#handle.perform('wait', { state, timeoutMs: options.timeoutMs ?? 60_000 }, options);
  }

  /** Its log: what its console printed, what started commands wrote, and what was done with it. */
  logs(options: LogOptions = {}): Logs {
    return new Logs(this.#handle, options);
  }

  /** Saves it as it is at one moment: memory, disk, commands. It goes on as before. */
  async snapshot(name?: string, options: Abortable = {}): Promise<Snapshot> {
    if (name !== undefined) checked('save the sandbox', 'the name', name, text);
    checkOptions('save the sandbox', options, {});
    return this.#handle.perform('snapshot', { name }, options);
  }

  /** Makes running copies of it, all of them or none, with its memory, disk and commands. It goes on as before. */
  async fork(copies = 1, options: ForkOptions = {}): Promise<readonly Sandbox[]> {
    const what = 'fork the sandbox';
    checked(what, 'the number of copies', copies, count);
    checkOptions(what, options, { ...END, name: text });
    const given = { count: copies, name: options.name, ...endOf(what, options) };
    return (await this.#handle.perform('fork', given, options)).map(
      (made) => new Sandbox(this.#handle.transport, made),
    );
  }

  /** Saves its memory with its disk, and ends all that runs of it, until it is resumed. */
  async cold(options: Abortable = {}): Promise<SandboxInfo> {
    checkOptions('pause the sandbox', options, {});
    return this.#handle.perform('cold', {}, options);
  }

  /** Stops its processors. Its memory stays where it is. */
  async freeze(options: Abortable = {}): Promise<SandboxInfo> {
    checkOptions('freeze the sandbox', options, {});
    return this.#handle.perform('freeze', {}, options);
  }

  /** Has it go on where it was, from cold or frozen. */
  async resume(options: Abortable = {}): Promise<SandboxInfo> {
    checkOptions('resume the sandbox', options, {});
    return this.#handle.perform('resume', {}, options);
  }

  /** Ends its machine and keeps its disk. */
  async stop(options: Abortable = {}): Promise<SandboxInfo> {
    checkOptions('stop the sandbox', options, {});
    return this.#handle.perform('stop', {}, options);
  }

  /** Boots its machine on its disk. */
  async start(options: Abortable = {}): Promise<SandboxInfo> {
    checkOptions('start the sandbox', options, {});
    return this.#handle.perform('start', {}, options);
  }

  /** Gives it another time to live in milliseconds, from now on. What happens then is as before if `onExpiry` is left out. */
  async keep(
    ttlMs: number,
    options: { readonly onExpiry?: OnExpiry | undefined } & Abortable = {},
  ): Promise<SandboxInfo> {
    const what = 'keep the sandbox';
    checked(what, 'the time to live', ttlMs, duration);
    checkOptions(what, options, { onExpiry });
    const given = { ttlMs: Math.ceil(ttlMs), onExpiry: options.onExpiry };
    return this.#handle.perform('keep', given, options);
  }

  /** Has it go on without this handle and this process, until its time is up or somebody ends it. */
  async detach(options: DetachOptions = {}): Promise<SandboxInfo> {
    const what = 'detach the sandbox';
    const { lease: _, ...checks } = END;
    checkOptions(what, options, checks);
    const { lease: __, ...end } = endOf(what, { ...options, lease: false });
    const sandbox = await this.#handle.perform('detach', end, options);
    this.#lease?.drop();
    this.#lease = null;
    return sandbox;
  }

  /** Ends it at once and for good, whatever its supervisor does. The handle is closed. */
  async kill(options: Abortable = {}): Promise<DeletionReport> {
    checkOptions('kill the sandbox', options, {});
    return this.#end('kill', options);
  }

  /** Ends it for good, and says what was deleted and what that does not mean. The handle is closed. Again it says the same. */
  async destroy(options: Abortable = {}): Promise<DeletionReport> {
    checkOptions('destroy the sandbox', options, {});
    return this.#end('destroy', options);
  }

  /**
   * Closes the handle, as leaving its scope does. If it owns the lease, the sandbox is destroyed: if it cannot be asked to,
   * by force. One that somebody else has detached meanwhile lives on. Of that nothing is thrown unless the sandbox may live
   * on that should not.
   */
  async close(options: Abortable = {}): Promise<void> {
    checkOptions('close the sandbox', options, {});
    if (this.#handle.closed) return;
    if (!(this.#lease && (await this.#endsWithLease(options)))) {
      this.#lease?.drop();
      this.#handle.close('it was closed');
      return;
    }
    try {
      await this.#end('destroy', options);
    } catch (failure) {
      options.signal?.throwIfAborted();
      this.#lease?.drop();
      await this.#end('kill', {}).catch(() => {
        throw failure;
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  [Symbol.dispose](): void {
    this.#lease?.drop();
    this.#handle.close('its scope was left');
  }

  [inspect.custom](): string {
    const { target, closed } = this.#handle;
    if (target.recorded) return inspect(target);
    return `Sandbox ${inspect({ id: this.id, name: this.name, leased: this.leased, closed })}`;
  }

  async #inspect(call: string, options: Abortable): Promise<Inspection> {
    checkOptions('look at the sandbox', options, {});
    return this.#handle.perform('inspect', {}, options, call);
  }

  /** Whether it is there and still ends with its lease. */
  async #endsWithLease(options: Abortable): Promise<boolean> {
    try {
      return await this.#handle.perform('close', {}, options);
    } catch (failure) {
      options.signal?.throwIfAborted();
      // Without its lease it ends by itself, unless it was detached.
      this.#lease?.drop();
      throw failure;
    }
  }

  async #end(how: 'destroy' | 'kill', options: Abortable): Promise<DeletionReport> {
    if (this.#report) return this.#report;
    this.#ending[how] ??= this.#handle.perform(how, {}, options).then(
      (report) => {
        this.#report ??= report;
        this.#handle.close('the sandbox was destroyed');
        this.#lease?.drop();
        return this.#report;
      },
      (failure: unknown) => {
        delete this.#ending[how];
        if (this.#report) return this.#report;
        throw failure;
      },
    );
    return this.#ending[how];
  }
}

async function lookup(transport: Transport, call: string, name: string, options: Abortable): Promise<Inspection> {
  checked('find the sandbox', 'the name', name, word);
  checkOptions('find the sandbox', options, {});
  return transport.perform({ name: 'lookup', arguments: { name }, call, signal: options.signal });
}
