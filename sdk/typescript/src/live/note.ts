import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { fileError } from '../host-file.js';

/** Adds a command to the list that MVM_SDK_RUNS names, for whoever started this process and wants to know of its runs. */
export async function note(sandboxId: string, runId: string): Promise<void> {
  const path = process.env.MVM_SDK_RUNS;
  if (!path) return;
  try {
    const file = await open(path, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT, 0o600);
    try {
      await file.write(`${sandboxId} ${runId}\n`);
    } finally {
      await file.close();
    }
  } catch (failure) {
    throw fileError(`cannot write ${path}`, failure, 'MVM_SDK_RUNS names a file to append to');
  }
}
