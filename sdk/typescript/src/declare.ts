/**
 * Declarations of workloads, which `mvmctl compile` reads from the source, by its syntax, and never by importing it.
 *
 * So what these functions are given has to be written out: texts, numbers, lists and objects of them, and names of such
 * constants of the same module. When the module is imported after all, as in the sandbox that runs it, they do nothing.
 *
 * @module
 */

import type { OnExpiry } from './api.js';

/** A directory of this host whose files go with the workload. */
export interface LocalPath {
  readonly kind: 'localPath';
  readonly path: string;
  readonly include: readonly string[];
  readonly exclude: readonly string[];
}

/** What a workload is built on: an image by its name, or Debian with packages. */
export interface BaseImage {
  readonly kind: 'image';
  readonly name: string;
  readonly packages: readonly string[];
}

/** The machine's shape. */
export interface Resources {
  /** Virtual processors; 1 if left out. */
  readonly cpus?: number;
  /** Memory in MiB; 256 if left out. */
  readonly memoryMib?: number;
  /** Size of its disk in MiB; 4096 if left out. */
  readonly diskMib?: number;
}

/** A port of this host's loopback that leads to one of the sandbox. */
export interface PortBinding {
  /** The port in the sandbox. */
  readonly guest: number;
  /** The port of this host; 0 takes a free one. */
  readonly host: number;
}

/** What a workload reaches, which is nothing (`deny`), and the ports that lead into it. */
export interface Network {
  readonly mode?: 'deny';
  readonly ports?: readonly PortBinding[];
}

/** An environment variable: its value, or where its value is. */
export interface Variable {
  readonly kind: 'literal' | 'secret';
  readonly value: string;
}

/** What runs when a workload is up: a command, or a function of a module. */
export type Entrypoint =
  | { readonly kind: 'command'; readonly argv: readonly string[] }
  | { readonly kind: 'function'; readonly module: string; readonly function: string };

/** A workload. */
export interface AppOptions {
  /** Lower-case letters, digits and hyphens; the sandbox that is made of it is called so. */
  readonly name: string;
  /** The files that go with it: {@link localPath}. */
  readonly source?: LocalPath;
  /** What it is built on: {@link debian} or {@link image}; `debian` if left out. */
  readonly image?: BaseImage;
  /** The machine's shape: {@link resources}. */
  readonly resources?: Resources;
  /** The ports that lead into it: {@link network}. Nothing leads out. */
  readonly network?: Network;
  /** Variables of every command in it, each a {@link literal} or a {@link secret}. */
  readonly env?: Readonly<Record<string, Variable>>;
  /** What runs when it is up: {@link entrypointCommand} or {@link entrypointFunction}; nothing if left out. */
  readonly entrypoint?: Entrypoint;
  /** The policy that decides about it; `standard` if left out. */
  readonly profile?: string;
  /** Milliseconds that a sandbox of it lives; what the profile gives if left out. */
  readonly ttlMs?: number;
  /** What happens when its time is up; `destroy` if left out. */
  readonly onExpiry?: OnExpiry;
}

/** Declares a workload. What it returns takes a function of the module, and returns it as it is. */
export function app(_options: AppOptions): <Function>(run: Function) => Function {
  return (run) => run;
}

/**
 * A directory beside the module, whose files are put into `/app`: its path, relative to the directory of the module, out of
 * which it may not lead; patterns of the files to take, such as `src/**`, all if left out; and patterns of those to leave out.
 */
export function localPath(
  path: string,
  { include = [], exclude = [] }: { readonly include?: readonly string[]; readonly exclude?: readonly string[] } = {},
): LocalPath {
  return { kind: 'localPath', path, include, exclude };
}

/** Debian, with packages of the distribution besides what the image `debian` has. */
export function debian({ packages }: { readonly packages: readonly string[] }): BaseImage {
  return { kind: 'image', name: 'debian', packages };
}

/** An image of this host, by its name: `debian`, `base`, or one of your own. */
export function image(name: string): BaseImage {
  return { kind: 'image', name, packages: [] };
}

/** The machine's shape. */
export function resources(shape: Resources): Resources {
  return shape;
}

/** What it reaches, and the ports that lead into it. */
export function network(wanted: Network): Network {
  return wanted;
}

/** A port of this host's loopback that leads to one of the sandbox. */
export function port(binding: PortBinding): PortBinding {
  return binding;
}

/** A value that everybody may read. */
export function literal(value: string): Variable {
  return { kind: 'literal', value };
}

/** A secret, by where its value is on the host that runs the workload: `env:VAR` or `file:PATH`. */
export function secret(reference: string): Variable {
  return { kind: 'secret', value: reference };
}

/** A program and its arguments, run in `/app` if there is a source. */
export function entrypointCommand(argv: readonly string[]): Entrypoint {
  return { kind: 'command', argv };
}

/** A function of a module of the source, such as `src/main.ts`, called without arguments. */
export function entrypointFunction(of: { readonly module: string; readonly function: string }): Entrypoint {
  return { kind: 'function', ...of };
}
