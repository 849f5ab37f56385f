"""Units that are dying, or never lived.

The thresholds were taken from 1,038 trainings of small ReLU networks (digits and patches of
photographs; dense, convolutional, residual, attention; SGD, momentum, Adam, AdamW, RMSprop at
rates from far too low to far too high). On runs from which no threshold was taken, 90 of 100
warnings were right and 90 of 94 runs with dying units were found; at usual learning rates
2 of 623 healthy runs were warned of. Not measured: networks of ImageNet's size.

What makes the difference is the reference: only units that were *seen alive before* count.
Up to 62 % of a layer never fired in healthy networks with their default initialisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from vis_callbacks.alerts.alert import Evidence, Finding, Outcome, Severity, Verdict
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import (
    FIRST_DEATH_STEP,
    FIRST_OCCURRENCES,
    NEVER_FIRED,
    NEWLY_DEAD,
    NEWLY_DEAD_LATE,
    NORM_AT_DEATH,
    NUM_UNITS,
    REFERENCE_STEP,
    WINDOW_SAMPLES,
)
from vis_callbacks.alerts.rules.conditions import (
    MAX_CONSTANT_SHARE,
    Rate,
    constant_share,
    counted,
    has_broken_down,
    input_scale,
    learning_rate,
    loss_level,
    quoted,
    sentence,
    share,
    weight_growth,
    whole,
)

_MIN_UNITS = 8  # a layer with fewer is reported, never alerted on: not measured below
_LATE_STEP = 100  # a first death after it has a cause of its own: something happened there


@dataclass(frozen=True, kw_only=True)
class DyingUnits:
    """Units that fired before are silent now: the learning rate is too high.

    Turns critical once it has been found at ``critical_snapshots`` snapshots running while the
    loss is still high (then 97 of 100 were right, and 80 of 100 sick runs reach it).

    Attributes:
        min_late: Share of a layer that died after firing at step 5 or later.
        min_norm_late: Their incoming weights' norm at death / at the start. Weight decay and
            harmless early deaths lie below; the median of the truly dying was 1.94.
        min_seen: Or: share of a layer that died after firing at any snapshot, step 0 included.
        min_norm_seen: The same for these.
        critical_snapshots: Snapshots running that make it critical.
        critical_loss: Smoothed loss / first loss from which on it may be critical.
        harmless_loss: Smoothed loss / first loss below which it is a remark: the network learns
            all the same, as a wide one with dropout does. Taken from one run; where the first loss
            was blown up, `NoBetterThanConstant` and `ConstantOutputs` tell.
        sure_norm: Norm at death / at the start, up to which (or where no weights are known, unless
            ``min_seen`` is reached) ``mild_loss`` holds in the place of ``harmless_loss``. In the
            zoo of `benchmarks.alert_quality` the healthy trainings had 1.20 and 1.26, those of too
            high a rate 1.56 and more.
    """

    kind: ClassVar[str] = "dying_units"
    severity: ClassVar[Severity] = "warning"

    min_late: float = 0.25
    min_norm_late: float = 1.05
    min_seen: float = 0.70
    min_norm_seen: float = 1.00
    critical_snapshots: int = 10
    critical_loss: float = 0.7
    harmless_loss: float = 0.3
    sure_norm: float = 1.5
    mild_loss: float = 0.8

    def check(self, history: History) -> Outcome:
        """Returns the dying layers of the latest snapshot."""
        if _cannot_judge(history):
            return Verdict.UNDECIDED
        layers = self.dying_layers(history)
        if not layers:
            return None
        num_running = self._num_running(history)
        level = loss_level(history)
        harmless = self._harmless_loss(history, layers)
        is_critical = num_running >= self.critical_snapshots and level >= max(
            self.critical_loss, harmless
        )
        rate = learning_rate(history)
        worst = max(layers, key=lambda layer: history.latest(NEWLY_DEAD, layer))
        since = _since(history, layers)
        words = f"Units are dying because the learning rate is too high: {_silent(history, worst)}"
        if others := tuple(layer for layer in layers if layer != worst):
            words += f" The same holds in {quoted(others)}."
        if (reference := history.latest(REFERENCE_STEP, worst)) > 0:
            words += f" The layer was first read with these units at step {reference:.0f}."
        evidence: Evidence = {
            "layer": worst,
            NEWLY_DEAD: history.latest(NEWLY_DEAD, worst),
            NEWLY_DEAD_LATE: history.latest(NEWLY_DEAD_LATE, worst),
            NORM_AT_DEATH: history.latest(NORM_AT_DEATH, worst),
            "weight_norm_of_first": weight_growth(history, worst),
            # 0 of n: the rate is below 3/n, at 95 % confidence
            "fires_on_less_than": 3 / history.latest(WINDOW_SAMPLES, worst),
            "learning_rate": rate.latest,
            REFERENCE_STEP: reference,
            **_counted(history, worst),
            "snapshots_running": num_running,
            "loss_of_first": level,
        }
        return Finding(
            message=words,
            layers=layers,
            since_step=since,
            evidence=evidence,
            sample_size=whole(history.latest(WINDOW_SAMPLES, worst)),
            could_be=_could_be(history, rate, since),
            remedy=_remedy(rate, since),
            severity="critical" if is_critical else "info" if level < harmless else "warning",
        )

    def _harmless_loss(self, history: History, layers: tuple[str, ...]) -> float:
        """Returns the level of the loss below which these deaths are a remark."""
        is_sure = any(
            history.latest(NEWLY_DEAD, layer) >= self.min_seen
            if math.isnan(norm := history.latest(NORM_AT_DEATH, layer))
            else norm >= self.sure_norm
            for layer in layers
        )
        return self.harmless_loss if is_sure else self.mild_loss

    def dying_layers(self, history: History, entry: int = -1) -> tuple[str, ...]:
        """Returns the layers that were dying at one entry of the history."""
        layers = history.layers(NUM_UNITS, entry)
        return tuple(layer for layer in layers if self._is_dying(history, layer, entry))

    def was_dying_before(self, history: History) -> bool:
        """Whether units were dying at the last snapshot before the first NaN or infinity."""
        marks = [
            mark.step
            for mark in map(history.first_occurrence, FIRST_OCCURRENCES)
            if mark is not None
        ]
        before = [entry for entry, step in enumerate(history.steps) if step < min(marks, default=0)]
        return bool(before) and bool(self.dying_layers(history, before[-1]))

    def _is_dying(self, history: History, layer: str, entry: int) -> bool:
        if history.at(entry, NUM_UNITS, layer) < _MIN_UNITS:
            return False
        norm = history.at(entry, NORM_AT_DEATH, layer)
        if math.isnan(norm):  # no weights known for this layer: judged by the shares alone
            norm = math.inf
        late = history.at(entry, NEWLY_DEAD_LATE, layer)
        seen = history.at(entry, NEWLY_DEAD, layer)
        return (late >= self.min_late and norm >= self.min_norm_late) or (
            seen >= self.min_seen and norm >= self.min_norm_seen
        )

    def _num_running(self, history: History) -> int:
        """Returns at how many snapshots running, up to the latest, a layer was dying."""
        most = min(len(history), self.critical_snapshots)
        for num_running in range(1, most):
            if not self.dying_layers(history, -1 - num_running):
                return num_running
        return most


@dataclass(frozen=True, kw_only=True)
class DeadFromStart:
    """Most of a layer never fired: its initialisation or its bias, not the learning rate.

    Claimed only where the layer was read before the first update of the run.

    Attributes:
        min_share: Worst layer of healthy runs: .34 in nine of ten, .62 in the worst.
        critical_share: A bias of -20 on a whole layer gives 1.00 and accuracy at chance.
    """

    kind: ClassVar[str] = "dead_from_start"
    severity: ClassVar[Severity] = "warning"

    min_share: float = 0.65
    critical_share: float = 0.95

    def check(self, history: History) -> Outcome:
        """Returns the layers of which most units have not fired since step 0."""
        if _cannot_judge(history):
            return Verdict.UNDECIDED
        layers = tuple(
            layer
            for layer in _layers_above(history, NEVER_FIRED, self.min_share)
            if history.latest(REFERENCE_STEP, layer) == 0
        )
        if not layers:
            return None
        worst = max(layers, key=lambda layer: history.latest(NEVER_FIRED, layer))
        value, num_units = history.latest(NEVER_FIRED, worst), history.latest(NUM_UNITS, worst)
        num_samples = whole(history.latest(WINDOW_SAMPLES, worst))
        return Finding(
            message=(
                f"Dead from initialisation: in {quoted((worst,))}, {share(value)} of"
                f" {num_units:.0f} units have not fired once since step 0"
                f" (on {num_samples} {counted(history, worst)} or more)."
            ),
            layers=layers,
            since_step=0,
            evidence={NEVER_FIRED: value, NUM_UNITS: num_units, **_counted(history, worst)},
            sample_size=num_samples,
            could_be=(
                "weights that were loaded instead of initialised",
                "a class or a kind of input that has not appeared yet",
            ),
            remedy=(
                f"Look at the bias and the initialisation of the weights before {worst!r}: a bias"
                " of 0 and Kaiming initialisation leave about half of the units firing. The"
                " learning rate is not the cause."
            ),
            severity="critical" if value >= self.critical_share else "warning",
        )


@dataclass(frozen=True, kw_only=True)
class NewlyDeadUnits:
    """A remark on layers that lost many of their units, whatever the reason.

    Attributes:
        min_share: Healthy runs reach it in 4 of 100.
    """

    kind: ClassVar[str] = "newly_dead_units"
    severity: ClassVar[Severity] = "info"

    min_share: float = 0.30

    def check(self, history: History) -> Outcome:
        """Returns the layers of which this share fired before and is silent now."""
        if _cannot_judge(history):
            return Verdict.UNDECIDED
        layers = _layers_above(history, NEWLY_DEAD, self.min_share)
        if not layers:
            return None
        worst = max(layers, key=lambda layer: history.latest(NEWLY_DEAD, layer))
        return Finding(
            message=sentence(_silent(history, worst)),
            layers=layers,
            since_step=_since(history, layers),
            evidence={NEWLY_DEAD: history.latest(NEWLY_DEAD, worst), **_counted(history, worst)},
            sample_size=whole(history.latest(WINDOW_SAMPLES, worst)),
            could_be=("harmless sparsity of an easy task in a wide layer", "weight decay"),
        )


def _cannot_judge(history: History) -> bool:
    return has_broken_down(history) or constant_share(history) > MAX_CONSTANT_SHARE


def _layers_above(history: History, metric: str, min_share: float) -> tuple[str, ...]:
    return tuple(
        layer
        for layer in history.layers(metric)
        if history.latest(metric, layer) >= min_share
        and history.latest(NUM_UNITS, layer) >= _MIN_UNITS
    )


def _silent(history: History, layer: str) -> str:
    num_samples = history.latest(WINDOW_SAMPLES, layer)
    return (
        f"in {quoted((layer,))}, {share(history.latest(NEWLY_DEAD, layer))} of"
        f" {history.latest(NUM_UNITS, layer):.0f} units fired before, but were 0 on all of the"
        f" latest {num_samples:.0f} {counted(history, layer)}."
    )


def _since(history: History, layers: tuple[str, ...]) -> int | None:
    steps = [history.latest(FIRST_DEATH_STEP, layer) for layer in layers]
    return min((int(step) for step in steps if not math.isnan(step)), default=None)


def _counted(history: History, layer: str) -> dict[str, str]:
    """Returns what the sample size counts, where that is no samples."""
    word = counted(history, layer)
    return {} if word == "samples" else {"counted": word}


def _could_be(history: History, rate: Rate, since: int | None) -> tuple[str, ...]:
    causes = []
    if scale := input_scale(history):
        causes.append(f"inputs that are not normalised ({scale})")
    if since is not None and since >= _LATE_STEP and rate.jump is None:
        causes.append(f"a burst of large gradients at about step {since}")
    causes.append("labels that have nothing to do with the inputs, for which no rate helps")
    return (
        *causes,
        "harmless deaths: the task is easy for a wide network, and the loss still falls",
    )


_WHILE_IT_RUNS = (
    "Of 114 trainings, 80 came within 3 points of the best rate after a restart, and 24 when they"
    " went on at a tenth without one."
)


def _remedy(rate: Rate, since: int | None) -> str:
    if rate.jump is not None and (since is None or since >= rate.jump[0] - 1):
        step, before, after = rate.jump
        return (
            f"The learning rate rose from {before:.3g} to {after:.3g} at step {step} or shortly"
            " before. Go back to an earlier checkpoint and remove the rise, or clip gradients."
        )
    again = _WHILE_IT_RUNS
    if math.isnan(rate.highest):
        return f"Restart with a tenth of the learning rate. {again}"
    restart = f"with learning rate {rate.highest / 10:.3g} (a tenth of {rate.highest:.3g})"
    if rate.is_falling:
        return (
            f"The schedule is already lowering the rate (now {rate.latest:.3g}): wait to see"
            f" whether units come back, or restart {restart}."
        )
    return f"Restart {restart}: that was clearly better in 94 of 100 measured restarts. {again}"
