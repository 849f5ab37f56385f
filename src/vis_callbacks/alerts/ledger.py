"""From findings to alerts: pending -> firing -> resolved, one alert for one cause."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vis_callbacks.alerts.alert import SEVERITIES, Alert, Finding, Outcome, Rule, Verdict
from vis_callbacks.alerts.history import History

_VERSION = 1

Key = tuple[str, str]  # kind, cause


@dataclass
class _Entry:
    """One cause the ledger keeps an eye on."""

    alert: Alert
    num_found: int = 1  # snapshots running
    num_silent: int = 0  # snapshots running


def judge(rules: Sequence[Rule], history: History) -> list[tuple[Rule, Outcome]]:
    """Returns each rule with what it says of the history, as `Ledger.update` takes it."""
    return [(rule, rule.check(history)) for rule in rules]


class Ledger:
    """Remembers what is wrong, so that one cause is one alert however often it is found.

    A finding is *pending* until it has come at ``Finding.min_snapshots`` snapshots running,
    then *firing*; it is *resolved* after ``quiet_snapshots`` snapshots running without it, and
    may fire again afterwards. Layers that join are added to the alert. A finding of severity
    "info" is a remark: returned once, and again when its layers change, and never active.

    Attributes:
        untold: Alerts that have begun and that nobody has been told of, nor acted upon. They
            belong to the state: found while a checkpoint is saved, they are told of after a resume.

    Args:
        monitor: Name that the alerts carry.
        quiet_snapshots: 5 is what the rules for dead units were measured with. A window of
            several batches must refill before a unit counts as dead again, so a verdict that
            flickers does so within that time.
    """

    def __init__(self, monitor: str = "", *, quiet_snapshots: int = 5) -> None:
        if quiet_snapshots < 1:
            raise ValueError(f"quiet_snapshots={quiet_snapshots} would never be waited for; give 1")
        self.monitor = monitor
        self.quiet_snapshots = quiet_snapshots
        self.untold: list[Alert] = []
        self._entries: dict[Key, _Entry] = {}

    @property
    def active(self) -> tuple[Alert, ...]:
        """The alerts that are firing, as last seen, in the order they came up."""
        return tuple(
            entry.alert
            for entry in self._entries.values()
            if entry.alert.state == "firing" and entry.alert.severity != "info"
        )

    def update(
        self, judged: Iterable[tuple[Rule, Outcome]], *, step: int, epoch: int = 0, stage: str
    ) -> tuple[Alert, ...]:
        """Takes in one snapshot's findings and returns what changed.

        Returned are alerts that began to fire or became graver (state "firing"), that ended
        (state "resolved"), and new remarks (severity "info").

        Args:
            judged: Rules with their findings (`judge`). A rule that is not among them, or says
                ``Verdict.UNDECIDED``, leaves its alerts as they are.
            step: Of this snapshot.
            epoch: Of this snapshot.
            stage: ``"fit"``, ``"validate"`` or ``"test"``.
        """
        changes: list[Alert] = []
        found: set[Key] = set()
        decided: set[str] = set()
        for rule, outcome in judged:
            if outcome is Verdict.UNDECIDED:
                continue
            decided.add(rule.kind)
            if isinstance(outcome, Finding):
                alert = self._alert(rule, outcome, step, epoch, stage)
                found.add(_key(alert))
                changes += self._found(alert, outcome.min_snapshots)
        for key in [key for key in self._entries if key[0] in decided and key not in found]:
            changes += self._missed(key, step, epoch, stage)
        return tuple(changes)

    def state(self) -> dict[str, Any]:
        """Returns plain values for a checkpoint (loads with ``weights_only=True``)."""
        return {
            "version": _VERSION,
            "entries": [
                [entry.alert.as_plain(), entry.num_found, entry.num_silent]
                for entry in self._entries.values()
            ],
            "untold": [alert.as_plain() for alert in self.untold],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes a state back: what was firing goes on firing and is not raised again.

        Raises:
            ValueError: The state is not ours; this ledger is left as it was.
        """
        try:
            if state["version"] != _VERSION:
                raise ValueError(f"version {state['version']!r}")
            entries = [
                _Entry(Alert.from_plain(plain), int(num_found), int(num_silent))
                for plain, num_found, num_silent in state["entries"]
            ]
            untold = [Alert.from_plain(plain) for plain in state.get("untold", ())]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"not the state of a Ledger of version {_VERSION}: {error!r}; start afresh"
            ) from error
        self._entries = {_key(entry.alert): entry for entry in entries}
        self.untold = untold

    def _alert(self, rule: Rule, finding: Finding, step: int, epoch: int, stage: str) -> Alert:
        return Alert(
            kind=rule.kind,
            severity=finding.severity or rule.severity,
            state="pending",
            step=step,
            epoch=epoch,
            stage=stage,
            message=finding.message,
            layers=finding.layers,
            since_step=finding.since_step,
            evidence=dict(finding.evidence),
            sample_size=finding.sample_size,
            could_be=finding.could_be,
            remedy=finding.remedy,
            monitor=self.monitor,
            cause=finding.cause,
        )

    def _found(self, alert: Alert, min_snapshots: int) -> list[Alert]:
        entry = self._entries.get(_key(alert))
        if entry is None or (entry.alert.severity == "info") != (alert.severity == "info"):
            return self._first_found(alert, entry, min_snapshots)
        known = entry.alert
        entry.num_found, entry.num_silent = entry.num_found + 1, 0
        if alert.severity == "info":
            entry.alert = replace(alert, state="firing")
            return [] if alert.layers == known.layers else [entry.alert]
        if known.state == "pending":
            began = entry.num_found >= min_snapshots
            entry.alert = replace(alert, state="firing" if began else "pending")
            return [entry.alert] if began else []
        return self._still_found(entry, alert)

    def _first_found(self, alert: Alert, entry: _Entry | None, min_snapshots: int) -> list[Alert]:
        """Opens an entry; a remark beside an alert waits until the alert is resolved."""
        if entry is not None and alert.severity == "info":
            return self._missed(_key(alert), alert.step, alert.epoch, alert.stage)
        began = alert.severity == "info" or min_snapshots <= 1
        alert = replace(alert, state="firing" if began else "pending")
        self._entries[_key(alert)] = _Entry(alert)
        return [alert] if began else []

    def _still_found(self, entry: _Entry, alert: Alert) -> list[Alert]:
        """Brings a firing alert up to date; only a graver severity is news."""
        known = entry.alert
        is_graver = SEVERITIES.index(alert.severity) > SEVERITIES.index(known.severity)
        joined = dict.fromkeys((*known.layers, *alert.layers))
        starts = [since for since in (known.since_step, alert.since_step) if since is not None]
        alert = replace(
            alert,
            state="firing",
            layers=tuple(joined),
            since_step=min(starts, default=None),
            severity=alert.severity if is_graver else known.severity,
        )
        entry.alert = (
            alert
            if is_graver
            else replace(alert, step=known.step, epoch=known.epoch, stage=known.stage)
        )
        return [entry.alert] if is_graver else []

    def _missed(self, key: Key, step: int, epoch: int, stage: str) -> list[Alert]:
        entry = self._entries[key]
        entry.num_found, entry.num_silent = 0, entry.num_silent + 1
        if entry.alert.state == "pending":
            del self._entries[key]
            return []
        if entry.num_silent < self.quiet_snapshots:
            return []
        del self._entries[key]
        if entry.alert.severity == "info":
            return []
        return [replace(entry.alert, state="resolved", step=step, epoch=epoch, stage=stage)]


def _key(alert: Alert) -> Key:
    return alert.kind, alert.cause
