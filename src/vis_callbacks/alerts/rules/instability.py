"""A learning rate that is too high, whether or not units die: the loss tells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from vis_callbacks.alerts.alert import Evidence, Finding, Outcome, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import HIGHEST_LOSS, LOSS, MEAN_LOSS
from vis_callbacks.alerts.rules.conditions import (
    judged_from,
    learning_rate,
    raw_columns,
    share,
)
from vis_callbacks.alerts.rules.loss_facts import constant_loss, formula_of, is_finite
from vis_callbacks.alerts.rules.update_facts import path_of


@dataclass(frozen=True, kw_only=True)
class RateTooHigh:
    """The loss shot up; or it has risen, and is still high though the weights have moved far.

    It does not ask for dead units: networks with GELU, SiLU or tanh, with normalisation, and
    transformers tell of a high rate in no other way.

    Attributes:
        min_spike: Loss of a single step / the larger of the first loss and that of the best
            constant.
        min_rise: Or: the same of any step so far, while
        min_left: the mean loss is still this share of the best constant's (of a cross-entropy;
            other losses all of it, for they have outliers, and may be hard to lower), and
        min_update: the weights move by this share of their norm at a step, on average so far.
        stuck_left, stuck_update: Or: the same two, of a loss that need not have risen.
    """

    kind: ClassVar[str] = "rate_too_high"
    severity: ClassVar[Severity] = "warning"

    min_spike: float = 3.0
    min_rise: float = 1.15
    min_left: float = 0.6
    min_update: float = 0.006
    stuck_left: float = 0.85
    stuck_update: float = 0.02

    def check(self, history: History) -> Outcome:
        """Returns how far the loss rose."""
        if not is_finite(history):
            return Verdict.UNDECIDED
        size = _size(history)
        if len(history) < 2 or not size > 0:
            return None
        latest = history.latest(HIGHEST_LOSS) / size
        if latest >= self.min_spike:
            return self._finding(
                history,
                f"The loss shot up to {latest:.3g} times what it was at first, at a step after"
                f" {history.steps[-2]}.",
                latest,
            )
        highest = max(history.known(HIGHEST_LOSS), default=math.nan) / size
        constant, formula = constant_loss(history), formula_of(history)
        least = self.min_left if formula is not None and formula.is_entropy else 1.0
        is_time = history.steps[-1] >= judged_from(history)
        if not (is_time and history.latest(MEAN_LOSS) >= least * constant > 0):
            return None
        left = history.latest(MEAN_LOSS) / constant
        update = path_of(history) / history.steps[-1]
        has_risen = highest >= self.min_rise and update >= self.min_update
        if not (has_risen or (left >= self.stuck_left and update >= self.stuck_update)):
            return None
        return self._finding(
            history,
            f"The loss has been up to {highest:.3g} times what it was at first, and is still"
            f" {share(left)} of that of a constant output, though the weights move by"
            f" {100 * update:.2g} % of their norm a step.",
            highest,
        )

    def _finding(self, history: History, words: str, rise: float) -> Finding:
        rate, scale = learning_rate(history), raw_columns(history)
        tenth = f" (to {rate.tenth})" if rate.tenth else ""
        evidence: Evidence = {
            "highest_loss_of_first": rise,
            MEAN_LOSS: history.latest(MEAN_LOSS),
            LOSS: history.first(LOSS),
            "learning_rate": rate.latest,
        }
        return Finding(
            message=f"The learning rate is too high: {words}",
            since_step=history.steps[-2],
            evidence=evidence,
            could_be=(
                *((f"inputs that are not normalised ({scale})",) if scale else ()),
                "single samples or batches that are far from the others",
                "a rate that is too high at first only: then a warm-up helps",
            ),
            remedy=f"Lower the learning rate tenfold{tenth}, or let it rise slowly over the first"
            " steps (warm-up)" + ("; normalise the inputs first." if scale else "."),
        )


def _size(history: History) -> float:
    """Returns what the loss was at first, or a constant's where that is larger."""
    first, constant = history.first(LOSS), constant_loss(history)
    return first if math.isnan(constant) else max(first, constant)
