"""The options of calls that have many, for type checkers: what they mean is said where they are taken."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TypedDict

from .._api import OnExpiry
from .check import PortSpec


class RunOptions(TypedDict, total=False):
    """Options of `run`."""

    image: str | None
    profile: str | None
    cpus: int | None
    memory_mib: int | None
    disk_mib: int | None
    env: Mapping[str, str] | None
    secrets: Mapping[str, str] | None
    cwd: str | None
    user: str | None
    stdin: str | bytes | None
    timeout: float | timedelta | None
    max_output: int | None
    check: bool
    accept_risk: bool
    require: Sequence[str]
    allow_missing: Sequence[str]
    receipt: str | os.PathLike[str] | None
    mode: str | None


class CreateOptions(TypedDict, total=False):
    """Options of `Sandbox.create`."""

    name: str | None
    profile: str | None
    cpus: int | None
    memory_mib: int | None
    disk_mib: int | None
    env: Mapping[str, str] | None
    secrets: Mapping[str, str] | None
    ports: Sequence[PortSpec]
    ttl: float | timedelta | None
    owner: str | None
    on_expiry: OnExpiry | str | None
    lease: bool | None
    idempotency_key: str | None
    accept_risk: bool
    require: Sequence[str]
    allow_missing: Sequence[str]
    mode: str | None
