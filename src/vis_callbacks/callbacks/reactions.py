"""The one thing that acts on a run: what happens when an alert is raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vis_callbacks._lightning import RunView
from vis_callbacks.alerts.alert import Alert
from vis_callbacks.callbacks.options import OnAlert
from vis_callbacks.guard import Guard, IntendedError, say


class AlertRaisedError(IntendedError):
    """Ends the run, as ``on_alert="raise"`` asks for. ``alert`` is what was found."""

    def __init__(self, alert: Alert) -> None:
        self.alert = alert
        super().__init__(f"{alert.message} {alert.remedy}".strip())


def react(
    alerts: Sequence[Alert],
    on_alert: OnAlert | Callable[[Alert], object],
    run: RunView,
    guard: Guard,
) -> None:
    """Warns of the alerts that have begun to fire, and does what the user asked for.

    Every rank comes here at the same snapshot, with the same alerts: they rest on merged
    values. Resolved alerts and remarks cause nothing.

    Raises:
        AlertRaisedError: ``on_alert="raise"``, for the first alert.
    """
    begun = [alert for alert in alerts if alert.state == "firing" and alert.severity != "info"]
    if not begun:
        return
    if run.is_global_zero:
        for alert in begun:
            say(words_of(alert))
    if callable(on_alert):
        for alert in begun:
            with guard.contain("on_alert"):
                on_alert(alert)
    elif on_alert == "raise":
        raise AlertRaisedError(begun[0])
    elif on_alert == "stop":
        run.stop()


def words_of(alert: Alert) -> str:
    """Returns an alert as the one line of a log: what, where, since when, what to do."""
    where = f" ({', '.join(alert.layers)})" if alert.layers else ""
    since = "" if alert.since_step is None else f" since step {alert.since_step}"
    remedy = f" {alert.remedy}" if alert.remedy else ""
    return f"[{alert.severity}] step {alert.step}: {alert.message}{where}{since}.{remedy}"
