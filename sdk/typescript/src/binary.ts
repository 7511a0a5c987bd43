/**
 * Finds mvmctl.
 *
 * @module
 */

import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { delimiter, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { NotFound } from './errors.js';

/** Where the package keeps the program that it came with. */
const PACKAGED = fileURLToPath(new URL('../bin/mvmctl', import.meta.url));

/** The path of mvmctl: what MVM_CLI_BIN says, else the package's own, else the first on the PATH. */
export async function findBinary(env: NodeJS.ProcessEnv = process.env): Promise<string> {
  const places = env.MVM_CLI_BIN ? [resolve(env.MVM_CLI_BIN)] : [PACKAGED, ...onPath(env.PATH)];
  for (const place of places) {
    if (await isProgram(place)) return place;
  }
  throw new NotFound({
    what: 'cannot find mvmctl',
    why: `it is not at ${places.join(', ')}`,
    hint: 'install it, or set MVM_CLI_BIN to where it is',
  });
}

function onPath(path = ''): string[] {
  const folders = new Set(path.split(delimiter).filter((folder) => folder !== ''));
  return [...folders].map((folder) => join(folder, 'mvmctl'));
}

async function isProgram(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}
