"""What the fault test sees from outside: the tool as its users call it, and processes and files, only to look at or to
kill."""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

HOME = Path(os.environ.get("MVM_HOME") or Path.home() / ".local/share/mvm")
DEADLINE = 120


class Violation(Exception):
    pass


def mvmctl(*args: str, stdin: str = "") -> tuple[int, dict]:
    options = [] if "--" not in args else args[args.index("--"):]
    command = ["mvmctl", *args[:len(args) - len(options)], "--json", *options]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=DEADLINE)
    try:
        return done.returncode, json.loads(done.stdout or "{}")
    except json.JSONDecodeError as e:
        raise Violation(f"{args}: no JSON: {done}") from e


def output_of(uds: str, job: str) -> str:
    """What is kept of a job's output, over the API, because `attach` would stay to its end."""
    with socket.socket(socket.AF_UNIX) as connection:
        client = http.client.HTTPConnection("sandbox")
        client.sock = connection
        connection.settimeout(DEADLINE)
        try:
            connection.connect(uds)
            client.request("GET", f"/v1/jobs/{job}/output")
            response = client.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as e:
            raise Violation(f"cannot ask for the output of {job} at {uds}: {e!r}") from e
    if response.status != 200:
        raise Violation(f"the output of {job}: {body!r}")
    events = map(json.loads, body.splitlines())
    return b"".join(base64.b64decode(event["data"]) for event in events if event["type"] == "output").decode()


def words_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def born(pid: int) -> str | None:
    """When the process was started, which tells it from a later one with its number; None if it is gone."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else fields[18]


def is_over(pid: int) -> bool:
    """Whether all threads of a process have ended. Until then its locks are held: it looks alive and answers nobody."""
    try:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return all(stat.rpartition(")")[2].split()[0] in "ZX" for stat in stats)


def children_of(pids: list[int]) -> list[int]:
    """Of all their threads: any of them may have started one."""
    found = []
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += map(int, path.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                pass
    return found


def supervises(pid: int) -> bool:
    return words_of(pid)[1:2] == [b"supervise"]


def signs(pid: int) -> bool:
    return words_of(pid)[1:2] == [b"notary"]


def supervisors(sandbox: str, client: int = 0) -> list[int]:
    """Of the sandbox; or of the one that the client just makes."""
    if not sandbox:
        return list(filter(supervises, children_of([client])))
    all_pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    return [pid for pid in all_pids if words_of(pid)[1:3] == [b"supervise", sandbox.encode()]]


def works_on_something(pids: list[int]) -> bool:
    """Whether one of them has a file open in the directory of what is being made."""
    for link in (link for pid in pids for link in Path(f"/proc/{pid}/fd").glob("*")):
        try:
            if os.readlink(link).startswith(f"{HOME}/tmp/"):
                return True
        except (FileNotFoundError, ProcessLookupError):
            pass
    return False


def kill(pids: list[int]) -> list[int]:
    """Those that were there to be killed."""
    killed = []
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        except ProcessLookupError:
            pass
    return killed


def until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
