"""Declarations of workloads, which `mvmctl compile` reads from the source, by its syntax, and never by importing it.

So what these functions are given has to be written out: texts, numbers, lists of them, and names of such in the same module.
When the module is imported after all, as in the sandbox that runs it, they do nothing. This file needs nothing but Python.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class LocalPath:
    """A directory of this host whose files go with the workload."""

    path: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]


@dataclass(frozen=True)
class Image:
    """What a workload is built on: an image by its name, or Debian with packages."""

    name: str
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resources:
    """A machine's shape; None is the default."""

    cpus: int | None
    memory_mib: int | None
    disk_mib: int | None


@dataclass(frozen=True)
class PortBinding:
    """A port of the host that leads into the sandbox."""

    guest: int
    host: int


@dataclass(frozen=True)
class Network:
    """What a workload reaches, and by what it is reached."""

    mode: str
    ports: tuple[PortBinding, ...]


@dataclass(frozen=True)
class Variable:
    """An environment variable: its value, or where its value is."""

    kind: Literal["literal", "secret"]
    value: str


@dataclass(frozen=True)
class Entrypoint:
    """What runs when a workload is up: a command, or a function of a module."""

    argv: tuple[str, ...] = ()
    module: str = ""
    function: str = ""


def app(
    *,
    name: str,
    source: LocalPath | None = None,
    image: Image | None = None,
    resources: Resources | None = None,
    network: Network | None = None,
    env: Mapping[str, Variable] | None = None,
    entrypoint: Entrypoint | None = None,
    profile: str | None = None,
    ttl: float | None = None,
    on_expiry: Literal["destroy", "stop", "cold"] | None = None,
) -> Callable[[F], F]:
    """Declares a workload. It decorates a function of the module, and leaves it as it is.

    Args:
        name: lower-case letters, digits and hyphens; the sandbox that is made of it is called so.
        source: the files that go with it, `local_path(…)`.
        image: what it is built on, `debian(…)` or `image(…)`; `debian` if left out.
        resources: the machine's shape, `resources(…)`.
        network: the ports that lead into it, `network(…)`; nothing leads out.
        env: variables of every command in it, each `literal(…)` or `secret(…)`.
        entrypoint: what runs when it is up, `entrypoint_command(…)` or `entrypoint_function(…)`; nothing if left out.
        profile: the policy that decides about it; `standard` if left out.
        ttl: seconds that a sandbox of it lives; what the profile gives if left out.
        on_expiry: what happens when its time is up: `destroy` (the default), `stop` or `cold`.
    """
    return lambda function: function


def local_path(path: str, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> LocalPath:
    """A directory beside the module, whose files are put into `/app`.

    Args:
        path: relative to the directory of the module; it may not lead out of it.
        include: patterns of the files to take, such as `**/*.py`; all if left out.
        exclude: patterns of those to leave out of these.
    """
    return LocalPath(path, tuple(include), tuple(exclude))


def debian(*, packages: Sequence[str]) -> Image:
    """Debian, with packages of the distribution besides what the image `debian` has."""
    return Image("debian", tuple(packages))


def image(name: str) -> Image:
    """An image of this host, by its name: `debian`, `base`, or one of your own."""
    return Image(name)


def resources(*, cpus: int | None = None, memory_mib: int | None = None, disk_mib: int | None = None) -> Resources:
    """The machine's shape: processors (1 if left out), memory in MiB (256), size of its disk in MiB (4096)."""
    return Resources(cpus, memory_mib, disk_mib)


def network(*, mode: Literal["deny"] = "deny", ports: Sequence[PortBinding] = ()) -> Network:
    """What it reaches, which is nothing (`deny`), and the ports that lead into it."""
    return Network(mode, tuple(ports))


def port(*, guest: int, host: int) -> PortBinding:
    """A port of this host's loopback that leads to one of the sandbox; `host` 0 takes a free one."""
    return PortBinding(guest, host)


def literal(value: str) -> Variable:
    """A value that everybody may read."""
    return Variable("literal", value)


def secret(reference: str) -> Variable:
    """A secret, by where its value is on the host that runs the workload: `env:VAR` or `file:PATH`."""
    return Variable("secret", reference)


def entrypoint_command(argv: Sequence[str]) -> Entrypoint:
    """A program and its arguments, run in `/app` if there is a source."""
    return Entrypoint(argv=tuple(argv))


def entrypoint_function(*, module: str, function: str) -> Entrypoint:
    """A function of a module of the source, such as `package.module`, called without arguments."""
    return Entrypoint(module=module, function=function)
