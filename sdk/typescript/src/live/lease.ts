import { type IncomingMessage, request as open } from 'node:http';
import { TransportError } from '../errors.js';
import type { Lease } from '../operation.js';
import { refusalOf } from './http.js';
import { ANSWER_MS, Stop } from './stop.js';

/**
 * Claims a sandbox: it lives as long as this connection and this process. The connection keeps no process from ending, so
 * a script that is done ends, and its sandboxes with it.
 */
export async function claim(socket: string, signal?: AbortSignal): Promise<Lease> {
  const stop = new Stop(signal, ANSWER_MS);
  const request = open({ socketPath: socket, path: '/v1/lease', agent: false, headers: { host: 'sandbox' } });
  let held = false;
  let refusing = false;
  const drop = (): void => {
    held = false;
    request.destroy();
  };
  try {
    await new Promise<void>((resolve, reject) => {
      const lost = (failure?: Error): void => {
        held = false;
        // An answer that refuses says more than its end.
        if (!refusing) reject(lostClaim(failure?.message ?? 'the connection ended'));
      };
      stop.signal.addEventListener('abort', () => reject(stop.signal.reason), { once: true });
      request.on('error', lost).on('close', () => lost());
      request.on('response', (response: IncomingMessage) => {
        if ((response.statusCode ?? 0) >= 300) {
          refusing = true;
          refusalOf(response).catch(reject);
          return;
        }
        // The one line that ever comes.
        response.on('data', () => resolve()).on('error', lost);
      });
      request.end();
    });
  } catch (failure) {
    drop();
    throw failure;
  } finally {
    stop.done();
  }
  held = true;
  request.socket?.unref();
  return {
    get held() {
      return held;
    },
    drop,
  };
}

function lostClaim(why: string): TransportError {
  return new TransportError({ what: 'cannot claim the sandbox', why, hint: 'mvmctl ps shows its state' });
}
