import type { Snapshot } from './api.js';
import { type Abortable, checked, checkOptions, word } from './check.js';
import type { RemovedSnapshot } from './operation.js';
import { transportOf } from './transport.js';

/** The name or id of a snapshot. */
export function nameOf(what: string, snapshot: string | Snapshot): string {
  const name = typeof snapshot === 'object' && snapshot !== null ? snapshot.id : snapshot;
  checked(what, 'the snapshot', name, word);
  return name;
}

/** Snapshots of this host. Whatever secrets were in a sandbox's memory are in its snapshots. */
export const snapshots = {
  /** All of them, the oldest first. */
  async list(options: Abortable = {}): Promise<readonly Snapshot[]> {
    checkOptions('list the snapshots', options, {});
    return transportOf().perform({ name: 'snapshots.list', arguments: {}, signal: options.signal });
  },

  /** One of them, with what is damaged in it if anything is. */
  async inspect(snapshot: string | Snapshot, options: Abortable = {}): Promise<Snapshot> {
    const name = nameOf('look at the snapshot', snapshot);
    checkOptions('look at the snapshot', options, {});
    return transportOf().perform({ name: 'snapshots.inspect', arguments: { name }, signal: options.signal });
  },

  /** Removes one. What was restored from it is not disturbed. */
  async remove(snapshot: string | Snapshot, options: Abortable = {}): Promise<RemovedSnapshot> {
    const name = nameOf('remove the snapshot', snapshot);
    checkOptions('remove the snapshot', options, {});
    return transportOf().perform({ name: 'snapshots.remove', arguments: { name }, signal: options.signal });
  },
};
