# Written by `make sdk-types` from mvm/_async; changes here are lost.
"""Ports of this host that lead into a sandbox, and the secrets that its commands have."""

from __future__ import annotations

from .._api import Port, SecretInfo
from .._core import sandboxes
from .._core.check import PortSpec
from .handle import Handle


class Ports:
    """The ports of this host that lead into one sandbox. Nothing leads out of it."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def forward(self, *, guest_port: int, host_port: int, host: str = "127.0.0.1", protocol: str = "tcp") -> Port:
        """Has a port of this host lead into it. The answer has the binding, and the rule of the policy that allows it.

        Args:
            guest_port: the port in the sandbox.
            host_port: the port of this host; 0 takes a free one.
            host: the address of this host to listen on. Any but a loopback address lets other machines in.
            protocol: `tcp`.
        """
        spec = PortSpec(guest_port=guest_port, host_port=host_port, host=host, protocol=protocol)
        return self._handle.perform(sandboxes.forward(self._handle.target, spec))

    def list(self) -> tuple[Port, ...]:
        """The ports that lead into it, and what becomes of a connection to each."""
        return self._handle.perform(sandboxes.ports(self._handle.target))

    def close(self, port: Port | None = None, *, host_port: int | None = None, host: str = "127.0.0.1") -> None:
        """Has a port lead nowhere, and ends its connections: one that `forward` returned, or by its end on this host."""
        self._handle.perform(sandboxes.close_port(self._handle.target, port, host_port, host))


class Secrets:
    """The secrets of one sandbox. Their values are shown nowhere."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def list(self) -> tuple[SecretInfo, ...]:
        """The secrets that commands in it have."""
        return self._handle.perform(sandboxes.secrets(self._handle.target))
