"""What an alert is to cause: the option ``on_alert``, for all alerts or by their kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

from vis_callbacks.alerts.alert import SEVERITIES, Alert
from vis_callbacks.engine.layers import nearest

Action = Literal["warn", "stop", "raise"]
Reaction = Action | Callable[[Alert], object]
OnAlert = Reaction | Mapping[str, Reaction]

OTHERS = (*SEVERITIES[1:], "default")  # what a dictionary may name besides kinds


def reaction_to(alert: Alert, on_alert: OnAlert) -> Reaction:
    """Returns what an alert is to cause: its kind is asked for first, then its severity."""
    if not isinstance(on_alert, Mapping):
        return on_alert
    named = (name for name in (alert.kind, alert.severity, "default") if name in on_alert)
    return on_alert[name] if (name := next(named, None)) is not None else "warn"


def reactions_of(on_alert: OnAlert) -> list[Reaction]:
    """Returns all that alerts may cause; it is the same on every rank, found or not."""
    return [*on_alert.values()] if isinstance(on_alert, Mapping) else [on_alert]


def without_functions(on_alert: OnAlert) -> object:
    """Returns the option for a comparison of ranks, whose functions are not the same objects."""
    if isinstance(on_alert, Mapping):
        return sorted((name, without_functions(one)) for name, one in on_alert.items())
    return "a function" if callable(on_alert) else on_alert


def check_on_alert(name: str, value: object) -> None:
    """Raises unless ``value`` is an action, a function, or a dictionary of such."""
    for key, one in value.items() if isinstance(value, Mapping) else [(None, value)]:
        if not callable(one) and one not in get_args(Action):
            where = name if key is None else f"{name}[{key!r}]"
            raise ValueError(
                f'{where}={one!r} must be "warn", "stop", "raise" or a function. Use one of them, '
                "a function that takes the alert, or a dictionary of these by kind of alert, such "
                'as {"dying_units": "stop", "default": "warn"}.'
            )


def kinds_in(on_alert: object) -> Iterable[object]:
    """Returns the names in a dictionary that should be kinds of alerts."""
    if not isinstance(on_alert, Mapping):
        return ()
    return [name for name in on_alert if name not in OTHERS]


def check_kinds(option: str, names: Iterable[object], known: Iterable[str], owner: str) -> None:
    """Raises unless all names are kinds of alerts of the owner."""
    known = list(known)
    for name in names:
        if name not in known:
            near = ", ".join(nearest(str(name), known)) or ", ".join(sorted(known))
            words = f"Nearest: {near}. Use one of these." if near else "It has no alerts."
            raise ValueError(f"{option} holds {name!r}, which {owner} does not raise. {words}")
