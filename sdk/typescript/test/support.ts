/**
 * What the tests stand on: sandboxes that end with the test that made them, and looks from outside at processes.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, type RequestListener } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type CreateOptions, type MvmError, Sandbox } from '@mvm/sdk';

export const IMAGE = 'base';
/** For what would otherwise hang. */
export const PATIENCE_MS = 60_000;

/** A sandbox that ends with the test. */
export async function sandboxFor(t: TestContext, options: CreateOptions & { dryRun?: false } = {}): Promise<Sandbox> {
  const sandbox = await Sandbox.create(IMAGE, options);
  t.after(() => ended(sandbox));
  return sandbox;
}

/** Ends a sandbox in any state, and whatever became of its handle. */
export async function ended(sandbox: Sandbox): Promise<void> {
  await sandbox.close();
  const found = await Sandbox.lookup(sandbox.id);
  if (found.state !== 'destroyed') await (await Sandbox.connect(sandbox.id)).kill();
}

/** What every error says, checked; and its class. */
export function failsAs(
  Expected: abstract new (...args: never[]) => MvmError,
  why?: RegExp,
): (failure: unknown) => true {
  return (failure) => {
    assert.ok(failure instanceof Expected, `${String(failure)} is no ${Expected.name}`);
    assert.equal(failure.code, Expected.name);
    assert.equal(failure.name, Expected.name);
    assert.ok(failure.what && failure.why, String(failure));
    assert.ok(failure.message.startsWith(`${failure.what}: ${failure.why}`));
    if (why) assert.match(failure.message, why);
    return true;
  };
}

/** Waits until something is so. */
export async function until(what: string, so: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + PATIENCE_MS;
  while (!(await so())) {
    assert.ok(performance.now() < end, `it did not come about: ${what}`);
    await sleep(20);
  }
}

/** Processes with all of these among their arguments. */
export async function processesWith(...words: string[]): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const line = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '');
    const args = line.split('\0');
    if (words.every((word) => args.includes(word))) found.push(Number(name));
  }
  return found;
}

/** Processes that this one has started and that are there. */
export async function childrenOf(pid: number): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const status = await readFile(`/proc/${name}/status`, 'utf8').catch(() => '');
    if (status.includes(`\nPPid:\t${pid}\n`) && !status.includes('\nState:\tZ')) found.push(Number(name));
  }
  return found;
}

export const supervisorsOf = (id: string) => processesWith('supervise', id);

/** Waits until a sandbox is destroyed, as the host sees it. */
export async function isDestroyed(id: string): Promise<void> {
  await until(`${id} is destroyed`, async () => (await supervisorsOf(id)).length === 0);
  assert.equal((await Sandbox.lookup(id)).state, 'destroyed');
}

/** A directory that is removed after the test. */
export async function folderFor(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'mvm-sdk-test-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

const changed = new WeakMap<TestContext, Set<string>>();

/** Sets variables of this process until the test ends. */
export function setEnv(t: TestContext, values: Record<string, string | undefined>): void {
  const known = changed.get(t) ?? new Set();
  changed.set(t, known);
  for (const [name, value] of Object.entries(values)) {
    const before = process.env[name];
    // What it was before the test, whatever the test makes of it.
    if (!known.has(name)) t.after(() => setVariable(name, before));
    known.add(name);
    setVariable(name, value);
  }
}

function setVariable(name: string, value: string | undefined): void {
  if (value === undefined) delete process.env[name];
  else process.env[name] = value;
}

/** Has the SDK use a program that prints what the script, in which `$1` is the verb, says. */
export async function fakeMvmctl(t: TestContext, script: string): Promise<string> {
  const path = join(await folderFor(t), 'mvmctl');
  await writeFile(path, `#!/bin/sh\n${script}\n`);
  await chmod(path, 0o755);
  setEnv(t, { MVM_CLI_BIN: path });
  return path;
}

export const VERSION = `[ "$1" = version ] && { echo '{"version":"1.0","api":{"oldest":1,"newest":1}}'; exit; }`;

/** What mvmctl says of a sandbox with this socket. */
export function inspectionOf(socket: string, state = 'running'): string {
  const plan = {
    schema: 'mvm.plan/v1',
    operation: 'up',
    profile: 'standard',
    profile_digest: '',
    allowed: true,
    lines: [],
    denials: [],
    enforced: { cpus: 1, memory_mib: 256, disk_bytes: 1, user: '', unprivileged: false },
    allowed_missing: [],
  };
  const machine = { cpus: 1, memory_mib: 256, disk_bytes: 1 };
  return JSON.stringify({
    id: 'mvm-000000000000',
    name: 'fake',
    state,
    cause: 'a test',
    since_ms: 1,
    created_at_ms: 1,
    owner: '',
    cleanup: { kind: 'explicit' },
    image: IMAGE,
    image_digest: '',
    machine,
    legal: [],
    socket,
    plan,
    capabilities: [],
    env: [],
    secrets: [],
    ports: [],
    history: [],
  });
}

/** A server on a Unix socket. */
async function serve(t: TestContext, listener: RequestListener): Promise<string> {
  const socket = join(await folderFor(t), 's');
  const server = createServer(listener).listen(socket);
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return socket;
}

/** A handle on a sandbox whose supervisor is this function. */
export async function fakeSandbox(t: TestContext, listener: RequestListener): Promise<Sandbox> {
  const socket = await serve(t, listener);
  await fakeMvmctl(t, `${VERSION}\ncat <<'END'\n${inspectionOf(socket)}\nEND`);
  return Sandbox.connect('fake');
}

/** Has such a one be made. What is asked of mvmctl beside that fails, and is in the file that is returned. */
export async function fakeCreation(t: TestContext, listener: RequestListener): Promise<string> {
  const socket = await serve(t, listener);
  const log = join(await folderFor(t), 'log');
  const made = { ...JSON.parse(inspectionOf(socket)), created: true, warnings: [] };
  const error = { code: 'Internal', what: 'cannot', why: 'this is a fake', hint: '' };
  const creation = `[ "$1" = up ] && { cat <<'END'\n${JSON.stringify(made)}\nEND\nexit; }`;
  await fakeMvmctl(t, `${VERSION}\n${creation}\necho "$*" >> ${log}\necho '${JSON.stringify({ error })}'; exit 125`);
  return log;
}

/** A script of its own process, and the JSON that it prints, one value a line. */
export interface Script {
  readonly child: ChildProcess;
  readonly said: AsyncIterator<unknown>;
  /** What it wrote to standard error. */
  readonly complaints: string[];
}

/** Runs a script of the folder `scripts` in a process of its own. */
export function startScript(t: TestContext, name: string, ...args: string[]): Script {
  const path = fileURLToPath(new URL(`scripts/${name}`, import.meta.url));
  const child = spawn(process.execPath, [path, ...args], { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  t.after(() => child.kill('SIGKILL'));
  const complaints: string[] = [];
  child.stderr.on('data', (piece) => complaints.push(String(piece)));
  async function* lines(): AsyncGenerator<unknown> {
    let text = '';
    for await (const piece of child.stdout ?? []) {
      text += piece;
      const whole = text.split('\n');
      text = whole.pop() ?? '';
      for (const line of whole) yield JSON.parse(line);
    }
  }
  return { child, said: lines(), complaints };
}

/** The next value that a script prints. */
export async function next<T>(script: Script): Promise<T> {
  const { value, done } = await script.said.next();
  assert.ok(!done, `the script ended: ${script.complaints.join('')}`);
  return value as T;
}

/** How a script ended. */
export async function endOf({ child }: Script): Promise<{ code: number | null; signal: string | null }> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  return { code: child.exitCode, signal: child.signalCode };
}

export { sleep };
