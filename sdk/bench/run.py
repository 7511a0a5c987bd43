#!/usr/bin/env python3
"""Measures the SDKs against the command line: the same work by each, in turn, round by round.

Usage: sdk/bench/run.py [--rounds N] [--markdown FILE], with a release mvmctl on the PATH, MVM_HOME set, and the packages that
`scripts/install-sdks.sh release` installs. Prints each lane's median with its raw samples; no figure passes or fails anything.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parents[2]
SDKS = ROOT / "target/sdks"
SIZE_MIB = 64
# Rounds of what takes long, of so many others; and how often what is short is done at each turn.
SPARSE = {"write": 4, "read": 4}
REPEATED = {"exec": 10}
LANES = {
    "create": "a sandbox, until commands can run in it",
    "exec": "true in a running sandbox",
    "write": f"a file of {SIZE_MIB} MiB into it",
    "read": "the same out of it",
}
BEGIN, END = "<!-- written by `make bench-sdks`: begin -->", "<!-- written by `make bench-sdks`: end -->"


class CommandLine:
    """Each lane as whole processes of mvmctl."""

    def __init__(self) -> None:
        self.name = self._up()

    @staticmethod
    def _up() -> str:
        said = subprocess.run(["mvmctl", "up", "--image", "base", "--json"], capture_output=True, check=True)
        return str(json.loads(said.stdout)["name"])

    def take(self, lane: str) -> float:
        made: list[str] = []
        path = f"{self.name}", "/root/f"
        work: dict[str, Callable[[], object]] = {
            "create": lambda: made.append(self._up()),
            "exec": lambda: subprocess.run(["mvmctl", "exec", self.name, "--", "true"], check=True),
            "write": lambda: subprocess.run(["mvmctl", "fs", "write", *path], input=bytes(SIZE_MIB << 20), check=True,
                                            stdout=subprocess.DEVNULL),
            "read": lambda: subprocess.run(["mvmctl", "fs", "read", *path], check=True, stdout=subprocess.DEVNULL),
        }
        begun = time.perf_counter()
        work[lane]()
        took = time.perf_counter() - begun
        for name in made:
            subprocess.run(["mvmctl", "destroy", name], check=True, stdout=subprocess.DEVNULL)
        return took

    def end(self) -> None:
        subprocess.run(["mvmctl", "destroy", self.name], check=True, stdout=subprocess.DEVNULL)


class Sdk:
    """Each lane by one process that has an SDK, which measures by itself."""

    def __init__(self, argv: list[str]) -> None:
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def take(self, lane: str) -> float:
        self.process.stdin.write(f"{lane}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self) -> None:
        self.process.communicate(timeout=60)


def measured(rounds: int) -> dict[tuple[str, str], list[float]]:
    shutil.copy(ROOT / "sdk/bench/typescript_lanes.mjs", SDKS / "npm")
    surfaces = {
        "command line": CommandLine(),
        "python": Sdk([str(SDKS / "venv/bin/python"), str(ROOT / "sdk/bench/python_lanes.py")]),
        "typescript": Sdk(["node", str(SDKS / "npm/typescript_lanes.mjs")]),
    }
    samples: dict[tuple[str, str], list[float]] = {(lane, name): [] for lane in LANES for name in surfaces}
    # The first of each is cold and not counted.
    for number in range(rounds + 1):
        for lane in LANES:
            if number % SPARSE.get(lane, 1):
                continue
            for name, surface in surfaces.items():
                taken = [surface.take(lane) for _ in range(REPEATED.get(lane, 1))]
                if number:
                    samples[lane, name] += taken
    for surface in surfaces.values():
        surface.end()
    return samples


def figure(lane: str, seconds: float) -> float:
    return SIZE_MIB / seconds if lane in SPARSE else seconds * 1000


def report(samples: dict[tuple[str, str], list[float]]) -> str:
    lines = ["| lane | surface | p50 | min | max | unit | against the command line |", "| --- | --- | --- | --- | --- | --- | --- |"]
    raw = []
    for (lane, name), taken in samples.items():
        figures = [figure(lane, one) for one in taken]
        unit, middle = "MB/s" if lane in SPARSE else "ms", statistics.median(figures)
        base = statistics.median(figure(lane, one) for one in samples[lane, "command line"])
        against = f"× {middle / base:.2f}" if lane in SPARSE else f"{middle - base:+.1f} ms, × {middle / base:.2f}"
        lines.append(f"| {lane}: {LANES[lane]} | {name} | {middle:.1f} | {min(figures):.1f} | {max(figures):.1f} | {unit} "
                     f"| {'' if name == 'command line' else against} |")
        raw.append(f"- `{lane}`, {name}: " + " ".join(f"{one:.1f}" for one in figures))
    return "\n".join([*lines, "", "Raw samples, in the order they were taken:", "", *raw])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the SDKs against the command line.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    text = report(measured(options.rounds))
    print(text)
    if options.markdown:
        page = options.markdown.read_text()
        before, rest = page.split(BEGIN)
        options.markdown.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
