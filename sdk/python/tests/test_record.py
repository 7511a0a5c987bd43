"""Record mode: every call is written down or refused, and nothing is started."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import mvm

DOCS = Path(__file__).resolve().parents[3] / "docs/recording.md"
TABLE = dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", DOCS.read_text(), re.M))
SECRET = "not-to-be-found-4711"
HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

BEGIN = "import mvm, sys\nbox = mvm.Sandbox.create('base', name='box')\n"


class Program:
    """A program in a process of its own, which records. There is no mvmctl for it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.out = directory, directory / "out.json"

    def run(self, text: str, **env: str) -> subprocess.CompletedProcess[str]:
        """What became of it."""
        (self.directory / "agent.py").write_text(textwrap.dedent(text))
        given = {"MVM_SDK_MODE": "record", "MVM_SDK_OUT_PATH": str(self.out), "TOKEN": SECRET, **env}
        return subprocess.run(
            [sys.executable, "agent.py"],
            cwd=self.directory,
            env={"PATH": "/nowhere", "MVM_CLI_BIN": "/nowhere/mvmctl", "PYTHONPATH": str(Path(__file__).parent), **given},
            capture_output=True,
            text=True,
            check=False,
        )

    def recorded(self, text: str, **env: str) -> Any:
        """Its recording."""
        done = self.run(text, **env)
        assert (done.returncode, done.stderr) == (0, ""), done
        return json.loads(self.out.read_text())

    def calls(self, text: str) -> list[Any]:
        """The calls that it recorded, without their places."""
        return [entry["call"] for entry in self.recorded(text)["calls"]]

    def refused(self, text: str, **env: str) -> str:
        """What it prints of an error that it catches; nothing is recorded."""
        done = self.run(text, **env)
        assert done.returncode == 0, done.stderr
        assert list(self.directory.glob("out.json*")) == []
        return done.stdout.strip()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def caught(*lines: str, begin: str = BEGIN) -> str:
    """A program that prints the error of its last line."""
    *before, last = lines
    said = "type(error).__name__, getattr(error, 'call', ''), getattr(error, 'place', ''), error.why"
    tried = ["try:", f"    {last}", "except mvm.MvmError as error:", f"    print({said})"]
    return "\n".join([begin.rstrip(), *before, *tried])


EVERYTHING = """
    import io, pathlib, mvm
    with mvm.Sandbox.create("base", name="agent", cpus=2, memory_mib=512, disk_mib=1024, env={"A": "1"}, profile="dev",
                            secrets={"T": "env:TOKEN"}, ports=[mvm.PortSpec(guest_port=80, host_port=0)], owner="me",
                            accept_risk=True, allow_missing=["seccomp"], idempotency_key="k") as box:
        box.files.write("/a", "hello", mode=0o600, owner="nobody", append=True, sync=True, parents=True)
        box.files.write_many({"/b": b"hello", "/c": io.BytesIO(b"hel" + b"lo"), "/d": iter([b"hello"])})
        box.commands.run(["cat"], stdin="hello", check=True, timeout=1.5, env={"B": "2"}, secrets={"S": "file:/s"}, cwd="/",
                         user="nobody", max_output=10)
        box.commands.start("sleep 1", timeout=2, idempotency_key="k")
        box.files.mkdir("/e", parents=True, mode=0o700)
        box.files.move("/a", "/f")
        box.files.remove("/e", recursive=True)
        box.files.upload(host_path="tree", guest_path="/app")
        box.ports.forward(guest_port=81, host_port=8081, host="127.0.0.2")
        box.snapshot("ready")
        box.snapshot()
        box.keep(5)
        box.detach(ttl=10, on_expiry="stop", owner="me")
"""


def test_every_call_is_written_down_and_nothing_else(program: Program) -> None:
    tree = program.directory / "tree"
    (tree / "b").mkdir(parents=True)
    (tree / "b/x").write_text("hello")
    (tree / "b/x").chmod(0o755)
    (tree / "a.txt").write_text("hello")
    (tree / "a.txt").chmod(0o644)
    tree.chmod(0o750)
    (tree / "b").chmod(0o755)
    (tree / "ä").symlink_to("/nowhere")
    whole = program.recorded(EVERYTHING)
    assert whole["schema"] == "mvm.recording/v1"
    assert whole["program"] == "agent.py"
    assert whole["contents"] == {HELLO: "aGVsbG8="}
    assert [entry["place"] for entry in whole["calls"][:3]] == ["agent.py:3", "agent.py:6", "agent.py:7"]
    port = {"guest_port": 80, "host_port": 0, "host": "127.0.0.1", "protocol": "tcp"}
    assert [entry["call"] for entry in whole["calls"]] == [
        {"create": {"image": "base", "name": "agent", "cpus": 2, "memory_mib": 512, "disk_mib": 1024, "env": {"A": "1"},
                    "secrets": {"T": "env:TOKEN"}, "profile": "dev", "ports": [port]}},
        {"files.write": {"path": "/a", "content": HELLO, "mode": 0o600, "owner": "nobody", "append": True, "parents": True}},
        *({"files.write": {"path": path, "content": HELLO}} for path in ("/b", "/c", "/d")),
        {"commands.run": {"argv": ["cat"], "stdin": HELLO, "check": True, "timeout_ms": 1500, "env": {"B": "2"},
                          "secrets": {"S": "file:/s"}, "cwd": "/", "user": "nobody"}},
        {"commands.start": {"argv": ["/bin/sh", "-c", "sleep 1"], "timeout_ms": 2000}},
        {"files.mkdir": {"path": "/e", "parents": True, "mode": 0o700}},
        {"files.move": {"source": "/a", "destination": "/f"}},
        {"files.remove": {"path": "/e", "recursive": True}},
        {"files.upload": {"guest_path": "/app", "entries": [
            {"path": "", "what": {"directory": {"mode": 0o750}}},
            {"path": "a.txt", "what": {"file": {"content": HELLO, "mode": 0o644}}},
            {"path": "b", "what": {"directory": {"mode": 0o755}}},
            {"path": "b/x", "what": {"file": {"content": HELLO, "mode": 0o755}}},
            {"path": "ä", "what": {"link": "/nowhere"}},
        ]}},
        {"ports.forward": {"guest_port": 81, "host_port": 8081, "host": "127.0.0.2", "protocol": "tcp"}},
        {"snapshot": {"name": "ready"}},
        {"snapshot": {}},
        {"keep": {"ttl_ms": 5000}},
        {"detach": {"ttl_ms": 10000, "on_expiry": "stop"}},
    ]  # fmt: skip
    assert program.out.stat().st_mode & 0o777 == 0o600
    assert SECRET not in program.out.read_text()
    assert sorted(path.name for path in program.directory.iterdir()) == ["agent.py", "out.json", "tree"]


def test_the_asynchronous_half_writes_the_same(program: Program) -> None:
    text = """
        import asyncio, mvm
        async def main():
            async with await mvm.AsyncSandbox.create("base", name="agent") as box:
                async def pieces():
                    yield b"hel"
                    yield b"lo"
                await box.files.write("/a", pieces())
                job = await box.commands.start(["sleep", "1"])
                result = await box.commands.run(["true"], check=True)
                print(job, result, box)
        asyncio.run(main())
    """
    whole = program.recorded(text)
    lines = [4, 8, 9, 10]
    assert [entry["place"] for entry in whole["calls"][:4]] == [f"agent.py:{line}" for line in lines]
    assert [entry["call"] for entry in whole["calls"]] == [
        {"create": {"image": "base", "name": "agent", "ports": []}},
        {"files.write": {"path": "/a", "content": HELLO}},
        {"commands.start": {"argv": ["sleep", "1"]}},
        {"commands.run": {"argv": ["true"], "check": True}},
        {"close": {}},
    ]


def test_calls_are_in_the_order_in_which_they_began(program: Program) -> None:
    text = """
        import asyncio, mvm
        async def main():
            async with await mvm.AsyncSandbox.create("base") as box:
                async def pieces():
                    await asyncio.sleep(0.01)
                    yield b"hello"
                await asyncio.gather(box.files.write("/slow", pieces()), box.files.mkdir("/after"))
        asyncio.run(main())
    """
    whole = program.recorded(text)
    assert [next(iter(entry["call"])) for entry in whole["calls"]] == ["create", "files.write", "files.mkdir", "close"]
    # A task has no caller but the loop, which is called here.
    assert [entry["place"] for entry in whole["calls"][1:3]] == ["agent.py:9", "agent.py:9"]


def test_a_call_that_fails_leaves_nothing_in_the_recording(program: Program) -> None:
    (program.directory / "bytes").write_text("hello")
    (program.directory / "more").mkdir()
    for name in ("a", "b"):
        (program.directory / f"more/{name}").write_text(f"{name}: read before the failure")
    text = """
        import builtins, mvm
        with mvm.Sandbox.create("base") as box:
            def pieces():
                yield b"some"
                raise ValueError
            try:
                box.files.write("/a", pieces())
            except ValueError:
                pass
            # The second file of the tree is gone.
            usual = open
            builtins.open = lambda name, *a, **k: usual("none" if str(name).endswith("b") else name, *a, **k)
            try:
                box.files.upload(host_path="more", guest_path="/a")
            except mvm.NotFound:
                pass
            builtins.open = usual
            box.files.upload(host_path="bytes", guest_path="/a")
    """
    whole = program.recorded(text)
    assert [next(iter(entry["call"])) for entry in whole["calls"]] == ["create", "files.upload", "close"]
    assert list(whole["contents"]) == [HELLO]


def test_a_handle_that_closed_answers_its_report(program: Program) -> None:
    assert program.calls(BEGIN + "box.close()\nprint(box.destroy())\n")[1:] == [{"close": {}}]


@pytest.mark.parametrize("ending", ["box.close()", "box.destroy()", "box.kill()"])
def test_a_sandbox_that_was_ended_takes_nothing_more(program: Program, ending: str) -> None:
    name = ending[4:-2]
    assert program.calls(BEGIN + f"{ending}\n{ending}\n")[1:] == [{name: {}}]
    done = program.run(caught(ending, "box.files.mkdir('/a')"))
    assert done.stdout.startswith("ClosedHandle")
    assert json.loads(program.out.read_text())["calls"][-1]["call"] == {name: {}}


def test_a_sandbox_without_a_lease_is_left_alone(program: Program) -> None:
    text = (
        "import mvm\nwith mvm.Sandbox.create('base', name='box', ttl=60, on_expiry='cold') as box:\n    assert not box.leased\n"
    )
    assert program.calls(text) == [
        {"create": {"image": "base", "name": "box", "ports": [], "ttl_ms": 60000, "on_expiry": "cold"}}
    ]


def test_what_is_known_of_a_recorded_sandbox(program: Program) -> None:
    text = BEGIN + "assert (box.name, box.created, box.warnings, box.missing_secrets) == ('box', True, (), ())\n"
    program.calls(text + "assert box.leased\nprint(box)\n")
    program.out.unlink()
    for what in ("id", "info.state", "info.id"):
        assert program.refused(caught(f"box.{what}")).startswith(f"NotRecordable SandboxInfo.{what.split('.')[-1]} agent.py:4 ")
    unnamed = caught("print(box.name)").replace("name='box'", "")
    assert "SandboxInfo.name" in program.refused(unnamed)


@pytest.mark.parametrize(
    "use", ["r.exit_code", "r.stdout", "r.ok", "r.receipt()", "bool(r)", "r == 1", "list(r)", "len(r.stdout_data)"]
)
def test_an_answer_is_there_and_cannot_be_looked_at(program: Program, use: str) -> None:
    said = program.refused(caught("r = box.commands.run(['a'])", "assert isinstance(r, mvm.CommandResult), repr(r)", use))
    assert re.match(
        r"NotRecordable CommandResult\b.* agent\.py:6 only a live sandbox knows it: commands\.run at agent\.py:3 ", said
    )


REFUSED = {
    "box.files.read('/a')": "files.read", "box.files.read_text('/a')": "files.read_text",
    "next(box.files.stream('/a'))": "files.stream", "box.files.list('/')": "files.list",
    "box.files.stat('/')": "files.stat", "box.files.exists('/')": "files.exists",
    "box.files.download(guest_path='/a', host_path='a')": "files.download", "box.ports.list()": "ports.list",
    "box.ports.close(host_port=1)": "ports.close", "box.secrets.list()": "secrets.list", "box.commands.list()": "commands.list",
    "box.commands.attach('run-1')": "commands.attach", "box.inspect()": "inspect", "box.state()": "state",
    "box.capabilities()": "capabilities", "box.stats()": "stats", "box.wait('running')": "wait", "list(box.logs())": "logs",
    "box.fork()": "fork", "box.stop()": "stop", "box.start()": "start", "box.freeze()": "freeze", "box.cold()": "cold",
    "box.resume()": "resume", "mvm.Sandbox.connect('a')": "connect", "mvm.Sandbox.restore('a')": "restore",
    "mvm.Sandbox.list()": "list", "mvm.Sandbox.lookup('a')": "lookup", "mvm.run('a')": "run", "mvm.gc()": "gc",
    "mvm.snapshots.list()": "snapshots.list", "mvm.snapshots.inspect('a')": "snapshots.inspect",
    "mvm.snapshots.remove('a')": "snapshots.remove", "mvm.receipts.show('run-1')": "receipts.show",
    "mvm.receipts.verify('a')": "receipts.verify", "mvm.receipts.open('a', 'argv')": "receipts.open",
    "box.commands.start('a').run_id": "Job.run_id", "box.commands.start('a').started": "Job.started",
    "box.commands.start('a').warnings": "Job.warnings", "box.commands.start('a').offset": "Job.offset",
    "box.commands.start('a').info()": "Job.info", "box.commands.start('a').write('')": "Job.write",
    "box.commands.start('a').close_stdin()": "Job.close_stdin", "box.commands.start('a').wait()": "Job.wait",
    "box.commands.start('a').kill()": "Job.kill", "box.commands.start('a').resize(1, 1)": "Job.resize",
    "box.commands.start('a').receipt()": "Job.receipt", "list(box.commands.start('a'))": "Job in an iteration",
}  # fmt: skip
OPTIONS = {
    "mvm.Sandbox.create(dry_run=True)": "create", "mvm.Sandbox.create()": "create",
    "mvm.Sandbox.create(mode='live')": "create", "box.commands.run('a', receipt='r')": "commands.run",
    "box.commands.run('a', on_stdout=print)": "commands.run", "box.commands.start('a', stdin=True)": "commands.start",
    "box.commands.start('a', tty=(1, 1))": "commands.start", "box.detach(ttl=float('inf'))": "detach",
    "box.files.upload(host_path='fifo', guest_path='/a')": "files.upload",
    "box.files.upload(host_path='deep', guest_path='/a')": "files.upload",
}  # fmt: skip


@pytest.mark.parametrize("call", REFUSED)
def test_what_needs_an_answer_is_refused_with_its_place(program: Program, call: str) -> None:
    assert program.refused(caught(call)).startswith(f"NotRecordable {REFUSED[call]} agent.py:4 ")


@pytest.mark.parametrize("call", OPTIONS)
def test_what_has_no_place_in_a_workload_is_refused(program: Program, call: str) -> None:
    os.mkfifo(program.directory / "fifo")
    (program.directory / "/".join(["deep"] * 70)).mkdir(parents=True)
    assert program.refused(caught(call)).startswith(f"NotRecordable {OPTIONS[call]} agent.py:4 ")


@pytest.mark.parametrize("option", ["require=['seccomp']", "ttl=float('inf'), owner='me'"])
def test_what_is_for_whoever_launches_it_is_refused(program: Program, option: str) -> None:
    said = program.refused(caught(f"mvm.Sandbox.create({option})", begin="import mvm\n"))
    assert said.startswith("NotRecordable create agent.py:3 ")


def test_the_table_has_every_call_and_what_it_does() -> None:
    groups = {
        "Sandbox": "", "Commands": "commands.", "Job": "job.", "Files": "files.", "Ports": "ports.", "Secrets": "secrets.",
        "Snapshots": "snapshots.", "Receipts": "receipts.",
    }  # fmt: skip
    public = {"run", "gc", "job.started", "job.warnings"}
    for kind, group in groups.items():
        names = {name for name in dir(getattr(mvm, kind)) if not name.startswith("_")}
        public |= {f"{group}{name}" for name in names}
    assert public == set(TABLE)
    # Each that is said to be refused is called above, and each that is not is recorded there.
    spelt = " ".join(REFUSED).replace("mvm.Sandbox.", "box.").replace("mvm.", "box.").replace("commands.start('a')", "job")
    tried = set(re.findall(r"box\.([a-z_.]+[a-z_])", spelt)) - {"job"} | {"id", "info"}
    assert {name for name, does in TABLE.items() if does.startswith("NotRecordable")} == tried
    recorded = set(re.findall(r"box\.([a-z_.]+)\(", EVERYTHING)) | {"create", "close", "destroy", "kill"}
    assert {name for name, does in TABLE.items() if does.startswith("recorded")} == recorded


@pytest.mark.parametrize("end", ["raise ValueError", "box.files.read('/a')"])
def test_nothing_is_written_after_an_error_that_nobody_caught(program: Program, end: str) -> None:
    done = program.run(BEGIN + end)
    assert done.returncode == 1
    assert sorted(os.listdir(program.directory)) == ["agent.py"]


def test_a_refusal_that_was_caught_is_said_at_the_end(program: Program) -> None:
    done = program.run(caught("box.files.read('/a')"))
    why = "cannot record files.read at agent.py:4: it needs an answer that only a live sandbox has"
    assert done.stderr == f"mvm: no recording was written: {why}\n"


def test_a_program_that_creates_nothing_writes_nothing(program: Program) -> None:
    done = program.run("import mvm")
    assert (done.returncode, done.stderr, program.out.exists()) == (0, "", False)


def test_a_place_that_cannot_be_written_is_refused_before_anything(program: Program) -> None:
    create = caught("mvm.Sandbox.create()", begin="import mvm\n")
    assert program.refused(create, MVM_SDK_OUT_PATH="").startswith("InvalidRequest")
    done = program.run(BEGIN, MVM_SDK_OUT_PATH="none/out.json")
    assert "FileError: cannot write" in done.stderr
    (program.directory / "taken").mkdir()
    done = program.run(BEGIN, MVM_SDK_OUT_PATH="taken")
    assert done.stderr.startswith("mvm: no recording was written: cannot write ")
    assert sorted(os.listdir(program.directory)) == ["agent.py", "taken"]


def test_an_old_recording_stays_until_there_is_a_new_one(program: Program) -> None:
    program.out.write_text("old")
    program.run(BEGIN + "raise ValueError")
    assert program.out.read_text() == "old"
    program.recorded(BEGIN)


def test_contents_are_bounded(program: Program) -> None:
    (program.directory / "big").touch()
    os.truncate(program.directory / "big", 1 << 40)
    for call in (
        "box.files.write('/a', b'x' * (65 << 20))",
        "box.files.write('/a', (b'x' * (1 << 20) for _ in iter(int, 1)))",
        "box.files.upload(host_path='big', guest_path='/a')",
    ):
        assert program.refused(caught(call)).startswith("ResourceExhausted")


def test_a_forked_child_and_other_modes_write_nothing_of_it(program: Program) -> None:
    text = BEGIN + "import os\nif os.fork() == 0:\n    sys.exit()\nos.wait()\nbox.files.mkdir('/a')\n"
    assert len(program.calls(text)) == 2
    program.out.unlink()
    assert "'draft'" in program.refused(caught("mvm.Sandbox.create(mode='draft')", begin="import mvm\n"))
    assert "'draft'" in program.refused(caught("mvm.gc()", begin="import mvm\n"), MVM_SDK_MODE="draft")


def test_one_sandbox_of_a_live_program_can_be_recorded(program: Program) -> None:
    text = "import mvm\nmvm.Sandbox.create('base', mode='record').close()\n"
    assert [next(iter(entry["call"])) for entry in program.recorded(text, MVM_SDK_MODE="")["calls"]] == ["create", "close"]


def test_nothing_is_started_and_nothing_connected_to(program: Program) -> None:
    text = """
        import sys, os
        def hook(event, args):
            if event in ("subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn", "socket.connect"):
                os.write(2, event.encode())
                os._exit(1)
        sys.addaudithook(hook)
    """
    (program.directory / "tree").mkdir()
    program.recorded(textwrap.dedent(text) + textwrap.dedent(EVERYTHING))


def test_arguments_are_checked_as_live(program: Program) -> None:
    secret = f"box.commands.run('a', secrets={{'T': '{SECRET}'}})"
    assert SECRET not in program.run(caught(secret)).stdout
    for call in (secret, "box.files.write('a', '')", "box.commands.run([])", "box.files.mkdir('/a', mode=-1)", "box.keep(-1)"):
        assert program.run(caught(call)).stdout.startswith("InvalidRequest"), call
        assert len(json.loads(program.out.read_text())["calls"]) == 1
        assert SECRET not in program.out.read_text()


def test_an_error_of_a_recording_comes_whole_out_of_another_process() -> None:
    error = mvm.NotRecordable("a", "b")
    assert (error.call, error.place) == ("", "")
    error.call, error.place = "files.read", "agent.py:3"
    again = pickle.loads(pickle.dumps(error))
    assert (again.call, again.place, str(again)) == ("files.read", "agent.py:3", "a: b")
