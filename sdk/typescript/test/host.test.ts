import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { after, before, test } from 'node:test';
import { inspect } from 'node:util';
import { gc, InvalidRequest, type LogGap, type LogLine, type LogSummary, type Logs, NotFound, Sandbox } from '@mvm/sdk';
import { ended, failsAs, IMAGE, sandboxFor, setEnv, sleep } from './support.js';

let sandbox: Sandbox;
before(async () => {
  process.env.SDK_TEST_SECRET = 'Of-The-Host-9012';
  sandbox = await Sandbox.create(IMAGE, { secrets: { TOKEN: 'env:SDK_TEST_SECRET' } });
});
after(() => ended(sandbox));

async function linesOf(log: AsyncIterable<LogLine | LogGap>): Promise<LogLine[]> {
  const lines: LogLine[] = [];
  for await (const entry of log) if (entry.type === 'line') lines.push(entry);
  return lines;
}

const summaryOf = (log: Logs): LogSummary | null => log.summary;

test('the log has what jobs wrote, line by line, and sums up', async () => {
  const job = await sandbox.commands.start('echo a line; echo another >&2; echo AKIAIOSFODNN7EXAMPLE');
  await job.wait();
  const log = sandbox.logs({ source: 'job' });
  assert.equal(summaryOf(log), null);
  const lines = await linesOf(log);
  const mine = lines.filter(({ runId }) => runId === job.runId);
  assert.deepEqual(mine.map(({ text, stream }) => [text, stream]).slice(0, 2), [
    ['a line', 'stdout'],
    ['another', 'stderr'],
  ]);
  assert.ok(!mine.some(({ text }) => text.includes('AKIAIOSFODNN7EXAMPLE')));
  assert.equal(summaryOf(log)?.lines, lines.length);
  assert.ok((summaryOf(log)?.onReading ?? 0) > 0);
  assert.ok(summaryOf(log)?.rules.some(({ rule, redactions }) => rule && redactions > 0));
  const open = await linesOf(sandbox.logs({ source: 'job', redact: false }));
  assert.ok(open.some(({ text }) => text.includes('AKIAIOSFODNN7EXAMPLE')));
  assert.ok(!inspect(mine[0]).includes('a line'));
  assert.match(inspect(mine[0]), /^LogLine \{/);
});

test('the log is cut by count and time, and followed until an abort', async () => {
  await (await sandbox.commands.start('for n in 1 2 3; do echo line $n; done')).wait();
  assert.equal((await linesOf(sandbox.logs({ tail: 2, source: 'job' }))).length, 2);
  assert.deepEqual(await linesOf(sandbox.logs({ since: new Date(Date.now() + 60_000) })), []);
  assert.deepEqual(await linesOf(sandbox.logs({ until: new Date(0) })), []);
  assert.ok((await linesOf(sandbox.logs({ sinceMs: 600_000, untilMs: 0 }))).length > 0);
  const controller = new AbortController();
  const followed = sandbox.logs({ follow: true, tail: 0, source: 'job', signal: controller.signal });
  const reason = new Error('enough of it');
  const reading = (async () => {
    for await (const entry of followed) if (entry.type === 'line' && entry.text === 'later') controller.abort(reason);
  })();
  await sleep(100);
  await sandbox.commands.start('echo later');
  await assert.rejects(reading, (failure) => failure === reason);
});

test('secrets are listed without their values, and redacted', async () => {
  const [secret] = await sandbox.secrets.list();
  assert.deepEqual([secret?.name, secret?.kind, secret?.reference], ['TOKEN', 'env', 'env:SDK_TEST_SECRET']);
  assert.equal((await sandbox.commands.run('echo $TOKEN')).stdout, '[redacted:TOKEN]\n');
});

test('a port leads into the sandbox until it is closed', async () => {
  const job = await sandbox.commands.start('while true; do echo served | nc -l -p 8000 127.0.0.1; done');
  const port = await sandbox.ports.forward({ guestPort: 8000, hostPort: 0 });
  assert.deepEqual([port.guestPort, port.address, port.protocol, port.exposed], [8000, '127.0.0.1', 'tcp', false]);
  assert.ok(port.hostPort > 0 && port.rule && (port.auditId ?? 0) > 0);
  assert.deepEqual(
    (await sandbox.ports.list()).map(({ hostPort }) => hostPort),
    [port.hostPort],
  );
  const { hostPort } = port;
  await assert.rejects(sandbox.ports.forward({ guestPort: 8000, hostPort }), failsAs(InvalidRequest, /already/));
  let text = '';
  for (let tries = 0; text === '' && tries < 100; tries += 1) {
    const connection = connect(hostPort, '127.0.0.1');
    connection.on('data', (data) => {
      text += data;
    });
    connection.on('error', () => {});
    await new Promise((resolve) => connection.on('close', resolve));
  }
  assert.equal(text, 'served\n');
  await sandbox.ports.close(port);
  assert.deepEqual(await sandbox.ports.list(), []);
  const refused = connect(hostPort, '127.0.0.1');
  await assert.rejects(once(refused, 'connect'), { code: 'ECONNREFUSED' });
  await assert.rejects(sandbox.ports.close({ hostPort }), failsAs(NotFound));
  await job.kill();
});

test('a sandbox is made with ports', async (t) => {
  const other = await sandboxFor(t, { ports: [{ guestPort: 8000, hostPort: 0, host: '127.0.0.1' }] });
  const [port] = await other.ports.list();
  assert.ok(port && port.guestPort === 8000 && port.hostPort > 0);
  await other.ports.close({ hostPort: port.hostPort, host: port.address });
  const [, hostPort] = [await other.ports.list(), port.hostPort];
  assert.equal((await other.ports.forward({ guestPort: 1, hostPort })).hostPort, hostPort);
});

test('neither side of a port is guessed', async () => {
  const forward = (spec: object) => sandbox.ports.forward(spec as { guestPort: number; hostPort: number });
  await assert.rejects(forward({ guestPort: 80 }), failsAs(InvalidRequest, /hostPort is missing/));
  await assert.rejects(forward({ hostPort: 0 }), failsAs(InvalidRequest, /guestPort is missing/));
  await assert.rejects(forward({ guestPort: 65536, hostPort: 0 }), failsAs(InvalidRequest, /guestPort is not a port/));
  await assert.rejects(forward({ guestPort: 80, hostPort: -1 }), failsAs(InvalidRequest, /hostPort is not a port/));
});

test('a secret that cannot be had is refused before anything is made', async (t) => {
  setEnv(t, { SDK_TEST_NONE: undefined });
  await assert.rejects(Sandbox.create(IMAGE, { secrets: { A: 'env:SDK_TEST_NONE' } }), failsAs(NotFound));
  await assert.rejects(Sandbox.create(IMAGE, { secrets: { A: 'hunter2hunter2' } }), (failure) => {
    assert.ok(!inspect(failure).includes('hunter2'));
    return failsAs(InvalidRequest)(failure);
  });
});

test('clearing up says what there was', async () => {
  const { live, recordsRemoved } = await gc();
  assert.ok(live >= 1 && recordsRemoved >= 0);
});
