/**
 * Programs that record: what became of them, and every public call with what becomes of it in one.
 *
 * @module
 */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gc, type Job, receipts, run, Sandbox, snapshots } from '@mvm/sdk';
import { folderFor } from './support.js';

/** A recording, as its file has it. */
export interface Recording {
  readonly schema: string;
  readonly program: string;
  readonly calls: readonly { readonly place: string; readonly call: Readonly<Record<string, unknown>> }[];
  readonly contents: Readonly<Record<string, string>>;
}

/** How a program ended, what it said, and what it recorded; null if nothing. */
export interface Ended {
  readonly code: number | null;
  readonly said: readonly unknown[];
  readonly complaint: string;
  readonly recording: Recording | null;
}

/** An error that a program caught. */
export interface Caught {
  readonly code: string;
  readonly call: string;
  readonly place: string;
  readonly what: string;
  readonly why: string;
}

/** For programs: the SDK, and `say`, which prints a value, and `caught`, which prints how a call fails, or null. */
const TOOLS = `
export * from ${JSON.stringify(import.meta.resolve('@mvm/sdk'))};
export const say = (value) => console.log(JSON.stringify(value));
export const caught = async (call) => {
  try {
    await call();
    say(null);
  } catch ({ code, call, place, what, why }) {
    say({ code, call, place, what, why });
  }
};
`;
const IMPORT = "import { caught, say, Sandbox, run, snapshots, Job, CommandResult } from './tools.mjs';";

/** How a program is run. */
interface How {
  /** Its file, `agent.mjs` if left out. What ends with `.mts` is TypeScript. */
  readonly name?: string;
  /** Where it is; a folder of its own if left out. */
  readonly folder?: string;
  /** What its environment has beside what has it record to \`out.json\`. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/** Runs a program that records, where there is no mvmctl. Its second line is the first of this text. */
export async function recorded(t: TestContext, program: string, how: How = {}): Promise<Ended> {
  const folder = how.folder ?? (await folderFor(t));
  const file = join(folder, how.name ?? 'agent.mjs');
  await writeFile(join(folder, 'tools.mjs'), TOOLS);
  await writeFile(file, `${IMPORT}\n${program}\n`);
  return recordedBy(file, [], { MVM_SDK_OUT_PATH: join(folder, 'out.json'), ...how.env });
}

/** Runs a program with these arguments. */
export async function recordedBy(
  file: string,
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<Ended> {
  const loader = file.endsWith('.mjs') ? [] : ['--import', import.meta.resolve('tsx')];
  const isolated = { PATH: '', MVM_CLI_BIN: '/no/such/mvmctl', MVM_SDK_MODE: 'record' };
  const child = spawn(process.execPath, [...loader, file, ...args], {
    env: { ...isolated, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const said: string[] = [];
  const complaints: string[] = [];
  child.stdout.on('data', (piece) => said.push(String(piece)));
  child.stderr.on('data', (piece) => complaints.push(String(piece)));
  const [code] = (await once(child, 'close')) as [number | null];
  const lines = said.join('').split('\n').slice(0, -1);
  const written = await readFile(env.MVM_SDK_OUT_PATH ?? '', 'utf8').catch(() => 'null');
  const complaint = complaints.join('');
  return { code, said: lines.map((line) => JSON.parse(line)), complaint, recording: JSON.parse(written) };
}

/** The names of what was called. */
export function callsOf({ recording }: Ended): string[] {
  assert.ok(recording, 'nothing was recorded');
  return recording.calls.flatMap(({ call }) => Object.keys(call));
}

/** The arguments of calls of this name. */
export function argumentsOf({ recording }: Ended, name: string): unknown[] {
  return (recording?.calls ?? []).flatMap(({ call }) => (name in call ? [call[name]] : []));
}

export const EACH = fileURLToPath(new URL('scripts/each.ts', import.meta.url));

type Call = (sandbox: Sandbox, job: Job) => unknown;
/** What becomes of a call in record mode. */
export type Outcome = 'recorded' | 'NotRecordable';

async function all(pieces: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of pieces);
}

/** Every public call: its name, one of it, and what becomes of it in record mode. */
export const CALLS: readonly (readonly [name: string, call: Call, outcome: Outcome])[] = [
  ['create', () => Sandbox.create('base'), 'recorded'],
  ['connect', () => Sandbox.connect('web'), 'NotRecordable'],
  ['list', () => Sandbox.list(), 'NotRecordable'],
  ['lookup', () => Sandbox.lookup('web'), 'NotRecordable'],
  ['restore', () => Sandbox.restore('saved'), 'NotRecordable'],
  ['run', () => run('true'), 'NotRecordable'],
  ['gc', () => gc(), 'NotRecordable'],
  ['snapshots.list', () => snapshots.list(), 'NotRecordable'],
  ['snapshots.inspect', () => snapshots.inspect('saved'), 'NotRecordable'],
  ['snapshots.remove', () => snapshots.remove('saved'), 'NotRecordable'],
  ['receipts.show', () => receipts.show('run-1'), 'NotRecordable'],
  ['receipts.verify', () => receipts.verify('receipt.json'), 'NotRecordable'],
  ['receipts.open', () => receipts.open('receipt.json', 'argv'), 'NotRecordable'],
  ['state', (sandbox) => sandbox.state(), 'NotRecordable'],
  ['inspect', (sandbox) => sandbox.inspect(), 'NotRecordable'],
  ['capabilities', (sandbox) => sandbox.capabilities(), 'NotRecordable'],
  ['stats', (sandbox) => sandbox.stats(), 'NotRecordable'],
  ['wait', (sandbox) => sandbox.wait('running'), 'NotRecordable'],
  ['logs', (sandbox) => all(sandbox.logs()), 'NotRecordable'],
  ['snapshot', (sandbox) => sandbox.snapshot('saved'), 'recorded'],
  ['fork', (sandbox) => sandbox.fork(), 'NotRecordable'],
  ['cold', (sandbox) => sandbox.cold(), 'NotRecordable'],
  ['freeze', (sandbox) => sandbox.freeze(), 'NotRecordable'],
  ['resume', (sandbox) => sandbox.resume(), 'NotRecordable'],
  ['stop', (sandbox) => sandbox.stop(), 'NotRecordable'],
  ['start', (sandbox) => sandbox.start(), 'NotRecordable'],
  ['keep', (sandbox) => sandbox.keep(60_000), 'recorded'],
  ['commands.run', (sandbox) => sandbox.commands.run('true'), 'recorded'],
  ['commands.start', (sandbox) => sandbox.commands.start('true'), 'recorded'],
  ['commands.list', (sandbox) => sandbox.commands.list(), 'NotRecordable'],
  ['commands.attach', (sandbox) => sandbox.commands.attach('run-1'), 'NotRecordable'],
  ['job.info', (_, job) => job.info(), 'NotRecordable'],
  ['job.write', (_, job) => job.write('text'), 'NotRecordable'],
  ['job.closeStdin', (_, job) => job.closeStdin(), 'NotRecordable'],
  ['job.wait', (_, job) => job.wait(), 'NotRecordable'],
  ['job.kill', (_, job) => job.kill(), 'NotRecordable'],
  ['job.resize', (_, job) => job.resize(24, 80), 'NotRecordable'],
  ['job.receipt', (_, job) => job.receipt(), 'NotRecordable'],
  ['files.write', ({ files }) => files.write('/a', 'text'), 'recorded'],
  ['files.writeMany', ({ files }) => files.writeMany({ '/a': 'text' }), 'recorded'],
  ['files.read', ({ files }) => files.read('/a'), 'NotRecordable'],
  ['files.readText', ({ files }) => files.readText('/a'), 'NotRecordable'],
  ['files.stream', ({ files }) => all(files.stream('/a')), 'NotRecordable'],
  ['files.list', ({ files }) => files.list('/'), 'NotRecordable'],
  ['files.stat', ({ files }) => files.stat('/a'), 'NotRecordable'],
  ['files.exists', ({ files }) => files.exists('/a'), 'NotRecordable'],
  ['files.mkdir', ({ files }) => files.mkdir('/d'), 'recorded'],
  ['files.move', ({ files }) => files.move('/a', '/b'), 'recorded'],
  ['files.remove', ({ files }) => files.remove('/b'), 'recorded'],
  ['files.upload', ({ files }) => files.upload({ hostPath: EACH, guestPath: '/e' }), 'recorded'],
  ['files.download', ({ files }) => files.download({ hostPath: 'e', guestPath: '/e' }), 'NotRecordable'],
  ['ports.forward', ({ ports }) => ports.forward({ guestPort: 80, hostPort: 0 }), 'recorded'],
  ['ports.list', ({ ports }) => ports.list(), 'NotRecordable'],
  ['ports.close', ({ ports }) => ports.close({ hostPort: 80 }), 'NotRecordable'],
  ['secrets.list', ({ secrets }) => secrets.list(), 'NotRecordable'],
  ['detach', (sandbox) => sandbox.detach(), 'recorded'],
  ['close', (sandbox) => sandbox.close(), 'recorded'],
  ['destroy', (sandbox) => sandbox.destroy(), 'recorded'],
  ['kill', (sandbox) => sandbox.kill(), 'recorded'],
];

/** Of these a sandbox has one, its last. */
export const LAST = ['detach', 'close', 'destroy', 'kill'];
