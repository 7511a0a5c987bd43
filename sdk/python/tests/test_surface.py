"""The public surface: what it is called, the same on both sides, and up to date with what it is written from."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mvm

TWINS = [
    "Sandbox", "Commands", "CommandResult", "Job", "Files", "Logs", "Ports", "Secrets", "Snapshots", "Receipts", "RunResult",
]  # fmt: skip
SDK = Path(__file__).resolve().parents[2]

PUBLIC = {
    "Sandbox": """capabilities close cold commands connect create created destroy detach files fork freeze id info inspect keep
        kill leased list logs lookup missing_secrets name ports restore resume secrets snapshot start state stats stop wait
        warnings""",
    "Commands": "attach list run start",
    "CommandResult": """audit_id duration exit_code not_started ok oom_killed receipt redactions run_id sandbox_id signal stderr
        stderr_bytes stderr_data stderr_truncated stdout stdout_bytes stdout_data stdout_truncated timed_out unrecorded
        warnings""",
    "Job": "close_stdin info kill offset receipt resize run_id started wait warnings write",
    "Files": "download exists list mkdir move read read_text remove stat stream upload write write_many",
    "Logs": "close summary",
    "Ports": "close forward list",
    "Secrets": "list",
    "Snapshots": "inspect list remove",
    "Receipts": "open show verify",
}
ERRORS = {
    "CommandFailed": Exception, "Timeout": TimeoutError, "PolicyDenied": PermissionError, "InvalidState": Exception,
    "SandboxUnavailable": ConnectionError, "NotFound": FileNotFoundError, "AlreadyExists": FileExistsError,
    "FileError": OSError, "ResourceExhausted": Exception, "BackendUnsupported": Exception, "RestoreRefused": Exception,
    "Incompatible": Exception, "NotRecordable": Exception, "ClosedHandle": ValueError, "TransportError": ConnectionError,
    "InvalidRequest": ValueError, "Internal": RuntimeError,
}  # fmt: skip


def names(kind: type, *instance: str) -> set[str]:
    fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    return {name for name in dir(kind) if not name.startswith("_")} | fields | set(instance)


def attributes(kind: str) -> set[str]:
    """What `__init__` sets, as no object is made here."""
    made_by = getattr(mvm, kind).__init__
    written = made_by.__qualname__.startswith(kind) and not dataclasses.is_dataclass(getattr(mvm, kind))
    source = inspect.getsource(made_by) if written else ""
    words = (line.strip().split(" ")[0].rstrip(":,") for line in source.splitlines())
    return {word.removeprefix("self.") for word in words if word.startswith("self.") and not word.startswith("self._")}


@pytest.mark.parametrize("kind", PUBLIC)
def test_a_class_has_these_methods_and_attributes(kind: str) -> None:
    assert names(getattr(mvm, kind), *attributes(kind)) == set(PUBLIC[kind].split())


@pytest.mark.parametrize("kind", TWINS)
def test_both_surfaces_have_the_same_methods_with_the_same_parameters(kind: str) -> None:
    one, other = getattr(mvm, kind), getattr(mvm, f"Async{kind}")
    assert names(one) == names(other)
    for name in names(one):
        mine, theirs = (inspect.getattr_static(side, name, None) for side in (one, other))
        mine, theirs = (getattr(member, "__func__", member) for member in (mine, theirs))
        if inspect.isfunction(mine):
            assert parameters(mine) == parameters(theirs), name


@pytest.mark.parametrize("name", ["run", "gc"])
def test_both_surfaces_have_the_same_functions(name: str) -> None:
    assert parameters(getattr(mvm, name)) == parameters(getattr(mvm, f"async_{name}"))


def parameters(function: object) -> list[tuple[str, object, object]]:
    assert callable(function)
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]


def test_every_option_is_keyword_only() -> None:
    for kind in TWINS:
        for name, function in inspect.getmembers(getattr(mvm, kind), inspect.isfunction):
            given = [one for one in inspect.signature(function).parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
            # What a method is about may be given by its place.
            if not name.startswith("_"):
                assert all(one.default is one.empty for one in given[2:]), (kind, name)


def test_everything_that_is_public_is_there_and_in_order() -> None:
    assert mvm.__all__ == sorted(mvm.__all__)
    assert [name for name in mvm.__all__ if not hasattr(mvm, name)] == []
    twins = {f"Async{kind}" for kind in TWINS} | {"async_gc", "async_receipts", "async_run", "async_snapshots"}
    assert twins <= set(mvm.__all__)


def test_there_is_one_error_class_for_each_code_and_it_is_the_languages_own_where_one_fits() -> None:
    assert set(ERRORS) == {code.value for code in mvm.ErrorCode}
    for name, base in ERRORS.items():
        kind = getattr(mvm, name)
        assert kind.code == name
        assert issubclass(kind, mvm.MvmError)
        assert issubclass(kind, base)


def test_public_classes_and_methods_say_what_they_are() -> None:
    silent = [name for name in mvm.__all__ if not inspect.getdoc(getattr(mvm, name))]
    for kind in [*TWINS, *(f"Async{kind}" for kind in TWINS)]:
        members = inspect.getmembers(getattr(mvm, kind), inspect.isfunction)
        silent += [f"{kind}.{name}" for name, member in members if not name.startswith("_") and not member.__doc__]
    assert silent == []


def test_what_is_generated_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, "-m", "codegen", "--check"], cwd=SDK, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
