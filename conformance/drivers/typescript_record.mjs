/**
 * A program that does the calls of a case, to be recorded: with MVM_SDK_MODE=record, and with the TypeScript SDK that is
 * installed.
 *
 * Its argument is those of `record` as JSON. Prints the public `methods` that it used, and the `error` with which one of them
 * failed, as `sdk.py` says of servers.
 */

import { Sandbox } from '@mvm/sdk';
import { creation, errorOf, fileContent, given, timeToLive } from './typescript_words.mjs';

/** What each call is in the SDK: of which object which method, with which arguments. Nothing looks at what it answers. */
const calls = {
  'commands.run': ({ commands }, args) => [commands, 'run', args.argv, command(args, 'stdin', 'cwd', 'max_output', 'receipt')],
  'commands.start': ({ commands }, args) => [commands, 'start', args.argv, command(args, 'idempotency_key')],
  'files.write': ({ files }, args) => [
    files, 'write', args.path, fileContent(args), given(args, 'mode', 'owner', 'append', 'sync', 'parents'),
  ],
  'files.write_many': ({ files }, args) => [files, 'writeMany', args.files, given(args, 'mode', 'owner', 'parents')],
  'files.read': ({ files }, args) => [files, 'read', args.path],
  'files.mkdir': ({ files }, args) => [files, 'mkdir', args.path, given(args, 'parents', 'mode')],
  'files.move': ({ files }, args) => [files, 'move', args.path, args.to],
  'files.remove': ({ files }, args) => [files, 'remove', args.path, given(args, 'recursive')],
  'files.copy_in': ({ files }, args) => [files, 'upload', { hostPath: args.host, guestPath: args.path }],
  'ports.forward': ({ ports }, args) => [ports, 'forward', given(args, 'guest_port', 'host_port', 'host', 'protocol')],
  snapshot: (sandbox, args) => [sandbox, 'snapshot', args.name],
  keep: (sandbox, args) => [sandbox, 'keep', args.ttl_ms, given(args, 'on_expiry')],
  detach: (sandbox, args) => [sandbox, 'detach', { ...timeToLive(args), ...given(args, 'owner', 'on_expiry') }],
  close: (sandbox) => [sandbox, 'close'],
  destroy: (sandbox) => [sandbox, 'destroy'],
  kill: (sandbox) => [sandbox, 'kill'],
};

function command(args, ...names) {
  return given(args, 'env', 'secrets', 'user', 'timeout_ms', ...names);
}

const asked = JSON.parse(process.argv[2]);
const methods = new Set(['Sandbox.create']);
const answer = {};
try {
  const sandbox = await Sandbox.create(asked.create.image, creation(asked.create));
  for (const { op, args = {} } of asked.calls) {
    const [of, method, ...rest] = calls[op](sandbox, args);
    methods.add(`${of.constructor.name}.${method}`);
    await of[method](...rest);
  }
} catch (error) {
  answer.error = errorOf(error);
}
console.log(JSON.stringify({ ...answer, methods: [...methods].sort() }));
