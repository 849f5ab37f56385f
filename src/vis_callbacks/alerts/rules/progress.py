"""Whether the loss falls: against the best constant's, against its first value, at all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from vis_callbacks.alerts.alert import Finding, Outcome, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import (
    ACCURACY,
    BAD_STEP,
    LARGEST_CLASS,
    LOSS,
    OUTPUT_HIGH,
    OUTPUT_LOW,
)
from vis_callbacks.alerts.rules.conditions import (
    KAIMING,
    judged_from,
    learning_rate,
    normalise,
    raw_columns,
    sentence,
    share,
    to_normalise,
)
from vis_callbacks.alerts.rules.loss_facts import (
    constant_loss,
    done,
    formula_of,
    is_finite,
    known_losses,
    recent_loss,
)
from vis_callbacks.alerts.rules.outputs import ConstantOutputs
from vis_callbacks.alerts.rules.update_facts import median_update

_HUGE = 10.0  # first loss / that of the best constant
_TOLD_APART = 0.1  # accuracy above the share of the largest class
_SLOW_UPDATE = 1e-4  # a weight that moves by less a step is moved by 1 % in a hundred


class WrongSign:
    """The loss is the negative of a known one: training makes it worse.

    Raised by 1 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.
    """

    kind: ClassVar[str] = "wrong_sign"
    severity: ClassVar[Severity] = "critical"

    def check(self, history: History) -> Outcome:
        """Returns which loss has the wrong sign."""
        formula = formula_of(history)
        if formula is None or formula.factor > 0:
            return None
        return Finding(
            message=f"The loss has the wrong sign: it is {formula.factor:.3g} times {formula.name}"
            " of outputs and targets, so minimising it drives the outputs away from the targets.",
            since_step=history.steps[0],
            evidence={"factor": formula.factor, LOSS: history.latest(LOSS)},
            could_be=("an adversarial loss that is meant to do that",),
            remedy="Remove the minus sign from the loss.",
        )


@dataclass(frozen=True, kw_only=True)
class NonFiniteLoss:
    """The loss is NaN or infinite: since which step, and what it comes of.

    Raised by 4 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.
    """

    kind: ClassVar[str] = "non_finite_loss"
    severity: ClassVar[Severity] = "critical"

    def check(self, history: History) -> Outcome:
        """Returns the first step at which the loss was not finite."""
        bad = [step for step in history.series(BAD_STEP) if math.isfinite(step)]
        if not bad:
            return None
        step = int(min(bad))
        message, remedy = _cause_of_non_finite(history, step)
        return Finding(
            message=f"The loss has been NaN or infinite since step {step}. {message}",
            since_step=step,
            evidence={"bad_step": step, LOSS: history.first(LOSS)},
            could_be=(
                "a sample that contains NaN",
                "a division or a logarithm of 0",
                "numbers beyond the range of half precision",
            ),
            remedy=remedy,
        )


def _cause_of_non_finite(history: History, step: int) -> tuple[str, str]:
    scale = raw_columns(history)
    too = f"; and normalise the inputs ({scale})" if scale else ""
    if step == history.steps[0]:
        low, high = history.first(OUTPUT_LOW), history.first(OUTPUT_HIGH)
        if math.isfinite(low + high):
            return (
                f"It was so before any update, although the outputs were finite ({low:.3g} to"
                f" {high:.3g}): the loss function itself takes a logarithm of 0 or of a negative"
                " number, or divides by 0.",
                "Use a loss that takes scores (cross_entropy, binary_cross_entropy_with_logits), or"
                f" clamp the argument of the logarithm{too}.",
            )
        return (
            "The outputs that the loss gets were not finite before any update: they are logarithms"
            " of numbers that are not positive, or inputs or initial weights are not finite.",
            "Use a loss that takes scores (cross_entropy, binary_cross_entropy_with_logits) instead"
            f" of a logarithm of your own{too}. If there is no logarithm, look at"
            " the first batch and at the initial weights.",
        )
    grew = _largest_loss(history, step)
    words = _lower(history, "until the loss stays finite")
    if scale:
        return (
            f"The inputs are not normalised ({scale}), and the learning rate is too high for them.",
            words,
        )
    last = "If that does not help, look at logarithms and divisions in the loss."
    if grew > 0:
        what = f"The loss had grown to {grew:.3g} before that: the learning rate is too high."
        return what, f"{words} {last}"
    return (
        "Most likely the learning rate is too high, or a sample contains NaN.",
        f"Look at the batch of step {step} for NaN. If it contains none: {words} {last}",
    )


def _lower(history: History, until: str) -> str:
    """Returns what mends numbers that grow: their scale first, and then the rate."""
    what, tenth = to_normalise(history), learning_rate(history).tenth
    first, constant = history.first(LOSS), constant_loss(history)
    to = f" (to {tenth})" if tenth else ""
    lower = f"lower the learning rate tenfold{to}, and again {until}."
    if what:
        return f"{normalise(what)} If that is not enough, {lower}"
    if first > _HUGE * constant:
        return (
            f"Use the layers' own initialisation: the first loss ({first:.3g}) was far above that"
            f" of a constant output ({constant:.3g}). {sentence(lower)}"
        )
    return sentence(lower)


def _largest_loss(history: History, step: int) -> float:
    """Returns the largest loss before a step if it was above three times the first, else 0."""
    first = history.first(LOSS)
    pairs = zip(history.steps, history.series(LOSS), strict=True)
    losses = [loss for at, loss in pairs if at < step and math.isfinite(loss)]
    largest = max(losses, default=0.0)
    return largest if largest > 3 * abs(first) else 0.0


@dataclass(frozen=True, kw_only=True)
class DivergingLoss:
    """The loss grows far above its first value; one that falls as far below 0 is a remark.

    Raised by 1 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.

    Attributes:
        min_growth: Mean loss since the snapshot before / the larger of the first loss and that
            of the best constant.
        min_step: A loss may rise at first, as a contrastive one does while its queue fills.
        min_latest: The loss of the snapshot's own step / the same.
    """

    kind: ClassVar[str] = "diverging_loss"
    severity: ClassVar[Severity] = "critical"

    min_growth: float = 3.0
    min_step: int = 50
    min_latest: float = 0.5

    def check(self, history: History) -> Outcome:
        """Returns by how much the loss has grown."""
        if not is_finite(history):
            return Verdict.UNDECIDED
        losses = [*known_losses(history)]
        first, constant = history.first(LOSS), constant_loss(history)
        size = max(abs(first), 0.0 if math.isnan(constant) else constant)
        if len(losses) < 2 or not size > 0 or losses[-1][0] < self.min_step:
            return None
        latest, since = losses[-1][1], losses[-2][0]
        if latest < -self.min_growth * size:
            return _below_zero(first, latest, since)
        if not latest > self.min_growth * size or history.latest(LOSS) < self.min_latest * size:
            return None  # it shot up, and has come down again
        if min(loss for _, loss in [(0, first), *losses]) < 0:
            return None  # without a lower end its size says nothing
        scale = raw_columns(history)
        return Finding(
            message=f"The loss diverges: it was {first:.3g} at first, and has been {latest:.3g} on"
            f" average since step {since}. The learning rate is too high"
            + (f" for inputs that are not normalised ({scale})." if scale else "."),
            since_step=since,
            evidence={"first_loss": first, "mean_loss": latest},
            could_be=("a loss that is summed instead of averaged",),
            remedy=_lower(history, "until the loss no longer grows"),
        )


def _below_zero(first: float, latest: float, since: int) -> Finding:
    """Returns a remark: densities, critics and policies have such losses in health."""
    return Finding(
        message=f"The loss is far below 0: {latest:.3g} on average since step {since}, and"
        f" {first:.3g} at first. It has no lower end, or the wrong sign.",
        evidence={"first_loss": first, "mean_loss": latest},
        could_be=("the loss of a likelihood, a critic or a policy, which is right to do so",),
        remedy="Look at the sign of the loss.",
        severity="info",
    )


@dataclass(frozen=True, kw_only=True)
class HugeFirstLoss:
    """The first loss is far above that of a constant: targets or initial outputs are out of scale.

    Raised by 5 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.

    Attributes:
        min_ratio: First loss / that of the best constant.
    """

    kind: ClassVar[str] = "huge_first_loss"
    severity: ClassVar[Severity] = "info"

    min_ratio: float = _HUGE

    def check(self, history: History) -> Outcome:
        """Returns how far off the first outputs were."""
        first, constant = history.first(LOSS), constant_loss(history)
        if not (constant > 0 and math.isfinite(first) and first > self.min_ratio * constant):
            return None
        scale = raw_columns(history)
        return Finding(
            message=f"The first loss, {first:.3g}, is {first / constant:.3g} times that of the best"
            f" constant output ({constant:.3g})"
            + (f"; the inputs are not normalised ({scale})." if scale else "."),
            since_step=history.steps[0],
            evidence={"first_loss": first, "constant_loss": constant},
            could_be=("weights that start too large", "targets far from 0"),
            remedy=normalise(what)
            if (what := to_normalise(history))
            else "Use the layers' own initialisation: outputs should start near 0.",
        )


@dataclass(frozen=True, kw_only=True)
class NoBetterThanConstant:
    """The loss is no better than that of an output that knows no input.

    Judged from max(150 steps, 15 % of the planned) on where something else points the same way
    (constant outputs, raw inputs, weights that hardly move), and else at the last quarter of the
    planned steps: slow starters reach it before that.

    Raised by 16 of 28 buggy, 1 of 28 fixed programs and 0 of 24 healthy runs.

    Attributes:
        min_ratio: Mean loss of the latest quarter of the steps / that of the best constant.
        late_ratio: The same from ``min_done`` on.
        min_done: Share of the planned steps from which on nothing else is needed.
    """

    kind: ClassVar[str] = "no_better_than_constant"
    severity: ClassVar[Severity] = "warning"

    min_ratio: float = 0.98
    late_ratio: float = 0.95
    min_done: float = 0.75

    def check(self, history: History) -> Outcome:
        """Returns loss and best constant's loss."""
        if not is_finite(history):
            return Verdict.UNDECIDED
        loss, constant = recent_loss(history), constant_loss(history)
        least = self.late_ratio if done(history) >= self.min_done else self.min_ratio
        if history.steps[-1] < judged_from(history) or not (
            constant > 0 and loss >= least * constant
        ):
            return None
        points = _what_points_to_it(history)
        is_certain = bool(points) or done(history) >= self.min_done
        message, remedy = _advice(history)
        right = _mean_accuracy(history)
        if right > history.latest(LARGEST_CLASS) + _TOLD_APART:
            message += (
                f" The classes are told apart ({share(right)} of the latest predictions are right),"
                " but the outputs are too unsure, or too sure where they are wrong."
            )
        return Finding(
            message=f"Not learning: the loss ({loss:.3g} on average over the latest quarter of the"
            f" steps) is hardly better than that of the best constant output ({constant:.3g}),"
            f" which ignores the input.{message}",
            evidence={"mean_loss": loss, "constant_loss": constant},
            could_be=(
                *points,
                "a learning rate that is too small or too high",
                "labels that have nothing to do with the inputs",
            ),
            remedy=remedy,
            severity="warning" if is_certain else "info",
            min_snapshots=2,
        )


def _mean_accuracy(history: History) -> float:
    """Returns the share of right predictions over the latest five looks."""
    return fmean(history.known(ACCURACY)[-5:] or [math.nan])


def _what_points_to_it(history: History) -> list[str]:
    points = []
    if isinstance(ConstantOutputs().check(history), Finding):
        points.append("outputs that are the same for all samples")
    if scale := raw_columns(history):
        points.append(f"inputs that are not normalised ({scale})")
    if median_update(history) < _SLOW_UPDATE:
        points.append("weights that hardly move: a learning rate that is too small")
    return points


def _advice(history: History) -> tuple[str, str]:
    """Returns what the numbers say of the cause, and what to do about it."""
    update = median_update(history)
    rate = learning_rate(history)
    if what := to_normalise(history):
        return f" Not normalised: {what}.", normalise(what)
    if history.latest(LARGEST_CLASS) >= 0.9:
        return (
            f" {100 * history.latest(LARGEST_CLASS):.0f} % of the labels are of one class.",
            "Weight the classes in the loss, or draw the rare class more often.",
        )
    if update < _SLOW_UPDATE:
        ten = f" ({rate.tenfold})" if rate.tenfold else ""
        return (
            f" The weights move by {update:.1g} of their norm per step: the learning rate is too"
            " small, or hardly any gradient reaches them.",
            f"Try ten times the learning rate{ten}. If that changes nothing: {KAIMING}",
        )
    if update > 0.05:
        return (
            f" The weights move by {100 * update:.0f} % of their norm per step: the learning"
            " rate is too high.",
            f"Lower the learning rate tenfold{f' ({rate.tenth})' if rate.tenth else ''}.",
        )
    ten, tenth = (f" ({text})" if text else "" for text in (rate.tenfold, rate.tenth))
    return (
        "",
        f"Try ten times the learning rate{ten}, and a tenth{tenth} if that is no better. Then try"
        " to over-fit a single batch: if that works, look at the labels; if not, look at the model"
        " and the loss.",
    )


@dataclass(frozen=True, kw_only=True)
class LossNotFalling:
    """The loss stays where it began.

    Raised by 13 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.

    Attributes:
        max_fall: Fall of the loss / its first, up to which it has not moved.
    """

    kind: ClassVar[str] = "loss_not_falling"
    severity: ClassVar[Severity] = "warning"

    max_fall: float = 0.02

    def check(self, history: History) -> Outcome:
        """Returns how little the loss has fallen."""
        if not is_finite(history):
            return Verdict.UNDECIDED
        losses, loss = [*known_losses(history)], recent_loss(history)
        if history.steps[-1] < judged_from(history) or len(losses) < 4 or math.isnan(loss):
            return None
        first = losses[1][1]
        if not (first > 0 and loss > (1 - self.max_fall) * first):
            return None
        message, remedy = _advice(history)
        # A network that was trained before, or a loss that cannot fall further.
        has_learned = _mean_accuracy(history) > history.latest(LARGEST_CLASS) + _TOLD_APART
        return Finding(
            message=f"The loss is not falling: it was {first:.4g} on average over the first"
            f" {losses[1][0]} steps, and is {loss:.4g} over the latest quarter of all.{message}",
            since_step=losses[1][0],
            evidence={"mean_loss": loss, "first_loss": first},
            could_be=("a network that has already learned everything there is",),
            remedy=remedy,
            severity="warning" if done(history) >= 0.75 and not has_learned else "info",
            min_snapshots=2,
        )
