import { inspect } from 'node:util';
import { place } from './place.js';
import { at, type Origin, recording } from './recording.js';

/**
 * What stands for the answer of a call that was recorded. It can be awaited, shown and asked for its class; whoever uses it
 * in another way gets NotRecordable. Its fields are those that are known without a sandbox.
 */
export function answer<Type extends object>(
  type: string,
  origin: Origin,
  prototype: object = Object.prototype,
  known: Partial<Type> = {},
): Type {
  const shown = `<${type} of ${at(origin)}, which was recorded>`;
  const used = (name: string): never => {
    const why = `only a live sandbox knows it: ${at(origin)} was recorded, and did not run`;
    throw recording.refusal({ call: `${type}${name}`, place: place() }, why);
  };
  const stands = Object.defineProperty(Object.create(prototype) as Type, inspect.custom, { value: () => shown });
  return new Proxy(Object.freeze(Object.assign(stands, known)), {
    get(target, name) {
      if (Object.hasOwn(target, name)) return Reflect.get(target, name);
      if (name === Symbol.iterator || name === Symbol.asyncIterator) return used(`[${name.description}]`);
      // With a `then` it would be taken for a promise.
      return typeof name === 'symbol' || name === 'then' ? undefined : used(`.${name}`);
    },
    has: (target, name) => (typeof name === 'symbol' ? Reflect.has(target, name) : used(`.${name}`)),
    ownKeys: () => used(''),
  });
}
