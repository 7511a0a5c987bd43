#!/usr/bin/env python3
"""Runs the cases on the surfaces that have a driver, judges what they did, and holds the lifecycle matrix to it.

With mvmctl on the PATH and MVM_HOME set: conformance/run.py [--write] [CASE…]
Named cases only are run and judged. All of them are also altered, to see that the checker notices (test_check.py), and
compared with the lifecycle matrix, which --write writes anew. Transcripts and results.json are in target/conformance.
"""

import argparse
import json
import subprocess
import sys
import unittest
from dataclasses import replace
from pathlib import Path

import check
import matrix
import suite

BY_SDK = ["/usr/bin/python3", str(suite.HERE / "drivers/sdk.py")]
DRIVERS = {
    "cli": ["/usr/bin/python3", str(suite.HERE / "drivers/cli.py")],
    "python": [*BY_SDK, "python"],
    "python-async": [*BY_SDK, "python-async"],
    "typescript": [*BY_SDK, "typescript"],
}
OUTPUT = suite.HERE.parent / "target/conformance"


def record(surface: str, cases: list[str]) -> Path:
    """A driver's transcript. A driver that fails has none."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    path = OUTPUT / f"{surface}.jsonl"
    path.unlink(missing_ok=True)
    with path.open("w") as file:
        subprocess.run([*DRIVERS[surface], *cases], stdout=file, check=True)
    return path


def results(known: suite.Suite, transcripts: list[check.Transcript], verdicts: check.Verdicts) -> dict:
    """What was tested, by digest, and how it went."""
    return {
        "cases": {id: case.digest for id, case in known.cases.items()},
        "packages": {transcript.surface: transcript.packages for transcript in transcripts},
        "failures": verdicts.failures,
        "problems": verdicts.problems,
    }


def self_test() -> list[str]:
    """That the checker notices what was altered."""
    import test_check  # It reads the transcripts that were just made.

    done = unittest.TextTestRunner(verbosity=0).run(unittest.defaultTestLoader.loadTestsFromModule(test_check))
    return [f"the checker's own test failed: {test.id()}" for test, _ in done.failures + done.errors]


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs the conformance cases.")
    parser.add_argument("--write", action="store_true", help="write the lifecycle matrix")
    parser.add_argument("case", nargs="*")
    options = parser.parse_args()

    known = suite.load()
    unknown = set(options.case) - set(known.cases)
    if unknown:
        sys.exit("\n".join([*known.problems, f"there is no case {', '.join(sorted(unknown))} that is in order"]))
    paths = [record(surface, options.case) for surface in DRIVERS]
    transcripts = [check.read(path.read_text().splitlines(), known) for path in paths]
    if options.case:
        part = replace(known, cases={id: known.cases[id] for id in options.case})
        found = check.judge(part, transcripts, whole=False)
    else:
        found = check.judge(known, transcripts)
        (OUTPUT / "results.json").write_text(json.dumps(results(known, transcripts, found), indent=2))
        if options.write:
            matrix.write(known, found)
        elif not matrix.is_current(known, found):
            found.problems.append("the lifecycle matrix is not what these results say; run: make lifecycle")
        found.problems += self_test()
    check.show(found)
    print(f"{found.passed} passed, {found.failed} failed")
    sys.exit(found.failed > 0)


if __name__ == "__main__":
    main()
