"""Declarations: they do nothing when their module is imported, wherever that is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mvm
from mvm import _declare

EVERYTHING = """
@mvm.app(
    name="web",
    source=mvm.local_path(".", include=["**/*.py"], exclude=["tests/**"]),
    image=mvm.debian(packages=["nodejs"]),
    resources=mvm.resources(cpus=2, memory_mib=512, disk_mib=8192),
    network=mvm.network(mode="deny", ports=[mvm.port(guest=8000, host=0)]),
    env={"LANG": mvm.literal("C.UTF-8"), "TOKEN": mvm.secret("env:TOKEN")},
    entrypoint=mvm.entrypoint_function(module="web", function="serve"),
    profile="dev",
    ttl=3600,
    on_expiry="stop",
)
def serve(count: int = 3) -> str:
    return "served" * count
"""


def test_what_is_declared_is_left_as_it_is() -> None:
    names: dict[str, object] = {"mvm": mvm, "__name__": "web"}
    exec(EVERYTHING, names)
    serve = names["serve"]
    assert callable(serve)
    assert (serve(2), serve.__name__, serve.__module__) == ("servedserved", "serve", "web")
    assert mvm.app(name="x", image=mvm.image("base"), entrypoint=mvm.entrypoint_command(["true"]))(print) is print


def test_a_guest_needs_nothing_but_python_for_it() -> None:
    # Alone, without this package and without any other.
    text = (
        f"import importlib.util, sys\nspec = importlib.util.spec_from_file_location('mvm', {str(Path(_declare.__file__))!r})\n"
    )
    text += "mvm = sys.modules['mvm'] = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(mvm)\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{text}{EVERYTHING}\nprint(serve(1))"], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("served\n", "")
