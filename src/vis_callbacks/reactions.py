"""The one thing that acts on a run: what happens when an alert is raised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vis_callbacks._lightning import RunView
from vis_callbacks.alerts.alert import Alert
from vis_callbacks.alerts.tracker import QUIET_SNAPSHOTS, AlertTracker
from vis_callbacks.engine.ranks import any_rank
from vis_callbacks.engine.user_functions import harmless
from vis_callbacks.guard import Guard, IntendedError, log
from vis_callbacks.on_alert import Action, OnAlert, reaction_to, reactions_of


class AlertRaisedError(IntendedError):
    """Ends the run, if ``on_alert="raise"``. ``alert`` is what was found.

    It is None if only another rank has found it, because this rank's monitor had failed.
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

    def asking_for(self, action: Action) -> list[Alert]:
        """Returns the alerts that are to have this effect; that one is over has none."""
        firing = [alert for alert in self.alerts if alert.state == "firing"]
        return [alert for alert in firing if reaction_to(alert, self.on_alert) == action]


def tell(tracker: AlertTracker, on_alert: OnAlert, run: RunView, guard: Guard) -> Told:
    """Logs the alerts that nobody was told of, and calls the user's functions with each.

    Both happen on rank 0 alone, when an alert begins and when it is over. After a function has
    asked for the end of the run, none is called any more, and the rest is logged.
    """
    told = Told(on_alert)
    while tracker.untold:
        alert = tracker.untold.pop(0)
        told.alerts.append(alert)
        if not run.is_global_zero:
            continue
        log(text_of(alert))
        reaction = reaction_to(alert, on_alert)
        if callable(reaction) and told.error is None:
            try:
                with guard.catch("on_alert"):
                    harmless(reaction)(alert)
            except IntendedError as error:  # for all ranks together
                told.error = error
    return told


def act(told: Sequence[Told], run: RunView, *, has_ranks: bool) -> IntendedError | None:
    """Stops the run where a monitor's alert is to do so; returns the error that is to end it.

    All ranks do so together: every rank must come here after each snapshot, for a monitor may
    have failed on this rank and raise its alert on another. What a function does to the run on
    rank 0 (``trainer.should_stop = True``, an `AlertRaisedError`) is done on all ranks. The error
    is that of the first alert with ``"raise"``, and the same on all ranks but in its words.
    """
    on_any_rank = any_rank if has_ranks else bool
    possible = [reaction for one in told for reaction in reactions_of(one.on_alert)]
    by_function = any(map(callable, possible))
    if "stop" in possible or by_function:
        is_stopping = any(one.asking_for("stop") for one in told)
        if on_any_rank(is_stopping or (by_function and run.is_stopping)):
            run.stop()
    if "raise" in possible or by_function:
        errors = [one.error for one in told if one.error is not None]
        errors += [AlertRaisedError(alert) for one in told for alert in one.asking_for("raise")]
        if on_any_rank(bool(errors)):
            return errors[0] if errors else AlertRaisedError(None)
    return None


def text_of(alert: Alert) -> str:
    """Returns an alert as the one line of a log: what, where, since when, what to do."""
    # Most messages name the layers that matter most.
    unnamed = [layer for layer in alert.layers if repr(layer) not in alert.message]
    facts = [f"in {', '.join(unnamed)}"] if unnamed else []
    facts += [] if alert.since_step is None else [f"since step {alert.since_step}"]
    message = alert.message.rstrip(".") + (f" ({', '.join(facts)})." if facts else ".")
    if alert.state == "resolved":
        over = f"{alert.kind} is over: it was not found at the latest {QUIET_SNAPSHOTS} snapshots"
        return f"[resolved] step {alert.step}: {over}. It said: {message}"
    remedy = f" {alert.remedy}" if alert.remedy else ""
    return f"[{alert.severity}] step {alert.step}: {message}{remedy}"
