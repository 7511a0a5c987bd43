// Is killed while it makes a sandbox. Argument: its name.
import { Sandbox } from '@mvm/sdk';

const made = Sandbox.create('base', { name: process.argv[2] });
console.log('null');
await made;
