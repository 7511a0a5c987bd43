import type { Operation, OperationName, ResultOf, Transport } from '../operation.js';
import { commands } from './commands.js';
import { files } from './files.js';
import { host } from './host.js';
import { jobs } from './jobs.js';
import { sandboxes } from './sandboxes.js';

/** How each operation is performed. */
export type Performers<Name extends OperationName = OperationName> = {
  readonly [Each in Name]: (operation: Operation<Each>) => Promise<ResultOf<Each>>;
};

const performers: Performers = { ...host, ...sandboxes, ...commands, ...jobs, ...files };

/** Performs operations at once and on this host: through mvmctl what makes sandboxes, through their API what is done in one. */
export const live: Transport = {
  async perform(operation) {
    operation.signal?.throwIfAborted();
    return performers[operation.name](operation);
  },
};
