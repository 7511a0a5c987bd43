import { InvalidRequest } from './errors.js';

const NAME = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;
/** What a secret is, for who gave something else. */
export const SECRET_HINT = 'a secret is a reference: env:VAR, a variable of this process, or file:PATH';

/** Where the value of a secret is: in this variable of the process, or in this file of the host. */
export interface Reference {
  readonly kind: 'env' | 'file';
  readonly place: string;
}

/** Reads a reference, `env:VAR` or `file:PATH`. The rules are mvmctl's. What is none may be the value: it is in no error. */
export function referenceOf(name: string, reference: string): Reference {
  if (!NAME.test(name)) {
    const why = "its name is no variable's: letters, digits and _, not a digit first, at most 128 bytes";
    throw new InvalidRequest({ what: 'cannot use a secret', why, hint: SECRET_HINT });
  }
  const [, kind, place = ''] = /^(env|file):(.*)$/s.exec(reference) ?? [];
  if (kind === 'file' && place !== '' && !place.includes('\0')) return { kind, place };
  if (kind === 'env' && NAME.test(place)) return { kind, place };
  const what = `cannot use the secret ${name}`;
  throw new InvalidRequest({ what, why: 'its value may not be given here, only where it is', hint: SECRET_HINT });
}
