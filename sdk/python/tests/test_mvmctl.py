"""Finding mvmctl, agreeing with it on a version, and what becomes of one that talks nonsense, on both surfaces."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import support

import mvm
from mvm import _live

Fake = Callable[[str], Path]
GOOD = """'{"version": "9.9", "api": {"oldest": 1, "newest": 1}}'"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a script in the place of mvmctl."""

    def make(script: str) -> Path:
        path = tmp_path / f"mvmctl-{len(list(tmp_path.iterdir()))}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("MVM_CLI_BIN", str(path))
        return path

    return make


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'unrecognized subcommand' >&2; exit 2", "too old to say"),
        ("""echo '{"version": "0.0.9", "api": {"oldest": 0, "newest": 0}}'""", r"0\.0\.9.* is too old: it speaks 0"),
        ("""echo '{"version": "9.9", "api": {"oldest": 2, "newest": 3}}'""", r"9\.9.* is too new: it speaks 2"),
        ("echo nonsense", "is no mvmctl"),
        ("echo '[]'", "is no mvmctl"),
        ("echo '{}'", "is no mvmctl"),
        ("""echo '{"version": "1", "api": {"oldest": "x", "newest": []}}'""", "is no mvmctl"),
        ("exit 1", "is no mvmctl"),
    ],
)
def test_versions_that_do_not_fit(api: support.Surface, fake: Fake, script: str, why: str) -> None:
    fake(script)
    for act in (api.Sandbox.list, lambda: api.Sandbox.create("base"), lambda: api.run(["true"])):
        with pytest.raises(mvm.Incompatible, match=why) as refused:
            act()
        assert "no mvmctl" in why or "version 1 of the API" in refused.value.why
        assert refused.value.hint


def test_a_version_is_asked_for_once_for_each_binary(api: support.Surface, fake: Fake, tmp_path: Path) -> None:
    count = tmp_path / "count"
    path = fake(f"""test "$1" = version && echo x >> {count} && echo {GOOD} || echo '{{"sandboxes": []}}'""")
    for _ in range(3):
        assert api.Sandbox.list() == ()
    assert count.read_text() == "x\n"
    path.write_text(path.read_text() + "# another build\n")
    assert api.Sandbox.list() == ()
    assert count.read_text() == "x\nx\n"


def test_no_mvmctl_is_not_found(api: support.Surface, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (tmp_path / "none", tmp_path):
        monkeypatch.setenv("MVM_CLI_BIN", str(place))
        with pytest.raises(mvm.NotFound, match=str(place)):
            api.Sandbox.list()
    monkeypatch.delenv("MVM_CLI_BIN")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_live.sysconfig, "get_path", lambda _: str(tmp_path / "scripts"))
    with pytest.raises(mvm.NotFound, match="PATH") as missing:
        api.Sandbox.list()
    assert str(tmp_path / "scripts") in missing.value.why


def test_the_installed_one_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MVM_CLI_BIN", raising=False)
    monkeypatch.setattr(_live.sysconfig, "get_path", lambda _: str(tmp_path))
    assert _live.find_binary() != str(tmp_path / "mvmctl")
    (tmp_path / "mvmctl").write_text("#!/bin/sh\n")
    (tmp_path / "mvmctl").chmod(0o755)
    assert _live.find_binary() == str(tmp_path / "mvmctl")


@pytest.mark.parametrize("said", ["", "nonsense", "[]", "null", "7", '{"error": {"code": "Unheard"}}', '{"error": 5}'])
def test_what_is_no_answer_of_mvmctl(api: support.Surface, fake: Fake, said: str) -> None:
    fake(f"""test "$1" = version && echo {GOOD} || {{ echo '{said}'; echo the-last-words >&2; }}""")
    for act in (api.Sandbox.list, lambda: api.Sandbox.create("base"), lambda: api.run(["true"]), api.gc, api.snapshots.list):
        with pytest.raises(mvm.Internal, match="the-last-words") as broken:
            act()
        assert isinstance(broken.value, RuntimeError)


@pytest.mark.parametrize("said", ["{}", '{"sandboxes": 5}', '{"sandboxes": [{}]}', '{"id": "mvm-0"}'])
def test_json_of_another_kind_is_the_transports_failure(api: support.Surface, fake: Fake, said: str) -> None:
    fake(f"""test "$1" = version && echo {GOOD} || echo '{said}'""")
    for act in (
        api.Sandbox.list,
        lambda: api.Sandbox.create("base"),
        lambda: api.run(["true"]),
        lambda: api.receipts.show("run-1"),
    ):
        with pytest.raises(mvm.TransportError):
            act()


def test_its_error_counts_whatever_it_exits_with(api: support.Surface, fake: Fake) -> None:
    error = """{"error": {"code": "ResourceExhausted", "what": "cannot", "why": "full", "hint": "wait", "errno": 28}}"""
    for status in (0, 1, 77):
        fake(f"""test "$1" = version && echo {GOOD} || {{ echo '{error}'; exit {status}; }}""")
        with pytest.raises(mvm.ResourceExhausted) as full:
            api.Sandbox.create("base")
        assert (full.value.what, full.value.why, full.value.hint, full.value.errno) == ("cannot", "full", "wait", 28)


def test_one_that_hangs_is_ended(api: support.Surface, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_live, "VERSION_LIMIT", 0.3)
    path = fake("exec sleep 4719")
    with pytest.raises(mvm.TransportError, match="did not end in time"):
        api.Sandbox.list()
    assert not [args for args in support.processes().values() if str(path) in args or args[:2] == ["sleep", "4719"]]


def test_a_request_is_among_no_arguments(api: support.Surface, fake: Fake, tmp_path: Path) -> None:
    fake(f"""test "$1" = version && echo {GOOD} && exit
        echo "$*" >> {tmp_path}/arguments; cat > {tmp_path}/stdin; echo '{{}}'""")
    with pytest.raises(mvm.TransportError):
        api.Sandbox.create("base", env={"A": "hush"}, secrets={"B": "env:TOKEN"})
    assert "hush" in (tmp_path / "stdin").read_text()
    with pytest.raises(mvm.TransportError):
        api.run(["echo", "hush"], stdin="quiet")
    assert (tmp_path / "stdin").read_text().endswith("\nquiet")
    arguments = (tmp_path / "arguments").read_text()
    assert "hush" not in arguments
    assert arguments.splitlines() == ["up --request - --json", "run --request - --json -i"]


def test_this_one_speaks_the_version_of_this_sdk() -> None:
    said = subprocess.run(["mvmctl", "version", "--json"], capture_output=True, check=True)
    _live.agree(_live.find_binary(), 0, said.stdout)
