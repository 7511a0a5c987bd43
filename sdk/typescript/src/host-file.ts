import { FileError } from './errors.js';

/** What a failed call of the host's file system is. */
export function fileError(what: string, failure: unknown, hint = 'check the path, and that you may use it'): FileError {
  const { code = 'unknown', errno = 0 } = failure as NodeJS.ErrnoException;
  return new FileError({ what, why: code, hint, errno: Math.abs(errno) });
}
