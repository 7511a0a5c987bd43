# Written by `make sdk-types` from mvm/_async; changes here are lost.
"""The log of a sandbox, as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

from .._api import LogEvent, LogGap, LogLine, LogSummary
from .._core.steps import Operation, broke_off
from .handle import Handle


class Logs:
    """Entries of a log: lines, and gaps where lines are missing. Read once, by iterating."""

    def __init__(self, handle: Handle, operation: Operation[Any]) -> None:
        self._handle, self._operation = handle, operation
        self._entries: Iterator[LogLine | LogGap] | None = None
        self.summary: LogSummary | None = None
        """How many lines there were and how often something was redacted in them; None until the log has ended."""

    def __iter__(self) -> Iterator[LogLine | LogGap]:
        if self._entries is None:
            self._entries = self._read()
        return self._entries

    def _read(self) -> Iterator[LogLine | LogGap]:
        with self._handle.perform(self._operation) as stream:
            for event in stream.events(LogEvent):
                if isinstance(event, LogSummary):
                    self.summary = event
                else:
                    yield event
        if self.summary is None:
            raise broke_off("the log")

    def close(self) -> None:
        """Ends it. The same as leaving its `with` block."""
        if self._entries is not None:
            self._entries.close()  # type: ignore[attr-defined]

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
