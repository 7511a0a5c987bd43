import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { readFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { dirname, join } from 'node:path';
import { mock, type TestContext, test } from 'node:test';
import {
  Incompatible,
  Internal,
  InvalidState,
  NotFound,
  PolicyDenied,
  Sandbox,
  SandboxUnavailable,
  TransportError,
} from '@mvm/sdk';
import {
  failsAs,
  fakeCreation,
  fakeMvmctl,
  fakeSandbox,
  folderFor,
  IMAGE,
  inspectionOf,
  isDestroyed,
  setEnv,
  supervisorsOf,
  until,
  VERSION,
} from './support.js';

type Calls = Record<string, (sandbox: Sandbox) => Promise<unknown>>;

async function all(items: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of items);
}

/** Calls that are answered at once. */
const QUICK: Calls = {
  inspect: (sandbox) => sandbox.inspect(),
  stats: (sandbox) => sandbox.stats(),
  keep: (sandbox) => sandbox.keep(1000),
  detach: (sandbox) => sandbox.detach(),
  run: (sandbox) => sandbox.commands.run('true'),
  start: (sandbox) => sandbox.commands.start('true'),
  jobs: (sandbox) => sandbox.commands.list(),
  attach: (sandbox) => sandbox.commands.attach('run-1'),
  list: (sandbox) => sandbox.files.list('/'),
  stat: (sandbox) => sandbox.files.stat('/'),
  read: (sandbox) => sandbox.files.read('/x'),
  mkdir: (sandbox) => sandbox.files.mkdir('/x'),
  move: (sandbox) => sandbox.files.move('/x', '/y'),
  remove: (sandbox) => sandbox.files.remove('/x'),
  ports: (sandbox) => sandbox.ports.list(),
  forward: (sandbox) => sandbox.ports.forward({ guestPort: 1, hostPort: 0 }),
  close: (sandbox) => sandbox.ports.close({ hostPort: 1 }),
  secrets: (sandbox) => sandbox.secrets.list(),
  logs: (sandbox) => all(sandbox.logs()),
};
/** Calls that may take their time. */
const SLOW: Calls = {
  write: (sandbox) => sandbox.files.write('/x', 'x'),
  freeze: (sandbox) => sandbox.freeze(),
  cold: (sandbox) => sandbox.cold(),
  resume: (sandbox) => sandbox.resume(),
  stop: (sandbox) => sandbox.stop(),
  start: (sandbox) => sandbox.start(),
  snapshot: (sandbox) => sandbox.snapshot(),
  fork: (sandbox) => sandbox.fork(),
};

/** Starts calls on a sandbox whose supervisor never answers, lets time pass, and says which may be made again. */
async function hang(t: TestContext, calls: Calls, limitMs: number): Promise<string[]> {
  let asked = 0;
  const sandbox = await fakeSandbox(t, (request) => {
    request.resume();
    asked += 1;
  });
  mock.timers.enable({ apis: ['setTimeout'] });
  t.after(() => mock.timers.reset());
  const failures = Object.entries(calls).map(([name, call]) =>
    call(sandbox).then(
      () => assert.fail(`${name} did not fail`),
      (failure: unknown) => failure,
    ),
  );
  while (asked < failures.length) await new Promise(setImmediate);
  // What was sent has to be seen to be sent.
  for (let turn = 0; turn < 100; turn += 1) await new Promise(setImmediate);
  mock.timers.tick(limitMs - 1);
  await new Promise(setImmediate);
  const early = await Promise.race([...failures, Promise.resolve('none')]);
  assert.equal(early, 'none', String(early));
  mock.timers.tick(1);
  const retryable: string[] = [];
  for (const [index, failure] of (await Promise.all(failures)).entries()) {
    failsAs(TransportError, /nothing came within/)(failure);
    if ((failure as TransportError).retryable) retryable.push(Object.keys(calls)[index] ?? '');
  }
  return retryable.sort();
}

test('a supervisor that hangs is an error after its time', { timeout: 30_000 }, async (t) => {
  const reading = ['attach', 'inspect', 'jobs', 'list', 'logs', 'ports', 'read', 'secrets', 'stat', 'stats'];
  assert.deepEqual(await hang(t, QUICK, 10_000), reading);
});

test('one that may take its time is given it', { timeout: 30_000 }, async (t) => {
  assert.deepEqual(await hang(t, SLOW, 120_000), ['write']);
});

test('a wait is given its own time and ten seconds', { timeout: 30_000 }, async (t) => {
  await hang(t, { wait: (sandbox) => sandbox.wait('cold', { timeoutMs: 3000 }) }, 13_000);
});

test('the end of an input is waited for as long as the command takes', { timeout: 30_000 }, async (t) => {
  const info = {
    attached: false,
    audit_id: 1,
    end_offset: 0,
    first_offset: 0,
    program: 'x',
    run_id: 'run-1',
    started_at_ms: 1,
  };
  let finish = () => {};
  const inputs = new EventEmitter();
  const sandbox = await fakeSandbox(t, (request, response) => {
    if (request.method === 'GET') return response.end(JSON.stringify(info));
    finish = () => response.writeHead(204).end();
    request.on('end', () => inputs.emit('end')).resume();
    return response;
  });
  const job = await sandbox.commands.attach('run-1');
  await job.write('x');
  mock.timers.enable({ apis: ['setTimeout'] });
  t.after(() => mock.timers.reset());
  const ended = once(inputs, 'end');
  let closed = false;
  const closing = job.closeStdin().then(() => {
    closed = true;
  });
  await ended;
  mock.timers.tick(600_000);
  await new Promise(setImmediate);
  assert.equal(closed, false);
  finish();
  await closing;
});

test('a command with a time of its own is not waited for without end', { timeout: 30_000 }, async (t) => {
  let answered = () => {};
  const head = new Promise<void>((resolve) => {
    answered = resolve;
  });
  const sandbox = await fakeSandbox(t, (_, response) => {
    response.write('{"type":"started","run_id":"run-1","audit_id":1}\n');
    answered();
  });
  mock.timers.enable({ apis: ['setTimeout'] });
  t.after(() => mock.timers.reset());
  const failure = sandbox.commands.run('true', { timeoutMs: 1000 }).catch((error: unknown) => error);
  await head;
  for (let turn = 0; turn < 100; turn += 1) await new Promise(setImmediate);
  mock.timers.tick(31_000);
  failsAs(TransportError, /nothing came within/)(await failure);
});

type Reply = (response: ServerResponse, request: IncomingMessage) => void;
const send =
  (text: string, status = 200): Reply =>
  (response) =>
    response.writeHead(status).end(text);

test('an answer that makes no sense is an error, without what it was', async (t) => {
  let reply: Reply = send('');
  const sandbox = await fakeSandbox(t, (request, response) => reply(response, request));
  const nonsense = ['', 'null', '[1]', '"swordfish"', '{"swordfish"', '{"id": "swordfish"}', '<html>swordfish'];
  for (const text of nonsense) {
    reply = send(text);
    for (const name of ['inspect', 'stats', 'jobs', 'run', 'start', 'logs', 'stat']) {
      await assert.rejects(QUICK[name]?.(sandbox) ?? Promise.resolve(), (failure) => {
        assert.ok(!String(failure).includes('swordfish'));
        return failsAs(TransportError)(failure);
      });
    }
  }
  for (const [text, status] of [
    ['', 500],
    ['{}', 404],
    ['{"error": {"code": "NoSuchCode"}}', 400],
  ] as const) {
    reply = send(text, status);
    await assert.rejects(sandbox.stats(), failsAs(TransportError, new RegExp(`it answered ${status}`)));
  }
});

test('an error of the sandbox is the class of its code, with all that it says', async (t) => {
  let error = {};
  const sandbox = await fakeSandbox(t, (_, response) => response.writeHead(409).end(JSON.stringify({ error })));
  const denial = { rule: 'r', reason: 'because', remedy: 'none' };
  const base = { what: 'cannot', why: 'no', hint: 'try', errno: 2, capability: null, denials: [] };
  error = { ...base, code: 'InvalidState' };
  await assert.rejects(sandbox.stats(), (failure) => {
    failsAs(InvalidState)(failure);
    assert.equal((failure as InvalidState).message, 'cannot: no\n  try: try');
    return (failure as InvalidState).errno === 2;
  });
  error = { code: 'PolicyDenied', what: 'cannot', why: 'no', hint: '', denials: [denial] };
  await assert.rejects(sandbox.stats(), (failure) => {
    failsAs(PolicyDenied)(failure);
    assert.deepEqual((failure as PolicyDenied).denials, [denial]);
    return true;
  });
});

test('a connection that breaks is an error that says whether to try again', async (t) => {
  let reply: Reply = (response) => response.destroy();
  const sandbox = await fakeSandbox(t, (request, response) => reply(response, request));
  const broken = (retryable: boolean) => (failure: unknown) => {
    failsAs(TransportError)(failure);
    assert.equal((failure as TransportError).retryable, retryable);
    return true;
  };
  await assert.rejects(sandbox.stats(), broken(true));
  await assert.rejects(sandbox.freeze(), broken(false));
  await assert.rejects(sandbox.commands.run('true'), broken(false));
  await assert.rejects(sandbox.files.write('/x', 'x'), broken(true));
  await assert.rejects(sandbox.files.write('/x', 'x', { append: true }), broken(false));
  reply = (response) => {
    response.writeHead(409, { 'content-length': 100 });
    response.write('{"error"');
    setImmediate(() => response.destroy());
  };
  await assert.rejects(sandbox.stats(), broken(true));
  await assert.rejects(sandbox.freeze(), broken(false));
  const started = '{"type":"started","run_id":"run-1","audit_id":1}\n';
  reply = (response) => {
    response.write(started);
    setImmediate(() => response.destroy());
  };
  await assert.rejects(sandbox.commands.run('true'), broken(false));
  await assert.rejects(all(sandbox.files.stream('/x')), broken(true));
  reply = send(started);
  await assert.rejects(sandbox.commands.run('true'), failsAs(TransportError, /ended before the command did/));
  reply = send(started.slice(0, 20));
  await assert.rejects(sandbox.commands.run('true'), failsAs(TransportError, /half a line/));
  reply = send('{"type":"line","seq":1,"at_ms":1,"source":"job","text":"x"}\n');
  await assert.rejects(all(sandbox.logs()), failsAs(TransportError, /without its summary/));
});

test('what has no end is not held', async (t) => {
  let sent = 0;
  const flood = (response: ServerResponse): void => {
    const piece = Buffer.alloc(1 << 20, ' ');
    const more = (): void => {
      while (!response.destroyed && response.write(piece)) sent += 1;
    };
    response.on('drain', more);
    more();
  };
  const sandbox = await fakeSandbox(t, (_, response) => flood(response));
  await assert.rejects(sandbox.stats(), failsAs(TransportError, /no end/));
  await assert.rejects(all(sandbox.logs()), failsAs(TransportError, /line without an end/));
  assert.ok(sent < 400);
});

test('a socket that is gone: mvmctl says what became of the sandbox', async (t) => {
  const socket = join(await folderFor(t), 'gone');
  const log = join(await folderFor(t), 'log');
  const saying = (state: string) =>
    fakeMvmctl(t, `${VERSION}\necho "$1" >> ${log}\ncat <<'END'\n${inspectionOf(socket, state)}\nEND`);
  await saying('running');
  const sandbox = await Sandbox.connect('fake');
  await assert.rejects(sandbox.stats(), failsAs(SandboxUnavailable));
  await saying('destroyed');
  await assert.rejects(sandbox.stats(), failsAs(NotFound, /it was destroyed: a test/));
  assert.equal(await sandbox.files.exists('/x').catch((failure: unknown) => failure instanceof NotFound), true);
});

test('a scope of which the sandbox may live on says so, beside what was thrown in it', async (t) => {
  const log = await fakeCreation(t, (request, response) => {
    const leased = { ...JSON.parse(inspectionOf('')), cleanup: { kind: 'lease' } };
    if (request.url === '/v1/lease') response.write('{"claimed":true}\n');
    else if (request.method === 'GET') response.end(JSON.stringify(leased));
    else
      response
        .writeHead(500)
        .end(JSON.stringify({ error: { code: 'Internal', what: 'cannot', why: 'first', hint: '' } }));
  });
  const thrown = new RangeError('of the scope');
  const scope = async () => {
    await using sandbox = await Sandbox.create(IMAGE);
    assert.equal(sandbox.leased, true);
    throw thrown;
  };
  await assert.rejects(scope(), (failure) => {
    const { error, suppressed } = failure as { error: unknown; suppressed: unknown };
    assert.equal(suppressed, thrown);
    return failsAs(Internal, /first/)(error);
  });
  assert.equal(await readFile(log, 'utf8'), 'kill --json -- mvm-000000000000\n');
});

test('a sandbox that cannot be claimed is ended', async (t) => {
  const log = await fakeCreation(t, (_, response) => response.writeHead(409).end('{}'));
  await assert.rejects(Sandbox.create(IMAGE), failsAs(TransportError, /it answered 409/));
  assert.equal(await readFile(log, 'utf8'), 'kill --json -- mvm-000000000000\n');
});

test('why it cannot be claimed is what the sandbox says', async (t) => {
  const error = { code: 'InvalidState', what: 'cannot claim', why: 'it was claimed', hint: '' };
  const log = await fakeCreation(t, (_, response) => response.writeHead(409).end(JSON.stringify({ error })));
  await assert.rejects(Sandbox.create(IMAGE), failsAs(InvalidState, /it was claimed/));
  assert.equal(await readFile(log, 'utf8'), 'kill --json -- mvm-000000000000\n');
});

test('a supervisor that dies in the middle of a call', async () => {
  const sandbox = await Sandbox.create(IMAGE);
  const run = sandbox.commands.run('echo up; sleep 100', {
    onStdout: async () => {
      for (const pid of await supervisorsOf(sandbox.id)) process.kill(pid, 'SIGKILL');
    },
  });
  await assert.rejects(run, failsAs(TransportError));
  await until('it is known to be gone', async () => {
    const failure = await sandbox.commands.run('true').catch((error: unknown) => error);
    return failure instanceof Error && /^(NotFound|InvalidState|SandboxUnavailable)$/.test(failure.name);
  });
  await sandbox.close();
  await isDestroyed(sandbox.id);
});

test('mvmctl is looked for where it may be, and what is wrong with it is said', async (t) => {
  setEnv(t, { MVM_CLI_BIN: '/no/such/mvmctl' });
  await assert.rejects(Sandbox.list(), failsAs(NotFound, /it is not at \/no\/such\/mvmctl/));
  setEnv(t, { MVM_CLI_BIN: 'no-such-mvmctl', PATH: '/no/such:/bin' });
  await assert.rejects(Sandbox.list(), failsAs(NotFound, /\/no\/such\/no-such-mvmctl, \/bin\/no-such-mvmctl/));
  setEnv(t, { PATH: '' });
  await assert.rejects(Sandbox.list(), failsAs(NotFound, /the PATH is empty/));
  const fake = await fakeMvmctl(t, `${VERSION}\necho '{"sandboxes": []}'`);
  setEnv(t, { MVM_CLI_BIN: 'mvmctl', PATH: `${dirname(fake)}:/bin` });
  assert.deepEqual(await Sandbox.list(), []);
  setEnv(t, { MVM_CLI_BIN: undefined, PATH: '/no/such:/bin' });
  await assert.rejects(Sandbox.list(), failsAs(NotFound, /\/no\/such\/mvmctl, \/bin\/mvmctl/));
});

test('versions that do not go together are refused, and the others are not asked again', async (t) => {
  const version = (text: string, status = 0) => fakeMvmctl(t, `echo '${text}'; exit ${status}`);
  const api = (oldest: number, newest: number) => JSON.stringify({ version: '9.9', api: { oldest, newest } });
  await version('', 2);
  await assert.rejects(Sandbox.list(), failsAs(Incompatible, /older than API 1[\s\S]*update mvmctl/));
  await version('{"error": {"code": "InvalidRequest", "what": "x", "why": "y", "hint": ""}}', 125);
  await assert.rejects(Sandbox.list(), failsAs(Incompatible, /older/));
  await version(api(2, 3));
  await assert.rejects(Sandbox.list(), failsAs(Incompatible, /9\.9 speaks the API only from 2[\s\S]*speaks 1/));
  await version(api(0, 0));
  await assert.rejects(Sandbox.list(), failsAs(Incompatible, /only up to 0/));
  const log = join(await folderFor(t), 'log');
  await fakeMvmctl(t, `echo "$1" >> ${log}\n${VERSION}\ncat ${log} | grep -c version | sed 's/.*/{"sandboxes": []}/'`);
  assert.deepEqual([await Sandbox.list(), await Sandbox.list()], [[], []]);
  assert.equal(await readFile(log, 'utf8'), 'version\nps\nps\n');
});

test('what mvmctl prints may make no sense', async (t) => {
  await fakeMvmctl(t, `${VERSION}\necho nonsense; echo 'it said this' >&2; exit 3`);
  await assert.rejects(Sandbox.list(), failsAs(Internal, /status 3 and printed no JSON: it said this/));
  await fakeMvmctl(t, `${VERSION}\nhead -c 5000 /dev/zero | tr '\\0' x >&2`);
  await assert.rejects(Sandbox.list(), (failure) => (failure as Error).message.length < 3000);
  await fakeMvmctl(t, `${VERSION}\nhead -c 70000000 /dev/zero`);
  await assert.rejects(Sandbox.list(), failsAs(Internal, /more than 64 MiB/));
  await fakeMvmctl(t, `${VERSION}\necho '{"sandboxes": 1}'`);
  await assert.rejects(Sandbox.list(), failsAs(TransportError, /sandboxes is not a list/));
  await fakeMvmctl(t, `${VERSION}\nexec sleep 1000`);
  const listing = Sandbox.list({ signal: AbortSignal.timeout(200) });
  await assert.rejects(listing, { name: 'TimeoutError' });
});
