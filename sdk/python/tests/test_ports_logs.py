"""Ports of the host that lead into a sandbox, and its log, on both surfaces."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import support

import mvm

Create = Callable[..., Any]


def answer(port: mvm.Port) -> bytes:
    """What a server of the guest sends; nothing if it is not there yet."""
    with contextlib.suppress(ConnectionResetError), connected(port) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return connection.makefile("rb").read()
    return b""


def connected(port: mvm.Port) -> socket.socket:
    return socket.create_connection((port.address, port.host_port), timeout=30)


def test_a_port_leads_to_a_server(box: Any) -> None:
    box.files.write("/root/www/index.html", "hello", parents=True)
    server = box.commands.start("exec httpd -f -p 127.0.0.1:8000 -h /root/www")
    port = box.ports.forward(guest_port=8000, host_port=0)
    assert isinstance(port, mvm.Port)
    assert (port.address, port.guest_port, port.protocol, port.exposed, port.rule) == (
        "127.0.0.1", 8000, "tcp", False, "ports.forward",
    )  # fmt: skip
    assert port.host_port > 0
    assert support.until(lambda: answer(port), "the server answers").endswith(b"\r\n\r\nhello")
    assert (port.guest_port, port.host_port) in [(one.guest_port, one.host_port) for one in box.ports.list()]
    with pytest.raises(mvm.MvmError):
        box.ports.forward(guest_port=8001, host_port=port.host_port)
    box.ports.close(port)
    assert box.ports.list() == ()
    with pytest.raises(ConnectionRefusedError):
        connected(port)
    with pytest.raises(mvm.NotFound):
        box.ports.close(port)
    port = box.ports.forward(guest_port=8000, host_port=0)
    box.ports.close(host_port=port.host_port)
    server.kill()


def test_ports_that_cannot_be(box: Any) -> None:
    for options in (
        {"guest_port": 0}, {"guest_port": 65536}, {"host_port": -1}, {"host_port": True}, {"host": 5}, {"host": "nonsense"},
        {"protocol": "udp"}, {"protocol": 5},
    ):  # fmt: skip
        with pytest.raises((mvm.InvalidRequest, mvm.BackendUnsupported)):
            box.ports.forward(**{"guest_port": 80, "host_port": 0, **options})
    for missing in ({"guest_port": 80}, {"host_port": 0}):
        with pytest.raises(TypeError):
            box.ports.forward(**missing)
    with pytest.raises(mvm.PolicyDenied):
        box.ports.forward(guest_port=80, host_port=0, host="0.0.0.0")
    for options in ({}, {"host_port": "80"}, {"port": 80}):
        with pytest.raises(mvm.InvalidRequest):
            box.ports.close(**options)
    with pytest.raises(mvm.NotFound):
        box.ports.close(host_port=1)


def test_a_sandbox_is_made_with_ports(create: Create) -> None:
    with create(ports=[mvm.PortSpec(guest_port=8000, host_port=0)]) as box:
        (port,) = box.ports.list()
        assert port.guest_port == 8000


@pytest.fixture(scope="module")
def quiet(api: support.Surface) -> Iterator[Any]:
    """A sandbox whose log is short."""
    with api.Sandbox.create("base", name=f"{support.PREFIX}-log-{api.kind}") as box:
        yield box


def test_the_log_has_what_jobs_wrote(quiet: Any, api: Any) -> None:
    word = f"word-{api.kind}"
    job = quiet.commands.start(f"echo {word}; echo err >&2")
    job.wait()
    log = quiet.logs(source="job")
    assert log.summary is None
    lines = [entry for entry in log if isinstance(entry, mvm.LogLine) and entry.run_id == job.run_id]
    assert [(line.text, line.stream, line.source) for line in lines if line.text in (word, "err")] == [
        (word, "stdout", "job"), ("err", "stderr", "job"),
    ]  # fmt: skip
    assert isinstance(log.summary, mvm.LogSummary)
    assert log.summary.lines >= 2
    assert list(log) == []
    assert word not in repr(lines)


def test_a_part_of_the_log(quiet: Any) -> None:
    for number in range(3):
        quiet.commands.start(f"echo line-{number}").wait()
    assert len([entry for entry in quiet.logs(tail=1) if isinstance(entry, mvm.LogLine)]) == 1
    assert list(quiet.logs(until=datetime(2000, 1, 1, tzinfo=timezone.utc))) == []
    assert list(quiet.logs(since=timedelta(hours=1), source=mvm.LogSource.JOB))
    assert list(quiet.logs(since=-0.0 + 3600.0, tail=0)) == []
    for options in ({"tail": -1}, {"since": "now"}, {"source": "guest"}, {"follow": 1}, {"redact": "no"}):
        with pytest.raises(mvm.InvalidRequest):
            quiet.logs(**options)


def test_a_log_is_followed_and_left(quiet: Any, api: Any) -> None:
    job = quiet.commands.start(f"while :; do echo followed-{api.kind}; sleep 0.1; done")
    with quiet.logs(follow=True, tail=0, source="job") as log:
        for entry in log:
            if isinstance(entry, mvm.LogLine) and entry.text == f"followed-{api.kind}":
                break
    job.kill()
    assert quiet.commands.run(["true"]).ok


def test_what_looks_like_a_credential_is_hidden_unless_it_is_asked_for(quiet: Any) -> None:
    token = "ghp_" + "aB3dE6gH9" * 4
    job = quiet.commands.start(["echo", token])
    job.wait()

    def told(redact: bool) -> str:
        entries = quiet.logs(source="job", redact=redact)
        return "".join(entry.text for entry in entries if isinstance(entry, mvm.LogLine) and entry.run_id == job.run_id)

    assert token in told(False)
    assert token not in told(True)


def test_lines_that_are_missing_are_a_gap(create: Create) -> None:
    with create() as box:
        box.commands.start("yes | head -n 400000").wait()
        gaps = [entry for entry in box.logs() if isinstance(entry, mvm.LogGap)]
        assert gaps
        assert all(gap.lines > 0 and isinstance(gap.cause, mvm.GapCause) for gap in gaps)
