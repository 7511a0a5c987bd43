"""What must be on record at the end, whatever was killed: in the audit log, and in the files of keys and commands.

Only what the test itself made is asked for; a home may hold more.
"""

import json
import re
import time
from collections import defaultdict

import auditlog

from .model import Box, Result
from .outside import HOME, Violation, mvmctl

RUN_FILE = re.compile(r"run-[0-9a-f]{16}\.(mvm-[0-9a-f]{12})\.(record|receipt|proof)")
KEY_FILE = re.compile(r"[0-9a-f]{64}\.(key|pub)|current|lock")
UNFINISHED_SECONDS = 70
# Receipts that are asked for at the end: each is signed by a process of its own.
MOST_RECEIPTS = 12


def check(boxes: list[Box]) -> None:
    ids = set().union(*(box.ids for box in boxes))
    results = [result for box in boxes for result in box.results]
    code, said = mvmctl("audit", "verify")
    if code or not said["good"] or said["findings"]:
        raise Violation(f"the audit log is not as it was written: {said}")
    log = [json.loads(entry) for entry in auditlog.entries(HOME / "audit")]
    check_sandboxes(log, ids)
    check_results(log, results)
    for result in results[::max(1, len(results) // MOST_RECEIPTS)]:
        check_receipt(result)


def check_sandboxes(log: list[dict], ids: set[str]) -> None:
    """Each was authorised before anything else of it, unless it came to nothing."""
    of: dict[str, list[str]] = defaultdict(list)
    for entry in log:
        of[entry.get("sandbox", "")].append(entry["event"])
    for sandbox in mvmctl("ps", "--all")[1]["sandboxes"]:
        id, audit_id, events = sandbox["id"], sandbox["audit_id"], of[sandbox["id"]]
        if id not in ids:
            continue
        if audit_id is None:
            if sandbox["state"] != "destroyed" or set(events) - {"up.authorised", "sandbox.destroyed"}:
                raise Violation(f"{id} has no audit id, is {sandbox['state']} ({sandbox['cause']}), and did {events}")
        elif audit_id >= len(log) or (log[audit_id]["event"], log[audit_id]["sandbox"]) != ("up.authorised", id):
            raise Violation(f"entry {audit_id} does not authorise {id}")
        elif events[0] != "up.authorised":
            raise Violation(f"{id} was authorised late: {events}")


def check_results(log: list[dict], results: list[Result]) -> None:
    """Each that was acknowledged was authorised before, and has ended once, as it was told."""
    ends: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for entry in log:
        if entry["event"] == "run.ended":
            ends[entry["run"], entry["sandbox"]].append(entry["fields"])
    for result in results:
        asked = log[result.audit_id]
        if (asked["event"], asked["run"], asked["sandbox"]) != ("exec.authorised", result.run, result.sandbox):
            raise Violation(f"entry {result.audit_id} does not authorise {result}: {asked}")
        told = [(end["outcome"], end["authorised"]) for end in ends[result.run, result.sandbox]]
        if told != [("failure" if result.exit_code else "success", str(result.audit_id))]:
            raise Violation(f"the log has of the end of {result}: {told}")


def check_files(boxes: list[Box]) -> None:
    """After `gc` what is there is whole: records can be read, a receipt has its proof, and a key its other half."""
    ids = set().union(*(box.ids for box in boxes))
    runs = {path.name: path for path in (HOME / "runs").iterdir()}
    for name, path in runs.items():
        known = RUN_FILE.fullmatch(name)
        if not known:
            # It is cleared away when it is so old that nobody can still be writing it.
            if time.time() - path.stat().st_mtime > UNFINISHED_SECONDS:
                raise Violation(f"{path} was left")
            continue
        if known[1] in ids and known[2] == "record":
            json.loads(path.read_bytes())
        if known[1] in ids and known[2] == "receipt":
            auditlog.receipt(path)
            if not {f"{path.stem}.record", f"{path.stem}.proof"} <= set(runs):
                raise Violation(f"{path} is there alone")
    keys = {path.name for path in (HOME / "keys").iterdir()}
    strange = {name for name in keys if not KEY_FILE.fullmatch(name)}
    current = (HOME / "keys/current").read_text().strip()
    if strange or not {f"{current}.key", f"{current}.pub"} <= keys:
        raise Violation(f"the key {current} signs, and there are {sorted(keys)}")


def check_receipt(result: Result) -> dict:
    """A receipt can be had, and says what was acknowledged."""
    code, said = mvmctl("receipt", "show", result.run, "--sandbox", result.sandbox)
    if code or not said["verified"]:
        raise Violation(f"there is no receipt of {result}: {said}")
    run, reported = said["statement"]["run"], said["statement"]["guest_reported"]
    found = Result(run["run_id"], run["sandbox_id"], run["audit_id"], reported["exit_code"])
    if found != result:
        raise Violation(f"the receipt of {result} says {found}")
    return said
