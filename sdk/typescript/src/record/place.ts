import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Where the modules of this SDK are: whoever calls from there is not the caller. */
const OWN = fileURLToPath(new URL('..', import.meta.url));
/** The file and line of a frame, as V8 writes it: `at name (FILE:LINE:COLUMN)` or `at FILE:LINE:COLUMN`. */
const FRAME = /^ {4}at (?:async )?(?:.* \()?((?:file:\/\/)?\/[^<>]+?):(\d+):\d+\)?$/;
/** What esbuild and TypeScript make of `using`, which is in the caller's file and has no line of its own. */
const USING = /^ {4}at next \(.*\n {4}at __(?:callDispose|disposeResources) \(.*\n/m;
/** More frames than this SDK ever has on top of its caller's. */
const FRAMES = 50;

/**
 * Where this SDK was called: base name and line, such as `agent.ts:3`, with source maps those of the source. Empty if no
 * file is behind the call.
 */
export function place(): string {
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = FRAMES;
  // The text, and no structured call sites: source maps are applied only to that.
  const { stack } = new Error();
  Error.stackTraceLimit = stackTraceLimit;
  for (const frame of String(stack).replace(USING, '').split('\n')) {
    const [, file = '', line] = FRAME.exec(frame) ?? [];
    const path = file.startsWith('file:') ? fileURLToPath(file) : file;
    if (path !== '' && !path.startsWith(OWN)) return `${basename(path)}:${line}`;
  }
  return '';
}
