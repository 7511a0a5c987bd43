"""Puts mvmctl into the wheel, if MVM_BINARY has its absolute path. Without, the wheel is pure and needs no Rust."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CarryBinary(BuildHookInterface[Any]):
    """As a script of the wheel it lands beside python, where the SDK looks first and shells find it too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        named = os.environ.get("MVM_BINARY")
        if not named:
            return
        binary = Path(named).resolve(strict=True)
        build_data["shared_scripts"][str(binary)] = "mvmctl"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform_tag(binary.read_bytes())}"


def platform_tag(program: bytes) -> str:
    """The systems on which it runs. It is linked with the C library and needs, in 0.1, that of glibc 2.34 or later.

    The versions of its symbols are among the program's strings. What merely looks like one can make the tag stricter than
    it need be, never laxer.
    """
    versions = [int(minor) for minor in re.findall(rb"\bGLIBC_2\.(\d+)\b", program)]
    machine = platform.machine()
    return f"manylinux_2_{max(versions)}_{machine}" if versions else f"linux_{machine}"
