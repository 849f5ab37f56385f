"""The values of alerting: finding, verdict, rule, alert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, Literal, Protocol, SupportsIndex

from vis_callbacks.alerts.history import History

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")  # mild to grave

Evidence = Mapping[str, float | int | str]


class Verdict(Enum):
    """What a rule says besides a finding, and besides None for "nothing is wrong"."""

    UNDECIDED = "undecided"  # cannot be judged now: what was firing goes on firing


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a rule finds in the history: what is wrong, where, and on what evidence.

    Attributes:
        message: One sentence in plain words.
        layers: The affected layers, in forward order.
        since_step: First step at which the evidence points to it.
        evidence: Named numbers; a sample size belongs to every share.
        sample_size: Number of samples the finding rests on.
        could_be: What else would look like this.
        remedy: What to do, with a number where one is known to work.
        severity: None takes the rule's own.
        cause: Distinguishes findings of one rule that are separate alerts; mostly empty.
        min_snapshots: At how many snapshots in a row it must be found before it is an alert.
    """

    message: str
    layers: tuple[str, ...] = ()
    since_step: int | None = None
    evidence: Evidence = field(default_factory=dict)
    sample_size: int | None = None
    could_be: tuple[str, ...] = ()
    remedy: str = ""
    severity: Severity | None = None
    cause: str = ""
    min_snapshots: int = 1


Outcome = Finding | Literal[Verdict.UNDECIDED] | None


class Rule(Protocol):
    """Says what a history shows. It keeps no state; the `AlertTracker` does."""

    kind: ClassVar[str]
    severity: ClassVar[Severity]

    def check(self, history: History) -> Outcome:
        """Returns what is wrong now, None if nothing is, or that it cannot be judged now."""
        ...


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One cause, from the step it was raised until it is resolved.

    Attributes:
        state: ``"pending"`` only inside a tracker: found, but not yet at enough snapshots.
        step, epoch, stage: When the alert reached this state or severity.
        monitor: Class name of the monitor whose rule it was.
        explained_by: The kind of the alert that this one is a symptom of; a symptom is a remark.
        time: Seconds since 1970 at which it was written down; None before that.
    """

    kind: str
    severity: Severity
    state: Literal["pending", "firing", "resolved"]
    step: int
    epoch: int
    stage: str
    message: str
    layers: tuple[str, ...] = ()
    since_step: int | None = None
    evidence: Evidence = field(default_factory=dict)
    sample_size: int | None = None
    could_be: tuple[str, ...] = ()
    remedy: str = ""
    monitor: str = ""
    cause: str = ""
    explained_by: str = ""
    time: float | None = None

    def as_plain(self) -> dict[str, Any]:
        """Returns the alert as strings, numbers, lists and dictionaries."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {
            "layers": list(self.layers),
            "could_be": list(self.could_be),
            "evidence": {name: _plain(value) for name, value in self.evidence.items()},
        }

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Alert:
        """Returns the alert that `as_plain` gave; what a later version added is passed over.

        Raises:
            KeyError, TypeError, ValueError: A field is missing or holds what no alert holds.
        """
        known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        for name in ("layers", "could_be"):
            known[name] = tuple(known.get(name, ()))
        known["evidence"] = dict(known.get("evidence", {}))
        return cls(**known)


def _plain(value: float | int | str) -> float | int | str:
    """Returns a number or text without NumPy's types, which a safe loader refuses."""
    if isinstance(value, str):
        return str(value)
    return int(value) if isinstance(value, SupportsIndex) else float(value)
