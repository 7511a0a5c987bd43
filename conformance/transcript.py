"""What Python drivers have in common: walking through a case and writing down what happened, in JSON lines.

A header; for each case its beginning, one record for each step, and its end, which says what the case left behind.
"""

import json
import os
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable

import auditlog
import observe
import suite


def emit(record: dict[str, Any]) -> None:
    print(json.dumps(record, ensure_ascii=False), flush=True)


def record(
    surface: str,
    ids: list[str],
    call: Callable[[str, dict[str, Any]], Any],
    methods: list[str],
    packages: dict[str, str],
    clean: Callable[[str], None],
    close: Callable[[], None] = lambda: None,
) -> None:
    """Runs cases, all if none is named.

    `call` makes an object with `methods` (known before it is done), `start`, `finish` and `abandon`. `close` ends what the
    driver keeps for a case; what `clean` ends was left behind.
    """
    known = suite.load().cases
    # What cases make on this host has the same permissions everywhere: they are in what is recorded.
    os.umask(0o022)
    emit({"type": "header", "surface": surface, "methods": methods, "packages": packages})
    for id in ids or known:
        print(f"{surface}: {id}", file=sys.stderr, flush=True)
        _Walk(known[id], call).through(close, clean)


class _Walk:
    def __init__(self, case: suite.Case, call: Callable[[str, dict[str, Any]], Any]) -> None:
        self.case, self.call = case, call
        self.since = observe.Since()
        self.background: dict[str, Any] = {}
        self.made = tempfile.TemporaryDirectory(prefix="mvm-case-")
        host, config = Path(self.made.name, "host"), Path(self.made.name, "config")
        profiles = config / "mvm/profiles"
        host.mkdir()
        profiles.mkdir(parents=True)
        # Where the user's own profiles are looked for.
        os.environ["XDG_CONFIG_HOME"] = str(config)
        name = f"{case.id}-{secrets.token_hex(3)}"
        self.variables: dict[str, Any] = {"name": name, "host": str(host), "profiles": str(profiles)}

    def through(self, close: Callable[[], None], clean: Callable[[str], None]) -> None:
        case = {"case": self.case.id}
        emit({"type": "case", **case, "digest": self.case.digest, "given": dict(self.variables)})
        for number, step in enumerate(self.case.steps):
            emit({"type": "step", **case, "step": number, "op": step["op"], **self._step(step)})
        close()
        # What takes a moment to be gone has that moment; what is still there then was left behind.
        left = observe.settled(self.since.left, dict.fromkeys(("supervisors", "machines", "directories"), 0))
        emit({"type": "end", **case, "left": left})
        for waiting in self.background.values():
            waiting.abandon()
        for id in self.since.places():
            clean(id)
        self.made.cleanup()

    def _step(self, step: dict[str, Any]) -> dict[str, Any]:
        try:
            args = suite.fill(step.get("args", {}), self.variables)
        except KeyError as error:
            return {"args": None, "error": {"code": None, "why": f"an earlier step did not save {error}"}}
        outcome = self._outcome(step, args)
        if "result" in outcome:
            for variable, path in step.get("save", {}).items():
                value = suite.at(outcome["result"], path)
                if value is not suite.Nothing:
                    self.variables[variable] = value
        return {"args": args, **outcome}

    def _outcome(self, step: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
        op = step["op"]
        if op == "observe":
            return {"result": self._observe(**args)}
        if op == "observe.entry":
            return {"result": auditlog.entry(observe.home() / "audit", args["audit_id"])}
        if op == "host.connect":
            return {"result": observe.connection(int(args["port"]), args["send"])}
        if op.startswith("host."):
            return {"result": _host(op, **args)}
        if op == "join":
            return self.background.pop(args["of"]).finish()
        if op == "abandon":
            return self.background.pop(args["of"]).abandon()
        work = self.call(op, args)
        work.start("background" in step)
        if "background" in step:
            self.background[step["background"]] = work
            return {"background": step["background"], "methods": work.methods}
        return {"methods": work.methods, **work.finish()}

    def _observe(self, sandbox: str | None = None, until: dict[str, int] | None = None) -> dict[str, Any]:
        def look() -> dict[str, Any]:
            return observe.sandbox(sandbox) if sandbox else self.since.processes()
        return observe.settled(look, until or {})


def _host(op: str, path: str, text: str = "", mode: int = 0o644, **change: str) -> dict[str, Any]:
    place = Path(path)
    if op == "host.receipt":
        return auditlog.receipt(place)
    if op == "host.forge":
        content = place.read_bytes()
        forged = auditlog.forged(content, change["old"], change["new"])
        Path(change["to"]).write_bytes(forged)
        return {"differs": forged != content}
    if op == "host.write":
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)
    if not place.exists() and not place.is_symlink():
        return {"kind": "absent", "text": None, "mode": None}
    kind = "symlink" if place.is_symlink() else "directory" if place.is_dir() else "file"
    text = place.read_text() if place.is_file() else None
    return {"kind": kind, "text": text, "mode": place.lstat().st_mode & 0o7777}
