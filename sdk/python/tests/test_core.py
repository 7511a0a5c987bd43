"""The core without I/O: what is wrong with arguments, and lines out of pieces."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
from datetime import datetime, timedelta, timezone
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pytest

import mvm
from mvm import _errors
from mvm._api import ErrorCode, JobEvent, Output, Started
from mvm._core import check, commands, logs, results, sandboxes, steps
from mvm._core.results import Kept, Lines

BOX = steps.Target("mvm-0", "box", "/nowhere")
HUGE = 10**400
NUMBERS = ["1", None, 1.5, True, b"1", [], math.nan]


def refused(function: Any, *args: Any, **options: Any) -> mvm.InvalidRequest:
    with pytest.raises(mvm.InvalidRequest) as error:
        function(*args, **options)
    assert error.value.what
    assert error.value.why
    return error.value


@pytest.mark.parametrize("value", [*NUMBERS, -1, 11, HUGE, -HUGE], ids=lambda value: str(value)[:9])
def test_what_is_no_count(value: Any) -> None:
    refused(check.count, "what", "name", value, least=0, most=10)


@pytest.mark.parametrize("value", ["1", [], True, b"", 0, -1, -0.001, math.nan, math.inf, -math.inf, HUGE, -HUGE, timedelta(0),
    timedelta(days=-1), timedelta.max, 367 * 86_400], ids=lambda value: str(value)[:9])  # fmt: skip
def test_what_is_no_time_limit(value: Any) -> None:
    refused(check.milliseconds, "what", "timeout", value)


def test_time_limits() -> None:
    assert check.milliseconds("", "", 1.5) == check.milliseconds("", "", timedelta(seconds=1.5)) == 1500
    assert check.milliseconds("", "", 1e-9) == 1
    assert check.milliseconds("", "", 366 * 86_400) == 366 * 86_400_000
    assert check.optional_milliseconds("", "", None) is None


@pytest.mark.parametrize(
    "value",
    ["now", [], True, -1, math.nan, math.inf, HUGE, timedelta(seconds=-1), datetime.max],
    ids=lambda value: str(value)[:9],
)
def test_what_is_no_point_in_time(value: Any) -> None:
    if value is datetime.max and check.since_1970("", "", datetime(9999, 1, 1)):
        # Where local time is at or behind UTC this is a time like any other.
        return
    refused(check.since_1970, "what", "since", value)


def test_points_in_time() -> None:
    assert check.since_1970("", "", datetime(1970, 1, 1, 0, 0, 1, tzinfo=timezone.utc)) == 1000
    assert check.since_1970("", "", datetime(1, 1, 2, tzinfo=timezone.utc)) == 0
    assert check.since_1970("", "", 1e300) == 0
    here = datetime.now()
    assert check.since_1970("", "", here) == check.since_1970("", "", here.astimezone())
    ago = check.since_1970("", "", timedelta(hours=1))
    assert ago is not None
    assert abs(ago / 1000 - datetime.now(timezone.utc).timestamp() + 3600) < 60


@pytest.mark.parametrize("value", ["", "relative", "./a", "~", b"/bytes", None, 1, [], True, "/half\ud800", PurePosixPath("a"),
    PureWindowsPath("/a"), object()], ids=ascii)  # fmt: skip
def test_what_is_no_path_of_a_guest(value: Any) -> None:
    refused(check.guest_path, "what", value)


def test_paths_of_a_guest() -> None:
    assert check.guest_path("", "/a/../b") == "/a/../b"
    assert check.guest_path("", PurePosixPath("/a/b")) == "/a/b"


@pytest.mark.parametrize("value", ["", "a\0b", b"bytes", None, 1, "half\ud800"], ids=ascii)
def test_what_is_no_path_of_the_host(value: Any) -> None:
    refused(check.host_path, "what", value)


def test_paths_of_the_host_are_made_absolute() -> None:
    assert check.host_path("", "b") == check.host_path("", Path("b")) == os.path.join(os.getcwd(), "b")
    # What is above a link is above where it leads.
    assert check.host_path("", "link/../b") == os.path.join(os.getcwd(), "link/../b")


@pytest.mark.parametrize("value", [[], (), None, b"ls", bytearray(b"ls"), 1, {"a": "b"}, {"a"}, iter(["a"]), ["a", 1],
    ["a", None], ["a", b"b"], ["a\udfff"], "a\udfff"], ids=ascii)  # fmt: skip
def test_what_is_no_command(value: Any) -> None:
    refused(check.argv, "what", value)


def test_commands() -> None:
    assert check.argv("", "echo $HOME") == ["/bin/sh", "-c", "echo $HOME"]
    assert check.argv("", ("ls", "-l")) == ["ls", "-l"]


@pytest.mark.parametrize("value", ["A=b", ["A"], 1, {"A": 1}, {1: "a"}, {"A": None}, {"A": b"b"}, {"A": "\ud800"}], ids=ascii)
def test_what_are_no_variables(value: Any) -> None:
    assert "\\ud800" not in str(refused(check.env, "what", value))


@pytest.mark.parametrize("value", ["", None, 1, b"box", "a\0b", "-x", "--help", "a\ud800"], ids=ascii)
def test_what_is_no_name(value: Any) -> None:
    refused(check.named, "what", "name", value)


@pytest.mark.parametrize("value", [0, 1, None, "yes", "False", []], ids=ascii)
def test_what_is_no_flag(value: Any) -> None:
    refused(check.flag, "what", "name", value)


@pytest.mark.parametrize("value", ["ab", b"ab", None, 1, {"a": 1}, ["a", 1], {"a"}], ids=ascii)
def test_what_is_no_list_of_texts(value: Any) -> None:
    refused(check.texts, "what", "require", value)


@pytest.mark.parametrize("options", [
    {"guest_port": 0, "host_port": 0}, {"guest_port": 65536, "host_port": 0}, {"guest_port": -1, "host_port": 0},
    {"guest_port": 80, "host_port": 65536}, {"guest_port": 80, "host_port": -1}, {"guest_port": "80", "host_port": 0},
    {"guest_port": True, "host_port": 0}, {"guest_port": 80, "host_port": None},
    {"guest_port": 80, "host_port": 0, "host": None},
    {"guest_port": 80, "host_port": 0, "protocol": 6},
], ids=str)  # fmt: skip
def test_what_is_no_port(options: Any) -> None:
    refused(check.port, "what", mvm.PortSpec(**options))


@pytest.mark.parametrize(("ttl", "lease", "owner", "expiry"), [
    (60, True, None, None), (math.inf, True, "me", None), (None, None, None, "destroy"), (math.inf, None, "me", "stop"),
    (math.nan, None, None, None), (-math.inf, None, None, None), (0, None, None, None), (-1, None, None, None),
    (None, 1, None, None), (None, "yes", None, None), (60, None, 7, None), (60, None, None, "explode"),
    ("60", None, None, None),
    (None, True, None, "stop"), (math.inf, False, "me", "stop"), (60, None, None, []),
], ids=str)  # fmt: skip
def test_what_is_no_ending(ttl: Any, lease: Any, owner: Any, expiry: Any) -> None:
    refused(check.ending, "what", ttl, lease, owner, expiry)


def test_endings() -> None:
    def ending(ttl: Any = None, lease: Any = None, owner: Any = None, expiry: Any = None) -> tuple[Any, ...]:
        return tuple(check.ending("", ttl, lease, owner, expiry).values())

    assert ending() == ending(lease=True) == (True, None, False, None, None)
    assert ending(lease=False) == (False, None, False, None, None)
    assert ending(60) == ending(timedelta(minutes=1), False) == (False, 60_000, False, None, None)
    assert ending(math.inf, owner="me") == (False, None, True, None, "me")
    assert ending(60, expiry=mvm.OnExpiry.COLD) == ending(60, expiry="cold") == (False, 60_000, False, "cold", None)


@pytest.mark.parametrize(
    "size", [None, 24, (24,), (24, 80, 1), [24, 80], (0, 80), (24, 65536), (True, 80), ("24", "80"), (-1, -1)], ids=str
)
def test_what_is_no_size_of_a_terminal(size: Any) -> None:
    refused(commands.terminal, "what", size)


@pytest.mark.parametrize("number", [0, -1, 65, "KILL", None, True, 9.0, object()], ids=str)
def test_what_is_no_signal(number: Any) -> None:
    refused(commands.signal, BOX, "run-1", number)


def test_signals() -> None:
    assert commands.signal(BOX, "run-1", signal.SIGTERM).arguments["signal"] == 15


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", "a?b", "a b", "ü", None, 1, "-x"], ids=str)
def test_what_is_no_run_id(run_id: Any) -> None:
    refused(commands.job_name, run_id)


@pytest.mark.parametrize("options", [{"tail": -1}, {"tail": True}, {"follow": 1}, {"redact": None}, {"source": "guest"},
    {"source": []}, {"since": "yesterday"}, {"until": math.nan}], ids=str)  # fmt: skip
def test_what_cannot_be_asked_of_a_log(options: Any) -> None:
    given = {"follow": False, "since": None, "until": None, "tail": None, "source": None, "redact": True, **options}
    refused(logs.logs, BOX, **given)


@pytest.mark.parametrize(
    "options", [{}, {"port": 80}, {"host_port": True}, {"host_port": -1}, {"host_port": 80, "host": 1}], ids=str
)
def test_what_port_cannot_be_closed(options: Any) -> None:
    given = {"port": None, "host_port": None, "host": "127.0.0.1", **options}
    refused(sandboxes.close_port, BOX, **given)


@pytest.mark.parametrize("options", [
    {"cpus": 0}, {"cpus": -1}, {"cpus": True}, {"cpus": HUGE}, {"memory_mib": 0}, {"memory_mib": "256"}, {"memory_mib": 2**32},
    {"disk_mib": 0}, {"disk_mib": -5}, {"disk_mib": 1.0}, {"disk_mib": math.nan}, {"name": 5}, {"image": None, "name": b"x"},
    {"ports": "80"}, {"ports": [80]}, {"ports": None}, {"ports": {80: 80}}, {"env": []}, {"secrets": "A"}, {"profile": 1},
    {"accept_risk": 1}, {"require": "seccomp"}, {"allow_missing": [1]}, {"idempotency_key": 1},
], ids=lambda options: str(options)[:30])  # fmt: skip
def test_what_no_sandbox_can_be(options: Any) -> None:
    refused(sandboxes.create, "base", options)


EVENTS = [
    {"type": "started", "audit_id": 1, "run_id": "run-1"},
    {"type": "output", "stream": "stdout", "offset": 0, "data": "w7w="},
    {"type": "gap", "offset": 2, "bytes": 3},
]


def test_lines_come_the_same_however_they_are_cut() -> None:
    text = b"".join(json.dumps(event).encode() + b"\n" for event in EVENTS)
    whole = list(Lines(JobEvent).feed(text))
    assert [type(event) for event in whole] == [Started, Output, mvm.OutputGap]
    for first in range(len(text) + 1):
        for second in (first, min(first + 1, len(text)), (first + len(text)) // 2):
            lines = Lines(JobEvent)
            assert [
                event for piece in (text[:first], text[first:second], text[second:]) for event in lines.feed(piece)
            ] == whole
    lines = Lines(JobEvent)
    assert [event for byte in text for event in lines.feed(bytes([byte]))] == whole


@pytest.mark.parametrize("line", [b" ", b"nonsense", b"[]", b"{}", b'{"type": "unheard"}', b"\xff", b"[" * 100_000, b"NaN",
    b'{"type": "gap", "offset": NaN, "bytes": 0}'], ids=lambda line: str(line[:12]))  # fmt: skip
def test_a_line_that_is_none_is_the_transports_failure(line: bytes) -> None:
    with pytest.raises(mvm.TransportError):
        list(Lines(JobEvent).feed(line + b"\n"))


def test_a_line_without_end_is_not_kept_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MAX_ANSWER", 1000)
    lines = Lines(JobEvent)
    assert list(lines.feed(b"x" * 1000)) == []
    with pytest.raises(mvm.TransportError):
        list(lines.feed(b"x"))


def test_an_answer_is_bounded_in_length_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MAX_ANSWER", 10)
    answer = steps.Answer(steps.Call(BOX, "GET", "/"))
    answer.take(b"x" * 10)
    assert answer.whole() == b"x" * 10
    with pytest.raises(mvm.TransportError):
        answer.take(b"x")
    with pytest.raises(mvm.TransportError, match="in time"):
        steps.Answer(steps.Call(BOX, "GET", "/", limit=-1.0)).take(b"")


def test_the_first_bytes_are_kept_and_text_is_whole_characters() -> None:
    text = "aüb\U0001f600"
    data = text.encode() + b"\xff"
    for cut in range(len(data) + 1):
        kept = Kept(4, print)
        told = kept.take(data[:cut]) + kept.take(data[cut:]) + kept.rest()
        assert told == text + "\ufffd"
        assert (bytes(kept.data), kept.seen) == (data[:4], len(data))
    half = Kept(0, print)
    assert half.take("ü".encode()[:1]) == ""
    assert half.rest() == "\ufffd"


def test_what_may_be_asked_twice() -> None:
    def idempotent(method: str, where: str, **params: str) -> bool:
        return steps.Call(BOX, method, where, params).idempotent

    assert idempotent("GET", "/v1/sandbox")
    assert idempotent("PUT", "/v1/files", path="/a")
    assert not idempotent("PUT", "/v1/files", path="/a", append="true")
    assert not idempotent("POST", "/v1/jobs")
    assert not idempotent("PUT", "/v1/jobs/run-1/stdin")


@pytest.mark.parametrize("code", list(ErrorCode))
def test_errors_come_whole_out_of_another_process(code: ErrorCode) -> None:
    denial = mvm.Denial(reason="r", remedy="m", rule="u")
    error = _errors.CLASSES[code]("what", "why", hint="hint", errno=2, capability="kvm", denials=(denial,))
    error.retryable = True  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    for field in ("what", "why", "hint", "errno", "capability", "denials", "retryable"):
        assert getattr(again, field) == getattr(error, field), field
    assert str(again) == "what: why (hint)"


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"error": 1}', b'{"error": {"code": "Unheard"}}', b"[" * 100_000],
    ids=lambda body: str(body[:9]))  # fmt: skip
def test_a_refusal_that_says_nothing_is_the_transports_failure(body: bytes) -> None:
    assert isinstance(steps.refusal(body, 500), mvm.TransportError)


def test_requests_show_no_values() -> None:
    request = commands.attached(["sh"], {"env": {"A": "hush"}, "stdin": "hush", "max_output": 1, "check": False})
    assert "hush" not in repr(request) + repr(commands.run(BOX, request)) + repr(commands.feed(BOX, "run-1", b"hush"))
    assert "hush" not in repr(steps.Invoke(("up",), b"hush")) + repr(sandboxes.create("base", {"env": {"A": "hush"}}))


def test_empty_lines_are_nothing() -> None:
    lines = Lines(int)
    assert [*lines.feed(b"\n\n1\n\n"), *lines.feed(b"\n2"), *lines.feed(b"\n\n")] == [1, 2]


def test_an_operation_says_what_was_asked_and_reads_no_secret_before_it_is_performed() -> None:
    options = {"secrets": {"TOKEN": "file:/no/such/file"}, "cwd": "/tmp", "stdin": b"in", "max_output": 1, "check": False}
    asked = commands.run(BOX, commands.attached(["ls", "/"], options))
    wanted = {"sandbox": BOX.id, "argv": ["ls", "/"], "cwd": "/tmp", "stdin": b"in", "secrets": options["secrets"]}
    assert asked.name == "commands.run"
    assert wanted.items() <= asked.arguments.items()
    with pytest.raises(mvm.NotFound):
        next(asked.steps)
