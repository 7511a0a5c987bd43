# Written by `make sdk-types` from mvm/_async; changes here are lost.
"""Commands of a sandbox."""

from __future__ import annotations

import os
from collections.abc import Iterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from .. import _errors, _live
from .._api import Ended, JobEvent, JobInfo, JobResult, Output, OutputGap, Started
from .._core import check as checked
from .._core import commands, receipts, results
from .._core.receipts import Receipt
from .._core.steps import broke_off
from .handle import Handle
from .transport import Beside, Transport, aside, tell


@dataclass(frozen=True, kw_only=True)
class CommandResult(results.ResultBase):
    """How a command ended, and what it wrote.

    `repr` shows how much it wrote and not what: that is the guest's.
    """

    def receipt(self) -> Receipt:
        """The receipt of the command: signed when it is first asked for, also after its sandbox is gone."""
        return Transport().perform(receipts.show(self.run_id, self.sandbox_id))


class Job:
    """A command that goes on by itself: it survives this handle, this process, and a pause of its sandbox.

    Only one that is sent input (`write`) needs its writer until `close_stdin`: if that ends before, it is killed.
    """

    def __init__(self, handle: Handle, started: JobInfo, offset: int, warnings: tuple[str, ...] = ()) -> None:
        """Not for callers: `commands.start` and `commands.attach` make jobs."""
        self._handle, self._run_id, self._offset = handle, started.run_id, offset
        self._input: _live.Input | None = None
        self.started = started
        """What it was when this handle was made."""
        self.warnings = warnings
        """What there is to say about how its secrets are kept."""

    def __repr__(self) -> str:
        return f"<Job {self._run_id} of {self._handle.target.name}>"

    @property
    def run_id(self) -> str:
        """Its id."""
        return self._run_id

    @property
    def offset(self) -> int:
        """Up to where its output was read, in bytes of both streams together; the next iteration begins there."""
        return self._offset

    def info(self) -> JobInfo:
        """What is known of it now."""
        return self._handle.perform(commands.describe(self._handle.target, self._run_id))

    def __iter__(self) -> Iterator[Output | OutputGap]:
        """Its output from `offset` on, as it comes, to its end. What is no longer kept is a gap.

        An iteration that was left, or broke off, is gone on with by the next one.
        """
        with self._handle.perform(commands.output(self._handle.target, self._run_id, self._offset)) as stream:
            for event in stream.events(JobEvent):
                if isinstance(event, Output):
                    self._offset = event.offset + len(event.data)
                    yield event
                elif isinstance(event, OutputGap):
                    self._offset = event.offset + event.bytes
                    yield event
                elif isinstance(event, Ended):
                    return
        raise broke_off("the command's output")

    def write(self, data: str | bytes) -> None:
        """Sends it input, if it was started with `stdin=True`. There is one input and one writer: `close_stdin` ends it.

        Raises `Timeout` if the command does not read it within two minutes, `InvalidState` if it takes no input. A write
        that is broken off, by that or by a cancelled task, kills the command: it has part of it.
        """
        content = commands.input_bytes("cannot write the command's input", data)
        pipe = self._pipe()
        aside(pipe.write, content, stop=pipe.abort)

    def close_stdin(self) -> None:
        """Lets it read the end of its input. Returns when it has read what was sent before, or has ended."""
        pipe = self._pipe()
        aside(pipe.close, stop=pipe.abort)

    def _pipe(self) -> _live.Input:
        self._handle.transport.check()
        if self._input is not None:
            return self._input
        opened: _live.Input = self._handle.perform(commands.pipe(self._handle.target, self._run_id))
        self._input = opened
        return opened

    def wait(self, timeout: float | timedelta | None = None) -> JobResult:
        """Waits for its end, for so many seconds at most; it is not touched.

        Raises `Timeout` if it runs on, and what ended its machine if that was lost.
        """
        return self._handle.perform(commands.wait(self._handle.target, self._run_id, timeout))

    def kill(self, signal: int = 9) -> None:
        """Sends a signal: 9 to its whole tree, any other to its process group. Harmless if it has ended."""
        self._handle.perform(commands.signal(self._handle.target, self._run_id, signal))

    def resize(self, rows: int, cols: int) -> None:
        """Gives its terminal another size."""
        self._handle.perform(commands.resize(self._handle.target, self._run_id, rows, cols))

    def receipt(self) -> Receipt:
        """Its receipt, once it has ended: signed when it is first asked for."""
        return Transport().perform(receipts.show(self._run_id, self._handle.target.id))


class Commands:
    """The commands of one sandbox."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def run(
        self,
        argv: str | Sequence[str],
        *,
        timeout: float | timedelta | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        max_output: int = commands.MAX_OUTPUT,
        check: bool = False,
        on_stdout: Callable[[str], Any] | None = None,
        on_stderr: Callable[[str], Any] | None = None,
        receipt: str | os.PathLike[str] | None = None,
    ) -> CommandResult:
        """Runs a command to its end. It ends with its caller: a broken connection or a cancelled call kills its tree.

        Args:
            argv: program and arguments; a text is a line for the guest's `/bin/sh -c`.
            timeout: seconds after which its whole tree is killed and `Timeout` raised, with the result until then.
            env: variables, on top of the sandbox's. Nothing of this process's environment is passed on.
            secrets: variables whose values are elsewhere, `env:VAR` or `file:PATH`, and are redacted in its output.
            cwd: directory of the guest to start in; the image's if left out.
            user: user of the guest: name, uid, name:group or uid:gid; the image's if left out.
            stdin: what it reads; nothing if left out.
            max_output: bytes of each output stream that are kept, the first ones; all are read and counted.
            check: raise `CommandFailed` unless it ends with exit code 0.
            on_stdout: called with its standard output as it comes, as text.
            on_stderr: called with its standard error as it comes, as text.
            receipt: a file of this host for its receipt; the proof that it is logged goes beside it (`.tlog-proof`).

        Raises:
            Timeout: its time was up.
            CommandFailed: it failed, and `check` was set.
            PolicyDenied: the policy of its sandbox refuses it.
            InvalidState: the sandbox does not run.
            SandboxUnavailable: its machine ended first.
        """
        of = self._handle.target
        request = commands.attached(
            argv,
            {
                "timeout": timeout,
                "env": env,
                "secrets": secrets,
                "cwd": cwd,
                "user": user,
                "stdin": stdin,
                "max_output": max_output,
                "check": check,
                "receipt": receipt,
                "on_stdout": on_stdout,
                "on_stderr": on_stderr,
            },
        )
        operation = commands.run(of, request)
        recorded = self._handle.transport.recorded(operation, CommandResult)
        if recorded is not None:
            return recorded
        capture = results.Capture(of, request)
        opened, warnings = self._handle.perform(operation)
        with opened as stream, Beside(self._handle.transport) as beside:
            for event in stream.events(JobEvent):
                told = capture.take(event)
                if told:
                    tell(*told)
                elif isinstance(event, Started) and request.stdin is not None:
                    beside.start(commands.feed(of, event.run_id, request.stdin))
        for callback, text in capture.leftovers():
            tell(callback, text)
        result = CommandResult(**capture.fields(warnings))
        failure = None
        if request.receipt is not None:
            try:
                Transport().perform(receipts.show(result.run_id, of.id, request.receipt))
            except _errors.MvmError as error:
                failure = error
        results.judged(result, failure, check=request.check)
        return result

    def start(
        self,
        argv: str | Sequence[str],
        *,
        timeout: float | timedelta | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bool = False,
        tty: tuple[int, int] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Starts a command that goes on by itself. Its output is kept in a bounded ring, and in the sandbox's log.

        Args:
            argv: program and arguments; a text is a line for the guest's `/bin/sh -c`.
            timeout: seconds after which its whole tree is killed.
            env: variables, on top of the sandbox's.
            secrets: variables whose values are elsewhere, `env:VAR` or `file:PATH`, and are redacted in its output.
            cwd: directory of the guest to start in; the image's if left out.
            user: user of the guest; the image's if left out.
            stdin: whether it will be sent input (`Job.write`).
            tty: rows and columns of a terminal to give it.
            idempotency_key: a repeated start with this key finds the job that the first one started.
        """
        options = {
            "timeout": timeout,
            "env": env,
            "secrets": secrets,
            "cwd": cwd,
            "user": user,
            "stdin": stdin,
            "tty": tty,
            "idempotency_key": idempotency_key,
        }
        operation = commands.start(self._handle.target, argv, options)
        recorded = self._handle.transport.recorded(operation, Job)
        if recorded is not None:
            return recorded
        job, warnings = self._handle.perform(operation)
        return Job(self._handle, job, 0, warnings)

    def list(self) -> tuple[JobInfo, ...]:
        """The commands that were started in it, the first one first; of those that have ended only the latest are kept."""
        return self._handle.perform(commands.listing(self._handle.target))

    def attach(self, run_id: str, *, offset: int = 0) -> Job:
        """Finds a command, to read its output from an offset on (in bytes of both streams together)."""
        offset = checked.count("cannot attach to the command", "offset", offset, most=2**63 - 1)
        operation = commands.describe(self._handle.target, run_id).known_as("commands.attach")
        return Job(self._handle, self._handle.perform(operation), offset)
