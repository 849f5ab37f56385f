"""Layers that no sample reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import takewhile
from typing import ClassVar

from vis_callbacks.alerts.alert import Finding, Outcome, Severity
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.readings import NUM_SAMPLES, REACHED
from vis_callbacks.alerts.rules.conditions import quoted


@dataclass(frozen=True, kw_only=True)
class UnreachedLayers:
    """A remark on layers that none of the latest samples has reached: an expert never chosen.

    Nothing is known of their units, so that no rule calls them dead.

    Attributes:
        min_snapshots: In a row without a sample.
        min_samples: That have passed by meanwhile.
    """

    kind: ClassVar[str] = "unreached_layers"
    severity: ClassVar[Severity] = "info"

    min_snapshots: int = 3
    min_samples: int = 160

    def check(self, history: History) -> Outcome:
        """Returns the layers that nothing reaches."""
        missed = {layer: _missed(history, layer) for layer in history.layers(REACHED)}
        layers = tuple(
            layer
            for layer, (num_snapshots, num_samples) in missed.items()
            if num_snapshots >= self.min_snapshots and num_samples >= self.min_samples
        )
        if not layers:
            return None
        num_snapshots, num_samples = min(missed[layer] for layer in layers)
        return Finding(
            message=f"No sample reached {quoted(layers)} at the latest {num_snapshots} snapshots"
            f" ({num_samples} samples): the units there are not judged.",
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


def _missed(history: History, layer: str) -> tuple[int, int]:
    """Returns at how many snapshots running nothing reached a layer, and how many samples came."""
    pairs = zip(history.series(REACHED, layer), history.series(NUM_SAMPLES), strict=True)
    # NaN: not known.
    passed_by = [n for _, n in takewhile(lambda pair: pair[0] == 0, reversed([*pairs]))]
    return len(passed_by), int(sum(n for n in passed_by if not math.isnan(n)))
