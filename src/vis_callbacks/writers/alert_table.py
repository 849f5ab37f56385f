"""The alerts of a run as one Markdown table, for TensorBoard's Text tab."""

from __future__ import annotations

from collections.abc import Sequence

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.report import escape_markdown

_COLUMNS = (
    "step",
    "epoch",
    "severity",
    "alert",
    "what",
    "where",
    "evidence",
    "could also be",
    "remedy",
)
_MAX_ROWS = 100
_MAX_LAYERS = 8


def alert_table(alerts: Sequence[Alert]) -> str:
    """Returns all alerts so far, the newest first, in Markdown.

    TensorBoard keeps few texts of a tag: each one must tell the whole story. Beyond 100 rows
    the oldest are counted only; alerts.jsonl has them.
    """
    rows = [_row(alert) for alert in reversed(alerts)][:_MAX_ROWS]
    lines = [" | ".join(_COLUMNS), " | ".join("---" for _ in _COLUMNS), *map(" | ".join, rows)]
    table = "\n".join(f"| {line} |" for line in lines)
    num_left = len(alerts) - len(rows)
    return f"{table}\n\nand {num_left} earlier ones, in alerts.jsonl" if num_left else table


def _row(alert: Alert) -> list[str]:
    evidence: dict[str, float | int | str] = dict(alert.evidence)
    if alert.sample_size is not None:
        evidence["samples"] = alert.sample_size
    cells = (
        str(alert.step),
        str(alert.epoch),
        "resolved" if alert.state == "resolved" else alert.severity,
        alert.kind,
        _what(alert),
        _where(alert.layers),
        ", ".join(f"{name} = {_short(value)}" for name, value in evidence.items()),
        "; ".join(alert.could_be),
        alert.remedy,
    )
    return [escape_markdown(cell) for cell in cells]


def _what(alert: Alert) -> str:
    since = alert.since_step
    return alert.message if since is None else f"{alert.message} (since step {since})"


def _where(layers: Sequence[str]) -> str:
    shown = ", ".join(layers[:_MAX_LAYERS])
    num_left = len(layers) - _MAX_LAYERS
    return f"{shown} and {num_left} more" if num_left > 0 else shown


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
