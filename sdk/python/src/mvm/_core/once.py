"""One-shot runs: a command in a sandbox of its own, by mvmctl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import _errors
from .._api import ErrorObject, JobResult, Plan
from . import check
from .commands import note, optional_input
from .results import ended
from .steps import Invoke, Operation, Steps, encoded, invoked, typed


@dataclass(frozen=True)
class OneShot:
    """A one-shot run, checked: what mvmctl is asked, and whether a failure is raised."""

    arguments: Mapping[str, Any] = field(repr=False)
    step: Invoke
    check: bool
    dry_run: bool


def one_shot(argv: Any, options: Mapping[str, Any]) -> OneShot:
    """A command in a sandbox of its own."""
    what, given = "cannot run the command", options.get
    disk = check.optional_count(what, "disk_mib", given("disk_mib"), least=1)
    request = {
        "argv": check.argv(what, argv),
        "image": check.optional_text(what, "image", given("image")),
        "cpus": check.optional_count(what, "cpus", given("cpus"), least=1),
        "memory_mib": check.optional_count(what, "memory_mib", given("memory_mib"), least=1),
        "disk_bytes": None if disk is None else disk << 20,
        "env": check.env(what, given("env")),
        "secrets": check.env(what, given("secrets"), "secrets"),
        "cwd": check.optional_text(what, "cwd", given("cwd")),
        "user": check.optional_text(what, "user", given("user")),
        "timeout_ms": check.optional_milliseconds(what, "timeout", given("timeout")),
        "max_output": check.optional_count(what, "max_output", given("max_output"), most=2**40),
        "profile": check.optional_text(what, "profile", given("profile")),
        "accept_risk": check.flag(what, "accept_risk", given("accept_risk")),
        "require": check.texts(what, "require", given("require")),
        "allow_missing": check.texts(what, "allow_missing", given("allow_missing")),
    }
    stdin, dry_run = optional_input(what, given("stdin")), check.flag(what, "dry_run", given("dry_run"))
    args = ["run", "--request", "-", "--json"]
    args += ["--dry-run"] if dry_run else []
    args += ["-i"] if stdin is not None else []
    if given("receipt") is not None:
        args += ["--receipt", check.host_path(what, given("receipt"), "receipt")]
    step = Invoke(tuple(args), encoded(request) + b"\n" + (stdin or b""), None)
    return OneShot({**request, "stdin": stdin, "dry_run": dry_run}, step, check.flag(what, "check", given("check")), dry_run)


def run_once(request: OneShot) -> Operation[Any]:
    """Runs it; answers the fields of its result and what went wrong with its receipt, or the plan."""

    def steps() -> Steps[tuple[dict[str, Any], _errors.MvmError | None]]:
        said = yield request.step
        fields = _fields_of_run(said)
        note(fields["sandbox_id"], fields["run_id"])
        return fields, _receipt_error(said)

    return Operation("run", request.arguments, invoked(Plan, request.step) if request.dry_run else steps())


def _receipt_error(said: Mapping[str, Any]) -> _errors.MvmError | None:
    """Why there is no receipt of it; the result is there all the same."""
    error = said.get("receipt_error")
    return None if error is None else _errors.from_object(typed(ErrorObject, error))


def _fields_of_run(said: Mapping[str, Any]) -> dict[str, Any]:
    sandbox_id = typed(str, said.get("sandbox_id"))
    warnings = tuple(said.get("warnings") or ())
    return {
        **ended(typed(JobResult, said), sandbox_id, _output(said, "stdout"), _output(said, "stderr"), warnings),
        "image_digest": typed(str, said.get("image_digest")),
        "isolation": said.get("isolation"),
    }


def _output(said: Mapping[str, Any], name: str) -> bytes:
    text: str = typed(str, said.get(name))
    kind = bytes if said.get(f"{name}_encoding") == "base64" else str
    data: str | bytes = typed(kind, text)
    return data.encode() if isinstance(data, str) else data
