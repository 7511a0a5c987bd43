"""The log of a sandbox, as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

from .._api import LogEvent, LogGap, LogLine, LogSummary
from .._core.steps import Operation, broke_off
from .handle import AsyncHandle


class AsyncLogs:
    """Entries of a log: lines, and gaps where lines are missing. Read once, by iterating."""

    def __init__(self, handle: AsyncHandle, operation: Operation[Any]) -> None:
        self._handle, self._operation = handle, operation
        self._entries: AsyncIterator[LogLine | LogGap] | None = None
        self.summary: LogSummary | None = None
        """How many lines there were and how often something was redacted in them; None until the log has ended."""

    def __aiter__(self) -> AsyncIterator[LogLine | LogGap]:
        if self._entries is None:
            self._entries = self._read()
        return self._entries

    async def _read(self) -> AsyncIterator[LogLine | LogGap]:
        async with await self._handle.perform(self._operation) as stream:
            async for event in stream.events(LogEvent):
                if isinstance(event, LogSummary):
                    self.summary = event
                else:
                    yield event
        if self.summary is None:
            raise broke_off("the log")

    async def close(self) -> None:
        """Ends it. The same as leaving its `with` block."""
        if self._entries is not None:
            await self._entries.aclose()  # type: ignore[attr-defined]

    async def __aenter__(self) -> AsyncLogs:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
