#!/usr/bin/env python3
"""The host API spoken by hand: three leased sandboxes, commands in them, and an end by kill -9.

Needs httpx (apt-get install python3-httpx) and mvmctl on the PATH. Usage: conformance/raw_client.py
Proves that the API needs no SDK, and that what a client claimed does not outlive it: neither when the client is killed,
nor when a child that it forked still holds its sockets.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time

import httpx

COUNT = 3
LIMIT_SECONDS = 1.0


def create() -> dict:
    """A leased sandbox. The request goes through standard input, so its values are no arguments."""
    request = json.dumps({"image": "base", "lease": True, "env": {"GREETING": "hello"}})
    up = subprocess.run(["mvmctl", "up", "--request", "-", "--json"], input=request, capture_output=True, text=True)
    sandbox = json.loads(up.stdout)
    if up.returncode != 0:
        sys.exit(f"up failed: {sandbox['error']}")
    return sandbox


def client(sandbox: dict) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=sandbox["socket"]), base_url="http://sandbox", timeout=30)


def run(http: httpx.Client, *argv: str) -> tuple[bytes, dict]:
    """Runs a command to its end: its standard output, and its result."""
    output = b""
    with http.stream("POST", "/v1/jobs", json={"argv": argv, "attached": True}) as response:
        response.raise_for_status()
        for line in filter(None, response.iter_lines()):
            event = json.loads(line)
            if event["type"] == "output" and event["stream"] == "stdout":
                output += base64.b64decode(event["data"])
            elif event["type"] == "ended":
                return output, event["result"]
    raise RuntimeError("the stream ended before the command did")


def own_and_report(fork: bool) -> None:
    """The owner: claims the sandboxes, uses them, says that it is ready, and never ends by itself."""
    leases = []
    sandboxes = [create() for _ in range(COUNT)]
    for sandbox in sandboxes:
        http = client(sandbox)
        lease = http.send(http.build_request("GET", "/v1/lease", timeout=None), stream=True).iter_lines()
        assert json.loads(next(lease))["claimed"]
        # An iterator that is dropped closes its connection.
        leases.append((http, lease))
        output, result = run(client(sandbox), "sh", "-c", "echo $GREETING; exit 3")
        assert (output, result["exit_code"]) == (b"hello\n", 3), (output, result)
    child = os.fork() if fork else 0
    if fork and child == 0:
        time.sleep(60)
        os._exit(0)
    print(json.dumps({"ids": [sandbox["id"] for sandbox in sandboxes], "child": child}), flush=True)
    time.sleep(60)


def processes_of(ids: list[str]) -> list[int]:
    """Supervisors of these sandboxes, seen from outside."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
        except OSError:
            continue
        if b"supervise" in arguments and any(id.encode() in arguments for id in ids):
            found.append(int(pid))
    return found


def kill_the_owner(fork: bool) -> float:
    """Seconds from the owner's death to the end of its last sandbox."""
    arguments = [sys.executable, __file__, "own-fork" if fork else "own"]
    owner = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    said = json.loads(owner.stdout.readline())
    assert len(processes_of(said["ids"])) == COUNT
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    since = time.monotonic()
    while processes_of(said["ids"]) and time.monotonic() - since < 10:
        time.sleep(0.01)
    elapsed = time.monotonic() - since
    if said["child"]:
        os.kill(said["child"], signal.SIGKILL)
    states = [inspect(id)["state"] for id in said["ids"]]
    assert states == ["destroyed"] * COUNT, states
    return elapsed


def inspect(id: str) -> dict:
    return json.loads(subprocess.run(["mvmctl", "inspect", id, "--json"], capture_output=True, text=True).stdout)


def main() -> None:
    if len(sys.argv) > 1:
        return own_and_report(sys.argv[1] == "own-fork")
    for fork in (False, True):
        elapsed = kill_the_owner(fork)
        what = "its forked child still held the sockets" if fork else "nothing of it was left"
        print(f"owner killed, {what}: {COUNT} sandboxes gone after {elapsed:.2f} s")
        if elapsed > LIMIT_SECONDS:
            sys.exit(f"that is more than {LIMIT_SECONDS} s")


if __name__ == "__main__":
    main()
