"""Outputs that do not fit the loss or the targets, or are the same for every sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from vis_callbacks.alerts.alert import Finding, Outcome, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import (
    BAD_STEP,
    LARGEST_CLASS,
    LARGEST_PREDICTED,
    NUM_LABELS,
    NUM_OUTPUTS,
    NUM_ROWS,
    OUTPUT_HIGH,
    OUTPUT_LOW,
    OUTPUT_RANGE,
    OUTPUT_SPREAD,
    SHAPES_DIFFER,
    TARGET_HIGH,
    TARGET_LOW,
    TARGET_SPREAD,
)
from vis_callbacks.alerts.rules.conditions import (
    KAIMING,
    judged_from,
    normalise,
    raw_columns,
    share,
    to_normalise,
    whole,
)
from vis_callbacks.alerts.rules.loss_facts import (
    OF_DIFFERENCES,
    OF_LOGITS,
    OF_PROBABILITIES,
    are_probabilities,
    formula_of,
    formulas_of,
    head_of,
    is_finite,
    seeks_a_constant,
    seen_loss,
)

_SQUASHING = ("softmax", "sigmoid", "relu", "tanh", "relu6", "hardsigmoid")
_REACH = {  # what a head can put out
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "sigmoid": (0.0, 1.0),
    "hardsigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "softplus": (0.0, math.inf),
}


class LossMisfit:
    """What makes the outputs does not fit the loss: told at the first look, before time is lost.

    Raised by 8 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.
    """

    kind: ClassVar[str] = "loss_misfit"
    severity: ClassVar[Severity] = "warning"

    def check(self, history: History) -> Outcome:
        """Returns which two do not go together."""
        words = _misfit(history)
        if words is None:
            return None
        message, remedy = words
        if what := to_normalise(history):
            remedy += f" {normalise(what)}"
        return Finding(
            message=f"The output layer does not fit the loss: {message}",
            since_step=history.steps[0],
            evidence={
                OUTPUT_LOW: history.latest(OUTPUT_LOW),
                OUTPUT_HIGH: history.latest(OUTPUT_HIGH),
                NUM_OUTPUTS: history.latest(NUM_OUTPUTS),
            },
            sample_size=whole(history.latest(NUM_ROWS)),
            remedy=remedy,
        )


def _misfit(history: History) -> tuple[str, str] | None:
    """Returns message and remedy where head and loss do not go together."""
    head = head_of(history)
    if head == "softmax" and history.latest(NUM_OUTPUTS) == 1:
        return (
            "a softmax over one output is always 1, so the output is constant and has no gradient.",
            "Use a sigmoid in place of the softmax for two classes; for a regression, remove"
            " the softmax.",
        )
    seen, candidates = seen_loss(history), formulas_of(history)
    name = seen or (candidates[0].name if len(candidates) == 1 else "")
    if name in OF_LOGITS and head in _SQUASHING:
        own = "a softmax" if name == "cross_entropy" else "a sigmoid"
        return (
            f"the model ends in a {head}, but the loss ({name}) applies {own} of its own: it"
            " expects scores of any size (logits).",
            f"Remove the {head} at the end of the model: {name} must get the outputs of the last"
            " linear layer.",
        )
    if name == "cross_entropy_of_probabilities" and head in ("sigmoid", "relu", "tanh"):
        return (
            f"the loss is the cross-entropy of one class among {history.latest(NUM_OUTPUTS):.0f},"
            f" but the model ends in a {head}, whose outputs do not sum to 1.",
            f"Use a softmax in place of the {head}; better still, use F.cross_entropy, and no"
            " activation at the end of the model.",
        )
    if name in OF_PROBABILITIES and not are_probabilities(history):
        return (_no_probabilities(history), _TAKE_SCORES)
    is_bad = history.first(BAD_STEP) == history.steps[0]
    outputs_are_fine = math.isfinite(history.first(OUTPUT_LOW) + history.first(OUTPUT_HIGH))
    if is_bad and outputs_are_fine and history.first(OUTPUT_LOW) < 0 and not seen:
        return (
            f"the very first loss is not finite, and {_no_probabilities(history)}",
            _TAKE_SCORES,
        )
    return None


_TAKE_SCORES = (
    "Use a loss that takes scores (logits): binary_cross_entropy_with_logits for labels that are"
    " yes or no, cross_entropy for one class of several. Or end the model in a sigmoid or softmax,"
    " and clamp its outputs away from 0 before the logarithm."
)


def _no_probabilities(history: History) -> str:
    return (
        "the loss takes logarithms of the outputs as if they were probabilities, but they lie"
        f" between {history.first(OUTPUT_LOW):.3g} and {history.first(OUTPUT_HIGH):.3g}: the model"
        " does not end in a sigmoid or softmax."
    )


@dataclass(frozen=True, kw_only=True)
class TargetsOutOfReach:
    """Targets lie where the output layer cannot get.

    Raised by 3 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.

    Attributes:
        min_excess: How far outside, in standard deviations of the targets.
    """

    kind: ClassVar[str] = "targets_out_of_reach"
    severity: ClassVar[Severity] = "warning"

    min_excess: float = 0.1

    def check(self, history: History) -> Outcome:
        """Returns the range of the targets where it exceeds that of the output layer."""
        head, formula = head_of(history), formula_of(history)
        name = formula.name if formula else seen_loss(history)
        if head not in _REACH or name not in OF_DIFFERENCES:
            return None
        low = min(history.known(TARGET_LOW), default=math.nan)
        high = max(history.known(TARGET_HIGH), default=math.nan)
        bottom, top = _REACH[head]
        excess = max(bottom - low, high - top)
        if not excess > max(self.min_excess * history.latest(TARGET_SPREAD), 1e-3):
            return None
        reach = f"from {bottom:g} upwards" if top == math.inf else f"from {bottom:g} to {top:g}"
        return Finding(
            message=f"Targets are outside the outputs' range: they go from {low:.3g} to {high:.3g},"
            f" but the {head} at the end of the model only gives values {reach}.",
            since_step=history.steps[0],
            evidence={TARGET_LOW: low, TARGET_HIGH: high},
            could_be=("targets that were meant to be scaled into that range",),
            remedy=f"Remove the {head} from the output layer, or scale the targets to values"
            f" {reach}.",
        )


@dataclass(frozen=True, kw_only=True)
class ConstantOutputs:
    """The model says the same to every sample.

    Raised by 15 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.

    Attributes:
        max_range: Highest - lowest output / their size, up to which they count as equal: what
            float32 leaves. At ``num_looks`` running.
        max_spread: Standard deviation / that of the targets, from max(150 steps, 15 % of the
            planned) on; of probabilities the standard deviation itself.
        num_looks: Snapshots running.
    """

    kind: ClassVar[str] = "constant_outputs"
    severity: ClassVar[Severity] = "warning"

    max_range: float = 1e-6
    max_spread: float = 0.01
    num_looks: int = 3

    def check(self, history: History) -> Outcome:
        """Returns whether outputs do not depend on the inputs."""
        if not is_finite(history):
            return Verdict.UNDECIDED
        if not history.latest(NUM_ROWS) > 1 or seeks_a_constant(history):
            return None
        entries = range(-1, -1 - min(self.num_looks, len(history)), -1)
        if len(entries) < self.num_looks:
            return None
        are_equal = all(self._are_equal(history, entry) for entry in entries)
        is_time = history.steps[-1] >= judged_from(history)
        if not are_equal and not (is_time and all(self._hardly_vary(history, e) for e in entries)):
            return None
        low, high = history.latest(OUTPUT_LOW), history.latest(OUTPUT_HIGH)
        how = "is the same for all samples" if are_equal else "hardly differs between samples"
        return Finding(
            message=f"The output is constant: it {how}, whatever the input"
            f" (standard deviation {history.latest(OUTPUT_SPREAD):.2g} over"
            f" {history.latest(NUM_ROWS):.0f} rows, values from {low:.3g} to {high:.3g}).",
            evidence={
                OUTPUT_SPREAD: history.latest(OUTPUT_SPREAD),
                OUTPUT_RANGE: history.latest(OUTPUT_RANGE),
                TARGET_SPREAD: history.latest(TARGET_SPREAD),
            },
            sample_size=whole(history.latest(NUM_ROWS)),
            could_be=_causes_of_constant_outputs(history),
            remedy=_remedy_of_constant_outputs(history),
        )

    def _are_equal(self, history: History, entry: int) -> bool:
        low, high = history.at(entry, OUTPUT_LOW), history.at(entry, OUTPUT_HIGH)
        size = max(abs(low), abs(high))
        if size == math.inf:  # masked scores, as of an image with itself in contrastive learning
            return False
        return history.at(entry, OUTPUT_RANGE) <= self.max_range * size

    def _hardly_vary(self, history: History, entry: int) -> bool:
        spread = history.at(entry, OUTPUT_SPREAD)
        if are_probabilities(history):
            return spread < self.max_spread
        return spread < self.max_spread * history.latest(TARGET_SPREAD)


def _causes_of_constant_outputs(history: History) -> tuple[str, ...]:
    causes = ["a hidden layer whose units are all dead or saturated", "inputs that are all equal"]
    if scale := raw_columns(history):
        causes.insert(0, f"inputs that are not normalised ({scale})")
    return tuple(causes)


def _remedy_of_constant_outputs(history: History) -> str:
    if history.latest(LARGEST_CLASS) >= OneClass.only_share:
        return "Look at the labels as the loss gets them: so far all are of one class."
    if what := to_normalise(history):
        return normalise(what)
    return (
        f"{KAIMING} Then restart: a layer whose units are the same for all samples does not recover"
        " by itself. If its units were dying before, the learning rate was too high."
    )


@dataclass(frozen=True, kw_only=True)
class OneClass:
    """Nearly all labels are of one class.

    Raised by 2 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.

    Attributes:
        min_share: Of the labels seen so far, for a remark; for a warning where the model predicts
            nothing else any more.
        only_share: For a warning in any case: there is nothing to learn.
        min_labels: With fewer, nothing is said.
        min_predicted: Share of the latest predictions that are of this class, mean over
            ``num_looks``.
    """

    kind: ClassVar[str] = "one_class"
    severity: ClassVar[Severity] = "info"

    min_share: float = 0.9
    only_share: float = 0.995
    min_labels: int = 200
    min_predicted: float = 0.98
    num_looks: int = 5

    def check(self, history: History) -> Outcome:
        """Returns the share of the largest class."""
        value, labels = history.latest(LARGEST_CLASS), history.latest(NUM_LABELS)
        if not (value >= self.min_share and labels >= self.min_labels):
            return None
        if seeks_a_constant(history):
            return None
        is_only = value >= self.only_share
        known = history.known(LARGEST_PREDICTED)
        predicted = sum(known[-self.num_looks :]) / max(len(known[-self.num_looks :]), 1)
        is_time = history.steps[-1] >= judged_from(history) and len(known) >= self.num_looks
        is_all = is_time and predicted >= self.min_predicted
        so = "All labels are of one class" if value == 1 else f"{share(value)} of the labels are"
        if is_only:
            rest = " there is nothing to tell apart."
        elif is_all:
            rest = f" the model now predicts it for {share(predicted)} of the samples."
        else:
            rest = " a model that always predicts it looks good."
        return Finding(
            message=f"{so}{'' if value == 1 else ' of one class (imbalanced classes)'}:{rest}",
            evidence={LARGEST_CLASS: value, LARGEST_PREDICTED: predicted},
            sample_size=whole(labels),
            could_be=("labels that were scaled or cut like inputs", "a loader without shuffling"),
            remedy="Look at the labels as the loss gets them."
            if is_only
            else "Weight the classes in the loss (weight=, pos_weight=) or draw the rare class more"
            " often (WeightedRandomSampler), and judge by balanced accuracy or F1.",
            severity="warning" if is_only or is_all else "info",
        )


class ShapesDiffer:
    """A loss of differences broadcasts outputs (N, 1) against targets (N,): all pairs count.

    Raised by 0 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.
    """

    kind: ClassVar[str] = "shapes_differ"
    severity: ClassVar[Severity] = "warning"

    def check(self, history: History) -> Outcome:
        """Returns whether the loss compares every output with every target."""
        formula = formula_of(history)
        is_so = formula is not None and formula.name == "mse_of_all_pairs"
        if not is_so and not history.latest(SHAPES_DIFFER) > 0:
            return None
        return Finding(
            message="Outputs and targets have different shapes, such as (N, 1) and (N,): the loss"
            " compares every output with every target, so the best output is the targets' mean.",
            since_step=history.steps[0],
            evidence={NUM_ROWS: history.latest(NUM_ROWS)},
            remedy="Give both the same shape: outputs.squeeze(1) or targets.unsqueeze(1).",
        )
