import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import * as sdk from '@mvm/sdk';
import { fakeMvmctl, IMAGE, inspectionOf, sandboxFor, VERSION } from './support.js';

const ERRORS = [
  'CommandFailed',
  'Timeout',
  'PolicyDenied',
  'InvalidState',
  'SandboxUnavailable',
  'NotFound',
  'AlreadyExists',
  'FileError',
  'ResourceExhausted',
  'BackendUnsupported',
  'RestoreRefused',
  'Incompatible',
  'NotRecordable',
  'ClosedHandle',
  'TransportError',
  'InvalidRequest',
  'Internal',
];

/** What callers see of an object: its own public fields, and the methods of its class. */
function members(value: object): string[] {
  const names = new Set(Object.keys(value));
  for (let of = Object.getPrototypeOf(value); of && of !== Object.prototype; of = Object.getPrototypeOf(of)) {
    for (const name of Object.getOwnPropertyNames(of)) names.add(name);
  }
  names.delete('constructor');
  return [...names].sort();
}

test('the package exports this and no more', () => {
  const classes = [
    'CommandResult',
    'Commands',
    'Files',
    'Job',
    'Logs',
    'Ports',
    'Receipt',
    'RunResult',
    'Sandbox',
    'Secrets',
  ];
  const own = [...classes, 'MvmError', 'gc', 'receipts', 'run', 'snapshots'];
  const declarations = ['app', 'debian', 'entrypointCommand', 'entrypointFunction', 'image', 'literal', 'localPath'];
  declarations.push('network', 'port', 'resources', 'secret');
  assert.deepEqual(Object.keys(sdk).sort(), [...own, ...declarations, ...ERRORS].sort());
});

test('there is an error class for each code, and all have the same fields', async () => {
  const document = JSON.parse(await readFile(new URL('../../../docs/openapi.json', import.meta.url), 'utf8'));
  assert.deepEqual([...document.components.schemas.ErrorCode.enum].sort(), [...ERRORS].sort());
  const fields = { what: 'cannot do it', why: 'no', hint: 'try', errno: 1, capability: 'c', denials: [] };
  for (const [name, exported] of Object.entries(sdk)) {
    if (!ERRORS.includes(name)) continue;
    const Class = exported as new (given: object) => sdk.MvmError;
    const error = new Class(fields);
    assert.ok(error instanceof sdk.MvmError && error instanceof Error);
    assert.deepEqual([error.name, error.code, error.message], [name, name, 'cannot do it: no\n  try: try']);
    const { what, why, hint, errno, capability, denials } = error;
    assert.deepEqual({ what, why, hint, errno, capability, denials }, fields);
  }
});

test('what can be called is this and no more', async (t) => {
  const statics = Object.getOwnPropertyNames(sdk.Sandbox).filter(
    (name) => !['length', 'name', 'prototype'].includes(name),
  );
  assert.deepEqual(statics.sort(), ['connect', 'create', 'list', 'lookup', 'restore']);
  assert.deepEqual(Object.keys(sdk.snapshots).sort(), ['inspect', 'list', 'remove']);
  assert.deepEqual(Object.keys(sdk.receipts).sort(), ['open', 'show', 'verify']);
  await fakeMvmctl(t, `${VERSION}\ncat <<'END'\n${inspectionOf('/no/such/socket')}\nEND`);
  const sandbox = await sdk.Sandbox.connect('fake');
  assert.deepEqual(members(sandbox), [
    'capabilities',
    'close',
    'cold',
    'commands',
    'created',
    'destroy',
    'detach',
    'files',
    'fork',
    'freeze',
    'id',
    'info',
    'inspect',
    'keep',
    'kill',
    'leased',
    'logs',
    'missingSecrets',
    'name',
    'ports',
    'resume',
    'secrets',
    'snapshot',
    'start',
    'state',
    'stats',
    'stop',
    'wait',
    'warnings',
  ]);
  assert.ok(Symbol.dispose in sandbox && Symbol.asyncDispose in sandbox);
  assert.deepEqual(members(sandbox.commands), ['attach', 'list', 'run', 'start']);
  assert.deepEqual(members(sandbox.files), [
    'download',
    'exists',
    'list',
    'mkdir',
    'move',
    'read',
    'readText',
    'remove',
    'stat',
    'stream',
    'upload',
    'write',
    'writeMany',
  ]);
  assert.deepEqual(members(sandbox.ports), ['close', 'forward', 'list']);
  assert.deepEqual(members(sandbox.secrets), ['list']);
  assert.deepEqual(members(sandbox.logs()), ['summary']);
});

test('what comes back has this and no more', async (t) => {
  const sandbox = await sandboxFor(t);
  const result = await sandbox.commands.run('true');
  const command = [
    'auditId',
    'durationMs',
    'exitCode',
    'notStarted',
    'ok',
    'oomKilled',
    'receipt',
    'redactions',
    'runId',
    'sandboxId',
    'signal',
    'stderr',
    'stderrBytes',
    'stderrData',
    'stderrTruncated',
    'stdout',
    'stdoutBytes',
    'stdoutData',
    'stdoutTruncated',
    'timedOut',
    'unrecorded',
    'warnings',
  ];
  assert.deepEqual(members(result), command);
  assert.deepEqual(members(await sdk.run('true', { image: IMAGE })), [...command, 'imageDigest', 'isolation'].sort());
  const job = await sandbox.commands.start('true');
  assert.deepEqual(members(job), [
    'closeStdin',
    'info',
    'kill',
    'offset',
    'receipt',
    'resize',
    'runId',
    'started',
    'wait',
    'warnings',
    'write',
  ]);
  assert.ok(Symbol.asyncIterator in job);
  assert.deepEqual(members(await result.receipt()), [
    'digest',
    'envelope',
    'keyid',
    'logged',
    'opened',
    'proof',
    'refusal',
    'runId',
    'statement',
    'verified',
    'write',
  ]);
});

test('what is declared is left as it is', () => {
  const serve = (count: number) => 'served'.repeat(count);
  const declared = sdk.app({
    name: 'web',
    source: sdk.localPath('.', { include: ['src/**'] }),
    image: sdk.debian({ packages: ['nodejs'] }),
    env: { LANG: sdk.literal('C'), TOKEN: sdk.secret('env:TOKEN') },
    network: sdk.network({ ports: [sdk.port({ guest: 80, host: 0 })] }),
    entrypoint: sdk.entrypointCommand(['true']),
  })(serve);
  assert.equal(declared, serve);
  assert.equal(sdk.app({ name: 'x', image: sdk.image('base') })(serve), serve);
});
