"""From findings to alerts: pending -> firing -> resolved, one alert for one cause."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vis_callbacks.alerts.alert import SEVERITIES, Alert, Finding, Outcome, Rule, Verdict
from vis_callbacks.alerts.causes import explained

Key = tuple[str, str]  # kind, cause

# The rules for dead units were measured with it. A window of several batches must refill before
# a unit counts as dead again, so a verdict that flickers does so within that time.
QUIET_SNAPSHOTS = 5


@dataclass
class _Entry:
    """One cause that is tracked."""

    alert: Alert
    num_found: int = 0  # snapshots running
    num_silent: int = 0  # snapshots running


class AlertTracker:
    """Remembers what is wrong, so that one cause is one alert however often it is found.

    A finding is *pending* until it has come at ``Finding.min_snapshots`` snapshots running,
    then *firing*; it is *resolved* after five snapshots running without it, and may fire again
    afterwards. Layers that join are added to the alert. A finding of severity "info" is a
    remark: it is returned once, and again when its layers change, and is never active.

    Attributes:
        alerts: All that have begun to fire or became graver, as they were then.
        untold: Those of them, and those that ended, that nobody has been told of, nor acted
            upon. They belong to the state: what was found while a checkpoint is saved is told of
            after a resume.

    Args:
        monitor: The name that the alerts carry.
    """

    def __init__(self, monitor: str = "") -> None:
        self.monitor = monitor
        self.alerts: list[Alert] = []
        self.untold: list[Alert] = []
        self._entries: dict[Key, _Entry] = {}

    @property
    def active(self) -> tuple[Alert, ...]:
        """The alerts that are firing, as last seen, in the order they came up."""
        return tuple(e.alert for e in self._entries.values() if _is_begun(e.alert))

    def update(
        self,
        judged: Iterable[tuple[Rule, Outcome]],
        *,
        step: int,
        epoch: int = 0,
        stage: str,
        causes: Sequence[Alert] = (),
    ) -> list[Alert]:
        """Takes in one snapshot's findings and returns what changed.

        Returned are alerts that began to fire or became graver (state "firing"), that ended
        (state "resolved"), and new remarks (severity "info").

        Args:
            judged: Rules with what they say of the history. A rule that is not among them, or
                says ``Verdict.UNDECIDED``, leaves its alerts as they are.
            step: Of this snapshot.
            epoch: Of this snapshot.
            stage: ``"fit"``, ``"validate"`` or ``"test"``.
            causes: Alerts of other trackers. A finding that one of them, or of this tracker's own,
                explains is a remark; see `explained`.
        """
        judged = list(judged)
        causes = [*causes, *self.active, *self.certain(judged, step)]
        when = {"step": step, "epoch": epoch, "stage": stage}
        changes: list[Alert] = []
        found: set[Key] = set()
        decided: set[str] = set()
        for rule, outcome in judged:
            if outcome is Verdict.UNDECIDED:
                continue
            decided.add(rule.kind)
            if isinstance(outcome, Finding):
                found.add((rule.kind, outcome.cause))
                alert = self._alert(rule, outcome, when)
                known = self._entries.get(_key(alert))
                if known is None or not _is_begun(known.alert):
                    alert = explained(alert, causes)  # what is told already is not over by that
                changes += self._found(alert, outcome.min_snapshots)
        for key in [key for key in self._entries if key[0] in decided and key not in found]:
            changes += self._missed(key, when)
        self.alerts += filter(_is_begun, changes)
        self.untold += [alert for alert in changes if alert.severity != "info"]
        return changes

    def certain(self, judged: Iterable[tuple[Rule, Outcome]], step: int) -> list[Alert]:
        """Returns the alerts that findings of this snapshot are, without waiting for another."""
        when = {"step": step, "epoch": 0, "stage": ""}
        found = [
            self._alert(rule, outcome, when)
            for rule, outcome in judged
            if isinstance(outcome, Finding) and outcome.min_snapshots == 1
        ]
        return [alert for alert in found if alert.severity != "info"]

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values for a checkpoint (loads with ``weights_only=True``)."""
        return {
            "entries": [
                [entry.alert.as_plain(), entry.num_found, entry.num_silent]
                for entry in self._entries.values()
            ],
            "untold": [alert.as_plain() for alert in self.untold],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes a state back: what was firing goes on firing and is not raised again.

        Raises:
            KeyError, TypeError, ValueError: The state is not ours.
        """
        entries = [
            _Entry(Alert.from_plain(plain), int(num_found), int(num_silent))
            for plain, num_found, num_silent in state["entries"]
        ]
        self._entries = {_key(entry.alert): entry for entry in entries}
        self.untold = [Alert.from_plain(plain) for plain in state["untold"]]
        self.alerts = list(self.active)

    def _alert(self, rule: Rule, finding: Finding, when: Mapping[str, Any]) -> Alert:
        shared = vars(finding) | {
            "severity": finding.severity or rule.severity,
            "evidence": dict(finding.evidence),
        }
        del shared["min_snapshots"]
        return Alert(**shared, **when, kind=rule.kind, monitor=self.monitor, state="pending")

    def _found(self, alert: Alert, min_snapshots: int) -> list[Alert]:
        key, is_remark = _key(alert), alert.severity == "info"
        entry = self._entries.get(key)
        if entry is not None and is_remark != (entry.alert.severity == "info"):
            if is_remark:  # it waits until the alert is resolved
                when = {"step": alert.step, "epoch": alert.epoch, "stage": alert.stage}
                return self._missed(key, when)
            entry = None
        if entry is None:
            entry = self._entries[key] = _Entry(alert)
        known = entry.alert
        entry.num_found, entry.num_silent = entry.num_found + 1, 0
        if known.state == "pending" or is_remark:
            begins = is_remark or entry.num_found >= min_snapshots
            entry.alert = replace(alert, state="firing" if begins else "pending")
            is_news = begins and (known.state == "pending" or alert.layers != known.layers)
        else:
            is_news = SEVERITIES.index(alert.severity) > SEVERITIES.index(known.severity)
            entry.alert = _brought_up_to_date(known, alert, since=alert if is_news else known)
        return [entry.alert] if is_news else []

    def _missed(self, key: Key, when: Mapping[str, Any]) -> list[Alert]:
        entry = self._entries[key]
        entry.num_found, entry.num_silent = 0, entry.num_silent + 1
        is_pending = entry.alert.state == "pending"
        if not is_pending and entry.num_silent < QUIET_SNAPSHOTS:
            return []
        del self._entries[key]
        is_unseen = is_pending or entry.alert.severity == "info"
        return [] if is_unseen else [replace(entry.alert, state="resolved", **when)]


def _brought_up_to_date(known: Alert, alert: Alert, *, since: Alert) -> Alert:
    """Returns a firing alert as it is found now, of the severity and step of ``since``."""
    starts = [start for start in (known.since_step, alert.since_step) if start is not None]
    return replace(
        alert,
        state="firing",
        layers=tuple(dict.fromkeys((*known.layers, *alert.layers))),
        since_step=min(starts, default=None),
        severity=since.severity,
        step=since.step,
        epoch=since.epoch,
        stage=since.stage,
    )


def _is_begun(alert: Alert) -> bool:
    return alert.state == "firing" and alert.severity != "info"


def _key(alert: Alert) -> Key:
    return alert.kind, alert.cause
