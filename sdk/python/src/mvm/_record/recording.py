"""The recording of one process: its calls in their order, and the bytes that they name."""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import hashlib
import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .. import _errors
from .._core.steps import Operation
from . import answers, calls
from .place import caller, refused

T = TypeVar("T")

SCHEMA = "mvm.recording/v1"
# Where a recording is written.
OUT = "MVM_SDK_OUT_PATH"
# Bytes of all contents together.
MAX_CONTENTS = 64 << 20


@dataclass(eq=False)
class Step:
    """A call: its place, the contents that it names, and, once all of its arguments are known, what is recorded of it."""

    place: str
    contents: list[str] = field(default_factory=list)
    call: dict[str, Any] | None = None


class Recording:
    """The calls of this process, for one workload. They are written when it ends well, and only then."""

    def __init__(self) -> None:
        self._pid, self._lock = os.getpid(), threading.Lock()
        self._steps: list[Step] = []
        self._contents: dict[str, bytes] = {}
        self._size = 0
        self._path = self._spoilt = self._program = ""
        atexit.register(self._end)

    @property
    def foreign(self) -> bool:
        """Whether this process is a fork of the one that records."""
        return os.getpid() != self._pid

    def spoil(self, error: _errors.MvmError) -> _errors.MvmError:
        """Nothing is written from now on: a program that goes on after this error goes another way than it would live."""
        self._spoilt = self._spoilt or f"{error.what}: {error.why}"
        return error

    @contextlib.contextmanager
    def step(self, operation: Operation[Any]) -> Iterator[Step]:
        """The place of a call among the others, in the order in which they began. A call that fails is forgotten."""
        if operation.name not in calls.RECORDABLE:
            raise self.spoil(refused(operation.call, "it needs an answer that only a live sandbox has"))
        step = Step(caller())
        with self._lock:
            if operation.name == "create":
                self._begin()
            self._steps.append(step)
        try:
            yield step
        except BaseException:
            self._steps.remove(step)
            raise

    def perform(self, step: Step, operation: Operation[T], data: bytes | None = None, kind: type | None = None) -> T:
        """Records a call. Answers what stands for its answer, for which there may be a `kind`; `data` is what it writes."""
        asked = calls.Asked(operation.arguments, data, functools.partial(self._keep, step))
        try:
            arguments = calls.RECORDABLE[operation.name](asked)
        except calls.Unrecordable as error:
            raise self.spoil(refused(operation.name, str(error))) from None
        step.call = {operation.name: calls.given(arguments)}
        return answers.of(operation, step.place, kind, self.spoil)

    def room(self, size: int) -> None:
        """Refuses a content that is too large, perhaps before all of it is read."""
        if self._size + size > MAX_CONTENTS:
            raise self.spoil(
                _errors.ResourceExhausted(
                    f"cannot record the content at {caller()}", f"a recording holds {MAX_CONTENTS >> 20} MiB of contents"
                )
            )

    def _keep(self, step: Step, data: bytes) -> str:
        """Keeps bytes that a call names, once. Answers their name."""
        digest = hashlib.sha256(data).hexdigest()
        with self._lock:
            if digest not in self._contents:
                self.room(len(data))
                self._contents[digest] = bytes(data)
                self._size += len(data)
        step.contents.append(digest)
        return digest

    def _begin(self) -> None:
        if self._steps:
            raise self.spoil(refused("create", f"a workload is one sandbox, and {self._steps[0].place} creates one"))
        self._path = _place_of_recording()
        # The interpreter forgets it before the end.
        self._program = os.path.basename(getattr(sys.modules.get("__main__"), "__file__", None) or "")

    def _end(self) -> None:
        # An exception that nobody caught was noted here by the interpreter; an exit status only its parent sees.
        if self.foreign or getattr(sys, "last_value", None) is not None:
            return
        failure = self._spoilt
        unfinished = next((step for step in self._steps if step.call is None), None)
        if unfinished is not None and not failure:
            failure = f"the call at {unfinished.place} was not over when the program ended"
        if self._steps and not failure:
            try:
                _write(self._path, self._document())
            except OSError as error:
                failure = f"cannot write {self._path}: {error.strerror}"
        if failure:
            print(f"mvm: no recording was written: {failure}", file=sys.stderr)

    def _document(self) -> bytes:
        # What only a call has named that failed is left out.
        named = dict.fromkeys(digest for step in self._steps for digest in step.contents)
        whole: Mapping[str, Any] = {
            "schema": SCHEMA,
            "program": self._program,
            "calls": [{"place": step.place, "call": step.call} for step in self._steps],
            "contents": {digest: base64.b64encode(self._contents[digest]).decode() for digest in named},
        }
        return json.dumps(whole, ensure_ascii=False).encode() + b"\n"


def _place_of_recording() -> str:
    path = os.environ.get(OUT)
    if not path:
        raise _errors.InvalidRequest(
            "cannot record", f"{OUT} does not say where the recording is written", hint="mvmctl compile --record sees to it"
        )
    path = os.path.abspath(path)
    if not os.path.isdir(os.path.dirname(path)):
        raise _errors.FileError(f"cannot write {path}", "there is no such directory", errno=2, hint=f"{OUT} names the file")
    return path


def _write(path: str, document: bytes) -> None:
    """Puts a file in place: whole or not at all."""
    draft = f"{path}.{os.getpid()}.tmp"
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError:
        try:
            os.unlink(draft)
        except OSError:
            pass
        raise
