"""Reading alerts.jsonl back, as a user's own program would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.alerts.log import SCHEMA


@dataclass(frozen=True, kw_only=True)
class ReadLog:
    """The alerts of a file, one for each change of its state, and how many lines were torn."""

    alerts: tuple[Alert, ...]
    num_torn: int
    version: int | None


def read_alerts(path: Path) -> ReadLog:
    alerts: list[Alert] = []
    num_torn, version = 0, None
    for line in path.read_bytes().split(b"\n"):
        if not line.strip():
            continue
        try:
            values = json.loads(line, parse_constant=_refuse)
            if values.get("schema") == SCHEMA:
                version = int(values["version"])
            else:
                alerts.append(alert_of(values))
        except (AttributeError, ValueError, TypeError, KeyError, RecursionError):
            num_torn += 1
    return ReadLog(alerts=tuple(alerts), num_torn=num_torn, version=version)


def alert_of(values: dict[str, Any]) -> Alert:
    """Returns the alert of a line, with the numbers that JSON lacks put back."""
    for place, value in values.get("not_finite", {}).items():
        holder, _, name = place.partition("/")
        values[holder][name] = float(value)
    return Alert.from_plain(values)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
