/**
 * Does operations with the TypeScript SDK that is installed: what each is in its words, and what its answers say.
 *
 * Reads operations from standard input, as `sdk.py` says, and answers each with its result or error.
 */

import { createHash } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import * as mvm from '@mvm/sdk';
import { creation, errorOf, fileContent, given, holds, machine, plain, timeToLive } from './typescript_words.mjs';

// Content up to here is in the transcript as it is, beyond as its digest.
const SHOWN_BYTES = 4096;
const used = new Set();

/** Has the public methods of an object noted when they are used; their names. */
function watch(name, target) {
  const found = [];
  for (const key of Object.getOwnPropertyNames(target)) {
    const { value } = Object.getOwnPropertyDescriptor(target, key);
    if (typeof value !== 'function' || ['constructor', 'prototype'].includes(key)) continue;
    const method = `${name}.${key}`;
    const wrapped = function wrapped(...args) {
      // What the SDK calls by itself is not what a case uses.
      if (new Error().stack.split('\n')[2]?.includes('typescript_sdk')) used.add(method);
      return value.apply(this, args);
    };
    Object.defineProperty(target, key, { value: wrapped, configurable: true, writable: true });
    found.push(method);
  }
  return found;
}

/** A function of the module that is noted when it is used. */
const noted = (name) => (...args) => {
  used.add(name);
  return mvm[name](...args);
};
const [run, gc] = ['run', 'gc'].map(noted);

function textOf(content) {
  try {
    return [new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(content), 'utf-8'];
  } catch {
    return [Buffer.from(content).toString('base64'), 'base64'];
  }
}

const shown = (content) => (content.length <= SHOWN_BYTES ? textOf(content) : [null, null]);

const sha256 = (content) => createHash('sha256').update(content).digest('hex');

async function each(entries) {
  const all = [];
  for await (const entry of entries) all.push(entry);
  return all;
}

function commandResult(result, args) {
  const names = [
    'exitCode', 'signal', 'timedOut', 'oomKilled', 'notStarted', 'stdoutBytes', 'stderrBytes', 'stdoutTruncated', 'stderrTruncated',
    'redactions', 'durationMs', 'runId', 'sandboxId', 'auditId', 'unrecorded', 'warnings',
  ];
  const said = plain(Object.fromEntries(names.map((name) => [name, result[name]])));
  for (const name of ['stdout', 'stderr']) {
    [said[name], said[`${name}_encoding`]] = textOf(result[`${name}Data`]);
    holds(result[name] === Buffer.from(result[`${name}Data`]).toString(), name);
  }
  holds(result.ok === (result.exitCode === 0), 'ok');
  return { ...said, receipt: args.receipt ?? null, receipt_error: null };
}

/** A receipt that was written is the one that the result gives. */
async function sameReceipt(result, args) {
  if (!args.receipt) return;
  holds((await result.receipt()).envelope === (await readFile(args.receipt, 'utf8')), 'receipt');
}

/** The result, also of a command whose time was up. */
async function ended(running) {
  let result;
  try {
    result = await running;
  } catch (error) {
    if (!(error instanceof mvm.Timeout && error.result?.timedOut)) throw error;
    return error.result;
  }
  holds(!result.timedOut, 'a command whose time was up did not reject with Timeout');
  return result;
}

const refused = ({ name, why, exitStatus }) => ({ verified: false, refusal: { name, why, exit_status: exitStatus } });

function verification(found) {
  if (!found.verified) return refused(found.refusal);
  const { verified, keyid, digest, statement, logged } = found;
  return { verified, keyid, digest, statement, logged };
}

// Handles that were made here, by id and by the name that they had last.
const made = new Map();

function keep(sandbox) {
  made.set(sandbox.id, sandbox);
  made.set(sandbox.name, sandbox);
  return sandbox;
}

function forget(sandbox) {
  made.delete(sandbox.id);
  made.delete(sandbox.name);
}

/** A new handle of a sandbox. */
const found = (args) => mvm.Sandbox.connect(args.sandbox);

/** The handle that made it, if it was made here; it alone knows how it ended. */
const own = async (args) => made.get(args.sandbox) ?? keep(await found(args));

const attached = async (args, options) => (await found(args)).commands.attach(args.job, options);

const change = (verb) => async (args) => plain(await (await found(args))[verb]());
const end = (verb) => async (args) => plain(await (await own(args))[verb]());

const operations = {
  async create(args) {
    const sandbox = await mvm.Sandbox.create(args.image, creation(args));
    if (!(sandbox instanceof mvm.Sandbox)) return plain(sandbox);
    keep(sandbox);
    const job = args.argv ? await sandbox.commands.start(args.argv) : null;
    const opened = args.ports?.length ? await sandbox.ports.list() : [];
    const { created, warnings } = sandbox;
    return { ...plain(sandbox.info), created, job: job && plain(job.started), ports: plain(opened), warnings };
  },
  // The lease goes with the handle.
  async drop(args) {
    const sandbox = await own(args);
    sandbox[Symbol.dispose]();
    forget(sandbox);
    return null;
  },
  async close(args) {
    const sandbox = await own(args);
    await sandbox.close();
    forget(sandbox);
    return null;
  },
  async cleanup_scope(args) {
    const sandbox = await mvm.Sandbox.create(args.image, { name: args.name });
    try {
      const { exitCode, stdout, stderr } = await sandbox.commands.run(args.argv);
      return { exit_code: exitCode, stdout, stderr };
    } finally {
      await sandbox[Symbol.asyncDispose]();
    }
  },
  async connect(args) {
    const sandbox = await found(args);
    const said = plain(await sandbox.inspect());
    holds(sandbox.id === said.id && sandbox.name === said.name && !sandbox.leased, 'connect');
    return said;
  },
  inspect: async (args) => plain(await mvm.Sandbox.lookup(args.sandbox)),
  state: async (args) => ({ state: await (await found(args)).state() }),
  capabilities: async (args) => ({ capabilities: plain(await (await found(args)).capabilities()) }),
  list: async (args) => ({ sandboxes: plain(await mvm.Sandbox.list(given(args, 'all'))) }),
  wait: async (args) => plain(await (await found(args)).wait(args.state, { timeoutMs: args.timeout_ms })),
  stats: change('stats'),
  stop: change('stop'),
  start: change('start'),
  cold: change('cold'),
  freeze: change('freeze'),
  resume: change('resume'),
  keep: async (args) => plain(await (await found(args)).keep(args.ttl_ms, given(args, 'on_expiry'))),
  async detach(args) {
    // The handle that has the lease gives it up; or another one takes it from it.
    const leased = made.get(args.sandbox);
    const sandbox = leased?.leased && args.through !== 'another' ? leased : await found(args);
    return plain(await sandbox.detach({ ...timeToLive(args), ...given(args, 'owner', 'on_expiry') }));
  },
  destroy: end('destroy'),
  kill: end('kill'),
  gc: async () => plain(await gc()),
  snapshot: async (args) => plain(await (await found(args)).snapshot(args.name)),
  'snapshots.list': async () => ({ snapshots: plain(await mvm.snapshots.list()) }),
  'snapshots.inspect': async (args) => plain(await mvm.snapshots.inspect(args.snapshot)),
  'snapshots.remove': async (args) => ({ removed: [plain(await mvm.snapshots.remove(args.snapshot))] }),
  async restore(args) {
    const sandbox = keep(await mvm.Sandbox.restore(args.snapshot, { lease: false, ...given(args, 'lease', 'name', 'disk_only') }));
    const { info, created, warnings, missingSecrets } = sandbox;
    return { ...plain(info), created, warnings, missing_secrets: missingSecrets };
  },
  async fork(args) {
    const copies = await (await found(args)).fork(args.count, { name: args.name, lease: args.lease ?? false });
    return { sandboxes: copies.map((copy) => plain(keep(copy).info)) };
  },
  async run(args) {
    const options = { ...machine(args), ...given(args, 'image', 'stdin', 'cwd', 'user', 'timeout_ms', 'max_output', 'receipt') };
    const result = await ended(run(args.argv, options));
    if (args.dry_run) return plain(result);
    await sameReceipt(result, args);
    return { ...commandResult(result, args), image_digest: result.imageDigest, isolation: result.isolation };
  },
  async 'commands.run'(args) {
    const heard = { stdout: '', stderr: '' };
    const options = given(args, 'env', 'secrets', 'stdin', 'cwd', 'user', 'timeout_ms', 'max_output', 'receipt');
    const { commands } = await found(args);
    const onStdout = (text) => { heard.stdout += text; };
    const onStderr = (text) => { heard.stderr += text; };
    const result = await ended(commands.run(args.argv, { ...options, onStdout, onStderr }));
    await sameReceipt(result, args);
    for (const name of ['stdout', 'stderr']) {
      // What is kept may end within a character.
      const kept = result[name].replace(/\uFFFD+$/, '');
      holds(result[`${name}Truncated`] ? heard[name].startsWith(kept) : heard[name] === result[name], `what was told of ${name}`);
    }
    return commandResult(result, args);
  },
  async 'commands.start'(args) {
    const options = given(args, 'env', 'secrets', 'user', 'timeout_ms', 'idempotency_key');
    const job = await (await found(args)).commands.start(args.argv, options);
    return { ...plain(job.started), warnings: job.warnings };
  },
  async 'commands.talk'(args) {
    const job = await (await found(args)).commands.start(args.argv, { stdin: true });
    for (const piece of args.input) await job.write(piece);
    await job.closeStdin();
    const pieces = (await each(job)).filter((event) => event.stream === 'stdout').map((event) => event.data);
    const { exitCode } = await job.wait({ timeoutMs: 20_000 });
    return { exit_code: exitCode, stdout: Buffer.concat(pieces).toString() };
  },
  'commands.list': async (args) => ({ jobs: plain(await (await found(args)).commands.list()) }),
  'job.info': async (args) => plain(await (await attached(args)).info()),
  'job.wait': async (args) => ({
    run_id: args.job, ...plain(await (await attached(args)).wait({ timeoutMs: args.timeout_ms })),
  }),
  async 'job.kill'(args) {
    const signal = args.signal ?? 9;
    await (await attached(args)).kill(signal);
    return { run_id: args.job, signal };
  },
  async 'job.output'(args) {
    const job = await attached(args, given(args, 'offset'));
    const events = await each(job);
    const pieces = events.filter((event) => 'data' in event);
    const said = { first_offset: pieces[0]?.offset ?? null };
    for (const name of ['stdout', 'stderr']) {
      const content = Buffer.concat(pieces.filter((piece) => piece.stream === name).map((piece) => piece.data));
      [said[name], said[`${name}_encoding`]] = shown(content);
    }
    said.gaps = events.filter((event) => 'bytes' in event).map(({ offset, bytes }) => ({ offset, bytes }));
    return { ...said, result: plain((await job.info()).result) };
  },
  async 'files.write'(args) {
    const options = given(args, 'mode', 'owner', 'append', 'sync', 'parents');
    return plain(await (await found(args)).files.write(args.path, fileContent(args), options));
  },
  'files.write_many': async (args) => ({
    written: plain(await (await found(args)).files.writeMany(args.files, given(args, 'mode', 'owner', 'parents'))),
  }),
  async 'files.read'(args) {
    const { files } = await found(args);
    const options = { ...given(args, 'offset'), ...('len' in args ? { length: args.len } : {}) };
    let content;
    if (args.through === 'stream') content = Buffer.concat(await each(files.stream(args.path, options)));
    else if (args.through === 'text') content = Buffer.from(await files.readText(args.path));
    else content = await files.read(args.path, options);
    const [data, encoding] = shown(content);
    return { bytes: content.length, sha256: sha256(content), data, encoding };
  },
  'files.list': async (args) => ({ entries: plain(await (await found(args)).files.list(args.path)) }),
  'files.stat': async (args) => plain(await (await found(args)).files.stat(args.path, given(args, 'follow'))),
  'files.exists': async (args) => ({ exists: await (await found(args)).files.exists(args.path) }),
  'files.mkdir': async (args) => (await (await found(args)).files.mkdir(args.path, given(args, 'parents', 'mode'))) ?? null,
  'files.move': async (args) => (await (await found(args)).files.move(args.path, args.to)) ?? null,
  'files.remove': async (args) => (await (await found(args)).files.remove(args.path, given(args, 'recursive'))) ?? null,
  'files.copy_in': async (args) => plain(await (await found(args)).files.upload({ hostPath: args.host, guestPath: args.path })),
  'files.copy_out': async (args) => plain(await (await found(args)).files.download({ guestPath: args.path, hostPath: args.host })),
  async logs(args) {
    const options = given(args, 'source', 'tail', 'follow');
    // The command line's way to say a time: so long ago.
    for (const name of ['since', 'until']) if (name in args) options[`${name}Ms`] = args[name] === '1h' ? 3_600_000 : args[name];
    const log = (await found(args)).logs({ ...options, redact: args.redact !== 'off' });
    const events = [];
    for await (const event of log) {
      events.push(event);
      if (events.length === args.take) break;
    }
    return { events: plain(events), summary: plain(log.summary) };
  },
  async receipt(args) {
    const receipt = args.through === 'job'
      ? await (await attached(args)).receipt()
      : await mvm.receipts.show(args.job, given(args, 'sandbox'));
    if (args.path) await receipt.write(args.path);
    return { ...verification(receipt), envelope: receipt.envelope, proof: receipt.proof };
  },
  async 'receipts.verify'(args) {
    const checked = await mvm.receipts.verify(args.path, given(args, 'keys', 'proof', 'opening'));
    if (!checked.verified) return verification(checked);
    const opened = checked.opened && { field: checked.opened.field, value_base64: plain(checked.opened.value) };
    return { ...verification(checked), opened };
  },
  async 'receipts.open'(args) {
    const opening = await mvm.receipts.open(args.path, args.field, given(args, 'value'));
    if (opening.refusal) return refused(opening.refusal);
    await writeFile(args.to, opening.content);
    return JSON.parse(Buffer.from(opening.content).toString());
  },
  'secrets.list': async (args) => ({ secrets: plain(await (await found(args)).secrets.list()) }),
  async 'ports.forward'(args) {
    const options = { guestPort: args.guest_port, hostPort: Number(args.host_port), ...given(args, 'host', 'protocol') };
    return plain(await (await found(args)).ports.forward(options));
  },
  'ports.list': async (args) => ({ ports: plain(await (await found(args)).ports.list()) }),
  'ports.close': async (args) => (await (await found(args)).ports.close({ hostPort: Number(args.host_port) })) ?? null,
  methods: async () => ({ methods, packages: await packages() }),
};

/** Digests of what is installed. */
async function packages() {
  const place = dirname(fileURLToPath(import.meta.resolve('@mvm/sdk/package.json')));
  const names = (await readdir(join(place, 'dist'), { recursive: true })).filter((name) => name.endsWith('.js')).sort();
  const sources = await Promise.all(names.map((name) => readFile(join(place, 'dist', name))));
  const program = await readFile(join(place, 'bin/mvmctl'));
  return { '@mvm/sdk': `sha256:${sha256(Buffer.concat(sources))}`, mvmctl: `sha256:${sha256(program)}` };
}

/** Every public method: of the classes, whose instances are reached through them, and of the module. */
const CLASSES = ['Commands', 'CommandResult', 'Job', 'Files', 'Ports', 'Secrets', 'Receipt'];
const methods = [
  ...watch('Sandbox', mvm.Sandbox), ...watch('Sandbox', mvm.Sandbox.prototype),
  ...CLASSES.flatMap((name) => watch(name, mvm[name].prototype)),
  ...watch('snapshots', mvm.snapshots), ...watch('receipts', mvm.receipts), 'run', 'gc',
];

for await (const line of createInterface({ input: process.stdin })) {
  const { op, args } = JSON.parse(line);
  used.clear();
  let answer;
  try {
    answer = { result: await operations[op](args) };
  } catch (error) {
    answer = { error: errorOf(error) };
  }
  console.log(JSON.stringify({ ...answer, methods: [...used] }));
}
