"""The one thing that acts on a run: what happens when an alert is raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vis_callbacks._lightning import RunView
from vis_callbacks.alerts.alert import Alert
from vis_callbacks.callbacks.options import OnAlert
from vis_callbacks.engine.ranks import any_rank
from vis_callbacks.engine.user_functions import harmless
from vis_callbacks.guard import Guard, IntendedError, say


class AlertRaisedError(IntendedError):
    """Ends the run, as ``on_alert="raise"`` asks for. ``alert`` is what was found.

    None where this rank's own monitor had failed and another rank has found it.
    """

    def __init__(self, alert: Alert | None) -> None:
        self.alert = alert
        words = f"{alert.message} {alert.remedy}" if alert else "another rank has raised an alert"
        super().__init__(words.strip())


def begun(changes: Sequence[Alert]) -> list[Alert]:
    """Returns the alerts that have begun to fire or become graver; no remarks."""
    return [alert for alert in changes if alert.state == "firing" and alert.severity != "info"]


def tell(
    alerts: Sequence[Alert],
    on_alert: OnAlert | Callable[[Alert], object],
    run: RunView,
    guard: Guard,
) -> None:
    """Warns of alerts that have begun, and calls the user's function with each."""
    for alert in alerts:
        if run.is_global_zero:
            say(words_of(alert))
        if callable(on_alert):
            with guard.contain("on_alert"):
                harmless(on_alert)(alert)


def act(
    asked: Sequence[tuple[OnAlert | Callable[[Alert], object], Sequence[Alert]]], run: RunView
) -> None:
    """Stops or ends the run where a monitor's alert is to do so, on all ranks together.

    Every rank must come here after each snapshot, whatever failed on it: a monitor may have
    failed on this rank and raise its alert on another.

    Args:
        asked: For each monitor its ``on_alert`` and the alerts that have begun.
        run: Is stopped.

    Raises:
        AlertRaisedError: For the first alert of a monitor with ``on_alert="raise"``.
    """
    for reaction in ("stop", "raise"):
        wanting = [alerts for on_alert, alerts in asked if on_alert == reaction]
        if not wanting or not any_rank(any(wanting)):
            continue
        if reaction == "stop":
            run.stop()
        else:
            raise AlertRaisedError(next((alerts[0] for alerts in wanting if alerts), None))


def words_of(alert: Alert) -> str:
    """Returns an alert as the one line of a log: what, where, since when, what to do."""
    where = f" ({', '.join(alert.layers)})" if alert.layers else ""
    since = "" if alert.since_step is None else f" since step {alert.since_step}"
    remedy = f" {alert.remedy}" if alert.remedy else ""
    return f"[{alert.severity}] step {alert.step}: {alert.message}{where}{since}.{remedy}"
