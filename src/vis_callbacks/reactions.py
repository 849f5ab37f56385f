"""The one thing that acts on a run: what happens when an alert is raised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vis_callbacks._lightning import RunView
from vis_callbacks.alerts.alert import Alert
from vis_callbacks.alerts.tracker import AlertTracker
from vis_callbacks.engine.ranks import any_rank
from vis_callbacks.engine.user_functions import harmless
from vis_callbacks.guard import Guard, IntendedError, log
from vis_callbacks.options import OnAlert


class AlertRaisedError(IntendedError):
    """Ends the run, as ``on_alert="raise"`` asks for. ``alert`` is what was found.

    None where this rank's own monitor had failed and another rank has found it.
    """

    def __init__(self, alert: Alert | None) -> None:
        self.alert = alert
        words = f"{alert.message} {alert.remedy}" if alert else "another rank has raised an alert"
        super().__init__(words.strip())


@dataclass
class Told:
    """The alerts of one monitor that were told of, and what is still to be done about them.

    ``error`` is how the user's function has asked for the end of the run.
    """

    on_alert: OnAlert
    alerts: list[Alert] = field(default_factory=list)
    error: IntendedError | None = None


def tell(tracker: AlertTracker, on_alert: OnAlert, run: RunView, guard: Guard) -> Told:
    """Logs the alerts that nobody was told of, and calls the user's function with each.

    Both happen on rank 0 alone. After a function has asked for the end of the run, it is
    called no more, and the rest is logged.
    """
    told = Told(on_alert)
    while tracker.untold:
        alert = tracker.untold.pop(0)
        told.alerts.append(alert)
        if not run.is_global_zero:
            continue
        log(text_of(alert))
        if callable(on_alert) and told.error is None:
            try:
                with guard.catch("on_alert"):
                    harmless(on_alert)(alert)
            except IntendedError as error:  # raised by `act`, on all ranks
                told.error = error
    return told


def act(told: Sequence[Told], run: RunView, *, has_ranks: bool) -> None:
    """Stops or ends the run where a monitor's alert is to do so, on all ranks together.

    Every rank must come here after each snapshot: a monitor may have failed on this rank and
    raise its alert on another. What a function does to the run on rank 0
    (``trainer.should_stop = True``, an `AlertRaisedError`) is done on all ranks.

    Raises:
        AlertRaisedError: For the first alert of a monitor with ``on_alert="raise"``.
    """
    on_any_rank = any_rank if has_ranks else bool
    by_function = any(callable(one.on_alert) for one in told)
    to_stop = [one for one in told if one.on_alert == "stop"]
    if to_stop or by_function:
        is_stopping = any(one.alerts for one in to_stop) or (by_function and run.is_stopping)
        if on_any_rank(is_stopping):
            run.stop()
    to_raise = [one for one in told if one.on_alert == "raise"]
    if to_raise or by_function:
        errors = [one.error for one in told if one.error is not None]
        errors += [AlertRaisedError(one.alerts[0]) for one in to_raise if one.alerts]
        if on_any_rank(bool(errors)):
            raise errors[0] if errors else AlertRaisedError(None)


def text_of(alert: Alert) -> str:
    """Returns an alert as the one line of a log: what, where, since when, what to do."""
    where = f" ({', '.join(alert.layers)})" if alert.layers else ""
    since = "" if alert.since_step is None else f" since step {alert.since_step}"
    remedy = f" {alert.remedy}" if alert.remedy else ""
    return f"[{alert.severity}] step {alert.step}: {alert.message}{where}{since}.{remedy}"
