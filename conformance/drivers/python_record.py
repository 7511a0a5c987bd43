#!/usr/bin/env python3
"""A program that does the calls of a case, to be recorded: with MVM_SDK_MODE=record, and with the Python SDK that is installed.

Usage: python_record.py sync|async CALLS, the arguments of `record` as JSON. Prints the public `methods` that it used, and the
`error` with which one of them failed, as `sdk.py` says of servers.
"""

import asyncio
import json
import sys
from functools import partial
from typing import Any, Callable

import mvm
from python_operations import Args, creation, file_content, given, seconds, time_to_live
from python_sdk import error_of

# What each call is in the SDK, not yet made. Nothing looks at what it answers.
CALLS: dict[str, Callable[[Any, Args], partial[Any]]] = {
    "commands.run": lambda sandbox, args: command(sandbox.commands.run, args, "stdin", "cwd", "max_output", "receipt"),
    "commands.start": lambda sandbox, args: command(sandbox.commands.start, args, "idempotency_key"),
    "files.write": lambda sandbox, args: partial(
        sandbox.files.write, args["path"], file_content(args), **given(args, "mode", "owner", "append", "sync", "parents")),
    "files.write_many": lambda sandbox, args: partial(
        sandbox.files.write_many, args["files"], **given(args, "mode", "owner", "parents")),
    "files.read": lambda sandbox, args: partial(sandbox.files.read, args["path"]),
    "files.mkdir": lambda sandbox, args: partial(sandbox.files.mkdir, args["path"], **given(args, "parents", "mode")),
    "files.move": lambda sandbox, args: partial(sandbox.files.move, args["path"], args["to"]),
    "files.remove": lambda sandbox, args: partial(sandbox.files.remove, args["path"], **given(args, "recursive")),
    "files.copy_in": lambda sandbox, args: partial(sandbox.files.upload, host_path=args["host"], guest_path=args["path"]),
    "ports.forward": lambda sandbox, args: partial(
        sandbox.ports.forward, **given(args, "guest_port", "host_port", "host", "protocol")),
    "snapshot": lambda sandbox, args: partial(sandbox.snapshot, **given(args, "name")),
    "keep": lambda sandbox, args: partial(sandbox.keep, seconds(args["ttl_ms"]), **given(args, "on_expiry")),
    "detach": lambda sandbox, args: partial(
        sandbox.detach, ttl=time_to_live(args), **given(args, "owner", "on_expiry")),
    "close": lambda sandbox, args: partial(sandbox.close),
    "destroy": lambda sandbox, args: partial(sandbox.destroy),
    "kill": lambda sandbox, args: partial(sandbox.kill),
}


def command(method: Callable[..., Any], args: Args, *names: str) -> partial[Any]:
    options = given(args, "env", "secrets", "user", *names)
    return partial(method, args["argv"], timeout=seconds(args.get("timeout_ms")), **options)


async def do(asynchronous: bool, create: Args, calls: list[Args], methods: set[str]) -> None:
    async def made(call: partial[Any]) -> Any:
        methods.add(call.func.__qualname__.removeprefix("Async"))
        return await call() if asynchronous else call()

    kind = mvm.AsyncSandbox if asynchronous else mvm.Sandbox
    sandbox = await made(partial(kind.create, **creation(create)))
    for call in calls:
        await made(CALLS[call["op"]](sandbox, call.get("args", {})))


def main() -> None:
    asked = json.loads(sys.argv[2])
    methods: set[str] = set()
    answer: Args = {}
    try:
        asyncio.run(do(sys.argv[1] == "async", asked["create"], asked["calls"], methods))
    except mvm.MvmError as error:
        answer["error"] = error_of(error)
    print(json.dumps({**answer, "methods": sorted(methods)}))


if __name__ == "__main__":
    main()
