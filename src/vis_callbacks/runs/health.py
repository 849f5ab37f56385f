"""What is said of a run: a verdict in one line, and all of it as plain values for a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vis_callbacks.runs.alert_cases import AlertCases, Case
from vis_callbacks.runs.run import OverTime, Run, over_time
from vis_callbacks.tags import tag

Level = Literal["critical", "warning", "quiet", "unwatched"]

MAX_CARDS = 200
MAX_LAYERS_SHOWN = 2000
_MAX_TEXT = 4000  # characters of one field
_MAX_NAMES = 50
# A heat map of 250 layers, 128 steps and 4 numbers: some 600 kB of JSON, a sixth when zipped.
_MAX_CELLS = 128_000


@dataclass(frozen=True)
class Verdict:
    """One line on a run; ``level`` is the gravest severity that is firing."""

    level: Level
    text: str


def verdict_of_alerts(alerts: AlertCases, up_to: str = "") -> Verdict:
    """Returns the verdict that alerts.jsonl alone gives.

    Args:
        alerts: Of the run.
        up_to: How far it was watched, e.g. ``" up to step 60"``.
    """
    cases = [case for case in alerts.ranked() if not case.is_remark]
    firing = [case for case in cases if case.is_firing]
    if firing:
        worst = firing[0]
        level: Level = "critical" if worst.alert.severity == "critical" else "warning"
        others = f" and {_counted(len(firing) - 1, 'other alert')}" if len(firing) > 1 else ""
        text = f"{described(worst)}{others}"
        return Verdict(level, text[:1].upper() + text[1:])
    if cases:
        latest = max(case.alert.step for case in cases)
        resolved = _counted(len(cases), "alert")
        return Verdict("quiet", f"No alert is firing{up_to}; {resolved} resolved by step {latest}")
    return Verdict("quiet", f"No alert{up_to}")


def verdict_of(run: Run) -> Verdict:
    """Returns the verdict on a run that has been refreshed."""
    if not run.is_watched and run.is_complete:
        return Verdict("unwatched", "No monitor of vis-callbacks has written here")
    step = run.last_step if run.last_step is not None else run.alerts.last_step
    return verdict_of_alerts(run.alerts, "" if step is None else f" up to step {step}")


def described(case: Case) -> str:
    """Returns what, where and since when: ``critical: dying_units in fc.1 since step 60``."""
    layers = case.alert.layers
    where = f" in {', '.join(layers[:3])}" if layers else ""
    more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
    return f"{case.alert.severity}: {case.alert.kind}{where}{more} since step {case.since}"


def as_plain(run: Run) -> dict[str, Any]:
    """Returns all that a page shows of a run, as bounded plain values; pictures by their steps."""
    with run.lock:
        cases, verdict = run.alerts.ranked(), verdict_of(run)
        metrics = over_time(run.tables, _MAX_CELLS)
        layers = dict.fromkeys(layer for one in metrics.values() for layer in one.layers)
        return {
            "version": run.version,
            "is_complete": run.is_complete,
            "level": verdict.level,
            "verdict": _clipped(verdict.text),
            "last_step": run.last_step,
            "last_time": run.last_time,
            "problems": run.problems(),
            "num_alerts": len(cases),
            "alerts": [_plain_case(case) for case in cases[:MAX_CARDS]],
            "metrics": {name: _plain_rows(one) for name, one in metrics.items()},
            "curves": {name: _finite(curve.items()) for name, curve in run.curves.items()},
            "pictures": _plain_pictures(run, layers),
        }


def _plain_rows(of_layers: OverTime) -> dict[str, Any]:
    return {
        "steps": of_layers.steps,
        "num_layers": len(of_layers.layers),
        "layers": [_clipped(layer) for layer in of_layers.layers[:MAX_LAYERS_SHOWN]],
        "rows": of_layers.rows[:MAX_LAYERS_SHOWN],
        "scale": of_layers.scale,
    }


def _plain_pictures(run: Run, layers: Iterable[str]) -> dict[str, dict[str, Any]]:
    """By tag: the steps of its pictures, how many were written, the layer that it is about."""
    # A monitor may name its pictures after the module whose weight has a row.
    by_spelling = {tag(layer.removesuffix(".weight")): layer for layer in layers}
    by_spelling |= {tag(layer): layer for layer in layers}
    return {
        name: {
            "steps": kept.steps(),
            "num_written": kept.num_seen,
            "layer": next((by_spelling[end] for end in _ends(name) if end in by_spelling), None),
        }
        for name, kept in run.pictures.items()
    }


def _ends(name: str) -> list[str]:
    """``a/b/c`` gives ``b/c`` and ``c``: the parts of a tag that may be a layer."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(1, len(parts))]


def _plain_case(case: Case) -> dict[str, Any]:
    alert = case.alert
    evidence = {**alert.evidence}
    if alert.sample_size is not None:
        evidence["samples"] = alert.sample_size
    return {
        "kind": _clipped(alert.kind),
        "severity": alert.severity,
        "state": "remark" if case.is_remark else alert.state,
        "monitor": _clipped(alert.monitor),
        "stage": _clipped(alert.stage),
        "step": alert.step,
        "epoch": alert.epoch,
        "first_step": case.first_step,
        "since": case.since,
        "message": _clipped(alert.message),
        "layers": [_clipped(layer) for layer in alert.layers[:_MAX_NAMES]],
        "num_layers": len(alert.layers),
        "evidence": [
            [_clipped(name), number_text(value)]
            for name, value in list(evidence.items())[:_MAX_NAMES]
        ],
        "could_be": [_clipped(text) for text in alert.could_be[:_MAX_NAMES]],
        "remedy": _clipped(alert.remedy),
    }


def number_text(value: float | int | str) -> str:
    """Returns a value of an alert's evidence as a short text."""
    return f"{value:.4g}" if isinstance(value, float) else _clipped(str(value))


def _finite(points: Sequence[tuple[int, float]]) -> list[tuple[int, float | None]]:
    """Points whose NaN and infinities are null, which is what JSON has."""
    return [(step, float(f"{y:.5g}") if abs(y) < 1e300 else None) for step, y in points]


def _clipped(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ..."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
