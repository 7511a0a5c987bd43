import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { mock, test } from 'node:test';
import { inspect } from 'node:util';
import {
  AlreadyExists,
  ClosedHandle,
  Internal,
  InvalidRequest,
  InvalidState,
  NotFound,
  PolicyDenied,
  Sandbox,
  snapshots,
  Timeout,
} from '@mvm/sdk';
import { ended, failsAs, IMAGE, isDestroyed, sandboxFor, setEnv, supervisorsOf, until } from './support.js';

test('what was made is found by name, by id and in the list, and its name is taken', async (t) => {
  const name = `made-${process.pid}`;
  const sandbox = await sandboxFor(t, { name, owner: 'tests', cpus: 1, memoryMib: 256, diskMib: 4096 });
  assert.deepEqual([sandbox.name, sandbox.created, sandbox.leased], [name, true, true]);
  assert.match(sandbox.id, /^mvm-[0-9a-f]{12}$/);
  assert.equal(await sandbox.state(), 'running');
  const found = await sandbox.inspect();
  assert.deepEqual(found.machine, { cpus: 1, memoryMib: 256, diskBytes: 4096 * 2 ** 20 });
  assert.deepEqual([found.owner, found.cleanup, found.image], ['tests', { kind: 'lease' }, IMAGE]);
  assert.equal(found.plan.profile, 'standard');
  assert.ok(found.isolation && found.history.length > 0 && found.deletion === null);
  assert.ok((await Sandbox.list()).some(({ id }) => id === sandbox.id));
  assert.equal((await Sandbox.lookup(sandbox.id)).name, name);
  await assert.rejects(Sandbox.create(IMAGE, { name }), failsAs(AlreadyExists));
});

test('a second handle does the same, owns no lease, and just closes', async (t) => {
  const sandbox = await sandboxFor(t);
  const other = await Sandbox.connect(sandbox.name);
  assert.deepEqual([other.id, other.created, other.leased], [sandbox.id, false, false]);
  await sandbox.files.write('/tmp/shared', 'both');
  assert.equal(await other.files.readText('/tmp/shared'), 'both');
  await other.close();
  await assert.rejects(other.state(), failsAs(ClosedHandle, /it was closed/));
  assert.equal(await sandbox.state(), 'running');
});

test('what is destroyed is reported, once or repeated, by this handle and by another', async () => {
  const sandbox = await Sandbox.create(IMAGE);
  const other = await Sandbox.connect(sandbox.id);
  const report = await sandbox.destroy();
  assert.deepEqual([report.id, report.name], [sandbox.id, sandbox.name]);
  assert.ok(report.removed.some(({ what }) => what === 'disk') && report.limits.length > 0);
  assert.equal(await sandbox.destroy(), report);
  await assert.rejects(sandbox.commands.run('true'), failsAs(ClosedHandle, /destroyed/));
  await assert.rejects(sandbox.files.read('/etc/passwd'), failsAs(ClosedHandle));
  assert.throws(() => sandbox.logs({ tail: -1 }), failsAs(InvalidRequest));
  await assert.rejects(other.commands.run('true'), failsAs(NotFound, /it was destroyed: /));
  assert.equal((await other.wait('destroyed')).state, 'destroyed');
  assert.deepEqual(await other.destroy(), report);
  await assert.rejects(Sandbox.connect(sandbox.id), failsAs(NotFound, /it was destroyed: /));
  const found = await Sandbox.lookup(sandbox.id);
  assert.deepEqual([found.state, found.deletion?.id], ['destroyed', sandbox.id]);
  assert.ok((await Sandbox.list({ all: true })).some(({ id }) => id === sandbox.id));
  assert.ok(!(await Sandbox.list()).some(({ id }) => id === sandbox.id));
  await isDestroyed(sandbox.id);
});

test('kill ends it at once, and the report is the one of destroy', async () => {
  const sandbox = await Sandbox.create(IMAGE);
  const report = await sandbox.kill();
  assert.equal(report.id, sandbox.id);
  assert.equal(await sandbox.destroy(), report);
  await isDestroyed(sandbox.id);
});

test('await using destroys where the scope is left, and does not hide what was thrown in it', async () => {
  let id = '';
  {
    await using sandbox = await Sandbox.create(IMAGE);
    id = sandbox.id;
  }
  await isDestroyed(id);
  const thrown = new RangeError('of the scope');
  const scope = async () => {
    await using sandbox = await Sandbox.create(IMAGE);
    id = sandbox.id;
    // What it would be asked to do is done already.
    await (await Sandbox.connect(id)).kill();
    throw thrown;
  };
  await assert.rejects(scope(), (failure) => failure === thrown);
  await isDestroyed(id);
});

test('using lets go at once, and the deletion follows', async () => {
  let left: Sandbox;
  {
    using sandbox = await Sandbox.create(IMAGE);
    left = sandbox;
  }
  assert.equal(left.leased, false);
  await assert.rejects(left.state(), failsAs(ClosedHandle, /its scope was left/));
  await isDestroyed(left.id);
});

test('without a lease it outlives the handle, until its time is up', async (t) => {
  const sandbox = await Sandbox.create(IMAGE, { ttlMs: 600_000.5, onExpiry: 'stop' });
  t.after(async () => (await Sandbox.connect(sandbox.id)).kill());
  assert.equal(sandbox.leased, false);
  const { cleanup } = await sandbox.inspect();
  assert.ok(cleanup.kind === 'ttl' && cleanup.ttlMs === 600_001 && cleanup.onExpiry === 'stop');
  const kept = await sandbox.keep(1_200_000, { onExpiry: 'destroy' });
  assert.ok(kept.cleanup.kind === 'ttl' && kept.cleanup.ttlMs === 1_200_000 && kept.cleanup.onExpiry === 'destroy');
  await sandbox.close();
  assert.equal((await Sandbox.lookup(sandbox.id)).state, 'running');
});

test('its ends exclude each other, and without one somebody answers for it', async (t) => {
  await assert.rejects(Sandbox.create(IMAGE, { lease: true, ttlMs: 1000 }), failsAs(InvalidRequest, /not both/));
  await assert.rejects(Sandbox.create(IMAGE, { ttlMs: Infinity }), failsAs(InvalidRequest, /somebody must answer/));
  const sandbox = await sandboxFor(t, { ttlMs: Infinity, owner: 'tests' });
  assert.deepEqual((await sandbox.inspect()).cleanup, { kind: 'explicit' });
});

test('a detached one goes on without its handle', async () => {
  const sandbox = await Sandbox.create(IMAGE);
  const info = await sandbox.detach({ owner: 'somebody', ttlMs: 60_000, onExpiry: 'destroy' });
  assert.deepEqual([sandbox.leased, info.owner, info.cleanup.kind], [false, 'somebody', 'ttl']);
  await sandbox.close();
  const other = await Sandbox.connect(sandbox.id);
  assert.equal((await other.commands.run('echo on')).stdout, 'on\n');
  await other.detach({ ttlMs: Infinity });
  assert.equal((await other.inspect()).cleanup.kind, 'explicit');
  await other.destroy();
});

test('a repeated request finds the first one', async (t) => {
  const idempotencyKey = `key-${process.pid}-${Date.now()}`;
  const first = await sandboxFor(t, { idempotencyKey });
  const again = await Sandbox.create(IMAGE, { idempotencyKey });
  assert.deepEqual([again.id, again.created, again.leased], [first.id, false, false]);
});

test('it is frozen, cold, stopped and started, and waited for', async (t) => {
  const sandbox = await sandboxFor(t);
  await sandbox.commands.run('echo kept > /tmp/kept; echo disk > /disk; sync');
  assert.equal((await sandbox.freeze()).state, 'frozen');
  await assert.rejects(sandbox.commands.run('true'), failsAs(InvalidState, /frozen/));
  await assert.rejects(sandbox.wait('running', { timeoutMs: 50 }), failsAs(Timeout));
  assert.equal((await sandbox.resume()).state, 'running');
  assert.equal((await sandbox.cold()).state, 'cold');
  assert.equal(await sandbox.state(), 'cold');
  assert.ok((await sandbox.stats()).savedBytes > 0);
  const running = sandbox.wait('running');
  assert.equal((await sandbox.resume()).state, 'running');
  assert.equal((await running).state, 'running');
  assert.equal(await sandbox.files.readText('/tmp/kept'), 'kept\n');
  assert.equal((await sandbox.stop()).state, 'stopped');
  assert.equal((await sandbox.stats()).vmmPrivateBytes, null);
  assert.equal((await sandbox.start()).state, 'running');
  assert.equal(await sandbox.files.readText('/disk'), 'disk\n');
});

test('a snapshot is sensitive, and what is restored goes on from it', async (t) => {
  const name = `saved-${process.pid}`;
  const sandbox = await sandboxFor(t);
  const job = await sandbox.commands.start('sleep 1000');
  await sandbox.files.write('/root/before', 'before');
  const saved = await sandbox.snapshot(name);
  t.after(() => snapshots.remove(saved));
  assert.deepEqual([saved.name, saved.sandbox, saved.sensitive, saved.runningJobs], [name, sandbox.id, true, 1]);
  assert.ok((await snapshots.list()).some(({ id }) => id === saved.id));
  assert.equal((await snapshots.inspect(name)).damage, null);
  await sandbox.files.write('/root/before', 'after');
  const restored = await Sandbox.restore(saved, { name: `${name}-2` });
  t.after(() => ended(restored));
  assert.equal(restored.leased, true);
  assert.equal(await restored.files.readText('/root/before'), 'before');
  assert.deepEqual(
    (await restored.commands.list()).map(({ runId }) => runId),
    [job.runId],
  );
  const extra = await sandbox.snapshot();
  assert.deepEqual(await snapshots.remove(extra.name), { id: extra.id, name: extra.name });
  await assert.rejects(snapshots.inspect(extra), failsAs(NotFound));
  await assert.rejects(Sandbox.restore('no-such-snapshot'), failsAs(NotFound));
  await assert.rejects(Sandbox.lookup('x'.repeat(1 << 20)), failsAs(Internal, /E2BIG/));
  await assert.rejects(snapshots.remove('no-such-snapshot'), failsAs(NotFound));
});

test('a restored one says which secrets it was not given', async (t) => {
  setEnv(t, { SDK_TEST_SAVED: 'Of-The-Saved-7890' });
  const secrets = { TOKEN: 'env:SDK_TEST_SAVED' };
  const sandbox = await sandboxFor(t, { secrets });
  const saved = await sandbox.snapshot();
  t.after(() => snapshots.remove(saved));
  await sandbox.destroy();
  await using without = await Sandbox.restore(saved);
  assert.deepEqual(without.missingSecrets, ['TOKEN']);
  await without.close();
  await using with_ = await Sandbox.restore(saved, { secrets });
  assert.deepEqual(with_.missingSecrets, []);
  assert.equal((await with_.commands.run('echo $TOKEN')).stdout, '[redacted:TOKEN]\n');
});

test('forks are leased copies, each of its own', async (t) => {
  const sandbox = await sandboxFor(t);
  await sandbox.files.write('/root/common', 'common');
  const copies = await sandbox.fork(2, { name: `fork-${process.pid}` });
  assert.deepEqual(
    copies.map(({ name }) => name),
    [`fork-${process.pid}-1`, `fork-${process.pid}-2`],
  );
  assert.deepEqual(
    copies.map(({ leased }) => leased),
    [true, true],
  );
  for (const copy of copies) assert.equal(await copy.files.readText('/root/common'), 'common');
  await Promise.all(copies.map((copy) => copy.close()));
  const [kept] = await sandbox.fork(1, { ttlMs: 60_000 });
  assert.ok(kept && !kept.leased && (await kept.inspect()).cleanup.kind === 'ttl');
  await kept.destroy();
});

test('what the policy would decide is told, and nothing is made; what it refuses says every reason', async () => {
  const name = `plan-${process.pid}`;
  const plan = await Sandbox.create(IMAGE, { name, dryRun: true });
  assert.deepEqual([plan.schema, plan.operation, plan.allowed, plan.denials], ['mvm.plan/v1', 'up', true, []]);
  await assert.rejects(Sandbox.lookup(name), failsAs(NotFound));
  const wish = { profile: 'restrictive', memoryMib: 1 << 20, ports: [{ guestPort: 80, hostPort: 0 }] };
  const refused = await Sandbox.create(IMAGE, { ...wish, dryRun: true });
  assert.equal(refused.allowed, false);
  await assert.rejects(Sandbox.create(IMAGE, wish), (failure) => {
    failsAs(PolicyDenied)(failure);
    assert.ok(failure instanceof PolicyDenied);
    assert.deepEqual(failure.denials, refused.denials);
    assert.ok(failure.denials.length > 1 && failure.denials.every((denial) => denial.rule && denial.remedy));
    return true;
  });
});

test('what it can do and what it uses has types', async (t) => {
  const sandbox = await sandboxFor(t);
  const capabilities = await sandbox.capabilities();
  assert.ok(capabilities.some(({ name, supported }) => name === 'exec' && supported));
  assert.ok(capabilities.some(({ name, supported, limits }) => name === 'network' && !supported && limits));
  const stats = await sandbox.stats();
  assert.ok(stats.diskBytes > 0 && (stats.vmmPrivateBytes ?? 0) > 0 && stats.runningJobs === 0);
  assert.match(inspect(sandbox), /^Sandbox \{\s+id: 'mvm-/);
});

test('an aborted creation leaves nothing', async () => {
  const before = new Set((await Sandbox.list({ all: true })).map(({ id }) => id));
  const reason = new Error('not any more');
  for (const options of [{}, { ttlMs: 600_000 }]) {
    const controller = new AbortController();
    setTimeout(() => controller.abort(reason), 40);
    const made = Sandbox.create(IMAGE, { ...options, signal: controller.signal });
    await assert.rejects(made, (failure) => failure === reason);
  }
  for (const { id } of await Sandbox.list({ all: true })) {
    if (!before.has(id)) await isDestroyed(id);
  }
});

test('copies and snapshots that are aborted leave nothing', async (t) => {
  const sandbox = await sandboxFor(t);
  const reason = new Error('no copies');
  for (const name of ['fork', 'snapshot'] as const) {
    const controller = new AbortController();
    const { signal } = controller;
    const made =
      name === 'fork' ? sandbox.fork(1, { ttlMs: 600_000, signal }) : sandbox.snapshot('unwanted', { signal });
    setTimeout(() => controller.abort(reason), 5);
    await assert.rejects(made, (failure) => failure === reason);
  }
  const ofIt = ({ name }: { name: string }) => name.startsWith(`${sandbox.name}-`);
  await until('the copy was there', async () => (await Sandbox.list({ all: true })).some(ofIt));
  await until('the copy is gone', async () => !(await Sandbox.list()).some(ofIt));
  // One is saved after the other.
  await snapshots.remove(await sandbox.snapshot());
  await until('it is removed', async () => !(await snapshots.list()).some(({ name }) => name === 'unwanted'));
});

test('one that another handle detached outlives the scope', async (t) => {
  let left: Sandbox;
  {
    await using sandbox = await Sandbox.create(IMAGE);
    left = sandbox;
    const other = await Sandbox.connect(sandbox.id);
    t.after(() => other.kill());
    await other.detach({ ttlMs: 600_000 });
  }
  assert.equal(left.leased, false);
  await assert.rejects(left.state(), failsAs(ClosedHandle));
  const found = await Sandbox.lookup(left.id);
  assert.deepEqual([found.state, found.cleanup.kind], ['running', 'ttl']);
});

test('of one whose supervisor died in the scope nothing is left', async () => {
  const sandbox = await Sandbox.create(IMAGE);
  const folder = dirname(sandbox.info.socket);
  assert.ok(existsSync(folder));
  const [supervisor = 0] = await supervisorsOf(sandbox.id);
  process.kill(supervisor, 'SIGKILL');
  await until('its lease is lost', () => !sandbox.leased);
  await sandbox.close();
  assert.ok(!existsSync(folder));
  await isDestroyed(sandbox.id);
});

test('a kill does not wait for a destruction that hangs, and both say the same', { timeout: 60_000 }, async (t) => {
  const sandbox = await Sandbox.create(IMAGE);
  const [supervisor = 0] = await supervisorsOf(sandbox.id);
  process.kill(supervisor, 'SIGSTOP');
  // What would end the wait for it never comes.
  mock.timers.enable({ apis: ['setTimeout'] });
  t.after(() => mock.timers.reset());
  const destroying = sandbox.destroy();
  const report = await sandbox.kill();
  assert.equal(await destroying, report);
  mock.timers.reset();
  await isDestroyed(sandbox.id);
});

test('one whose supervisor hangs is ended by force where its scope is left', { timeout: 60_000 }, async () => {
  const sandbox = await Sandbox.create(IMAGE);
  const [supervisor = 0] = await supervisorsOf(sandbox.id);
  process.kill(supervisor, 'SIGSTOP');
  await sandbox.close();
  await isDestroyed(sandbox.id);
  assert.equal((await sandbox.destroy()).id, sandbox.id);
});

test('the mode is what the call says, and else what MVM_SDK_MODE says', async (t) => {
  setEnv(t, { MVM_SDK_MODE: 'dream' });
  await assert.rejects(Sandbox.create(IMAGE, { dryRun: true }), failsAs(InvalidRequest, /neither live nor record/));
  assert.equal((await Sandbox.create(IMAGE, { mode: 'live', dryRun: true })).allowed, true);
});
