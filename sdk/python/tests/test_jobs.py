"""Jobs: commands that go on by themselves, on both surfaces."""

from __future__ import annotations

import signal
from typing import Any

import pytest

import mvm


def output(job: Any) -> bytes:
    return b"".join(piece.data for piece in job if isinstance(piece, mvm.Output))


def test_a_job_from_its_start_to_its_end(box: Any) -> None:
    job = box.commands.start(["cat"], stdin=True)
    assert job.info().result is None
    assert job.started.program == "cat"
    job.write("one\n")
    job.write(b"two\n")
    with pytest.raises(mvm.Timeout) as late:
        job.wait(timeout=0.1)
    assert late.value.result is None
    job.close_stdin()
    job.close_stdin()
    assert output(job) == b"one\ntwo\n"
    result = job.wait()
    assert isinstance(result, mvm.JobResult)
    assert (result.exit_code, result.run_id, result.stdout_bytes) == (0, job.run_id, 8)
    assert job.info().result == result
    assert job.offset == 8
    with pytest.raises(mvm.InvalidState):
        job.write("more")


def test_output_has_its_streams_and_offsets(box: Any) -> None:
    job = box.commands.start("printf out; sleep 0.2; printf err >&2")
    assert [(piece.stream, piece.offset, piece.data) for piece in job] == [("stdout", 0, b"out"), ("stderr", 3, b"err")]
    assert list(job) == []


def test_it_is_found_again_and_read_from_an_offset(box: Any) -> None:
    job = box.commands.start("printf 12345")
    job.wait()
    again = box.commands.attach(job.run_id, offset=2)
    assert (again.run_id, again.offset, output(again), again.offset) == (job.run_id, 2, b"345", 5)
    assert job.run_id in [known.run_id for known in box.commands.list()]
    for unknown in ("run-0", "nonsense"):
        with pytest.raises(mvm.NotFound):
            box.commands.attach(unknown)
    for wrong in (-1, True, "0", 1.5):
        with pytest.raises(mvm.InvalidRequest):
            box.commands.attach(job.run_id, offset=wrong)


def test_what_is_no_longer_kept_is_a_gap(box: Any) -> None:
    job = box.commands.start("head -c 12000000 /dev/zero")
    job.wait()
    pieces = list(box.commands.attach(job.run_id))
    assert isinstance(pieces[0], mvm.OutputGap)
    assert pieces[0].offset == 0
    kept = sum(len(piece.data) for piece in pieces[1:])
    assert pieces[0].bytes + kept == 12_000_000
    assert pieces[1].offset == pieces[0].bytes


def test_an_iteration_that_was_left_is_gone_on_with(box: Any) -> None:
    job = box.commands.start("printf a; sleep 0.3; printf b")
    for piece in job:
        assert piece.data == b"a"
        break
    assert output(job) == b"b"


def test_signals(box: Any) -> None:
    job = box.commands.start("trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    assert next(iter(job)).data == b"ready\n"
    job.kill(signal.SIGTERM)
    assert job.wait(timeout=30).exit_code == 7
    job.kill()
    other = box.commands.start(["sleep", "1000"])
    other.kill()
    assert other.wait(timeout=30).signal == 9
    for wrong in (0, 65, "KILL", True):
        with pytest.raises(mvm.InvalidRequest):
            other.kill(wrong)


def test_a_terminal_has_a_size_that_changes(box: Any) -> None:
    job = box.commands.start('stty size; until [ "$(stty size)" = "30 100" ]; do sleep 0.1; done; echo changed', tty=(24, 80))
    assert next(iter(job)).data.strip() == b"24 80"
    job.resize(30, 100)
    assert output(job).strip() == b"changed"
    for wrong in ((0, 100), (30, 65536), (True, 1), ("30", 100)):
        with pytest.raises(mvm.InvalidRequest):
            job.resize(*wrong)


def test_a_start_that_is_repeated_finds_the_first(box: Any, api: Any) -> None:
    key = f"key-{api.kind}"
    one = box.commands.start(["sleep", "1000"], idempotency_key=key)
    other = box.commands.start(["sleep", "1000"], idempotency_key=key)
    assert one.run_id == other.run_id
    one.kill()


def test_input_to_what_takes_none_is_refused(box: Any) -> None:
    job = box.commands.start(["sleep", "1000"])
    with pytest.raises(mvm.MvmError):
        job.write("x")
        job.close_stdin()
    job.kill()
    for wrong in (None, 5, ["a"], "\ud800"):
        with pytest.raises(mvm.InvalidRequest):
            job.write(wrong)


def test_a_job_that_does_not_start_says_so(box: Any) -> None:
    result = box.commands.start(["/nowhere"]).wait()
    assert (result.exit_code, result.not_started.reason) == (None, "command_not_found")


def test_a_time_limit_kills_it(box: Any) -> None:
    result = box.commands.start(["sleep", "1000"], timeout=0.3).wait()
    assert (result.timed_out, result.signal) == (True, 9)


@pytest.mark.parametrize(
    "options", [{"tty": 5}, {"tty": (0, 0)}, {"stdin": "text"}, {"timeout": -1}, {"env": 5}, {"idempotency_key": 5}], ids=str
)
def test_arguments_that_make_no_sense(box: Any, options: dict[str, Any]) -> None:
    with pytest.raises(mvm.InvalidRequest):
        box.commands.start(["true"], **options)


def test_contents_are_in_no_repr(box: Any) -> None:
    job = box.commands.start("echo hush")
    assert "hush" not in repr(list(job)) + repr(job) + repr(job.wait()) + repr(job.info())
