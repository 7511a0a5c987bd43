"""What the parts of a sandbox's handle share."""

from __future__ import annotations

import warnings
from typing import TypeVar

from .. import _live, _record
from .._core.steps import Operation, Target
from .transport import AsyncTransport

T = TypeVar("T")


class AsyncHandle:
    """A sandbox, the way to it, and its lease if it is ours. Whatever still uses the sandbox keeps this alive."""

    def __init__(self, target: Target, transport: AsyncTransport, lease: _live.Lease | _record.Held | None) -> None:
        self.target, self.transport, self._lease = target, transport, lease

    async def perform(self, operation: Operation[T]) -> T:
        """The answer of an operation."""
        return await self.transport.perform(operation)

    @property
    def leased(self) -> bool:
        """Whether the sandbox ends with this handle."""
        return self._lease is not None and self._lease.held and not self.transport.foreign

    def drop_lease(self) -> None:
        """The sandbox ends, unless it was detached before."""
        if self._lease is not None and not self.transport.foreign:
            self._lease.drop()

    def __del__(self) -> None:
        if self.leased:
            warnings.warn(f"the sandbox {self.target.name} was not closed; it ends now", ResourceWarning, stacklevel=2)
