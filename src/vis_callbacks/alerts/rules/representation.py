"""Features that no longer tell samples apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from vis_callbacks.alerts.alert import Evidence, Finding, Outcome, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import (
    CLASS_AGREEMENT,
    EFFECTIVE_RANK,
    FEATURE_SPREAD,
    NUM_CLASSES,
    NUM_EMBEDDED,
)
from vis_callbacks.alerts.rules.conditions import KAIMING, has_broken_down, quoted, share, whole


@dataclass(frozen=True, kw_only=True)
class RepresentationCollapse:
    """The features of all samples are equal, or vary along one direction only.

    It is judged by numbers, never by the look of a map: t-SNE pulls any cloud apart. A
    classifier that has learned to the end leaves as many directions as classes, less one. So one
    direction is health with two classes, and is not judged. A layer that never had more than one
    direction is not judged either.

    Of 112 trainings of eight small networks on digits, at rates from far too low to far too
    high, all 22 that raised it ended below 25 % accuracy; none of the 74 above 30 % did, whose
    rank never fell below 2.4 once 90 % were reached.

    Attributes:
        equal_spread: Spread of the features, relative to their size, up to which they count as
            equal: what float32 leaves.
        max_rank: Effective rank up to which the features vary along about one direction.
        min_fall: By what factor the rank must have fallen since the highest that is remembered.
        min_classes: With fewer, one direction is enough.
        min_samples: With fewer, nothing is said.
    """

    kind: ClassVar[str] = "representation_collapse"
    severity: ClassVar[Severity] = "warning"

    equal_spread: float = 1e-6
    max_rank: float = 1.2
    min_fall: float = 2.0
    min_classes: int = 3
    min_samples: int = 32

    def check(self, history: History) -> Outcome:
        """Returns the layers whose features have collapsed."""
        num_samples = history.latest(NUM_EMBEDDED)
        if has_broken_down(history) or not num_samples >= self.min_samples:
            return Verdict.UNDECIDED
        layers = history.layers(FEATURE_SPREAD)
        equal = [x for x in layers if history.latest(FEATURE_SPREAD, x) <= self.equal_spread]
        if equal:
            return self._equal(history, tuple(equal), int(num_samples))
        if not history.latest(NUM_CLASSES) >= self.min_classes:
            return None
        ranks = {layer: history.latest(EFFECTIVE_RANK, layer) for layer in layers}
        fallen = [
            layer
            for layer, rank in ranks.items()
            if rank <= self.max_rank and _highest(history, layer) >= self.min_fall * rank
        ]
        if not fallen:
            return None
        worst = min(fallen, key=ranks.__getitem__)
        return self._fallen(history, tuple(fallen), worst, int(num_samples))

    def _equal(self, history: History, layers: tuple[str, ...], num_samples: int) -> Finding:
        return Finding(
            message=f"The features of {quoted(layers)} are equal for all {num_samples:,} samples:"
            " the layers after it cannot tell samples apart.",
            layers=layers,
            since_step=_since(history, layers[0], FEATURE_SPREAD, self.equal_spread),
            evidence=_evidence(history, layers[0]),
            sample_size=num_samples,
            could_be=("inputs that are all equal", "a layer before it whose units are all dead"),
            remedy=_REMEDY,
            severity="critical",
            cause="equal",
        )

    def _fallen(
        self, history: History, layers: tuple[str, ...], worst: str, num_samples: int
    ) -> Finding:
        rank, highest = history.latest(EFFECTIVE_RANK, worst), _highest(history, worst)
        agreement = history.latest(CLASS_AGREEMENT, worst)
        of_class = f" {share(agreement)} of nearest neighbours are of the same class."
        return Finding(
            message=f"The features of {quoted(layers)} vary along only about one direction: their"
            f" effective rank is {rank:.2f} (it was {highest:.1f}), with"
            f" {whole(history.latest(NUM_CLASSES))} classes."
            + ("" if math.isnan(agreement) else of_class),
            layers=layers,
            since_step=_since(history, worst, EFFECTIVE_RANK, self.max_rank),
            evidence=_evidence(history, worst),
            sample_size=num_samples,
            could_be=("classes that lie in an order, such as ages",),
            remedy=_REMEDY,
            cause="one direction",
            min_snapshots=2,
        )


# Normalising cured two of the buggy programs that raise it (of one the inputs, of one the targets),
# Kaiming's initialisation a third; a tenth of the rate only one whose units were dying.
_REMEDY = (
    "Normalise inputs and targets if they are raw: subtract the mean of each column and divide by"
    f" its standard deviation. {KAIMING} If units of earlier layers are dying, the learning rate is"
    " too high."
)


def _highest(history: History, layer: str) -> float:
    """Returns the highest effective rank that is remembered."""
    return max(history.known(EFFECTIVE_RANK, layer), default=math.nan)


def _since(history: History, layer: str, metric: str, most: float) -> int:
    """Returns since which step the number has been so low without a break."""
    since = history.steps[-1]
    for step, value in zip(history.steps[::-1], history.series(metric, layer)[::-1], strict=True):
        if not value <= most:
            break
        since = step
    return since


def _evidence(history: History, layer: str) -> Evidence:
    return {
        "layer": layer,
        EFFECTIVE_RANK: history.latest(EFFECTIVE_RANK, layer),
        "highest_effective_rank": _highest(history, layer),
        FEATURE_SPREAD: history.latest(FEATURE_SPREAD, layer),
        CLASS_AGREEMENT: history.latest(CLASS_AGREEMENT, layer),
        NUM_CLASSES: history.latest(NUM_CLASSES),
    }
