"""Gradients that do not arrive, and updates that are too small to matter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from vis_callbacks.alerts.alert import Finding, Outcome, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import (
    GRADIENT_NORM,
    LOSS,
    MEAN_LOSS,
    PARAMETER_NORM,
    WITHOUT_GRADIENT,
    WITHOUT_OPTIMIZER,
)
from vis_callbacks.alerts.rules.conditions import (
    Rate,
    judged_from,
    learning_rate,
    normalise,
    quoted,
    share,
    to_normalise,
)
from vis_callbacks.alerts.rules.loss_facts import (
    constant_loss,
    done,
    error_of_mean_loss,
    is_finite,
    known_losses,
    recent_loss,
)
from vis_callbacks.alerts.rules.update_facts import has_no_gradient, median_update, path_of

_CERTAIN = 3.0  # standard errors


@dataclass(frozen=True, kw_only=True)
class NoGradient:
    """Not one weight has any gradient, and the loss is not zero.

    Raised by 10 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.

    Attributes:
        num_looks: Snapshots running.
    """

    kind: ClassVar[str] = "no_gradient"
    severity: ClassVar[Severity] = "critical"

    num_looks: int = 3

    def check(self, history: History) -> Outcome:
        """Returns whether all gradients are exactly 0."""
        if not is_finite(history):
            return Verdict.UNDECIDED
        entries = range(-self.num_looks, 0)
        if len(history) < self.num_looks or not all(has_no_gradient(history, e) for e in entries):
            return None
        losses = [history.latest(MEAN_LOSS), *(history.at(entry, LOSS) for entry in entries)]
        if not min(map(abs, losses)) > 1e-6:  # nothing is left to learn, of one batch at least
            return None
        layers = history.layers(GRADIENT_NORM)
        had_one = not has_no_gradient(history, 0)
        rate = learning_rate(history)
        of_rate = "" if math.isnan(rate.highest) else f" ({rate.highest:.3g})"
        return Finding(
            message=f"No gradient reaches any of the {len(layers)} weight tensors: it was exactly"
            f" 0 at the latest {self.num_looks} snapshots, so nothing is learned."
            + (
                f" At step {history.steps[0]} there was a gradient: the learning rate"
                f"{of_rate} was too high, or single steps were too large."
                if had_one
                else ""
            ),
            layers=layers,
            since_step=history.steps[-self.num_looks],
            evidence={"weights": len(layers)},
            could_be=(
                "a layer whose units are all dead",
                "an output that is saturated or always the same",
                "a detach() or a round() between the weights and the loss",
            ),
            remedy=_restart(rate, to_normalise(history))
            if had_one
            else "Look at what is between the last layer and the loss: something there is flat."
            " Usually it is a softmax over one output, a ReLU that is 0 for all samples, or a"
            " saturated sigmoid.",
        )


def _restart(rate: Rate, what: str) -> str:
    tenth = f"with a tenth of the learning rate{f' ({rate.tenth})' if rate.tenth else ''}"
    if what:  # then a lower rate alone mended one program less than this
        return f"{normalise(what)} Restart; if it happens again, restart {tenth}."
    return (
        f"Restart {tenth}, and with a tenth of that if it happens again: weights without a"
        " gradient do not recover by themselves."
    )


@dataclass(frozen=True, kw_only=True)
class VanishingGradient:
    """The first weights get a vanishing part of the gradient that the last ones get.

    Raised by 2 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.

    Attributes:
        max_ratio: Gradient / weight of the first, by that of the last.
        num_looks: Snapshots running.
    """

    kind: ClassVar[str] = "vanishing_gradient"
    severity: ClassVar[Severity] = "info"

    max_ratio: float = 1e-4
    num_looks: int = 3

    def check(self, history: History) -> Outcome:
        """Returns how much less the first weights get."""
        if not is_finite(history) or len(history) < self.num_looks:
            return Verdict.UNDECIDED
        layers = history.layers(GRADIENT_NORM)
        ratios = [_first_of_last(history, layers, entry) for entry in range(-self.num_looks, 0)]
        if len(layers) < 3 or not max(ratios) < self.max_ratio:
            return None
        return Finding(
            message=f"The gradient vanishes on its way back: relative to the norm of its weights,"
            f" {quoted(layers[:1])} gets {ratios[-1]:.1g} of what {quoted(layers[-1:])} gets.",
            layers=layers[:1],
            evidence={"first_of_last": ratios[-1]},
            could_be=("a long chain of saturating activations", "dead units in between"),
            remedy="Use ReLU or GELU in place of sigmoid, tanh or softmax in hidden layers, add"
            " normalisation layers or residual connections, and use Kaiming or Xavier"
            " initialisation.",
        )


def _first_of_last(history: History, layers: tuple[str, ...], entry: int) -> float:
    if not layers:
        return math.nan
    first, last = (
        history.at(entry, GRADIENT_NORM, layer) / (history.at(entry, PARAMETER_NORM, layer) or 1.0)
        for layer in (layers[0], layers[-1])
    )
    return first / last if last > 0 else math.nan


class Pace(NamedTuple):
    """How far weights should have gone, by how high the loss still is.

    Attributes:
        max_path: The sum of their updates (`SlowLearning`) / the share of the planned steps that is
            done, below which they are slow, from
        min_done: this share of the planned steps on, while
        min_left: the loss is above this share of that of the best constant, and below what it was
            over the first steps.
        min_recent: Part of the loss's fall so far that came in the latest quarter of the steps, if
            it is more than chance: a network that was trained before moves as little, and so does
            one that has learned what noisy data hold; their losses are soon where they stay.
    """

    max_path: float
    min_done: float
    min_left: float
    min_recent: float


@dataclass(frozen=True, kw_only=True)
class SlowLearning:
    """The weights hardly move, and the loss is still high: the learning rate is too small.

    Raised by 6 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs. In the zoo of
    `benchmarks.alert_quality` it was right in 133 of 135 trainings of the tuning part, and in
    436 of 457 of the others, by which it was mended once.

    Attributes:
        max_update: Median over the weights of update / weight at one step.
        num_looks: Snapshots running, from step 50 on.
        paces: Or: the sum of these over all steps is below one of these.
        max_single: At any snapshot; above it the weights went far at once and lie still: they are
            dead, not slow.
    """

    kind: ClassVar[str] = "slow_learning"
    severity: ClassVar[Severity] = "warning"

    max_update: float = 1e-5
    num_looks: int = 5
    paces: tuple[Pace, ...] = (
        Pace(max_path=0.5, min_done=0.5, min_left=0.2, min_recent=0.1),
        Pace(max_path=1.0, min_done=0.9, min_left=0.5, min_recent=0.3),
    )
    max_single: float = 0.02

    def check(self, history: History) -> Outcome:
        """Returns how little the weights move."""
        if not is_finite(history):
            return Verdict.UNDECIDED
        losses = [*known_losses(history)]
        is_early = history.steps[-1] < judged_from(history) or len(losses) < 3
        if is_early or not (self._stay(history) or self._go_slowly(history)):
            return None
        rate, path, update = learning_rate(history), path_of(history), median_update(history)
        ten = f" ({rate.tenfold})" if rate.tenfold else ""
        return Finding(
            message=f"The learning rate is too small, or the training is too short: the weights"
            f" move by {update:.1g} of their norm per step ({share(path)} summed over all steps),"
            f" and the loss is {losses[-1][1]:.3g} (it was {losses[1][1]:.3g} over the first"
            f" {losses[1][0]} steps).",
            since_step=history.steps[0],
            evidence={"update_ratio": update, "path": path, "learning_rate": rate.latest},
            could_be=("a vanishing gradient", "a network that was trained before"),
            remedy=f"Use ten times the learning rate{ten}, or train longer.",
        )

    def _stay(self, history: History) -> bool:
        if len(history) <= self.num_looks:
            return False
        updates = [median_update(history, entry) for entry in range(-self.num_looks, 0)]
        first = [*known_losses(history)][1][1]
        return 0 < max(updates) < self.max_update and recent_loss(history) > 0.5 * first

    def _go_slowly(self, history: History) -> bool:
        if not any(_is_slower(pace, history) for pace in self.paces):
            return False
        updates = (median_update(history, entry) for entry in range(len(history)))
        highest = max((update for update in updates if not math.isnan(update)), default=0.0)
        return highest < self.max_single


def _is_slower(pace: Pace, history: History) -> bool:
    part, losses = done(history), [*known_losses(history)]
    first, (step, latest) = losses[1][1], losses[-1]
    if not (part >= pace.min_done and pace.min_left * constant_loss(history) < latest < first):
        return False
    at, before = [(at, loss) for at, loss in losses if at <= 0.75 * step][-1]
    least = max(
        pace.min_recent * (first - latest),
        _CERTAIN * math.hypot(error_of_mean_loss(history, at), error_of_mean_loss(history, step)),
    )
    goes_on = latest > 0.95 * first or before - latest >= least
    return goes_on and 0 < path_of(history) < pace.max_path * part


class FrozenByMistake:
    """A remark on weights that could be trained and are not.

    Raised by 0 of 28 buggy, 0 of 28 fixed programs and 0 of 24 healthy runs.
    """

    kind: ClassVar[str] = "never_updated"
    severity: ClassVar[Severity] = "info"

    def check(self, history: History) -> Outcome:
        """Returns trainable weights that no gradient reaches, or no optimizer holds."""
        if len(history) < 3:
            return None
        entries = range(-3, 0)
        layers: tuple[str, ...] = ()
        why = ""
        for metric, words in (
            (WITHOUT_OPTIMIZER, "no optimizer holds them"),
            (WITHOUT_GRADIENT, "no gradient has reached them"),
        ):
            found = tuple(
                layer
                for layer in history.layers(metric)
                if all(history.at(entry, metric, layer) == 1 for entry in entries)
            )
            layers, why = (layers + found, why or words) if found else (layers, why)
        if not layers:
            return None
        return Finding(
            message=f"{len(layers)} trainable weight tensors are never updated, as if frozen: {why}"
            f" ({quoted(layers)}).",
            layers=layers,
            could_be=("layers that are frozen on purpose", "a branch that is seldom taken"),
            remedy="Pass self.parameters() to the optimizer, and use every layer in forward. Call"
            " requires_grad_(False) on what is meant to stay frozen.",
        )
