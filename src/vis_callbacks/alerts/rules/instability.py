"""A learning rate that is too high, whether or not units die: the loss tells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from vis_callbacks.alerts.alert import Evidence, Finding, Outcome, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import HIGHEST_LOSS, LOSS, MEAN_LOSS, NUM_ROWS
from vis_callbacks.alerts.rules.conditions import (
    judged_from,
    learning_rate,
    normalise,
    share,
    to_normalise,
)
from vis_callbacks.alerts.rules.loss_facts import constant_loss, formula_of, is_finite
from vis_callbacks.alerts.rules.update_facts import path_of


@dataclass(frozen=True, kw_only=True)
class RateTooHigh:
    """The loss has risen above where it began, and has not come down, though weights move.

    It does not ask for dead units: networks with GELU, SiLU or tanh, with normalisation, and
    transformers tell of a high rate in no other way. A loss that shot up and came down at once is
    left alone: such trainings ended well.

    Raised by 2 of 28 buggy, 1 of 28 fixed programs and 0 of 24 healthy runs. In the zoo of
    `benchmarks.alert_quality` it was right in 17 of 17 trainings of the tuning part, in 17 of 17
    of the test part, by which it was mended once, and in 5 of 5 of the fresh part.

    Attributes:
        min_left: The mean loss is still this share of the best constant's (of a cross-entropy;
            other losses all of it, for they have outliers, and may be hard to lower), and
        min_spike: before that the loss of a single step was this multiple of the larger of the
            first loss and that of the best constant.
        min_rise: Or, from max(150 steps, 15 % of the planned) on, it was this multiple, and
        min_update: the weights move by this share of their norm at a step, on average so far, and
        min_rows: a batch has so many samples; with fewer a single loss says little.
        stuck_left, stuck_update: Or: a mean loss and an update, of a loss that need not have risen.
        high_left, high_rise, high_update: Or: a lower cross-entropy, that rose higher.
    """

    kind: ClassVar[str] = "rate_too_high"
    severity: ClassVar[Severity] = "warning"

    min_left: float = 0.6
    min_spike: float = 3.0
    min_rise: float = 1.15
    min_update: float = 0.006
    min_rows: int = 16
    stuck_left: float = 0.85
    stuck_update: float = 0.02
    high_left: float = 0.4
    high_rise: float = 1.3
    high_update: float = 0.01

    def check(self, history: History) -> Outcome:
        """Returns how far the loss rose."""
        if not is_finite(history):
            return Verdict.UNDECIDED
        constant, formula = constant_loss(history), formula_of(history)
        is_entropy = formula is not None and formula.is_entropy
        least = self.high_left if is_entropy else 1.0
        if len(history) < 3 or not history.latest(MEAN_LOSS) >= least * constant > 0:
            return None
        left = history.latest(MEAN_LOSS) / constant
        size = max(history.first(LOSS), constant)
        best = "that of the best constant output"
        highest, now = ("the first loss", best) if size > constant else (best, "it")
        before = [loss / size for loss in history.series(HIGHEST_LOSS)[:-1]]
        rise = max((loss for loss in before if not math.isnan(loss)), default=0.0)
        has_spiked = rise >= self.min_spike and left >= self.min_left
        if not (has_spiked or self._is_stuck(history, rise, left)):
            return None
        return self._finding(
            history,
            f"The learning rate is too high: the loss has been up to {rise:.3g} times"
            f" {highest}, and is still {share(left)} of {now}, although the weights move by"
            f" {100 * path_of(history) / history.steps[-1]:.2g} % of their norm per step.",
            rise,
        )

    def _is_stuck(self, history: History, rise: float, left: float) -> bool:
        if history.steps[-1] < judged_from(history):
            return False
        update = path_of(history) / history.steps[-1]
        if left >= self.stuck_left and update >= self.stuck_update:
            return True
        if history.latest(NUM_ROWS) < self.min_rows:
            return False
        # Only cross-entropies come here with a lower loss than the best constant's.
        return (left >= self.min_left and rise >= self.min_rise and update >= self.min_update) or (
            rise >= self.high_rise and update >= self.high_update
        )

    def _finding(self, history: History, words: str, rise: float) -> Finding:
        rate, what = learning_rate(history), to_normalise(history)
        tenth = f" (to {rate.tenth})" if rate.tenth else ""
        evidence: Evidence = {
            "highest_loss_of_first": rise,
            MEAN_LOSS: history.latest(MEAN_LOSS),
            LOSS: history.first(LOSS),
            "learning_rate": rate.latest,
        }
        return Finding(
            message=words,
            since_step=history.steps[-2],
            evidence=evidence,
            could_be=(
                *((f"data that are not normalised: {what}",) if what else ()),
                "outliers: single samples or batches that are far from the others",
                "a rate that is too high only at the start, for which a warm-up helps",
            ),
            remedy=(f"{normalise(what)} If that is not enough, lower" if what else "Lower")
            + f" the learning rate tenfold{tenth}, or let it rise slowly over the first steps"
            " (warm-up).",
        )
