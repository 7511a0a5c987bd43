"""Answers as types: every generated record comes back the same from its JSON, and what is none is refused."""

from __future__ import annotations

import base64
import enum
import json
import math
import pickle
import random
import types
import typing
from dataclasses import MISSING, fields
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

import mvm._api as api
from mvm._codec import EPOCH, Record, Unexpected, decode
from mvm._core.sandboxes import Collected, RemovedSnapshot

RECORDS = [
    kind for kind in [*vars(api).values(), Collected, RemovedSnapshot]
    if isinstance(kind, type) and issubclass(kind, Record) and kind is not Record
]  # fmt: skip


def some(wanted: Any, unit: str | None, dice: random.Random) -> Any:
    """Any value of a type."""
    options = [option for option in typing.get_args(wanted) if option is not type(None)]
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return (
            None
            if len(options) < len(typing.get_args(wanted)) and dice.random() < 0.3
            else some(dice.choice(options), unit, dice)
        )
    if typing.get_origin(wanted) is tuple:
        return tuple(some(options[0], None, dice) for _ in range(dice.randrange(3)))
    if isinstance(wanted, type) and issubclass(wanted, Record):
        return record(wanted, dice)
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return dice.choice(list(wanted))
    if wanted is float:
        return dice.choice([0.0, dice.randrange(10**13) / 1000, dice.random() * 10 ** dice.randrange(12)])
    return {
        int: lambda: dice.choice([0, 1, 2**32, 2**63 - 1]),
        bool: lambda: dice.random() < 0.5,
        str: lambda: dice.choice(["", "a", "ü\0\n", "\U0001f600", "x" * 1000]),
        bytes: lambda: dice.randbytes(dice.randrange(20)),
        datetime: lambda: EPOCH + timedelta(milliseconds=dice.choice([0, 1, dice.randrange(10**14)])),
        Any: lambda: dice.choice([None, {"a": [1, "b"]}, 7, "text"]),
    }[wanted]()


def record(kind: type[Record], dice: random.Random) -> Record:
    hints = typing.get_type_hints(kind)
    given = {}
    for item in fields(kind):
        if item.default is MISSING or dice.random() < 0.7:
            unit = item.metadata.get("unit")
            given[item.name] = some(hints[item.name], unit, dice)
            if unit == "milliseconds" and given[item.name] is not None:
                # Only what some number of milliseconds is can come out of JSON.
                given[item.name] = given[item.name] * 1000 / 1000
    return kind(**given)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_a_record_is_the_same_after_its_json(kind: type[Record]) -> None:
    dice = random.Random(kind.__name__)
    for _ in range(100):
        made = record(kind, dice)
        told = json.loads(json.dumps(made.to_json()))
        assert decode(kind, told) == made
        assert decode(kind, {**told, "from_a_later_version": 1}) == made
        assert pickle.loads(pickle.dumps(made)) == made


def test_durations_are_the_same_after_their_json() -> None:
    dice = random.Random(1)
    for _ in range(20_000):
        number = dice.random() * 10 ** dice.randrange(-3, 12)
        job = decode(api.JobResult, {**JOB, "duration_ms": number})
        assert decode(api.JobResult, job.to_json()) == job
    assert decode(api.JobResult, {**JOB, "duration_ms": 250}).to_json()["duration_ms"] == 250


JOB = {"duration_ms": 1, "oom_killed": False, "stderr_bytes": 0, "stdout_bytes": 0, "timed_out": False}


@pytest.mark.parametrize(
    "change",
    [
        {"duration_ms": "1"}, {"duration_ms": True}, {"duration_ms": math.nan}, {"duration_ms": 10**400}, {"duration_ms": []},
        {"oom_killed": 0}, {"oom_killed": None}, {"stdout_bytes": True}, {"stdout_bytes": 1.5}, {"stdout_bytes": None},
        {"exit_code": "0"}, {"not_started": {}}, {"not_started": []}, {"error": {"code": "Unheard", "what": "", "why": ""}},
    ],
    ids=str,
)  # fmt: skip
def test_json_of_another_type_is_refused_and_not_shown(change: dict[str, Any]) -> None:
    with pytest.raises(Unexpected) as refused:
        decode(api.JobResult, {**JOB, **change})
    assert next(iter(change)) in str(refused.value)


@pytest.mark.parametrize(
    "value", [None, [], "", 1, {}, {"type": "unheard"}, {"type": []}, {"type": None}, {"type": {}}], ids=str
)
def test_a_union_needs_a_tag_that_is_known(value: Any) -> None:
    with pytest.raises(Unexpected):
        decode(api.JobEvent, value)


@pytest.mark.parametrize("at", [1e300, -1e300, 10**400, math.inf, math.nan, "now", True], ids=str)
def test_a_time_that_is_none_is_refused(at: Any) -> None:
    with pytest.raises(Unexpected):
        decode(api.Transition, {"at_ms": at, "cause": "", "from": "running", "to": "cold"})


def test_bytes_are_base64() -> None:
    event = {"type": "output", "stream": "stdout", "offset": 0, "data": base64.b64encode(b"\xff\0").decode()}
    assert decode(api.JobEvent, event).data == b"\xff\0"
    for wrong in ("!", "YQ", 7, None):
        with pytest.raises(Unexpected):
            decode(api.JobEvent, {**event, "data": wrong})


def test_contents_are_in_no_repr() -> None:
    output = api.Output(data=b"secret", offset=0, stream=api.Stream.STDOUT)
    line = api.LogLine(at=datetime.now(timezone.utc), seq=1, source=api.LogSource.JOB, text="secret")
    assert "secret" not in repr(output) + repr(line)


def test_enums_are_their_text() -> None:
    assert f"{api.State.RUNNING}" == "running" == api.State.RUNNING
