"""What drivers share that compile, build and bring up workloads: the commands. The SDKs have no other form of them."""

from typing import Any, Callable

Args = dict[str, Any]

COMMANDS: dict[str, Callable[[Args], list[str]]] = {
    "workload.compile": lambda args: ["compile", "--json", "--out", args["out"], args["input"]],
    "workload.plan": lambda args: ["plan", "--json", args["input"]],
    "workload.build": lambda args: ["build", "--json", "--tag", args["tag"], args["input"]],
    "workload.up": lambda args: ["up", "--json", "--name", args["name"], args["input"]],
    "workload.remove": lambda args: ["image", "rm", "--json", args["tag"]],
}
