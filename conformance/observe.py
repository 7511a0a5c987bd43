"""What can be seen of sandboxes without the tool: processes in /proc, files below MVM_HOME, ports. Only looks."""

import os
import socket
import time
from pathlib import Path
from typing import Any

LONGEST_SECONDS = 20.0
PAUSE_SECONDS = 0.02


def home() -> Path:
    return Path(os.environ["MVM_HOME"])


def _processes() -> dict[int, tuple[int, list[str]]]:
    """Parent and arguments of every process that is not a corpse."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
            arguments = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        state, parent = stat[stat.rindex(")") + 2:].split()[:2]
        if state != "Z":
            found[int(entry)] = (int(parent), arguments)
    return found


def _of_this_home(pid: int) -> bool:
    try:
        return f"MVM_HOME={home()}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _ours() -> tuple[dict[int, str], set[int]]:
    """Supervisors of this home, each with its sandbox's id; and machines, which are children of mvmctl's processes."""
    processes = _processes()
    supervisors = {
        pid: arguments[2] for pid, (_, arguments) in processes.items()
        if len(arguments) > 2 and arguments[1] == "supervise" and _of_this_home(pid)
    }
    machines = {
        pid for pid, (parent, arguments) in processes.items()
        if Path(arguments[0]).name.startswith("qemu-system") and (parent in supervisors or _of_this_home(parent))
    }
    return supervisors, machines


def sandbox(id: str) -> dict[str, Any]:
    """One sandbox: its supervisors, their machines, its directory."""
    processes = _processes()
    supervisors = [pid for pid, (_, arguments) in processes.items() if arguments[1:3] == ["supervise", id]]
    machines = [
        pid for pid, (parent, arguments) in processes.items()
        if parent in supervisors and Path(arguments[0]).name.startswith("qemu-system")
    ]
    place = home() / "sandboxes" / id
    files = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    return {"supervisors": len(supervisors), "machines": len(machines), "directory": place.exists(), "files": files}


def programs(id: str) -> set[Path]:
    """The files that a sandbox's supervisors run."""
    supervisors = [pid for pid, (_, arguments) in _processes().items() if arguments[1:3] == ["supervise", id]]
    return {Path(os.readlink(f"/proc/{pid}/exe")) for pid in supervisors}


class Since:
    """What has come into being since this was made."""

    def __init__(self) -> None:
        supervisors, machines = _ours()
        self._processes = set(supervisors) | machines
        self._places = self._all_places()

    @staticmethod
    def _all_places() -> set[str]:
        place = home() / "sandboxes"
        return {path.name for path in place.iterdir()} if place.is_dir() else set()

    def processes(self) -> dict[str, Any]:
        supervisors, machines = _ours()
        return {
            "supervisors": len(set(supervisors) - self._processes),
            "machines": len(machines - self._processes),
        }

    def places(self) -> set[str]:
        """Directories of sandboxes."""
        return self._all_places() - self._places

    def left(self) -> dict[str, int]:
        """What there still is of all that: at a case's end nothing."""
        return {**self.processes(), "directories": len(self.places())}


def connection(port: int, send: str) -> dict[str, Any]:
    """What becomes of a connection that sends this, ends its side, and reads to the end."""
    try:
        with socket.create_connection(("127.0.0.1", port), LONGEST_SECONDS) as peer:
            peer.sendall(send.encode())
            peer.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: peer.recv(65536), b""))
    except ConnectionRefusedError:
        return {"outcome": "refused", "received": None}
    except OSError:
        return {"outcome": "reset", "received": None}
    return {"outcome": "answered", "received": received.decode(errors="replace")}


def settled(look: Any, until: dict[str, int]) -> dict[str, Any]:
    """Looks until these numbers are so, or for the longest time there is; the last that was seen."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while True:
        seen = look()
        if all(seen.get(key) == number for key, number in until.items()) or time.monotonic() > deadline:
            return seen
        time.sleep(PAUSE_SECONDS)
