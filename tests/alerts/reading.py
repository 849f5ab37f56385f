"""Reading alerts.jsonl back, as a user's own program would."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.alerts.log import SCHEMA, alert_from_line


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
        try:
            alert = alert_from_line(line)
        except ValueError:
            num_torn += 1
            continue
        if alert is not None:
            alerts.append(alert)
        elif line.strip():
            header = json.loads(line)
            version = int(header["version"]) if header["schema"] == SCHEMA else None
    return ReadLog(alerts=tuple(alerts), num_torn=num_torn, version=version)
