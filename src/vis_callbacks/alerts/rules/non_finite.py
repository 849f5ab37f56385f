"""NaN and infinity."""

from __future__ import annotations

import math
from typing import ClassVar

from vis_callbacks.alerts.alert import Finding, Outcome, Severity
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import (
    INPUT_MEAN,
    NON_FINITE,
    NON_FINITE_LOSS,
    WEIGHT_NORM,
)
from vis_callbacks.alerts.rules.conditions import learning_rate, sentence
from vis_callbacks.alerts.rules.dead_units import DyingUnits

_SOON = 20  # steps within which a rate that is far too high ends in NaN
_BLOWN_UP = 3.0  # growth of a layer's weights before it that points to the learning rate


class NonFinite:
    """A NaN or an infinity in an activation or in the loss: where and when first.

    It ends the other rules about units and weights for the run: no number after it means
    anything.
    """

    kind: ClassVar[str] = "non_finite"
    severity: ClassVar[Severity] = "critical"

    def check(self, history: History) -> Outcome:
        """Returns the first layer, in forward order, and the first step."""
        marks = [history.first_occurrence(metric) for metric in (NON_FINITE, NON_FINITE_LOSS)]
        first = min((mark for mark in marks if mark), key=lambda mark: mark.step, default=None)
        if first is None:
            return None
        layers = first.layers if first is marks[0] else ()
        place = f"the activation of {layers[0]!r}" if layers else "the loss"
        growth = _largest_growth(history, first.step)
        was_dying = DyingUnits().was_dying_before(history)
        return Finding(
            message=f"NaN or infinity in {place}, first seen at step {first.step}.",
            layers=layers,
            since_step=first.step,
            evidence={"weight_norm_of_first": growth, "units_were_dying": int(was_dying)},
            could_be=(
                "a sample that contains NaN",
                "a division or a logarithm of 0",
                "numbers beyond the range of half precision",
            ),
            remedy=_remedy(history, first.step, growth > _BLOWN_UP or was_dying),
        )


def _largest_growth(history: History, before: int) -> float:
    """Returns the largest norm of a layer / at its first snapshot, before a step."""
    growths = [
        value / first
        for entry, step in enumerate(history.steps)
        if step < before
        for layer in history.layers(WEIGHT_NORM, entry)
        if (first := history.first(WEIGHT_NORM, layer)) > 0
        and math.isfinite(value := history.at(entry, WEIGHT_NORM, layer))
    ]
    return max(growths, default=math.nan)


def _remedy(history: History, step: int, is_rate: bool) -> str:
    tenth = learning_rate(history).tenth
    restart = (
        f"restart with a tenth of the learning rate{f' ({tenth})' if tenth else ''}, and with a"
        " tenth of that if it happens again"
    )
    if is_rate:
        return f"Before that, weights had blown up or units were dying: {restart}."
    look = (
        "look at the batch of that step, at the precision and at the scale of inputs and targets."
        " torch.autograd.set_detect_anomaly(True) names the operation."
    )
    # A batch that holds a NaN is told from numbers that grew.
    means = dict(zip(history.steps, history.series(INPUT_MEAN), strict=True))
    if 0 < step <= _SOON and math.isfinite(means.get(step, math.nan)):
        return (
            f"The inputs were finite, and nothing was NaN at step 0: {restart}. If that does not"
            f" help, {look}"
        )
    return sentence(look)
