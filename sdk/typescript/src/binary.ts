/**
 * Finds mvmctl.
 *
 * @module
 */

import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { delimiter, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { NotFound } from './errors.js';

/** Where the package keeps the program that it came with. */
const PACKAGED = fileURLToPath(new URL('../bin/mvmctl', import.meta.url));

/** The path of mvmctl: what MVM_CLI_BIN says, a path or a name on the PATH; else the package's own, else the first on the PATH. */
export async function findBinary(env: NodeJS.ProcessEnv = process.env): Promise<string> {
  const { MVM_CLI_BIN: named, PATH: path } = env;
  const places = named ? placesOf(named, path) : [PACKAGED, ...onPath('mvmctl', path)];
  for (const place of places) {
    if (await isProgram(place)) return place;
  }
  throw new NotFound({
    what: 'cannot find mvmctl',
    why: places.length > 0 ? `it is not at ${places.join(', ')}` : `MVM_CLI_BIN says ${named}, and the PATH is empty`,
    hint: 'install it, or set MVM_CLI_BIN to where it is',
  });
}

function placesOf(named: string, path?: string): string[] {
  return named.includes('/') ? [resolve(named)] : onPath(named, path);
}

function onPath(name: string, path = ''): string[] {
  const folders = new Set(path.split(delimiter).filter((folder) => folder !== ''));
  return [...folders].map((folder) => resolve(folder, name));
}

async function isProgram(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}
