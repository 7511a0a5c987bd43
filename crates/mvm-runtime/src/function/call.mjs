// Calls a function of a module in a guest: node call.mjs MODULE FUNCTION
import { register } from 'node:module';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

register('./hooks.mjs', import.meta.url);
const [file, name] = process.argv.slice(2);
const module = await import(pathToFileURL(resolve(file)).href);
if (typeof module[name] !== 'function') throw new TypeError(`${file} exports no function ${name}`);
await module[name]();
