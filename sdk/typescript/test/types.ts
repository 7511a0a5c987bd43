/**
 * What the compiler must accept, and what it must not. Nothing here is run.
 *
 * @module
 */

import * as mvm from '@mvm/sdk';
import {
  type CommandResult,
  type DeletionReport,
  type Job,
  type JobResult,
  type LogGap,
  type LogLine,
  type LogSummary,
  MvmError,
  type Output,
  type OutputGap,
  type Plan,
  type Port,
  type RunResult,
  receipts,
  run,
  Sandbox,
  type SandboxInfo,
  type Snapshot,
  type State,
  snapshots,
  Timeout,
  type Verification,
} from '@mvm/sdk';

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
/** Compiles only if the value is of exactly this type. */
function is<Wanted>() {
  return <Given>(_value: Given, ..._proof: Same<Wanted, Given> extends true ? [] : [never]): void => {};
}

export async function sandboxes(dryRun: boolean): Promise<void> {
  is<Sandbox>()(await Sandbox.create());
  is<Sandbox>()(await Sandbox.create('base', { dryRun: false }));
  is<Plan>()(await Sandbox.create('base', { dryRun: true }));
  // @ts-expect-error: which of both comes back must be known.
  await Sandbox.create('base', { dryRun });
  await using sandbox = await Sandbox.create('base', { memoryMib: 256, ttlMs: Infinity, owner: 'me' });
  using other = await Sandbox.connect('name');
  is<State>()(await other.state());
  is<DeletionReport>()(await sandbox.destroy());
  is<SandboxInfo>()(await sandbox.cold());
  is<readonly Sandbox[]>()(await sandbox.fork(2));
  is<Snapshot>()(await sandbox.snapshot());
  await Sandbox.restore(await sandbox.snapshot());
  await snapshots.remove('x', { signal: AbortSignal.timeout(1) });
  // @ts-expect-error: handles are made by their functions.
  new Sandbox();
  // @ts-expect-error: durations are in milliseconds, and say so.
  await Sandbox.create('base', { ttl: 60 });
  // @ts-expect-error
  await Sandbox.create('base', { onExpiry: 'explode' });
  // @ts-expect-error
  await Sandbox.create('base', { cpus: '2' });
  // @ts-expect-error
  await Sandbox.create('base', { env: { A: 1 } });
  // @ts-expect-error: image and shape are the snapshot's.
  await Sandbox.restore('x', { cpus: 2 });
  // @ts-expect-error
  await sandbox.wait('asleep');
  // @ts-expect-error: it has to be said for how long.
  await sandbox.keep();
  // @ts-expect-error
  sandbox.id = 'mvm-000000000000';
}

export async function commands(sandbox: Sandbox): Promise<void> {
  const result = await sandbox.commands.run(['ls'], { check: true, onStdout: (text) => is<string>()(text) });
  is<CommandResult>()(result);
  is<number | null>()(result.exitCode);
  is<Uint8Array>()(result.stdoutData);
  is<string>()(result.stdout);
  is<RunResult>()(await run('true'));
  is<Plan>()(await run('true', { dryRun: true }));
  const job = await sandbox.commands.start('cat', { stdin: true, tty: { rows: 24, cols: 80 } });
  is<Job>()(job);
  for await (const piece of job) {
    is<Output | OutputGap>()(piece);
    if (piece.type === 'gap') is<number>()(piece.bytes);
    else is<Uint8Array>()(piece.data);
  }
  is<JobResult>()(await job.wait({ timeoutMs: 1000 }));
  // @ts-expect-error: a program is a text.
  await sandbox.commands.run([1]);
  // @ts-expect-error
  await sandbox.commands.run('true', { timeout: 1 });
  // @ts-expect-error: whether input comes, not the input.
  await sandbox.commands.start('cat', { stdin: 'text' });
  // @ts-expect-error: one that started it has its terminal.
  await sandbox.commands.run('true', { tty: { rows: 1, cols: 1 } });
  // @ts-expect-error
  result.exitCode = 0;
}

export async function parts(sandbox: Sandbox): Promise<void> {
  is<Uint8Array>()(await sandbox.files.read('/x', { offset: 1, length: 2 }));
  is<AsyncIterable<Uint8Array>>()(sandbox.files.stream('/x'));
  await sandbox.files.write('/x', process.stdin);
  await sandbox.files.write('/x', new Uint8Array(), { mode: 0o600 });
  await sandbox.files.writeMany({ '/a': 'text', '/b': new Uint8Array() });
  // @ts-expect-error: both paths, by name.
  await sandbox.files.upload('/a', '/b');
  // @ts-expect-error
  await sandbox.files.download({ guestPath: '/a' });
  // @ts-expect-error
  await sandbox.files.write('/x', 1);
  is<Port>()(await sandbox.ports.forward({ guestPort: 80, hostPort: 0 }));
  await sandbox.ports.close({ hostPort: 80 });
  // @ts-expect-error: the port of the host is not guessed.
  await sandbox.ports.forward({ guestPort: 80 });
  const logs = sandbox.logs({ follow: true, since: new Date(), source: 'job' });
  for await (const entry of logs) {
    is<LogLine | LogGap>()(entry);
    if (entry.type === 'gap') is<number>()(entry.lines);
    else is<string>()(entry.text);
  }
  is<LogSummary | null>()(logs.summary);
  // @ts-expect-error
  sandbox.logs({ since: '1h' });
  is<Verification>()(await receipts.verify('r.json', { keys: ['key.pub'] }));
  // @ts-expect-error
  await receipts.open('r.json', 'result');
}

export function errors(failure: unknown): void {
  if (failure instanceof Timeout) {
    is<CommandResult | null>()(failure.result);
    is<'Timeout'>()(failure.code);
  }
  if (failure instanceof MvmError) is<number | null>()(failure.errno);
  // @ts-expect-error: it is one of those below it.
  new MvmError({ what: 'a', why: 'b' });
}

export async function ends(sandbox: Sandbox): Promise<void> {
  const { cleanup } = await sandbox.inspect();
  switch (cleanup.kind) {
    case 'ttl':
      is<number>()(cleanup.ttlMs);
      break;
    case 'lease':
    case 'explicit':
      // @ts-expect-error: these have none.
      cleanup.ttlMs;
      break;
    default:
      cleanup satisfies never;
  }
}

export const declared = mvm.app({
  name: 'web',
  source: mvm.localPath('.', { include: ['src/**'] }),
  image: mvm.debian({ packages: ['nodejs'] }),
  resources: mvm.resources({ cpus: 2 }),
  network: mvm.network({ ports: [mvm.port({ guest: 80, host: 0 })] }),
  env: { A: mvm.literal('1'), B: mvm.secret('env:B') },
  entrypoint: mvm.entrypointFunction({ module: 'src/web.ts', function: 'declared' }),
  ttlMs: 60_000,
  onExpiry: 'cold',
})(async (count: number) => `${count}`);

export async function declarations(): Promise<void> {
  is<string>()(await declared(1));
  // @ts-expect-error
  await declared('1');
  // @ts-expect-error
  mvm.app({});
  // @ts-expect-error
  mvm.app({ name: 'a', env: { A: '1' } });
  // @ts-expect-error
  mvm.app({ name: 'a', onExpiry: 'later' });
  // @ts-expect-error
  mvm.network({ mode: 'allow' });
  // @ts-expect-error
  mvm.port({ guest: 80 });
}
