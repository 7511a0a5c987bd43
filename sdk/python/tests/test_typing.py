"""The types of the surface, as the two type checkers see them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SDK = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "checker",
    [
        ["mypy", "src/mvm", "tests/typing"],
        # Warnings too, which an ignore without need is.
        ["pyright", "--pythonpath", sys.executable, "--warnings", "tests/typing"],
    ],
    ids=lambda checker: str(checker[0]),
)
def test_types(checker: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *checker], cwd=SDK, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
