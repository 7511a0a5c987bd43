"""Commands: run to their end, on both surfaces."""

from __future__ import annotations

import math
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import support

import mvm


def test_a_command_and_its_result(box: Any) -> None:
    result = box.commands.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.exit_code, result.signal, result.ok) == (3, None, False)
    assert (result.stdout, result.stderr) == ("out\n", "err\n")
    assert (result.stdout_data, result.stdout_bytes, result.stdout_truncated) == (b"out\n", 4, False)
    assert (result.timed_out, result.oom_killed, result.not_started, result.unrecorded) == (False, False, None, None)
    assert result.run_id.startswith("run-")
    assert result.sandbox_id == box.id
    assert result.audit_id > 0
    assert result.duration > 0
    assert result.warnings == ()


def test_a_text_is_for_the_guests_shell_and_a_list_is_not(box: Any) -> None:
    assert box.commands.run("echo $((6 * 7))").stdout == "42\n"
    assert box.commands.run(["echo", "$HOME; true"]).stdout == "$HOME; true\n"


def test_where_as_whom_and_with_what_it_runs(box: Any) -> None:
    result = box.commands.run("pwd; id -u; echo $A; cat", cwd="/tmp", user="65534", env={"A": "b c"}, stdin="in\n")
    assert result.stdout == "/tmp\n65534\nb c\nin\n"
    assert box.commands.run(["cat"], stdin=b"\xff\0").stdout_data == b"\xff\0"
    assert box.commands.run(["cat"], stdin=b"").stdout_data == box.commands.run(["cat"]).stdout_data == b""


def test_a_signal_is_no_exit_code(box: Any) -> None:
    result = box.commands.run("kill -9 $$")
    assert (result.exit_code, result.signal, result.ok) == (None, 9, False)


def test_a_program_that_is_not_there_is_a_result(box: Any) -> None:
    result = box.commands.run(["/nowhere"])
    assert (result.exit_code, result.not_started.reason, result.not_started.errno) == (127, "command_not_found", 2)
    assert box.commands.run(["/etc"]).not_started.reason == "command_not_executable"
    with pytest.raises(mvm.CommandFailed, match="not started: command not found") as failed:
        box.commands.run(["/nowhere"], check=True)
    assert failed.value.result.not_started == result.not_started


def test_check_raises_what_failed_with_the_whole_result_and_none_of_it_in_the_text(box: Any) -> None:
    with pytest.raises(mvm.CommandFailed) as failed:
        box.commands.run("echo hush; exit 3", check=True)
    assert failed.value.result.stdout == "hush\n"
    assert "exit code 3" in str(failed.value)
    assert "hush" not in str(failed.value) + repr(failed.value) + repr(failed.value.result)
    with pytest.raises(mvm.CommandFailed, match="signal 15"):
        box.commands.run("kill $$", check=True)
    assert box.commands.run(["true"], check=True).ok


def test_what_is_no_utf8_is_replaced_in_text_and_kept_in_bytes(box: Any) -> None:
    result = box.commands.run(r"printf 'a\377b\303'")
    assert result.stdout == "a\ufffdb\ufffd"
    assert result.stdout_data == b"a\xffb\xc3"


def test_past_its_time_the_tree_is_killed_and_what_it_said_is_there(box: Any) -> None:
    for limit in (0.5, timedelta(seconds=0.5)):
        with pytest.raises(mvm.Timeout) as late:
            box.commands.run("echo before; sleep 1000 & sleep 1000", timeout=limit)
        assert isinstance(late.value, TimeoutError)
        result = late.value.result
        assert (result.stdout, result.timed_out, result.exit_code, result.signal) == ("before\n", True, None, 9)
    assert not box.commands.run("pgrep -f 'sleep 100[0]'").ok


def test_the_first_bytes_are_kept_and_all_are_counted(box: Any) -> None:
    result = box.commands.run("printf 12345; printf abc >&2", max_output=3)
    assert (result.stdout, result.stdout_bytes, result.stdout_truncated) == ("123", 5, True)
    assert (result.stderr, result.stderr_bytes, result.stderr_truncated) == ("abc", 3, False)
    nothing = box.commands.run(["echo"], max_output=0)
    assert (nothing.stdout_data, nothing.stdout_bytes, nothing.stdout_truncated) == (b"", 1, True)


def test_more_than_eight_mebibytes(box: Any) -> None:
    told = 0

    def tell(text: str) -> None:
        nonlocal told
        told += len(text)

    result = box.commands.run("head -c 10000000 /dev/zero | tr '\\0' x", on_stdout=tell)
    assert (len(result.stdout_data), result.stdout_bytes, result.stdout_truncated) == (8 << 20, 10_000_000, True)
    assert told == 10_000_000


def test_output_is_told_as_it_comes(box: Any) -> None:
    out: list[str] = []
    err: list[str] = []
    result = box.commands.run(
        r"printf 'a\303'; sleep 0.2; printf '\274\377'; echo b >&2", on_stdout=out.append, on_stderr=err.append
    )
    assert "".join(out) == result.stdout == "a\u00fc\ufffd"
    assert "".join(err) == result.stderr == "b\n"


def test_a_callback_that_raises_ends_the_command(box: Any) -> None:
    def tell(text: str) -> None:
        raise KeyError(text.strip())

    with pytest.raises(KeyError, match="mine"):
        box.commands.run("echo mine; exec sleep 4711", on_stdout=tell)
    for _ in range(100):
        if not box.commands.run("pgrep -f 'sleep 471[1]'").ok:
            return
    raise AssertionError("it runs on")


def test_input_that_is_not_read_is_no_error(box: Any) -> None:
    assert box.commands.run(["true"], stdin=b"x" * (1 << 20)).ok
    both = box.commands.run(["cat"], stdin=b"y" * (3 << 20))
    assert both.stdout_data == b"y" * (3 << 20)


@pytest.mark.parametrize(
    "options",
    [
        {"argv": []}, {"argv": 5}, {"argv": ["a\0b"]}, {"argv": ["a", "\ud800"]}, {"cwd": 1}, {"cwd": "relative"},
        {"cwd": "a\0"}, {"user": b"root"}, {"env": {"A=B": "c"}}, {"env": {"": "c"}}, {"env": {"A": "\0"}}, {"env": {"A": 1}},
        {"stdin": 5}, {"stdin": ["a"]}, {"stdin": "\ud800"}, {"timeout": 0}, {"timeout": -1}, {"timeout": math.nan},
        {"timeout": True}, {"timeout": 10**400}, {"max_output": -1}, {"max_output": 1.0}, {"max_output": True},
        {"max_output": 10**30}, {"check": 1}, {"on_stdout": "print"}, {"on_stderr": 5}, {"receipt": 5}, {"receipt": "a\0b"},
        {"secrets": {"A": "value"}}, {"secrets": {"1A": "env:HOME"}}, {"secrets": {"A": "env:"}}, {"secrets": {"A": 5}},
        {"secrets": ["env:HOME"]},
    ],
    ids=lambda options: ascii(options)[:40],
)  # fmt: skip
def test_arguments_that_make_no_sense(box: Any, options: dict[str, Any]) -> None:
    given = {"argv": ["true"], **options}
    with pytest.raises(mvm.InvalidRequest) as refused:
        box.commands.run(given.pop("argv"), **given)
    assert refused.value.what
    assert refused.value.why


def test_unknown_users_and_directories_are_said(box: Any) -> None:
    with pytest.raises(mvm.MvmError, match="nobody-of-this-name"):
        box.commands.run(["true"], user="nobody-of-this-name")
    with pytest.raises(mvm.MvmError, match="/nowhere"):
        box.commands.run(["true"], cwd="/nowhere")


def test_a_receipt_that_cannot_be_written_is_said_before_anything_runs(box: Any, tmp_path: Path) -> None:
    with pytest.raises(mvm.FileError) as refused:
        box.commands.run(["touch", "/root/ran"], receipt=tmp_path / "none" / "receipt")
    assert refused.value.errno == 2
    assert not box.files.exists("/root/ran")


def test_threads_share_a_handle(shared: mvm.Sandbox) -> None:
    said: dict[int, list[str]] = {}

    def work(number: int) -> None:
        said[number] = [shared.commands.run(["echo", f"{number}-{turn}"]).stdout for turn in range(5)]

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: [f"{number}-{turn}\n" for turn in range(5)] for number in range(8)}


def test_closing_a_handle_ends_what_its_other_threads_wait_for(shared: mvm.Sandbox) -> None:
    begun, failed = threading.Event(), []
    box = mvm.Sandbox.connect(shared.id)

    def work() -> None:
        with pytest.raises(mvm.ClosedHandle) as refused:
            box.commands.run("echo begun; exec sleep 4714", on_stdout=lambda _: begun.set())
        failed.append(refused.value)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(support.PATIENCE)
    box.close()
    thread.join(support.PATIENCE)
    assert failed
    look = "until ! ps | grep -q 'sleep 471[4]'; do sleep 0.1; done"
    assert shared.commands.run(look, timeout=support.PATIENCE).ok


def test_commands_that_were_started_are_noted(box: Any, api: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = tmp_path / "runs"
    monkeypatch.setenv("MVM_SDK_RUNS", str(notes))
    ran = [box.commands.run(["true"]), box.commands.start(["true"])]
    once = api.run(["true"], image="base")
    wanted = [f"{box.id} {run.run_id}" for run in ran] + [f"{once.sandbox_id} {once.run_id}"]
    assert notes.read_text().splitlines() == wanted
    monkeypatch.setenv("MVM_SDK_RUNS", str(tmp_path))
    with pytest.raises(mvm.FileError):
        box.commands.run(["true"])
