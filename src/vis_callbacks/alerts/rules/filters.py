"""First-layer filters: noise that nothing was made of, and remarks on the rest.

Measured on 221 trainings of small networks (12 photographs in patches of 32 x 32, digits; plain,
BN and residual convolutional networks, patch-embedding transformers, MLPs; SGD, Adam, AdamW):
99 for the thresholds, 122 with other seeds, rates and networks.

Noise alone is no alarm: healthy networks keep filters that no test can tell from noise
(roughness .96 in the best residual network, .93 to .98 in patch embeddings). What they do not
do is stay where they were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.alert import Finding, Outcome, Severity
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.rules.conditions import (
    FIRST_JUDGED_STEP,
    input_scale,
    judged_from,
    quoted,
    share,
)
from vis_callbacks.alerts.rules.over_fitting import validations

_LAST_STEP_OF_BLOW_UP = 200  # movement grows in health, too: later values were not compared


def why_not_judged(
    *,
    kernel_size: float,
    first_step: float,
    initial_roughness: float,
    roughness_error: float,
    rate: float = math.nan,
    change: float = math.nan,
    has_stepped: bool = False,
) -> str:
    """Returns in words why noise in a layer's filters means nothing, "" where it does.

    Args:
        kernel_size: The shortest side; 0 where neighbours mean nothing.
        first_step: Of the weights that changes are seen from.
        initial_roughness: Of these weights, the mean over the filters.
        roughness_error: Standard deviation of that mean, of white noise.
        rate: The layer's learning rate; NaN: not known.
        change: Since the first step.
        has_stepped: Whether there was an update since.
    """
    if kernel_size == 0:
        return "its inputs have no known neighbours, so noise cannot be judged"
    if kernel_size == 1:
        return "1x1 filters have no neighbouring weights, so noise cannot be judged"
    if initial_roughness < min(0.9, 1 - 3 * roughness_error):
        return "its filters had structure from the start (pre-trained?), so noise tells nothing"
    if rate == 0:
        return "it is frozen: no optimizer moves it, or its learning rate is 0"
    if has_stepped and change == 0:
        return "it is frozen: no weight has moved (or no gradient reaches it)"
    if first_step > 0:
        return f"its initial weights are not known: it was first read at step {first_step:,.0f}"
    return ""


@dataclass(frozen=True, kw_only=True)
class HardlyLearned:
    """The first layer is as noisy as it was initialised, and has not moved from there.

    Judged from the first snapshot at or after max(150 steps, 15 % of the planned ones) at which
    the learning rate is not above that of the snapshot before (warm-up is over); raised at the
    next one if it agrees. Of 140 trainings that were not under-trained it found none at that
    first snapshot; of under-trained ones 18 of 18 where the thresholds were taken from, and 26
    of 38 (recall .68) of others: missed are rates only 5 to 10 times too small.

    Where the training loss has fallen all the same (healthy runs with batches of 4 did so: the
    layers behind have learned), it is a remark.

    Attributes:
        min_roughness: Mean roughness / min(1, its initial value).
        max_change: Relative movement of the weights.
        min_loss: Smoothed training loss / its first, below which it is a remark.
    """

    kind: ClassVar[str] = "hardly_learned"
    severity: ClassVar[Severity] = "warning"

    min_roughness: float = 0.95
    max_change: float = 0.08
    min_loss: float = 0.5

    def check(self, history: History) -> Outcome:
        """Returns the layers that are still what they were initialised as."""
        found = {
            layer: history.steps[first]
            for layer in history.layers(metric_names.FILTER_ROUGHNESS)
            if (first := _first_judged(history, layer)) is not None
            and not _not_judged(history, layer)
            and self._has_hardly_learned(history, layer, first)
            and self._has_hardly_learned(history, layer, -1)
        }
        if not found:
            return None
        layers = tuple(found)
        worst = min(layers, key=lambda layer: history.latest(metric_names.FILTER_CHANGE, layer))
        rough = history.latest(metric_names.FILTER_ROUGHNESS, worst)
        moved = _percent(history.latest(metric_names.FILTER_CHANGE, worst))
        return Finding(
            message=f"The first layer has hardly learned: the filters of {quoted((worst,))} are as"
            f" noisy as at initialisation (roughness {rough:.2f}; white noise has 1), and have"
            f" moved by only {moved} of their norm.",
            layers=layers,
            since_step=min(found.values()),
            evidence=_evidence(history, worst) | _trend(history),
            could_be=(
                "a learning rate that is too small",
                "too few steps so far",
                "labels without signal (random labels looked like this early in 2 of 9 trainings)",
            ),
            remedy=_remedy(history, worst),
            severity="info" if self._has_learned_elsewhere(history) else "warning",
            min_snapshots=2,
        )

    def _has_learned_elsewhere(self, history: History) -> bool:
        known = history.known(metric_names.TRAINING_LOSS)
        latest = history.smoothed(metric_names.TRAINING_LOSS)
        return bool(known) and latest < self.min_loss * known[0]

    def _has_hardly_learned(self, history: History, layer: str, entry: int) -> bool:
        rough = history.at(entry, metric_names.FILTER_ROUGHNESS, layer)
        initial = history.at(entry, metric_names.INITIAL_ROUGHNESS, layer)
        change = history.at(entry, metric_names.FILTER_CHANGE, layer)
        # A layer that was frozen until then has not had its chance.
        return rough >= self.min_roughness * min(1.0, initial) and 0 < change < self.max_change


@dataclass(frozen=True, kw_only=True)
class FiltersBlowUp:
    """A remark on filters that grew far beyond their initial size: the rate may be too high.

    Such filters are large and smooth (roughness .02 to .5), never noisy. At step 160 it holds
    for 9 of 11 trainings at a rate that is too high, and for none of 210 others. The threshold
    was not tried on further trainings, therefore it is a remark.

    Attributes:
        min_change: Relative movement at the first snapshot of the steps 150 to 200.
    """

    kind: ClassVar[str] = "filters_blow_up"
    severity: ClassVar[Severity] = "info"

    min_change: float = 1.75

    def check(self, history: History) -> Outcome:
        """Returns the layers that had moved by ``min_change`` at about step 150."""
        entry = next((i for i, step in enumerate(history.steps) if step >= FIRST_JUDGED_STEP), None)
        if entry is None or history.steps[entry] > _LAST_STEP_OF_BLOW_UP:
            return None
        layers = tuple(
            layer
            for layer in history.layers(metric_names.FILTER_CHANGE)
            if not _not_judged(history, layer)
            and history.at(entry, metric_names.FILTER_CHANGE, layer) >= self.min_change
        )
        if not layers:
            return None
        worst = max(layers, key=lambda layer: history.at(entry, metric_names.FILTER_CHANGE, layer))
        moved = _percent(history.at(entry, metric_names.FILTER_CHANGE, worst))
        step = history.steps[entry]
        return Finding(
            message=f"First-layer weights blow up: by step {step}, those of {quoted((worst,))} had"
            f" moved by {moved} of their initial norm. The learning rate may be too high.",
            layers=layers,
            since_step=step,
            evidence=_evidence(history, worst),
            could_be=("a learning rate that is too high", "inputs that are not normalised"),
            remedy="If units die or the loss stays high as well, try a tenth of the learning rate"
            f"{_times(0.1, history, worst)}.",
        )


@dataclass(frozen=True, kw_only=True)
class InitialNoise:
    """A remark, from half of the planned steps on: most of the initial noise is still there.

    Healthy networks do this. Weight decay clears it, as arithmetic says, and did not raise
    accuracy where it was tried (.62 and .66, .67 and .71, .55 and .53 with ten times the decay
    and with the usual one), so nothing is promised.

    Attributes:
        min_roughness: Mean roughness / its initial value.
        min_done: Share of the planned steps.
    """

    kind: ClassVar[str] = "initial_noise"
    severity: ClassVar[Severity] = "info"

    min_roughness: float = 0.7
    min_done: float = 0.5

    def check(self, history: History) -> Outcome:
        """Returns the layers whose filters still carry their initial noise."""
        planned = history.latest(metric_names.PLANNED_STEPS)
        if not history.steps[-1] >= self.min_done * planned:  # NaN: the end is not known
            return None
        layers = tuple(
            layer
            for layer in history.layers(metric_names.FILTER_ROUGHNESS)
            if not _not_judged(history, layer)
            and history.latest(metric_names.FILTER_ROUGHNESS, layer)
            >= self.min_roughness * history.latest(metric_names.INITIAL_ROUGHNESS, layer)
        )
        if not layers:
            return None
        worst = max(layers, key=lambda layer: history.latest(metric_names.INHERITED_SHARE, layer))
        inherited = history.latest(metric_names.INHERITED_SHARE, worst)
        left = history.latest(metric_names.DECAY_LEFT, worst)
        decay = (
            ""
            if math.isnan(left)
            else f" Weight decay alone would have left {_percent(left)} of the initial weights."
        )
        return Finding(
            message=f"The filters of {quoted((worst,))} still carry their initial noise:"
            f" {_percent(inherited)} of their energy comes from the initial weights, and"
            f" {_percent(1 - inherited)} was learned.{decay} Healthy networks do this, too.",
            layers=layers,
            evidence=_evidence(history, worst),
            could_be=("a healthy network", "little training", "little weight decay"),
        )


@dataclass(frozen=True, kw_only=True)
class OddFilters:
    """A remark on filters that are near zero, far larger than all others, or there twice."""

    kind: ClassVar[str] = "odd_filters"
    severity: ClassVar[Severity] = "info"

    def check(self, history: History) -> Outcome:
        """Returns the layers that have any, and how many of each."""
        words = {
            metric_names.DEAD_FILTERS: "near zero",
            metric_names.DOMINATING_FILTERS: "more than five times as large as the median",
            metric_names.DUPLICATED_FILTERS: "nearly equal to another one",
        }
        said: dict[str, str] = {}
        evidence: dict[str, float] = {}
        for layer in history.layers(metric_names.NUM_FILTERS):
            total = history.latest(metric_names.NUM_FILTERS, layer)
            shares = {metric: history.latest(metric, layer) for metric in words}
            counts = [
                f"{value * total:.0f} {words[metric]}"
                for metric, value in shares.items()
                if value > 0
            ]
            if counts:
                said[layer] = f"{', '.join(counts)} (of {total:.0f})"
                evidence |= {f"{metric}/{layer}": v for metric, v in shares.items() if v > 0}
        if not said:
            return None
        named = "; ".join(f"in {quoted((layer,))}, {counts}" for layer, counts in said.items())
        return Finding(message=f"Odd filters: {named}.", layers=tuple(said), evidence=evidence)


@dataclass(frozen=True, kw_only=True)
class FiltersNotJudged:
    """A remark: why nothing is said of the noise of a layer's filters."""

    kind: ClassVar[str] = "filters_not_judged"
    severity: ClassVar[Severity] = "info"

    def check(self, history: History) -> Outcome:
        """Returns the layers of which no verdict on noise is given."""
        reasons = {
            layer: reason
            for layer in history.layers(metric_names.KERNEL_SIZE)
            if (reason := _not_judged(history, layer))
        }
        if not reasons:
            return None
        said = "; ".join(f"{quoted((layer,))}: {reason}" for layer, reason in reasons.items())
        return Finding(
            message=f"The noise of some filters is not judged: {said}.", layers=tuple(reasons)
        )


def _not_judged(history: History, layer: str) -> str:
    first_step = history.latest(metric_names.FIRST_STEP, layer)
    return why_not_judged(
        kernel_size=history.latest(metric_names.KERNEL_SIZE, layer),
        first_step=first_step,
        initial_roughness=history.latest(metric_names.INITIAL_ROUGHNESS, layer),
        roughness_error=history.latest(metric_names.ROUGHNESS_ERROR, layer),
        rate=history.latest(metric_names.LEARNING_RATE, layer),
        change=history.latest(metric_names.FILTER_CHANGE, layer),
        has_stepped=history.steps[-1] > max(first_step, 0),
    )


def _first_judged(history: History, layer: str) -> int | None:
    """Returns the first entry late enough at which no warm-up is on, None where none is."""
    earliest = judged_from(history)
    rates = history.series(metric_names.LEARNING_RATE, layer)
    for entry, step in enumerate(history.steps):
        is_rising = entry > 0 and rates[entry] > rates[entry - 1] * (1 + 1e-9)
        if step >= earliest and not is_rising:
            return entry
    return None


def _evidence(history: History, layer: str) -> dict[str, float | int | str]:
    metrics = (
        metric_names.FILTER_ROUGHNESS,
        metric_names.INITIAL_ROUGHNESS,
        metric_names.FILTER_CHANGE,
        metric_names.INHERITED_SHARE,
        metric_names.LEARNED_ROUGHNESS,
        metric_names.NOISE_LIKE,
        metric_names.DECAY_LEFT,
        metric_names.LEARNING_RATE,
        metric_names.NUM_FILTERS,
    )
    known = {metric: history.latest(metric, layer) for metric in metrics}
    return {"layer": layer} | {m: value for m, value in known.items() if not math.isnan(value)}


def _trend(history: History) -> dict[str, float | int | str]:
    """Returns the first and the latest validation loss, where the user logs one."""
    losses = [loss for loss, _, _ in validations(history)]
    if not losses:
        return {}
    return {"first_validation_loss": losses[0], "validation_loss": losses[-1]}


def _remedy(history: History, layer: str) -> str:
    if scale := input_scale(history):
        return (
            f"Normalise the inputs first ({scale}): subtract the mean and divide by the standard"
            " deviation. On inputs of this scale, ten times the rate does harm."
        )
    return (
        f"Try ten times the learning rate{_times(10, history, layer)}: accuracy was better by 3"
        " points or more in 15 of 15 measured cases. Or train for longer."
    )


def _times(factor: float, history: History, layer: str) -> str:
    """Returns a multiple of a layer's rate in brackets; "" where the rate is not known."""
    rate = history.latest(metric_names.LEARNING_RATE, layer)
    return "" if math.isnan(rate) else f" ({factor * rate:.3g})"


def _percent(value: float) -> str:
    """Returns a share in words, small ones with their first digit: ``"0.3 %"``."""
    return share(value) if value >= 0.1 or value <= 0 else f"{100 * value:.2g} %"
