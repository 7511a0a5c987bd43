"""However a script ends, its sandboxes end with it; and what ends them is said."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support

import mvm

Create = Callable[..., Any]


def killed(box: Any) -> None:
    """Its supervisor, without a chance to say anything."""
    pid = support.supervisor(box.id)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    support.until(lambda: ended(pid), "the supervisor is gone")


def ended(pid: int) -> bool:
    """Whether all threads of a process are corpses, so that it has let go of all it had."""
    try:
        states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False
    return all(state[state.rindex(")") + 2] in "ZX" for state in states)


def test_a_supervisor_that_dies_while_a_command_runs(create: Create) -> None:
    box = create()
    killer = threading.Timer(0.5, killed, [box])
    killer.start()
    with pytest.raises((mvm.TransportError, mvm.SandboxUnavailable)):
        box.commands.run(["sleep", "1000"])
    killer.join()
    # The next call finds its successor, or hears what became of the sandbox.
    try:
        box.state()
    except mvm.MvmError as error:
        assert isinstance(error, (mvm.NotFound, mvm.SandboxUnavailable)), error
        assert error.why
    box.close()
    support.ended(box.id)


def test_a_supervisor_that_is_dead_gets_a_successor_that_can_be_asked(create: Create) -> None:
    box = create(ttl=300)
    killed(box)
    assert isinstance(box.state(), mvm.State)
    assert box.destroy().id == box.id
    support.ended(box.id)


def test_an_error_of_the_body_is_not_masked_by_a_cleanup_that_fails(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    box = create()
    with pytest.raises(KeyError, match="mine"), box:
        killed(box)
        monkeypatch.setenv("MVM_CLI_BIN", "/bin/false")
        raise KeyError("mine")
    with pytest.raises(mvm.ClosedHandle):
        box.state()
    monkeypatch.undo()
    support.gone(box.id)


def test_a_cleanup_that_fails_is_said_if_nothing_else_is(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    box = create()
    with pytest.raises(mvm.MvmError) as failed, box:
        killed(box)
        monkeypatch.setenv("MVM_CLI_BIN", "/bin/false")
    assert isinstance(failed.value, mvm.Incompatible)
    monkeypatch.undo()
    support.gone(box.id)


def test_a_handle_that_is_forgotten_ends_its_sandbox(name: str) -> None:
    box = mvm.Sandbox.create("base", name=name)
    id = box.id
    job = box.commands.start(["sleep", "1000"])
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del box
        gc.collect()
        # What still uses the sandbox keeps it.
        assert job.info().result is None
        assert not [warning for warning in warned if name in str(warning.message)]
        del job
        gc.collect()
    assert [warning.category for warning in warned if name in str(warning.message)] == [ResourceWarning]
    support.gone(id)


MAKE = "box = mvm.Sandbox.create('base', name=sys.argv[1]); print(box.id, flush=True)\n"


def test_a_script_that_just_ends(name: str) -> None:
    stdout, stderr = support.finished(support.script(MAKE, name))
    support.gone(stdout.strip())
    assert "ResourceWarning" in stderr


def test_an_interrupt_ends_the_script_and_its_sandbox(name: str) -> None:
    script = support.script("""
with mvm.Sandbox.create('base', name=sys.argv[1]) as box:
    print(box.id, flush=True)
    box.commands.run('echo ready; exec sleep 1000', on_stdout=lambda text: print(text, flush=True))
""", name)  # fmt: skip
    id = support.said(script)
    assert support.said(script) == "ready"
    script.send_signal(signal.SIGINT)
    _, stderr = script.communicate(timeout=support.PATIENCE)
    assert script.returncode == -signal.SIGINT
    assert stderr.strip().endswith("KeyboardInterrupt")
    support.ended(id)


def test_an_interrupt_of_an_asynchronous_script(name: str) -> None:
    script = support.script("""
import asyncio
async def main():
    async with await mvm.AsyncSandbox.create('base', name=sys.argv[1]) as box:
        print(box.id, flush=True)
        await box.commands.run('echo ready; exec sleep 1000', on_stdout=lambda text: print(text, flush=True))
asyncio.run(main())
""", name)  # fmt: skip
    id = support.said(script)
    assert support.said(script) == "ready"
    script.send_signal(signal.SIGINT)
    _, stderr = script.communicate(timeout=support.PATIENCE)
    assert stderr.strip().endswith("KeyboardInterrupt")
    support.ended(id)


def test_an_interrupt_of_a_run_leaves_nothing(name: str) -> None:
    script = support.script("print(flush=True); mvm.run(['sleep', sys.argv[1][2:].replace('-', '')], image='base')", name)
    assert script.stdout is not None
    script.stdout.readline()
    support.until(lambda: machines(script.pid), "the machine runs")
    below = machines(script.pid)
    script.send_signal(signal.SIGINT)
    _, stderr = script.communicate(timeout=support.PATIENCE)
    assert stderr.strip().endswith("KeyboardInterrupt")
    support.until(lambda: not below & support.processes().keys(), "the machine is gone")


def machines(pid: int) -> set[int]:
    """The processes of QEMU below a process."""
    parents: dict[int, int] = {}
    for other in support.processes():
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{other}/stat").read_text()
            parents[other] = int(stat[stat.rindex(")") + 2 :].split()[1])

    def below(one: int | None) -> bool:
        return one is not None and (one == pid or below(parents.get(one)))

    return {one for one, args in support.processes().items() if "qemu" in args[0] and one in parents and below(one)}


THREE = """
boxes = [mvm.Sandbox.create('base', name=f'{sys.argv[1]}-{n}') for n in range(2)]
boxes += boxes[0].fork(name=sys.argv[1] + '-f')
"""


def test_a_script_that_is_killed_holds_nothing(name: str) -> None:
    script = support.script(THREE + "print(*[box.id for box in boxes], flush=True); time.sleep(1000)", name)
    ids = support.said(script).split()
    assert len(ids) == 3
    script.kill()
    script.wait()
    for id in ids:
        support.gone(id)
    script.communicate()


def test_nor_do_children_that_outlive_it(name: str) -> None:
    script = support.script(MAKE + """
import multiprocessing, signal
children = [multiprocessing.get_context('fork').Process(target=time.sleep, args=[1000], daemon=True) for _ in range(2)]
for child in children:
    child.start()
print(*[child.pid for child in children], flush=True)
time.sleep(1000)
""", name)  # fmt: skip
    id = support.said(script)
    children = [int(pid) for pid in support.said(script).split()]
    try:
        script.kill()
        script.wait()
        support.gone(id)
        assert set(children) <= support.processes().keys()
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
    script.communicate()


def test_a_fork_of_the_process_ends_nothing_and_a_copy_of_the_lease_holds_nothing(name: str) -> None:
    stdout, _ = support.finished(support.script(MAKE + """
made = box.id
job = box.commands.start(['cat'], stdin=True)
job.write('a')
child = os.fork()
if child == 0:
    closed = 0
    for act in (box.state, job.info, box.destroy, lambda: job.write('b'), lambda: box.commands.run('true'), box.__enter__):
        try:
            act()
        except mvm.ClosedHandle:
            closed += 1
    box.close()
    assert not box.leased
    box.__exit__(None, None, None)
    del box
    sys.exit(closed != 6)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
job.close_stdin()
assert b''.join(piece.data for piece in job) == b'a'
assert box.state() == 'running'
child = os.fork()
if child == 0:
    time.sleep(1000)
# The child has a copy of the connection; this process lives on, and only forgets the handle.
del job, box
import signal
try:
    for _ in range(300):
        if mvm.Sandbox.lookup(made).state == 'destroyed':
            break
        time.sleep(0.1)
    else:
        raise AssertionError('it lives on')
finally:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
""", name))  # fmt: skip
    support.gone(stdout.split()[0])


def test_a_detached_sandbox_outlives_its_script(name: str) -> None:
    stdout, _ = support.finished(support.script(MAKE + "box.detach(owner='me', ttl=60); box.close()", name))
    with contextlib.closing(mvm.Sandbox.connect(stdout.strip())) as box:
        assert box.commands.run(["true"]).ok
        assert box.inspect().owner == "me"
        box.destroy()


def test_errors_come_whole_out_of_a_process_of_multiprocessing(name: str) -> None:
    support.finished(support.script("""
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
def work(name):
    with mvm.Sandbox.create('base', name=name) as box:
        box.commands.run('echo out; exit 3', check=True)
def deny(name):
    mvm.Sandbox.create('base', name=name, profile='permissive')
with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('fork')) as pool:
    error = pool.submit(work, sys.argv[1]).exception()
    assert type(error) is mvm.CommandFailed and error.result.stdout == 'out\\n' and error.result.exit_code == 3, error
    error = pool.submit(deny, sys.argv[1]).exception()
    assert type(error) is mvm.PolicyDenied and error.denials[0].rule == 'profile.acknowledged', error
""", name))  # fmt: skip


def test_much_output_takes_little_memory(name: str) -> None:
    stdout, _ = support.finished(support.script("""
import resource
with mvm.Sandbox.create('base', name=sys.argv[1]) as box:
    box.commands.run('true')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = box.commands.run('head -c 33554432 /dev/zero', max_output=1 << 20)
    assert (result.stdout_bytes, len(result.stdout_data), result.stdout_truncated) == (32 << 20, 1 << 20, True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
""", name))  # fmt: skip
    assert int(stdout) < 16 << 10
