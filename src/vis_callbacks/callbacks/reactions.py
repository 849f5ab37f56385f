"""The one thing that acts on a run: what happens when an alert is raised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Told:
    """Of one monitor: its ``on_alert``, the alerts that have begun, and what came of telling.

    ``error`` is how the user's function has asked for the end of the run.
    """

    on_alert: OnAlert | Callable[[Alert], object]
    alerts: Sequence[Alert] = ()
    error: IntendedError | None = None


def tell(
    alerts: Sequence[Alert],
    on_alert: OnAlert | Callable[[Alert], object],
    run: RunView,
    guard: Guard,
) -> Told:
    """Warns of alerts that have begun, and calls the user's function with each, on rank 0 alone."""
    for alert in alerts if run.is_global_zero else ():
        say(words_of(alert))
        if callable(on_alert):
            try:
                with guard.contain("on_alert"):
                    harmless(on_alert)(alert)
            except IntendedError as error:  # raised by `act`, on all ranks
                return Told(on_alert, alerts, error)
    return Told(on_alert, alerts)


def act(told: Sequence[Told], run: RunView, *, has_ranks: bool) -> None:
    """Stops or ends the run where a monitor's alert is to do so, on all ranks together.

    Every rank must come here after each snapshot, whatever failed on it: a monitor may have
    failed on this rank and raise its alert on another. What a function does to the run on rank 0
    (``trainer.should_stop = True``, an `AlertRaisedError`) is done on all ranks.

    Args:
        told: Of all monitors.
        run: Is stopped.
        has_ranks: Whether other ranks come here, too.

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


def words_of(alert: Alert) -> str:
    """Returns an alert as the one line of a log: what, where, since when, what to do."""
    where = f" ({', '.join(alert.layers)})" if alert.layers else ""
    since = "" if alert.since_step is None else f" since step {alert.since_step}"
    remedy = f" {alert.remedy}" if alert.remedy else ""
    return f"[{alert.severity}] step {alert.step}: {alert.message}{where}{since}.{remedy}"
