import type { Port } from './api.js';
import { type Abortable, checkOptions, isPlain, port, refuse, word } from './check.js';
import type { Handle } from './handle.js';
import type { PortArguments } from './operation.js';

/** A port of the host that shall lead into a sandbox. */
export interface PortSpec {
  /** The port in the sandbox, on its own loopback. */
  readonly guestPort: number;
  /** The port of the host; 0 takes a free one. */
  readonly hostPort: number;
  /** The address of the host to listen on; 127.0.0.1 if left out. Another one may be reached by other machines. */
  readonly host?: string | undefined;
  /** `tcp`, also if left out. */
  readonly protocol?: string | undefined;
}

/** A forwarded port, by the host's side of it. */
export interface PortName {
  readonly hostPort: number;
  /** 127.0.0.1 if left out. */
  readonly host?: string | undefined;
}

const LOOPBACK = '127.0.0.1';
const SPEC = { guestPort: port, hostPort: port, host: word, protocol: word };

/** Refuses what names no two ports. Neither is guessed: 0 for the host's has to be said. */
export function checkPort(what: string, given: unknown): PortArguments {
  if (!isPlain(given)) refuse(what, 'the port is not an object', 'give { guestPort, hostPort }');
  checkOptions(what, given, SPEC);
  const { guestPort, hostPort, host, protocol } = given as unknown as PortSpec;
  if (guestPort === undefined || hostPort === undefined) {
    const why = `${guestPort === undefined ? 'guestPort' : 'hostPort'} is missing`;
    refuse(what, why, 'give both; hostPort 0 takes a free one');
  }
  return { guestPort, hostPort, address: host, protocol };
}

/** Ports of the host that lead into a sandbox. */
export class Ports {
  readonly #handle: Handle;

  /** @internal */
  constructor(handle: Handle) {
    this.#handle = handle;
  }

  /** Opens a port. It stays, also while no machine runs, until it is closed. Returns the binding, and the rule that allowed it. */
  async forward(options: PortSpec & Abortable): Promise<Port> {
    const given = checkPort('forward the port', options);
    return this.#handle.perform('ports.forward', given, options);
  }

  /** Those that are open, the oldest first. */
  async list(options: Abortable = {}): Promise<readonly Port[]> {
    checkOptions('list the ports', options, {});
    return this.#handle.perform('ports.list', {}, options);
  }

  /** Closes one, and resets its connections. */
  async close(which: Port | PortName, options: Abortable = {}): Promise<void> {
    const what = 'close the port';
    const given: unknown = which;
    if (!isPlain(given)) refuse(what, 'it is neither a port nor the name of one', 'give { hostPort }');
    const { hostPort } = which;
    const address = 'address' in which ? which.address : (which.host ?? LOOPBACK);
    checkOptions(what, { hostPort: hostPort ?? null, address }, { hostPort: port, address: word });
    checkOptions(what, options, {});
    await this.#handle.perform('ports.close', { hostPort, address }, options);
  }
}
