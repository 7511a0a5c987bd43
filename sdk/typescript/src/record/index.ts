/**
 * Records operations instead of performing them, as one workload. Nothing is started, and no secret is read.
 *
 * @module
 */

import type { Operation, Transport } from '../operation.js';
import { calls } from './calls.js';
import { place } from './place.js';
import { type Origin, recording } from './recording.js';

/** Records what has a meaning in a workload, and refuses the rest. */
export const recorder: Transport = {
  async perform(operation) {
    const origin = originOf(operation);
    operation.signal?.throwIfAborted();
    const how = calls[operation.name];
    if (!how) throw recording.refusal(origin, 'it needs an answer that only a live sandbox has');
    // A handle that closes destroys its sandbox next, which is part of closing.
    if (operation.name === 'destroy' && recording.closed) {
      return how.answer({ ...origin, call: 'close' }, operation.arguments);
    }
    const step = recording.begin(origin);
    try {
      step.complete(await how.given(operation.arguments, step));
    } catch (failure) {
      recording.drop(step);
      throw failure;
    }
    return how.answer(origin, operation.arguments);
  },
};

/** Refuses what is to be live in a process that records. */
export const unrecorded: Transport = {
  async perform(operation) {
    throw recording.refusal(originOf(operation), 'MVM_SDK_MODE says record, and a process that records boots nothing');
  },
};

function originOf({ name, call = name }: Operation): Origin {
  return { call, place: place() };
}
