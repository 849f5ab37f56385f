"""Remarks on layers: those driven into their flat parts, and those that no sample reaches."""

from __future__ import annotations

import math
from itertools import takewhile
from typing import ClassVar

from vis_callbacks.alerts.alert import Finding, Outcome, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import NUM_SAMPLES, REACHED, flat_share_of
from vis_callbacks.alerts.rules.conditions import has_broken_down, learning_rate, quoted, share

_MIN_SNAPSHOTS, _MIN_SAMPLES = 3, 160  # of the window that a remark rests on
_MAX_FLAT_SHARE = {"gelu": 0.85, "silu": 0.85, "tanh": 0.75, "elu": 0.60, "leaky_relu": 0.95}


class Saturation:
    """A remark: most of a layer's values lie where there is hardly any gradient.

    A remark only: the thresholds (mean share of flat values, by nonlinearity) come from few
    trainings, 8-21 with too high a rate for each, and were not tested on fresh ones. For the
    sigmoid no threshold works.
    """

    kind: ClassVar[str] = "saturation"
    severity: ClassVar[Severity] = "info"

    def check(self, history: History) -> Outcome:
        """Returns the layers whose values are mostly flat over the window."""
        if has_broken_down(history):
            return Verdict.UNDECIDED
        flat: dict[str, tuple[float, int]] = {}
        for kind, most in _MAX_FLAT_SHARE.items():
            metric = flat_share_of(kind)
            for layer in history.layers(metric):
                mean, num_samples = _window_mean(history, metric, layer)
                if mean >= most:
                    flat[layer] = (mean, num_samples)
        if not flat:
            return None
        worst = max(flat, key=lambda layer: flat[layer][0])
        mean, num_samples = flat[worst]
        tenth = learning_rate(history).tenth
        return Finding(
            message=f"Saturation: {share(mean)} of the values of {quoted((worst,))} lie where the"
            " nonlinearity is flat. The learning rate is probably too high.",
            layers=tuple(flat),
            evidence={"layer": worst, "flat_share": mean},
            sample_size=num_samples,
            could_be=("inputs of the layer that are too large", "a gate that is meant to close"),
            remedy=f"Try a tenth of the learning rate{f' ({tenth})' if tenth else ''}.",
        )


class UnreachedLayers:
    """A remark on layers that none of the latest samples has reached: an expert never chosen.

    Nothing is known of their units, so that no rule calls them dead.
    """

    kind: ClassVar[str] = "unreached_layers"
    severity: ClassVar[Severity] = "info"

    def check(self, history: History) -> Outcome:
        """Returns the layers that nothing reaches."""
        missed = {
            layer: (num_snapshots, num_samples)
            for layer in history.layers(REACHED)
            for num_snapshots, num_samples in [_missed(history, layer)]
            if num_snapshots >= _MIN_SNAPSHOTS and num_samples >= _MIN_SAMPLES
        }
        if not missed:
            return None
        layers, (num_snapshots, num_samples) = tuple(missed), min(missed.values())
        return Finding(
            message=f"No sample reached {quoted(layers)} at the latest {num_snapshots} snapshots"
            f" ({num_samples} samples), so the units there are not judged.",
            layers=layers,
            since_step=history.steps[-num_snapshots],
            evidence={"snapshots_running": num_snapshots},
            sample_size=num_samples,
            could_be=(
                "a router that never chooses it",
                "a branch that these samples do not take",
                "a layer that training_step does not call",
            ),
        )


def _window_mean(history: History, metric: str, layer: str) -> tuple[float, int]:
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
        if len(values) >= _MIN_SNAPSHOTS and num_samples >= _MIN_SAMPLES:
            return math.fsum(values) / len(values), int(num_samples)
    return math.nan, 0


def _missed(history: History, layer: str) -> tuple[int, int]:
    """Returns at how many snapshots running nothing reached a layer, and how many samples came."""
    pairs = zip(history.series(REACHED, layer), history.series(NUM_SAMPLES), strict=True)
    # NaN: not known.
    passed_by = [n for _, n in takewhile(lambda pair: pair[0] == 0, reversed([*pairs]))]
    return len(passed_by), int(sum(n for n in passed_by if not math.isnan(n)))
