"""The log of a sandbox."""

from __future__ import annotations

from typing import Any

from .._api import LogSource
from . import check
from .steps import Call, Open, Operation, Target, reach


def logs(of: Target, follow: Any, since: Any, until: Any, tail: Any, source: Any, redact: Any) -> Operation[Any]:
    """Opens the stream of its entries."""
    what = f"cannot read the log of {of.name}"
    params: dict[str, str] = {}
    if check.flag(what, "follow", follow):
        params["follow"] = "true"
    for name, value in (("since", since), ("until", until)):
        point = check.since_1970(what, name, value)
        if point is not None:
            params[f"{name}_ms"] = str(point)
    if tail is not None:
        params["tail"] = str(check.count(what, "tail", tail))
    if source is not None:
        try:
            params["source"] = LogSource(source).value
        except ValueError:
            check.refuse(what, f"source is one of {', '.join(one.value for one in LogSource)}")
    params["redact"] = "on" if check.flag(what, "redact", redact) else "off"
    return Operation("logs", {"sandbox": of.id, **params}, reach(Open(Call(of, "GET", "/v1/logs", params))))
