import { InvalidRequest } from './errors.js';
import { live } from './live/index.js';
import type { Mode, Transport } from './operation.js';
import { recorder, unrecorded } from './record/index.js';

/** What performs a call in the mode that is given, else in MVM_SDK_MODE, else live. */
export function transportOf(mode?: Mode): Transport {
  const { MVM_SDK_MODE: ofProcess } = process.env;
  switch (mode ?? (ofProcess || 'live')) {
    case 'live':
      return ofProcess === 'record' ? unrecorded : live;
    case 'record':
      return recorder;
    default: {
      const why = 'MVM_SDK_MODE is neither live nor record';
      throw new InvalidRequest({ what: 'cannot choose the mode', why, hint: 'set it to one of them, or leave it out' });
    }
  }
}
