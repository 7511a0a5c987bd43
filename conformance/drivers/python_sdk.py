#!/usr/bin/env python3
"""Does operations with the Python SDK that is installed: what each is in its words, and what its answers say.

Usage: python_sdk.py sync|async. Reads operations from standard input, as `sdk.py` says.
"""

import asyncio
import functools
import inspect
import json
import sys
from typing import Any, Callable

import mvm
import python_operations
from python_operations import Args, Operations


class Surface:
    """The public names of one of the two, without their prefixes; and which methods were used."""

    def __init__(self, asynchronous: bool) -> None:
        self.used: set[str] = set()
        upper, lower = ("Async", "async_") if asynchronous else ("", "")
        # Whatever is on both surfaces, and what has methods without being asynchronous.
        classes = [name for name in mvm.__all__ if f"Async{name}" in mvm.__all__]
        self.methods = sorted(name for known in classes for name in self._watch(known, getattr(mvm, upper + known)))
        self.methods += sorted(self._watch("Receipt", mvm.Receipt))
        self.sandbox = getattr(mvm, f"{upper}Sandbox")
        self.snapshots = getattr(mvm, f"{lower}snapshots")
        self.receipts = getattr(mvm, f"{lower}receipts")
        for name in mvm.__all__:
            function = getattr(mvm, f"{lower}{name}", None)
            if f"async_{name}" in mvm.__all__ and inspect.isfunction(function):
                setattr(self, name, self._watched(name, function))
                self.methods.append(name)

    def _watch(self, known: str, kind: type) -> list[str]:
        """Has the public methods of a class noted when they are used."""
        found = []
        for name, member in list(vars(kind).items()):
            if name.startswith("_") or isinstance(member, property) or not (callable(member) or isinstance(member, (classmethod, staticmethod))):
                continue
            wrapped = self._watched(f"{known}.{name}", getattr(member, "__func__", member))
            setattr(kind, name, type(member)(wrapped) if isinstance(member, (classmethod, staticmethod)) else wrapped)
            found.append(f"{known}.{name}")
        return found

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **options: Any) -> Any:
            # What the SDK calls by itself is not what a case uses.
            if sys._getframe(1).f_globals is vars(python_operations):
                self.used.add(name)
            return function(*args, **options)
        return wrapped


def error_of(error: mvm.MvmError) -> Args:
    return {
        "code": error.code.value, "what": error.what, "why": error.why, "hint": error.hint, "errno": error.errno,
        "capability": error.capability, "denials": [denial.to_json() for denial in error.denials],
    }


async def serve(asynchronous: bool) -> None:
    api = Surface(asynchronous)
    known = Operations(api)
    for line in sys.stdin:
        asked = json.loads(line)
        api.used.clear()
        try:
            answer: Args = {"result": await python_operations.operation(known, asked["op"])(asked["args"])}
        except mvm.MvmError as error:
            answer = {"error": error_of(error)}
        except Exception as error:
            answer = {"error": {"code": None, "what": None, "why": repr(error), "hint": None, "errno": None}}
        print(json.dumps({**answer, "methods": sorted(api.used)}), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1] == "async"))
