"""Inputs that carry nothing, or that come as they were stored."""

from __future__ import annotations

from itertools import takewhile
from typing import ClassVar

from vis_callbacks.alerts.alert import Finding, Outcome, Rule, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import (
    BAD_STEP,
    COLUMN_MEAN,
    COLUMN_STD,
    CONSTANT_INPUTS,
    INPUT_MEAN,
    INPUT_STD,
    LOSS,
    NUM_SAMPLES,
)
from vis_callbacks.alerts.rules.conditions import (
    MAX_CONSTANT_SHARE,
    constant_share,
    has_broken_down,
    input_scale,
    normalise,
    raw_columns,
    share,
    to_normalise,
    whole,
)
from vis_callbacks.alerts.rules.loss_facts import constant_loss
from vis_callbacks.alerts.rules.outputs import ConstantOutputs
from vis_callbacks.alerts.rules.progress import DivergingLoss, NoBetterThanConstant, NonFiniteLoss


class ConstantInputs:
    """More than half of the samples have the same value everywhere: the loader hands out blanks.

    It looks like dying units (44-69 % of a layer newly dead in 12 of 12 measured runs), so no
    rule judges units meanwhile. 40 % black images did no harm.
    """

    kind: ClassVar[str] = "constant_inputs"
    severity: ClassVar[Severity] = "warning"

    def check(self, history: History) -> Outcome:
        """Returns whether most inputs of the latest snapshot are constant."""
        value = constant_share(history)
        if value <= MAX_CONSTANT_SHARE:
            return None
        shares = [*zip(history.steps, history.series(CONSTANT_INPUTS), strict=True)]
        running = [*takewhile(lambda pair: pair[1] > MAX_CONSTANT_SHARE, reversed(shares))]
        return Finding(
            message=f"The input is constant: in {share(value)} of the samples all values are equal."
            " Meanwhile dead and dying units are not judged.",
            since_step=running[-1][0],
            evidence={CONSTANT_INPUTS: value},
            sample_size=whole(history.latest(NUM_SAMPLES)),
            could_be=("black or missing files", "a mask or a crop that leaves nothing"),
            remedy="Look at a batch as the model receives it, and check loader, augmentation and"
            " normalisation.",
        )


class RawInputs:
    """A remark on inputs far from mean 0 and standard deviation 1, such as 0-255 images."""

    kind: ClassVar[str] = "raw_inputs"
    severity: ClassVar[Severity] = "info"

    def check(self, history: History) -> Outcome:
        """Returns whether the latest inputs look as if nobody had normalised them."""
        if has_broken_down(history):
            return Verdict.UNDECIDED
        scale = input_scale(history)
        if not scale:
            return None
        mean, std = history.latest(INPUT_MEAN), history.latest(INPUT_STD)
        return Finding(
            message=f"The inputs look raw ({scale}): a learning rate that suits normalised inputs"
            " is too high for them.",
            evidence={INPUT_MEAN: mean, INPUT_STD: std},
            remedy="Normalise them: subtract the mean and divide by the standard deviation.",
        )


class UnscaledInputs:
    """Columns of the inputs far from mean 0 and deviation 1: a warning where they do harm.

    They do where the outputs are the same for all samples, where the loss is that of a constant,
    grows or is not finite, or was three times that of the best constant before the first update.

    Judged by single columns, where `RawInputs` takes all values together: one feature in dollars
    among others is enough to keep a network from learning.

    Raised by 9 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.
    """

    kind: ClassVar[str] = "unscaled_inputs"
    severity: ClassVar[Severity] = "info"

    def check(self, history: History) -> Outcome:
        """Returns the scale of the inputs' columns."""
        scale = raw_columns(history)
        if not scale:
            return None
        first, constant = history.first(LOSS), constant_loss(history)
        found = first > _HIGH_LOSS * constant
        found = found or any(_raises(rule, history) for rule in _BROKEN_BY_SCALE)
        return Finding(
            message=f"The inputs are raw, not normalised: a column has {scale}, but a network"
            " expects about mean 0 and standard deviation 1."
            + (f" This keeps it from learning (first loss {first:.3g})." if found else ""),
            evidence={
                COLUMN_MEAN: history.latest(COLUMN_MEAN),
                COLUMN_STD: history.latest(COLUMN_STD),
            },
            remedy=normalise(to_normalise(history)) + _if_never_finite(history),
            severity="warning" if found else "info",
        )


def _if_never_finite(history: History) -> str:
    """Returns what else is to be done where the very first loss was not finite."""
    if history.first(BAD_STEP) != history.steps[0]:
        return ""
    return (
        " The loss was not finite before any update: use one that takes scores, that is logits"
        " (cross_entropy, binary_cross_entropy_with_logits), and no logarithm of a softmax."
    )


_HIGH_LOSS = 3.0  # first loss / that of the best constant
_BROKEN_BY_SCALE: tuple[Rule, ...] = (
    ConstantOutputs(),
    NoBetterThanConstant(),
    DivergingLoss(),
    NonFiniteLoss(),
)


def _raises(rule: Rule, history: History) -> bool:
    found = rule.check(history)
    return isinstance(found, Finding) and (found.severity or rule.severity) != "info"
