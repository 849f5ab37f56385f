"""A learning rate that is too high, whether or not units die: the loss tells."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from vis_callbacks.alerts.alert import Evidence, Finding, Outcome, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import (
    HIGHEST_LOSS,
    LOSS,
    MEAN_LOSS,
    NUM_ROWS,
    NUM_VALUES,
    PARAMETER_NORM,
)
from vis_callbacks.alerts.rules.conditions import (
    judged_from,
    learning_rate,
    normalise,
    share,
    to_normalise,
)
from vis_callbacks.alerts.rules.loss_facts import constant_loss, formula_of, is_finite
from vis_callbacks.alerts.rules.update_facts import path_of, update_ratios


@dataclass(frozen=True, kw_only=True)
class RateTooHigh:
    """The first step made new weights of the initial ones, or the loss rose and stays high.

    It does not ask for dead units: networks with GELU, SiLU or tanh, with normalisation, and
    transformers tell of a high rate in no other way. A loss that shot up and came down at once is
    left alone: such trainings ended well.

    Raised by 2 of 28 buggy, 1 of 28 fixed programs and 0 of 24 healthy runs. In the zoo of
    `benchmarks.alert_quality` it was right in 18 of 18 trainings of the tuning part, and in 54 of
    55 of the others, by which it was mended twice.

    Attributes:
        min_left: The mean loss is still this share of the best constant's (of a cross-entropy;
            other losses all of it, for they have outliers, and may be hard to lower), and
        min_spike: before that the loss of a single step was this multiple of the larger of the
            first loss and that of the best constant.
        min_rise: Or, from max(150 steps, 15 % of the planned) on, it was this multiple,
        min_mean: the mean loss between two snapshots was this one (of noisy data, the loss of a
            single batch is now and then far above the others), and
        min_update: the weights move by this share of their norm at a step, on average so far, and
        min_rows: a batch has so many samples; with fewer a single loss says little.
        stuck_left, stuck_update: Or: a mean loss and an update, of a loss that need not have risen.
        high_left, high_rise, high_update: Or: a lower cross-entropy, that rose higher.
        first_update: Or, without any of that: at the first step the weights moved by this multiple
            of their norm (the median over them; in the tuning part, the highest of a training that
            ended well was .98), which is a remark, and
        min_first_left: the mean loss of the steps since then is this share of the first one.
            RMSprop's and Adagrad's first steps are their longest, and networks get over them.
        min_weights: Of these weights there are so many. A linear model may rightly go far at once.
        min_size: Their root mean square, at least. Of weights that begin as zeros, or close to 0 as
            the tables of a hash encoding do, the first step makes all there is.
    """

    kind: ClassVar[str] = "rate_too_high"
    severity: ClassVar[Severity] = "warning"

    min_left: float = 0.6
    min_spike: float = 3.0
    min_rise: float = 1.15
    min_mean: float = 1.05
    min_update: float = 0.006
    min_rows: int = 16
    stuck_left: float = 0.85
    stuck_update: float = 0.02
    high_left: float = 0.4
    high_rise: float = 1.3
    high_update: float = 0.01
    first_update: float = 1.5
    min_first_left: float = 0.8
    min_weights: int = 3
    min_size: float = 1e-3

    def check(self, history: History) -> Outcome:
        """Returns how far the first step went, or how far the loss rose."""
        if not is_finite(history):
            return Verdict.UNDECIDED
        return self._of_first_step(history) or self._of_loss(history)

    def _of_first_step(self, history: History) -> Finding | None:
        if history.latest(MEAN_LOSS) < self.min_first_left * abs(history.first(LOSS)):
            return None  # it has come down
        ratios = self._first_updates(history)
        if len(ratios) < self.min_weights or (update := median(ratios)) < self.first_update:
            return None
        is_certain = len(history) > 1
        return self._finding(
            history,
            f"The learning rate {'is' if is_certain else 'may be'} too high: step"
            f" {history.steps[0]} alone moved the weights by {update:.3g} times their norm (the"
            f" median of {len(ratios)} weight tensors), so that nothing of their initialisation is"
            f" left{', and the loss has not come down since' if is_certain else ''}.",
            {"first_update": update, "weights": len(ratios)},
            since_step=history.steps[0],
            could_be=("weights that start close to 0",),
            severity="warning" if is_certain else "info",
        )

    def _first_updates(self, history: History) -> list[float]:
        """The update / weight at the first look, of each weight that did not begin close to 0."""

        def is_tiny(weight: str) -> bool:
            norm, num = (history.first(m, weight) for m in (PARAMETER_NORM, NUM_VALUES))
            return norm <= self.min_size * math.sqrt(num)  # no where ``num`` is not known

        return [r for weight, r in update_ratios(history, 0).items() if not is_tiny(weight)]

    def _of_loss(self, history: History) -> Finding | None:
        constant, formula = constant_loss(history), formula_of(history)
        is_entropy = formula is not None and formula.is_entropy
        least = self.high_left if is_entropy else 1.0
        if len(history) < 3 or not history.latest(MEAN_LOSS) >= least * constant > 0:
            return None
        left = history.latest(MEAN_LOSS) / constant
        size = max(history.first(LOSS), constant)
        best = "that of the best constant output"
        highest, now = ("the first loss", best) if size > constant else (best, "it")
        rise = _largest(history.series(HIGHEST_LOSS)[:-1]) / size
        mean = _largest(history.series(MEAN_LOSS)[1:]) / size
        has_spiked = rise >= self.min_spike and left >= self.min_left
        if not (has_spiked or self._is_stuck(history, rise, mean, left)):
            return None
        return self._finding(
            history,
            f"The learning rate is too high: the loss has been up to {rise:.3g} times"
            f" {highest}, and is still {share(left)} of {now}, although the weights move by"
            f" {100 * path_of(history) / history.steps[-1]:.2g} % of their norm per step.",
            {"highest_loss_of_first": rise},
            since_step=history.steps[-2],
            could_be=("outliers: single samples or batches that are far from the others",),
        )

    def _is_stuck(self, history: History, rise: float, mean: float, left: float) -> bool:
        if history.steps[-1] < judged_from(history):
            return False
        update = path_of(history) / history.steps[-1]
        if left >= self.stuck_left and update >= self.stuck_update:
            return True
        if history.latest(NUM_ROWS) < self.min_rows or mean < self.min_mean:
            return False
        # Only cross-entropies come here with a lower loss than the best constant's.
        return (left >= self.min_left and rise >= self.min_rise and update >= self.min_update) or (
            rise >= self.high_rise and update >= self.high_update
        )

    def _finding(
        self,
        history: History,
        words: str,
        evidence: Evidence,
        *,
        since_step: int,
        could_be: tuple[str, ...],
        severity: Severity = "warning",
    ) -> Finding:
        rate, what = learning_rate(history), to_normalise(history)
        tenth = f" (to {rate.tenth})" if rate.tenth else ""
        evidence = {
            **evidence,
            MEAN_LOSS: history.latest(MEAN_LOSS),
            LOSS: history.first(LOSS),
            "learning_rate": rate.latest,
        }
        return Finding(
            message=words,
            since_step=since_step,
            evidence=evidence,
            could_be=(
                *((f"data that are not normalised: {what}",) if what else ()),
                *could_be,
                "a rate that is too high only at the start, for which a warm-up helps",
            ),
            remedy=(f"{normalise(what)} If that is not enough, lower" if what else "Lower")
            + f" the learning rate tenfold{tenth}, or let it rise slowly over the first steps"
            " (warm-up).",
            severity=severity,
        )


def _largest(losses: Iterable[float]) -> float:
    return max((loss for loss in losses if not math.isnan(loss)), default=0.0)
