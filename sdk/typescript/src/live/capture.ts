import type { Stream } from '../api.js';
import type { Sink } from '../operation.js';
import type { Captured } from '../results.js';

/** Keeps the first bytes of each output, and passes all of it on. */
export class Capture {
  readonly #limit: number;
  readonly #sinks: Readonly<Record<Stream, Sink | undefined>>;
  readonly #kept = { stdout: new Kept(), stderr: new Kept() };
  // Characters that are cut in two by pieces come with the second.
  readonly #decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() };

  constructor(limit: number, onStdout: Sink | undefined, onStderr: Sink | undefined) {
    this.#limit = limit;
    this.#sinks = { stdout: onStdout, stderr: onStderr };
  }

  /** Takes a piece in. The command waits for whoever takes its time with it. */
  async take(stream: Stream, data: Uint8Array): Promise<void> {
    this.#kept[stream].add(data, this.#limit);
    await this.#tell(stream, this.#sinks[stream] ? this.#decoders[stream].decode(data, { stream: true }) : '');
  }

  async #tell(stream: Stream, text: string): Promise<void> {
    if (text !== '') await this.#sinks[stream]?.(text);
  }

  /** There is no more: what was kept. */
  async end(): Promise<Captured> {
    await this.#tell('stdout', this.#decoders.stdout.decode());
    await this.#tell('stderr', this.#decoders.stderr.decode());
    const { stdout, stderr } = this.#kept;
    return {
      stdout: Buffer.concat(stdout.parts),
      stderr: Buffer.concat(stderr.parts),
      stdoutTruncated: stdout.truncated,
      stderrTruncated: stderr.truncated,
    };
  }
}

class Kept {
  readonly parts: Uint8Array[] = [];
  truncated = false;
  #length = 0;

  add(data: Uint8Array, limit: number): void {
    const room = limit - this.#length;
    this.truncated ||= data.length > room;
    if (room <= 0) return;
    const part = data.length > room ? data.slice(0, room) : data;
    this.parts.push(part);
    this.#length += part.length;
  }
}
