"""Receipts: made, checked and opened by mvmctl, outside this process."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import _errors
from .._codec import Record, named
from . import check
from .steps import Invoke, Operation, Steps, parsed, typed

FIELDS = ("argv", "env", "stdin", "stdout", "stderr")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a receipt, a proof or an opening is not believed."""

    name: str
    """A stable name, such as `bad-signature`."""
    why: str
    """What is wrong with it."""
    exit_status: int
    """What `mvmctl receipt verify` exits with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged(Record):
    """A proven entry of an audit log."""

    origin: str
    """The log."""
    index: int
    """Its place in it."""
    size: int
    """How many entries the log had when that was proven."""
    keyid: str
    """The key that signed that: the SHA-256 of the public key, in hex."""
    entry: Any = field(repr=False)
    """The entry, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Record):
    """A value that an opening proved."""

    field: str
    """`argv`, `env`, `stdin`, `stdout` or `stderr`."""
    value: bytes = dataclasses.field(repr=False, metadata=named("value_base64"))
    """The value, which the guest may have written."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What checking a receipt came to."""

    verified: bool
    """Whether it is genuine: not a byte was changed since it was signed by one of the keys."""
    refusal: Refusal | None = None
    """Why not."""
    keyid: str = ""
    """The key that signed it: the SHA-256 of the public key, in hex."""
    digest: str = ""
    """SHA-256 of the signed envelope, in hex."""
    statement: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What it says, as JSON: `run`, `image`, `policy`, `limits`, `isolation`, `host_observed`, `guest_reported`, …"""
    logged: Logged | None = None
    """The entry of the audit log that the proof beside it proves; None without a proof."""
    opened: Opened | None = None
    """The value that an opening proved; None without an opening."""

    def __bool__(self) -> bool:
        return self.verified


@dataclass(frozen=True, kw_only=True)
class Receipt(Verification):
    """The receipt of a command: a signed statement without anything that went in or came out, checked by mvmctl."""

    run_id: str
    """The command."""
    envelope: str = field(repr=False)
    """The signed envelope (DSSE), byte for byte what its file holds."""
    proof: str = field(repr=False)
    """The proof that it is in the audit log (C2SP tlog-proof), byte for byte what the file beside it holds."""

    def write(self, path: check.HostPath) -> None:
        """Writes it into a file, and its proof beside it (`.tlog-proof`): the proof first, each of them whole or not at all."""
        place = check.host_path("cannot write the receipt", path)
        for name, text in ((f"{place}.tlog-proof", self.proof), (place, self.envelope)):
            _replace(name, text)


def _replace(place: str, text: str) -> None:
    draft = f"{place}.{os.getpid()}.tmp"
    try:
        with open(draft, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.replace(draft, place)
    except OSError as error:
        try:
            os.unlink(draft)
        except OSError:
            pass
        raise _errors.FileError(f"cannot write {place}", error.strerror or str(error), errno=error.errno) from None


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A proof of one value behind a receipt, or why there is none. The value is in it: it is as sensitive."""

    refusal: Refusal | None = None
    """Why there is none: the value is not what the receipt commits to, or the receipt is not genuine."""
    field: str = ""
    """`argv`, `env`, `stdin`, `stdout` or `stderr`."""
    run_id: str = ""
    """The command."""
    content: bytes = dataclasses.field(default=b"", repr=False)
    """Byte for byte what its file holds; `receipts.verify(opening=…)` takes that file."""

    def __bool__(self) -> bool:
        return self.refusal is None


@contextlib.contextmanager
def on_disk(receipt: Any, opening: Any) -> Iterator[tuple[Any, Any]]:
    """Files that mvmctl can read, for as long as it does: those that are named, or what receipt and opening hold."""
    if not isinstance(receipt, Receipt) and not isinstance(opening, Opening):
        yield receipt, opening
        return
    with tempfile.TemporaryDirectory(prefix="mvm-") as place:
        if isinstance(receipt, Receipt):
            receipt.write(os.path.join(place, "receipt"))
            receipt = os.path.join(place, "receipt")
        if isinstance(opening, Opening):
            with open(os.path.join(place, "opening"), "wb") as file:
                file.write(opening.content)
            opening = file.name
        yield receipt, opening


def show(run_id: Any, sandbox: Any = None, path: Any = None) -> Operation[Receipt]:
    """The receipt of a command that has ended; signed when it is first asked for."""
    what = "cannot get the receipt"
    args = ["receipt", "show", "--json"]
    if sandbox is not None:
        args += ["--sandbox", check.named(what, "sandbox", sandbox)]
    if path is not None:
        args += ["--output", check.host_path(what, path)]
    run_id = check.named(what, "a run id", run_id)

    def steps() -> Steps[Receipt]:
        said = yield Invoke((*args, run_id))
        return Receipt(
            run_id=run_id, envelope=typed(str, said.get("envelope")), proof=typed(str, said.get("proof")), **_verified(said)
        )

    return Operation("receipts.show", {"job": run_id, "sandbox": sandbox}, steps())


def verify(path: Any, keys: Any, proof: Any, opening: Any) -> Operation[Verification]:
    """Checks a receipt's file."""
    what = "cannot verify the receipt"
    args = ["receipt", "verify", "--json"]
    if keys is not None:
        args += [f"--key={check.host_path(what, key, 'a key')}" for key in _paths(what, keys)]
    for option, value in (("--proof", proof), ("--opening", opening)):
        if value is not None:
            args.append(f"{option}={check.host_path(what, value, option[2:])}")
    args.append(check.host_path(what, path))

    def steps() -> Steps[Verification]:
        return Verification(**_verified((yield Invoke(tuple(args)))))

    return Operation("receipts.verify", {"path": args[-1]}, steps())


def _paths(what: str, keys: Any) -> list[Any]:
    if isinstance(keys, (str, bytes, os.PathLike)) or not hasattr(keys, "__iter__"):
        check.refuse(what, "keys is a list of paths", 'keys=["mvm.pub"]')
    return list(keys)


def open_field(path: Any, name: Any, value: Any) -> Operation[Opening]:
    """Opens one commitment of a receipt of this machine."""
    what = "cannot open the receipt"
    if name not in FIELDS:
        check.refuse(what, f"a field is one of {', '.join(FIELDS)}")
    args = ["receipt", "open", "--json"]
    args += [] if value is None else [f"--value={check.host_path(what, value, 'value')}"]
    args += [check.host_path(what, path), name]

    def steps() -> Steps[Opening]:
        content = yield Invoke(tuple(args), raw=True)
        said = parsed(content)
        if "refusal" in said:
            return Opening(refusal=_refusal(said["refusal"]))
        return Opening(field=name, run_id=typed(str, said.get("run_id")), content=content)

    return Operation("receipts.open", {"path": args[-2], "field": name}, steps())


def _verified(said: Mapping[str, Any]) -> dict[str, Any]:
    if "refusal" in said:
        return {"verified": False, "refusal": _refusal(said["refusal"])}
    return {
        "verified": typed(bool, said.get("verified")),
        "keyid": typed(str, said.get("keyid")),
        "digest": typed(str, said.get("digest")),
        "statement": typed(dict, said.get("statement")),
        "logged": typed(Logged | None, said.get("logged")),
        "opened": typed(Opened | None, said.get("opened")),
    }


def _refusal(said: Mapping[str, Any]) -> Refusal:
    return Refusal(
        name=typed(str, said.get("name")), why=typed(str, said.get("why")), exit_status=typed(int, said.get("exit_status"))
    )
