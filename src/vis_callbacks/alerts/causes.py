"""Which kinds of alerts explain which: one cause is one alert, and its symptoms are remarks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from vis_callbacks.alerts.alert import Alert

# What is told of first explains what comes after it, while it lasts.
_DEPTHS: tuple[frozenset[str], ...] = (
    frozenset({"loss_misfit", "wrong_sign", "shapes_differ", "constant_inputs", "one_class"}),
    frozenset({"targets_out_of_reach", "dead_from_start", "unscaled_inputs"}),
    frozenset({"non_finite_loss"}),
    frozenset({"dying_units", "diverging_loss", "non_finite"}),
    frozenset({"rate_too_high"}),
    frozenset({"no_gradient", "collapsing_weights"}),
    frozenset({"constant_outputs"}),
    frozenset({"slow_learning"}),
    frozenset({"representation_collapse", "hardly_learned", "no_better_than_constant"}),
    frozenset({"loss_not_falling"}),
)
# They end a run, whatever else is wrong: what is to stop it there must not miss them.
_ENDS = frozenset({"non_finite_loss", "non_finite"})
_DEPTH = {kind: depth for depth, kinds in enumerate(_DEPTHS) for kind in kinds}


def explained(alert: Alert, causes: Iterable[Alert]) -> Alert:
    """Returns the alert, as a remark where one of the causes explains it.

    The remark has no remedy of its own: what mends a symptom by itself may be the contrary of
    what mends its cause.
    """
    depth = _DEPTH.get(alert.kind)
    deeper = [cause for cause in causes if _DEPTH.get(cause.kind, len(_DEPTHS)) < (depth or 0)]
    if alert.kind in _ENDS:
        deeper = [cause for cause in deeper if cause.kind in _ENDS]
    if not deeper or alert.severity == "info":
        return alert
    cause = min(deeper, key=lambda cause: _DEPTH[cause.kind])
    words = f"{alert.message} The alert {cause.kind!r} explains this: fix that first."
    return replace(alert, severity="info", message=words, remedy="", explained_by=cause.kind)
