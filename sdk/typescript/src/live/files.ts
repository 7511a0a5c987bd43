/**
 * A sandbox's files.
 *
 * @module
 */

import { copyReport, fileInfo, written } from '../api.js';
import { list } from '../decode.js';
import type { Operation } from '../operation.js';
import { call, stream, tell } from './api.js';
import { pieces } from './http.js';
import type { Performers } from './index.js';
import { post } from './requests.js';
import { WORK_MS } from './stop.js';

type OfFiles = `files.${'write' | 'read' | 'list' | 'stat' | 'mkdir' | 'move' | 'remove' | 'upload' | 'download'}`;

export const files: Performers<OfFiles> = {
  'files.write': (operation) => {
    const { pieces, ...query } = operation.arguments;
    const request = { method: 'PUT', path: '/v1/files', query, pieces, limitMs: WORK_MS } as const;
    return call(operation, { ...request, idempotent: query.append !== true }, written);
  },
  'files.read': async (operation) => {
    const { path, offset, length } = operation.arguments;
    const answer = await stream(operation, { path: '/v1/files', query: { path, offset, len: length } });
    return pieces(answer, WORK_MS);
  },
  'files.list': (operation) => call(operation, { path: '/v1/files/list', query: operation.arguments }, list(fileInfo)),
  'files.stat': (operation) => call(operation, { path: '/v1/files/stat', query: operation.arguments }, fileInfo),
  'files.mkdir': (operation) => tell(operation, post('/v1/files/mkdir', operation.arguments)),
  'files.move': (operation) => {
    const { source, destination } = operation.arguments;
    return tell(operation, post('/v1/files/rename', { from: source, to: destination }));
  },
  'files.remove': (operation) => tell(operation, post('/v1/files/remove', operation.arguments)),
  'files.upload': (operation) => copy(operation, '/v1/files/copy-in'),
  'files.download': (operation) => copy(operation, '/v1/files/copy-out'),
};

/** A copy takes as long as there is to copy. */
function copy(operation: Operation<'files.upload' | 'files.download'>, path: string) {
  const { hostPath, guestPath } = operation.arguments;
  const request = { ...post(path, { host_path: hostPath, guest_path: guestPath }), limitMs: null };
  return call(operation, request, copyReport);
}
