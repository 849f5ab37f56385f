"""What the rules about learning ask: which formula the loss is, and how it stands."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import (
    BAD_STEP,
    CONSTANT_LOSS,
    FORMULA_LOSS,
    HEAD,
    HIGHEST_LOSS,
    LOSS,
    MEAN_LOSS,
    NUM_LABELS,
    NUM_OPTIMIZERS,
    NUM_OUTPUTS,
    OUTPUT_HIGH,
    OUTPUT_LOW,
    PLANNED_STEPS,
    ROW_SUM_ERROR,
    TARGET_HIGH,
    TARGET_LOW,
)

_MAX_ERROR = 2e-4  # of a ratio that is to stay the same: what float32 and sums leave
_MIN_CHANGE = 5e-3  # of a formula's values: what hardly moves keeps its ratio to anything
_MIN_LOOKS = 3  # for a factor other than 1: at two looks one of nine formulas may fit by chance
_MAX_LOOKS = 12  # that a formula must hold at

OF_LOGITS = ("cross_entropy", "binary_cross_entropy_with_logits")
OF_PROBABILITIES = ("cross_entropy_of_probabilities", "binary_cross_entropy")
OF_DIFFERENCES = ("mse_loss", "l1_loss", "smooth_l1_loss", "mse_of_all_pairs")


@dataclass(frozen=True)
class Formula:
    """The loss is ``factor`` times what the formula of this name makes of outputs and targets."""

    name: str
    factor: float

    @property
    def is_entropy(self) -> bool:
        """Whether the targets are classes, or shares."""
        return "entropy" in self.name or self.name == "nll_loss"


def formulas_of(history: History) -> list[Formula]:
    """Returns the formulas that give the loss, those with the ratio 1 first.

    It is told from the values: a formula is the loss where their ratio stays the same from one
    look to the next. There are several where outputs and loss never change.
    """
    found = [f for name in history.layers(FORMULA_LOSS, 0) if (f := _formula(history, name))]
    return sorted(found, key=lambda f: abs(math.log(abs(f.factor))))


def seen_loss(history: History) -> str:
    """Returns which of torch's losses was called; "" for another one, or for none or several.

    Of such a call outputs and targets are known. Of another loss they are a guess: its targets
    may be made of the batch's labels in the step.
    """
    tried = history.layers(FORMULA_LOSS, 0)  # of a loss of torch's, its own formula alone
    return tried[0] if len(tried) == 1 else ""


def formula_of(history: History) -> Formula | None:
    """Returns the formula that gives the loss, None where none of those known does."""
    return next(iter(formulas_of(history)), None)


def _formula(history: History, name: str) -> Formula | None:
    losses, values = history.series(LOSS), history.series(FORMULA_LOSS, name)
    known = (
        (loss, value)
        for loss, value in zip(losses, values, strict=True)
        if math.isfinite(loss) and math.isfinite(value) and value != 0
    )
    pairs = [*islice(known, _MAX_LOOKS)]
    if not pairs:
        return None
    ratios = [loss / value for loss, value in pairs]
    factor = ratios[0]
    is_one = abs(abs(factor) - 1) < _MAX_ERROR
    is_proven = len(pairs) >= _MIN_LOOKS and _differ([value for _, value in pairs], _MIN_CHANGE)
    if factor == 0 or _differ(ratios) or not (is_proven or is_one):
        return None
    return Formula(name, round(factor) if is_one else factor)


def _differ(values: list[float], least: float = _MAX_ERROR) -> bool:
    return max(values) - min(values) > least * max(map(abs, values))


def constant_loss(history: History) -> float:
    """Returns the loss of the best output that knows no input; NaN where it is not known.

    The entropy of few labels is too low by about (classes - 1) / (2 labels): Miller 1955.
    """
    formula = formula_of(history)
    if formula is None or formula.factor < 0:
        return math.nan
    constant = history.latest(CONSTANT_LOSS, formula.name)
    if formula.is_entropy:
        labels, outputs = history.latest(NUM_LABELS), history.latest(NUM_OUTPUTS)
        if labels > 0:
            constant += max(outputs - 1, 1) / (2 * labels)
    return formula.factor * constant


def done(history: History) -> float:
    """Returns the share of the planned steps that are done; NaN where the end is not known."""
    return (history.steps[-1] + 1) / history.latest(PLANNED_STEPS)


def recent_loss(history: History) -> float:
    """Returns the mean loss of the latest quarter of all steps so far, of three looks or more."""
    step = history.steps[-1]
    values = [
        value
        for number, (at, value) in enumerate(reversed([*known_losses(history)]))
        if number < 3 or at > 0.75 * step
    ]
    return sum(values) / len(values) if len(values) >= 3 else math.nan


def known_losses(history: History) -> Iterator[tuple[int, float]]:
    """Yields (step, mean loss since the look before) wherever it is known.

    With several optimizers there is none: of networks that play against each other, each one's
    loss rises where the other learns, and stays where neither wins.
    """
    if history.latest(NUM_OPTIMIZERS) > 1:
        return
    for step, value in zip(history.steps, history.series(MEAN_LOSS), strict=True):
        if not math.isnan(value):
            yield step, value


def error_of_mean_loss(history: History, step: int) -> float:
    """Returns the standard error of the mean loss that a look at a step has; 0: not known.

    The deviation of single losses is told from the highest: of n normal ones, it lies about
    sqrt(2 log n) deviations above their mean (Cramer 1946, chapter 28).
    """
    entry = history.steps.index(step)
    num = step - history.steps[entry - 1] if entry else 0
    above = history.at(entry, HIGHEST_LOSS) - history.at(entry, MEAN_LOSS)
    if num < 2 or math.isnan(above):
        return 0.0
    return above / math.sqrt(2 * math.log(num) * num)


def head_of(history: History) -> str:
    """Returns what makes the outputs: "softmax", a kind of nonlinearity, or "" for none known.

    A softmax is told by its values: at every look each row sums up to 1.
    """
    errors, lows = history.known(ROW_SUM_ERROR), history.known(OUTPUT_LOW)
    if errors and max(errors) < 1e-3 and min(lows) >= 0:
        return "softmax"
    return next(iter(history.layers(HEAD, 0)), "")


def are_probabilities(history: History) -> bool:
    """Whether no output has ever been below 0 or above 1."""
    lows, highs = history.series(OUTPUT_LOW), history.series(OUTPUT_HIGH)
    known = [(low, high) for low, high in zip(lows, highs, strict=True) if not math.isnan(low)]
    return bool(known) and all(low >= 0 and high <= 1 for low, high in known)


def seeks_a_constant(history: History) -> bool:
    """Whether a loss of differences compares with one number, as that of a residual or a penalty.

    Then nothing is wrong with outputs that are all the same, and the targets are no labels.
    """
    low = min(history.known(TARGET_LOW), default=math.nan)
    return seen_loss(history) in OF_DIFFERENCES and low == max(history.known(TARGET_HIGH))


def is_finite(history: History) -> bool:
    """Whether no loss was NaN or infinite so far: no other verdict means anything after one."""
    return all(step == math.inf or math.isnan(step) for step in history.series(BAD_STEP))
