"""The alerts of a run as short paragraphs, for TensorBoard's Text tab and for other services."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.report import escape_markdown

_MAX_ALERTS = 100
_MAX_LAYERS = 8


class AlertStory:
    """The alerts of a run so far, and how far it was watched.

    TensorBoard keeps few texts of a tag: each one must tell the whole story. Where all is well
    this is told at the first look, ever more rarely after it, and at the end.

    Attributes:
        latest: The latest step that was looked at, -1 before the first.
    """

    def __init__(self) -> None:
        self.latest = -1
        self._alerts: list[Alert] = []
        self._num_steps = self._first = self._tell_again_at = 0
        self._told_at = -1

    def note_watched(self, steps: Iterable[int], active: Sequence[Alert]) -> None:
        """Takes in the steps of one look, and the alerts that fire: a resume knows of some."""
        new = sorted({step for step in steps if step > self.latest})
        if new:
            self._first = self._first if self._num_steps else new[0]
            self._num_steps, self.latest = self._num_steps + len(new), new[-1]
        self._alerts = self._alerts or [*active]

    def add(self, alerts: Sequence[Alert]) -> None:
        """Takes in alerts that began, became graver or are over."""
        self._alerts += alerts

    @property
    def is_due(self) -> bool:
        """Whether it should be told again, though nothing has happened."""
        return self.latest >= self._tell_again_at

    @property
    def is_stale(self) -> bool:
        """Whether there was a look since it was told."""
        return self.latest > self._told_at

    def tell(self) -> str:
        """Returns all alerts so far, the newest first, in Markdown; or that there is none.

        Beyond 100 alerts the oldest are counted only; alerts.jsonl has them.
        """
        self._told_at, self._tell_again_at = self.latest, 4 * max(self.latest, 1)
        told = [_paragraphs(alert) for alert in reversed(self._alerts[-_MAX_ALERTS:])]
        if num_left := max(0, len(self._alerts) - _MAX_ALERTS):
            told.append(f"and {num_left} earlier ones, in alerts.jsonl")
        none = "" if told else "No alert. "
        if self._num_steps == 1:
            told.append(f"{none}Looked at step {self.latest} so far.")
        elif self._num_steps:
            steps = f"{self._num_steps:,} steps so far, from step {self._first} to {self.latest}"
            told.append(f"{none}Looked at {steps}.")
        return "\n\n".join(told)


def heading_of(alert: Alert) -> str:
    """Returns what an alert is called in a line: ``critical: dying_units at step 60``."""
    state = "resolved" if alert.state == "resolved" else alert.severity
    return f"{state}: {alert.kind} at step {alert.step}"


def facts_of(alert: Alert) -> dict[str, str]:
    """Returns where, since when, on what evidence, what else and what to do; without the empty."""
    evidence: dict[str, float | int | str] = dict(alert.evidence)
    if alert.sample_size is not None:
        evidence["samples"] = alert.sample_size
    facts = {
        "Where": _where(alert.layers),
        "Since": "" if alert.since_step is None else f"step {alert.since_step}",
        "Evidence": ", ".join(f"{name} = {_short(value)}" for name, value in evidence.items()),
        "Could also be": "; ".join(alert.could_be),
        "What to do": "" if alert.state == "resolved" else alert.remedy,
    }
    return {name: text for name, text in facts.items() if text}


def _paragraphs(alert: Alert) -> str:
    facts = [f"- **{name}:** {escape_markdown(text)}" for name, text in facts_of(alert).items()]
    return "\n\n".join(
        [
            f"#### {escape_markdown(heading_of(alert))}",
            escape_markdown(alert.message.strip()),
            "\n".join(facts),
        ]
    ).rstrip()


def _where(layers: Sequence[str]) -> str:
    shown = ", ".join(layers[:_MAX_LAYERS])
    num_left = len(layers) - _MAX_LAYERS
    return f"{shown} and {num_left} more" if num_left > 0 else shown


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
