/**
 * What is done on the host, through mvmctl.
 *
 * @module
 */

import { inspection, plan, type SandboxInfo, sandboxInfo, snapshot } from '../api.js';
import { bool, integer, list, record, text } from '../decode.js';
import type { Made, Operation, RemovedSnapshot } from '../operation.js';
import type { Performers } from './index.js';
import { claim } from './lease.js';
import { mvmctl } from './mvmctl.js';
import { receiptPerformers } from './receipts.js';
import { createRequest, requestLine } from './requests.js';
import { end } from './sandboxes.js';

type OfHost =
  | 'create'
  | 'create.plan'
  | 'restore'
  | 'list'
  | 'lookup'
  | 'gc'
  | `snapshots.${'list' | 'inspect' | 'remove'}`
  | `receipts.${'show' | 'verify' | 'open'}`;

const made = record<Omit<Made, 'sandbox' | 'target' | 'lease'>>('Sandbox', {
  created: ['created', bool],
  warnings: ['warnings', list(text), []],
  missingSecrets: ['missing_secrets', list(text), []],
});
const sandboxList = record<{ sandboxes: readonly SandboxInfo[] }>('Sandboxes', {
  sandboxes: ['sandboxes', list(sandboxInfo)],
});
const snapshotList = record('Snapshots', { snapshots: ['snapshots', list(snapshot)] });
const removedList = record('Removed', {
  removed: [
    'removed',
    list(record<{ id: string; name: string }>('Removed', { id: ['id', text], name: ['name', text] })),
  ],
});
const collected = record<{ live: number; recordsRemoved: number }>('Collected', {
  live: ['live', integer],
  recordsRemoved: ['records_removed', integer],
});

export const host: Performers<OfHost> = {
  ...receiptPerformers,
  create,
  restore: create,
  'create.plan': async ({ arguments: given, signal }) => {
    const input = [requestLine(createRequest(given))];
    return plan(await mvmctl({ args: ['up', '--request', '-', '--json', '--dry-run'], input, signal }), 'the plan');
  },
  list: async ({ arguments: { all }, signal }) => {
    const said = await mvmctl({ args: ['ps', '--json', ...(all ? ['--all'] : [])], signal });
    return sandboxList(said, 'the list').sandboxes;
  },
  lookup: async ({ arguments: { name }, signal }) =>
    inspection(await mvmctl({ args: ['inspect', '--json', '--', name], signal }), 'the sandbox'),
  gc: async ({ signal }) => collected(await mvmctl({ args: ['gc', '--json'], limitMs: null, signal }), 'the report'),
  'snapshots.list': async ({ signal }) =>
    snapshotList(await mvmctl({ args: ['snapshot', 'ls', '--json'], signal }), 'the list').snapshots,
  'snapshots.inspect': async ({ arguments: { name }, signal }) =>
    snapshot(await mvmctl({ args: ['snapshot', 'inspect', '--json', '--', name], signal }), 'the snapshot'),
  'snapshots.remove': async ({ arguments: { name }, signal }) => {
    const said = await mvmctl({ args: ['snapshot', 'rm', '--json', '--', name], signal });
    return removedList(said, 'the report').removed[0] as RemovedSnapshot;
  },
};

/** Makes a sandbox and claims its lease. Nothing is left of one whose caller no longer wants it. */
async function create({ arguments: given, signal }: Operation<'create' | 'restore'>): Promise<Made> {
  const said = await mvmctl({
    args: ['up', '--request', '-', '--json'],
    input: [requestLine(createRequest(given))],
    // The first one of an image has to build it.
    limitMs: null,
    signal,
    undo: async (late) => {
      if (made(late, 'the sandbox').created) await end('kill', sandboxInfo(late, 'the sandbox').id);
    },
  });
  const sandbox = sandboxInfo(said, 'the sandbox');
  const how = made(said, 'the sandbox');
  if (!how.created || !given.lease) return { sandbox, lease: null, ...how };
  try {
    return { sandbox, lease: await claim(sandbox.socket, signal), ...how };
  } catch (failure) {
    await end('kill', sandbox.id).catch(() => {});
    throw failure;
  }
}
