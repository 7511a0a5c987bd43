"""Writes what is generated: API types of the SDKs, the synchronous half of the Python SDK, its reference and that of workloads.

Usage, in sdk/: python3 -m codegen [--check]. With --check nothing is written, and stale files are named.
"""

import json
import sys
from pathlib import Path

from . import openapi, python, reference, typescript, unasync, workload

SDK = Path(__file__).resolve().parents[1]


def generated() -> dict[Path, str]:
    """Every generated file, with its text."""
    document = json.loads((SDK.parent / "docs/openapi.json").read_text())
    files = {SDK / "python/src/mvm/_api.py": python.render(openapi.read(document))}
    files |= unasync.render(SDK / "python/src/mvm/_async", SDK / "python/src/mvm/_sync")
    files[SDK / "typescript/src/api.ts"] = typescript.render(document)
    # The sources as they will be.
    page = reference.render(SDK / "python/src/mvm", lambda path: files.get(path) or path.read_text())
    schema = json.loads((SDK.parent / "docs/schemas/workload.schema.json").read_text())
    pages = SDK.parent / "docs/reference"
    return files | {pages / "python.md": page, pages / "workload.md": workload.render(schema)}


def main() -> None:
    stale = {path: text for path, text in generated().items() if not path.exists() or path.read_text() != text}
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(SDK.parent)} is stale; run: make sdk-types")
        sys.exit(bool(stale))
    for path, text in stale.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(SDK.parent))


if __name__ == "__main__":
    main()
