import type { Abortable } from './check.js';
import { ClosedHandle } from './errors.js';
import type { ArgumentsOf, OperationName, ResultOf, Target, Transport } from './operation.js';

/** What all parts of a sandbox's handle share: which sandbox it is, and whether the handle is still open. */
export class Handle {
  readonly target: Target;
  readonly transport: Transport;
  #closed = '';

  constructor(transport: Transport, target: Target) {
    this.transport = transport;
    this.target = target;
  }

  get closed(): boolean {
    return this.#closed !== '';
  }

  /** From now on every call is refused, and says why. */
  close(why: string): void {
    this.#closed ||= why;
  }

  /** Performs an operation of this sandbox; `call` is what callers know it by, if that is not its name. */
  async perform<Name extends OperationName>(
    name: Name,
    given: ArgumentsOf<Name>,
    { signal }: Abortable = {},
    call?: string,
  ): Promise<ResultOf<Name>> {
    const { target } = this;
    if (this.closed) {
      const what = `cannot use the sandbox ${target.recorded ? `of ${target.recorded}` : target.name}`;
      const hint = 'Sandbox.connect makes another handle, if it is still there';
      throw new ClosedHandle({ what, why: this.#closed, hint });
    }
    return this.transport.perform({ name, arguments: given, call, sandbox: target, signal });
  }
}
