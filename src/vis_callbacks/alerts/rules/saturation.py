"""Nonlinearities that are driven into their flat parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

from vis_callbacks.alerts.alert import Finding, Outcome, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.readings import NUM_SAMPLES, REACHED, flat_share_of
from vis_callbacks.alerts.rules.conditions import has_broken_down, learning_rate, quoted, share

_MAX_SHARE = MappingProxyType(
    {"gelu": 0.85, "silu": 0.85, "tanh": 0.75, "elu": 0.60, "leaky_relu": 0.95}
)


@dataclass(frozen=True, kw_only=True)
class Saturation:
    """A remark: most of a layer's values lie where there is hardly any gradient.

    A remark only: the thresholds come from few trainings (8-21 with too high a rate for each
    nonlinearity) and were not tested on fresh ones. For the sigmoid no threshold works.

    Attributes:
        max_share: By nonlinearity, mean share of flat values over the window.
        min_snapshots: Of the window.
        min_samples: Of the window.
    """

    kind: ClassVar[str] = "saturation"
    severity: ClassVar[Severity] = "info"

    max_share: Mapping[str, float] = field(default_factory=lambda: _MAX_SHARE)
    min_snapshots: int = 3
    min_samples: int = 160

    def check(self, history: History) -> Outcome:
        """Returns the layers whose values are mostly flat over the window."""
        if has_broken_down(history):
            return Verdict.UNDECIDED
        flat: dict[str, tuple[float, int]] = {}
        for kind, most in self.max_share.items():
            metric = flat_share_of(kind)
            for layer in history.layers(metric):
                mean, num_samples = self._mean(history, metric, layer)
                if mean >= most:
                    flat[layer] = (mean, num_samples)
        if not flat:
            return None
        worst = max(flat, key=lambda layer: flat[layer][0])
        mean, num_samples = flat[worst]
        tenth = learning_rate(history).tenth
        return Finding(
            message=f"Saturating: {share(mean)} of the values of {quoted((worst,))} lie"
            f" where the nonlinearity is flat; the learning rate is probably too high.",
            layers=tuple(flat),
            evidence={"layer": worst, "flat_share": mean},
            sample_size=num_samples,
            could_be=("inputs of the layer that are too large", "a gate that is meant to close"),
            remedy=f"Try a tenth of the learning rate{', ' if tenth else ''}{tenth}.",
        )

    def _mean(self, history: History, metric: str, layer: str) -> tuple[float, int]:
        """Returns a layer's mean over its latest window, and its samples; NaN if it is too short.

        The window holds the snapshots at which samples have reached the layer.
        """
        values, num_samples = [], 0.0
        columns = [(metric, layer), (REACHED, layer), (NUM_SAMPLES, "")]
        series = [history.series(*column)[::-1] for column in columns]
        for value, *counts in zip(*series, strict=True):
            if math.isnan(value):
                continue
            values.append(value)
            num_samples += next((count for count in counts if not math.isnan(count)), 0.0)
            if len(values) >= self.min_snapshots and num_samples >= self.min_samples:
                return math.fsum(values) / len(values), int(num_samples)
        return math.nan, 0
