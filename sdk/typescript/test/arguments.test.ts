import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inspect } from 'node:util';
import { InvalidRequest, receipts, run, Sandbox, snapshots } from '@mvm/sdk';
import { failsAs, fakeMvmctl, inspectionOf, setEnv, VERSION } from './support.js';

// Any argument at all, as a caller without types may give it.
// biome-ignore lint/suspicious/noExplicitAny: that is what is tested.
type Any = any;

/** Every value is refused before anything is done, and is not shown. */
async function refused(call: (value: Any) => Promise<unknown> | unknown, values: Any[]): Promise<void> {
  for (const value of values) {
    await assert.rejects(
      async () => call(value),
      (failure) => {
        assert.ok(!inspect(failure).includes('hunter2'), inspect(value));
        return failsAs(InvalidRequest)(failure);
      },
      `${call}: ${inspect(value)}`,
    );
  }
}

const NO_TEXTS = [null, 1, true, {}, ['hunter2'], Symbol('hunter2')];
const NO_COUNTS = [0, -1, 1.5, Number.NaN, Infinity, 2 ** 32, 2 ** 53, '1', null, true, 1n];
const NO_TIMES = [0, -1, Number.NaN, '1', null, 2 ** 60, new Date()];
const NO_MAPS = ['A=hunter2', ['hunter2'], { A: 1 }, { A: null }, new Map([['A', 'hunter2']]), 1, null];

test('what a sandbox shall be is looked at before anything is done', async (t) => {
  // Were anything asked of it, it would be another error.
  setEnv(t, { MVM_CLI_BIN: '/no/such/mvmctl' });
  const create = (name: string) => (value: Any) => Sandbox.create('base', { [name]: value });
  await refused((image) => Sandbox.create(image), ['', 'a\0', ...NO_TEXTS]);
  for (const name of ['cpus', 'memoryMib', 'diskMib']) await refused(create(name), NO_COUNTS);
  for (const name of ['name', 'owner', 'profile', 'idempotencyKey']) await refused(create(name), NO_TEXTS);
  for (const name of ['env', 'secrets']) await refused(create(name), NO_MAPS);
  for (const name of ['require', 'allowMissing']) await refused(create(name), ['seccomp', [1], {}, null]);
  for (const name of ['lease', 'acceptRisk', 'dryRun']) await refused(create(name), [1, 'true', null]);
  await refused(create('ttlMs'), [0, -1, Number.NaN, -Infinity, '1h', null]);
  await refused(create('onExpiry'), ['explode', 1, null]);
  await refused(create('mode'), ['dream', 1]);
  await refused(create('signal'), [null, {}, 'abort']);
  await refused(create('ports'), ['80:80', {}, [80], [{ guestPort: 1 }], [{ guestPort: 1, hostPort: 1, also: 1 }]]);
  await refused(create('memory'), [256]);
  await refused((options) => Sandbox.create('base', options), [null, 'options', 1]);
  await refused((name) => Sandbox.connect(name), ['', 'a\0b', ...NO_TEXTS]);
  await refused((name) => Sandbox.lookup(name), ['', ...NO_TEXTS]);
  await refused((options) => Sandbox.list(options), [{ all: 1 }, { some: true }]);
  await refused((snapshot) => Sandbox.restore(snapshot), ['', 1, {}, null]);
  await refused((options) => Sandbox.restore('x', options), [{ cpus: 1 }, { diskOnly: 1 }, { lease: true, ttlMs: 1 }]);
  await refused((snapshot) => snapshots.remove(snapshot), ['', null, {}]);
});

test('what a command shall be is looked at before anything is done', async (t) => {
  setEnv(t, { MVM_CLI_BIN: '/no/such/mvmctl' });
  const with_ = (name: string) => (value: Any) => run('true', { [name]: value });
  await refused((argv) => run(argv), [[], '', [''], [1], ['a', null], {}, null, undefined, 1]);
  await refused(with_('timeoutMs'), [...NO_TIMES, Infinity]);
  await refused(with_('maxOutput'), [-1, 1.5, Number.NaN, Infinity, '1', null]);
  await refused(with_('stdin'), [1, null, {}, ['hunter2'], true]);
  for (const name of ['env', 'secrets']) await refused(with_(name), NO_MAPS);
  for (const name of ['cwd', 'user', 'image']) await refused(with_(name), NO_TEXTS);
  await refused(with_('check'), ['no', 0, null]);
  await refused(with_('receipt'), ['', 1, 'a\0b']);
  await refused(with_('onStdout'), [() => {}]);
  await refused((id) => receipts.show(id), ['', ...NO_TEXTS]);
  await refused(
    (options) => receipts.verify('x', options),
    [{ keys: 'x' }, { proof: 1 }, { opening: 1 }, { opening: {} }],
  );
});

test('what is asked of a sandbox is looked at before anything is done', async (t) => {
  await fakeMvmctl(t, `${VERSION}\ncat <<'END'\n${inspectionOf('/no/such/socket')}\nEND`);
  const sandbox = await Sandbox.connect('fake');
  setEnv(t, { MVM_CLI_BIN: '/no/such/mvmctl' });
  const { commands, files, ports } = sandbox;
  await refused((argv) => commands.run(argv), [[], '', {}, null]);
  await refused((onStdout) => commands.run('true', { onStdout }), [1, 'print', null]);
  await refused(
    (tty) => commands.start('true', { tty }),
    [true, {}, { rows: 0, cols: 1 }, { rows: 1, cols: 65_536 }, [1, 2]],
  );
  await refused((stdin) => commands.start('true', { stdin }), ['input', 1, null]);
  await refused((runId) => commands.attach(runId), ['', ...NO_TEXTS]);
  await refused((offset) => commands.attach('run-1', { offset }), [-1, 0.5, '0', null, 2 ** 53]);
  const paths = ['', 'etc', './etc', '../etc', 'C:\\', ...NO_TEXTS];
  await refused((path) => files.read(path), paths);
  await refused((path) => files.stream(path), paths);
  await refused((path) => files.write(path, ''), paths);
  await refused((path) => files.writeMany({ [String(path)]: '' }), ['etc', './etc', '']);
  await refused((path) => files.list(path), paths);
  await refused((path) => files.stat(path), paths);
  await refused((path) => files.exists(path), paths);
  await refused((path) => files.mkdir(path), paths);
  await refused((path) => files.move(path, '/x'), paths);
  await refused((path) => files.move('/x', path), paths);
  await refused((path) => files.remove(path), paths);
  await refused((guestPath) => files.upload({ hostPath: 'x', guestPath }), paths);
  await refused((hostPath) => files.download({ hostPath, guestPath: '/x' }), ['', 'a\0', ...NO_TEXTS, undefined]);
  await refused((data) => files.write('/x', data), [null, undefined, 1, {}, true]);
  await refused((mode) => files.write('/x', '', { mode }), ['0644', -1, 0o10000, 1.5, null]);
  await refused((length) => files.read('/x', { length }), [-1, 1.5, '1', null]);
  await refused((recursive) => files.remove('/x', { recursive }), [1, 'yes', null]);
  await refused((port) => ports.close(port), [null, 80, '80', {}, { hostPort: '80' }, { hostPort: 1, host: 1 }]);
  await refused((state) => sandbox.wait(state), ['asleep', '', null, 1]);
  await refused((timeoutMs) => sandbox.wait('cold', { timeoutMs }), [-1, Number.NaN, Infinity, '1', null]);
  await refused((ttl) => sandbox.keep(ttl), [...NO_TIMES, Infinity]);
  await refused((count) => sandbox.fork(count), NO_COUNTS);
  await refused((options) => sandbox.fork(1, options), [{ lease: true, ttlMs: 1 }, { name: 1 }]);
  await refused((options) => sandbox.detach(options), [{ lease: false }, { ttlMs: 0 }, { owner: 1 }]);
  await refused((name) => sandbox.snapshot(name), NO_TEXTS);
  await refused(
    (options) => sandbox.logs(options),
    [
      { since: '1h' },
      { since: new Date(Number.NaN) },
      { sinceMs: -1 },
      { since: new Date(), sinceMs: 1 },
      { tail: -1 },
      { source: 'kernel' },
      { redact: 'off' },
    ],
  );
});
