"""`LearningMonitor`: whether a network is learning at all, and what keeps it from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor

from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.alert import Rule
from vis_callbacks.alerts.rules.gradients import (
    FrozenByMistake,
    NoGradient,
    SlowLearning,
    VanishingGradient,
)
from vis_callbacks.alerts.rules.inputs import UnscaledInputs
from vis_callbacks.alerts.rules.instability import RateTooHigh
from vis_callbacks.alerts.rules.loss_facts import constant_loss
from vis_callbacks.alerts.rules.outputs import (
    ConstantOutputs,
    LossMisfit,
    OneClass,
    ShapesDiffer,
    TargetsOutOfReach,
)
from vis_callbacks.alerts.rules.progress import (
    DivergingLoss,
    HugeFirstLoss,
    LossNotFalling,
    NoBetterThanConstant,
    NonFiniteLoss,
    WrongSign,
)
from vis_callbacks.engine.probe import Batch, Probe
from vis_callbacks.engine.ranks import Merge
from vis_callbacks.engine.schedule import Decaying
from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.learning.pictures import draw_loss, draw_norms, draw_spread
from vis_callbacks.monitors.learning.science import (
    FORMULAS,
    OUTPUT_SUMS,
    constant_losses,
    measure,
    spreads,
)
from vis_callbacks.report import Item, LayerTable, Picture, Report, RuleMetrics, Scalar

if TYPE_CHECKING:
    from vis_callbacks.engine.parameter_watch import ParameterWatch
    from vis_callbacks.engine.snapshot import Snapshot
    from vis_callbacks.options import MonitorOptions

_MERGED_LOSSES: Mapping[str, Merge] = {"num": "sum", "sum": "sum", "high": "max", "bad_step": "min"}
_MERGED_NORMS: Mapping[str, Merge] = {"gradient": "max", "weight": "max", "update": "max"}
_OF_RUN = (  # totals that are summed over the whole run
    *("label_counts", "rows"),
    *("target_sum", "target_squares", "target_values"),
    *("input_rows", "input_sum", "input_squares"),
)
_MAX_KEPT_VALUES = 4096
_NORMS = (metric_names.GRADIENT_NORM, metric_names.PARAMETER_NORM, metric_names.UPDATE_NORM)


class LearningMonitor(Monitor):
    """Tells whether a network is learning at all, and what keeps it from learning.

    It reads the loss of every step, the outputs and targets that the loss is computed from, and
    gradients and updates of every weight with two axes or more, all in the user's own passes. The
    loss is compared with that of the best constant output, which follows from the targets seen so
    far: at that level, a network has learned nothing. Its alerts name what to change: an output
    layer that does not fit the loss, raw inputs, targets out of reach, no gradient, a learning rate
    that is too small or too high.

    It cannot tell whether a lower loss could be reached, nor what is learned. A loss of several
    terms, or with class weights, is not compared.

    Args:
        **options: Those of every `Monitor`.

    Raises:
        TypeError, ValueError: An option is wrong.

    References:
        Wardat et al. 2021, "DeepLocalize"; Zhang et al. 2021, "AUTOTRAINER"; Cao et al. 2022,
        "DeepFD"; Wardat et al. 2022, "DeepDiagnosis"; Ben Braiek and Khomh 2023,
        "TheDeepChecker".
    """

    stem: ClassVar[str] = "learning"
    default_schedule = Decaying()
    rules: ClassVar[Sequence[Rule]] = (
        NonFiniteLoss(),
        LossMisfit(),
        WrongSign(),
        ShapesDiffer(),
        TargetsOutOfReach(),
        UnscaledInputs(),
        OneClass(),
        DivergingLoss(),
        RateTooHigh(),
        HugeFirstLoss(),
        NoGradient(),
        VanishingGradient(),
        SlowLearning(),
        ConstantOutputs(),
        NoBetterThanConstant(),
        LossNotFalling(),
        FrozenByMistake(),
    )
    tags: ClassVar[Sequence[str]] = (
        "learning/loss_of_constant",
        "learning/gradient_norm",
        "learning/update_ratio",
        "learning/output_spread",
        "learning/loss",
        "learning/gradients",
        "learning/updates",
        "learning/outputs",
        "learning/layers",
    )

    def __init__(self, **options: Unpack[MonitorOptions]) -> None:
        super().__init__(**options)
        self._begin_anew()

    def probes(self) -> Sequence[Probe]:
        """Asks for what the loss is computed from, for all losses, and for gradients."""
        nothing: Sequence[str] = ()
        return (
            Probe(name="outputs", reduce=measure, merge=OUTPUT_SUMS, layers=nothing, site="loss"),
            Probe(
                name="losses",
                reduce=_of_losses,
                merge=_MERGED_LOSSES,
                layers=nothing,
                site="losses",
            ),
            Probe(
                name="parameters",
                reduce=self._of_parameters,
                merge=_MERGED_NORMS,
                layers=nothing,
                site="parameters",
            ),
        )

    def observe(self, snapshot: Snapshot) -> Report:
        """Sums up what the run has shown so far, and says how it stands."""
        items: list[Item] = [*self._of_run(snapshot)]
        items += self._of_weights(snapshot, snapshot.values["parameters"])
        outputs = snapshot.values["outputs"]
        if len(outputs) == 1:
            (sums,) = outputs.values()
            items += self._of_outputs(snapshot, sums)
            items += _of_head(snapshot, sums)
        return Report(step=snapshot.step, items=tuple(items))

    def state_dict(self) -> dict[str, Any]:
        """Returns the totals of the run."""
        return {"totals": dict(self._totals)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the totals; an empty state begins anew."""
        self._begin_anew(state.get("totals", {}))

    def _begin_anew(self, totals: Mapping[str, Tensor] | None = None) -> None:
        self._totals: dict[str, Tensor] = dict(totals or {})
        self._facts: dict[str, dict[str, float]] = {}

    def _of_parameters(
        self, watch: ParameterWatch, batch: Batch
    ) -> Mapping[str, Mapping[str, Tensor]]:
        self._facts = {
            metric_names.WITHOUT_GRADIENT: dict.fromkeys(watch.without_gradient, 1.0),
            metric_names.WITHOUT_OPTIMIZER: dict.fromkeys(watch.without_optimizer, 1.0),
        }
        if not len(self.history):
            self._facts[metric_names.NUM_VALUES] = {
                n: float(num) for n, num in watch.num_values.items()
            }
        return watch.norms()

    def _of_run(self, snapshot: Snapshot) -> Iterator[Item]:
        numbers: dict[str, float | Tensor] = {
            metric_names.LEARNING_RATE: max((g.lr for g in snapshot.optimizer), default=math.nan),
            metric_names.NUM_OPTIMIZERS: 1.0
            + max((g.place for g in snapshot.optimizer), default=0),
            metric_names.PLANNED_STEPS: snapshot.planned_steps or math.nan,
        }
        if snapshot.loss is not None:
            numbers[metric_names.LOSS] = torch.as_tensor(snapshot.loss)
        losses = snapshot.values["losses"].get("")
        if losses is not None:
            mean, constant = losses["sum"] / losses["num"], constant_loss(self.history)
            numbers |= {
                metric_names.MEAN_LOSS: mean,
                metric_names.HIGHEST_LOSS: losses["high"],
                metric_names.BAD_STEP: losses["bad_step"],
            }
            if constant > 0:
                yield Scalar(tag="learning/loss_of_constant", value=mean / constant)
            if self._wants_curves(snapshot):
                draw = partial(
                    draw_loss,
                    steps=self._steps(snapshot),
                    losses=self.history.series(metric_names.MEAN_LOSS),
                    constant=constant,
                )
                yield Picture(tag="learning/loss", draw=draw, arrays={"latest": mean[None]})
        yield from _numbers(numbers)

    def _wants_curves(self, snapshot: Snapshot) -> bool:
        # The one point of step 0 shows nothing, and would cost a short run a tenth of a second.
        return snapshot.wants_pictures and len(self.history) > 0

    def _steps(self, snapshot: Snapshot) -> tuple[int, ...]:
        return (*self.history.steps, snapshot.step)

    def _of_weights(
        self, snapshot: Snapshot, norms: Mapping[str, Mapping[str, Tensor]]
    ) -> Iterator[Item]:
        for metric, marked in self._facts.items():
            if marked:
                yield RuleMetrics(
                    metrics=(metric,), layers=tuple(marked), values=tuple(marked.values())
                )
        if norms:
            values = [[of[name] for of in norms.values()] for name in _MERGED_NORMS]
            table = torch.stack([torch.stack(row).double() for row in values])
            yield RuleMetrics(metrics=_NORMS, layers=tuple(norms), values=table)
            gradients, weights, updates = table
            ratios = updates / weights
            yield Scalar(tag="learning/gradient_norm", value=torch.linalg.vector_norm(gradients))
            yield Scalar(tag="learning/update_ratio", value=ratios.nanmedian())
            yield LayerTable(
                tag="learning/layers",
                metrics=(metric_names.GRADIENT_NORM, "update_ratio"),
                layers=tuple(norms),
                values=torch.stack([gradients, ratios]),
                scale="power",
            )
            if snapshot.wants_pictures:
                yield from self._pictures_of_weights(snapshot, tuple(norms), gradients, ratios)

    def _pictures_of_weights(
        self, snapshot: Snapshot, layers: tuple[str, ...], gradients: Tensor, ratios: Tensor
    ) -> Iterator[Picture]:
        history = self.history
        past = {name: [history.series(name, layer) for layer in layers] for name in _NORMS}
        updates, sizes = (
            np.asarray(past[name]).reshape(len(layers), -1)
            for name in (metric_names.UPDATE_NORM, metric_names.PARAMETER_NORM)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            past_ratios = updates / sizes
        draw = partial(draw_norms, steps=self._steps(snapshot), layers=layers)
        of_gradients = partial(
            draw,
            past=past[metric_names.GRADIENT_NORM],
            what="norm of the gradient",
            note="before clipping; where it is exactly 0, no gradient arrives",
        )
        of_updates = partial(
            draw,
            past=past_ratios,
            what="update / weight at one step",
            note="about -3 is usual; below -5 the weights hardly move",
        )
        yield Picture(tag="learning/gradients", draw=of_gradients, arrays={"latest": gradients})
        yield Picture(tag="learning/updates", draw=of_updates, arrays={"latest": ratios})

    def _of_outputs(self, snapshot: Snapshot, sums: Mapping[str, Tensor]) -> Iterator[Item]:
        totals, rows = self._added(sums), sums["rows"]
        low, high = sums["low"], sums["high"]
        numbers: dict[str, float | Tensor] = {
            metric_names.NUM_OUTPUTS: float(len(low)),
            metric_names.NUM_ROWS: rows,
            metric_names.OUTPUT_RANGE: (high - low).amax(),
            metric_names.OUTPUT_SPREAD: spreads(sums["sum"], sums["squares"], rows).mean(),
            metric_names.OUTPUT_LOW: low.amin(),
            metric_names.OUTPUT_HIGH: high.amax(),
            metric_names.OUTPUT_ZEROS: sums["zeros"] / (rows * len(low)),
            metric_names.ROW_SUM_ERROR: sums["row_sum_error"],
            metric_names.SHAPES_DIFFER: sums["shapes_differ"],
        }
        numbers |= _of_targets(sums, totals)
        yield from _numbers(numbers)
        spread = numbers[metric_names.OUTPUT_SPREAD]
        yield Scalar(tag="learning/output_spread", value=spread)
        if self._wants_curves(snapshot):
            draw = partial(
                draw_spread,
                steps=self._steps(snapshot),
                spreads=self.history.series(metric_names.OUTPUT_SPREAD),
                targets=self.history.latest(metric_names.TARGET_SPREAD),
            )
            latest = {"latest": torch.as_tensor(spread)[None]}
            yield Picture(tag="learning/outputs", draw=draw, arrays=latest)
        yield RuleMetrics(
            metrics=(metric_names.FORMULA_LOSS, metric_names.CONSTANT_LOSS),
            layers=tuple(FORMULAS),
            values=torch.stack([sums["by_formula"] / rows, torch.stack(constant_losses(totals))]),
        )

    def _added(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Adds one snapshot's sums to those of the run, and returns these."""
        new = {name: sums[name] for name in _OF_RUN if name in sums}
        known = {name: value.to(sums["low"].device) for name, value in self._totals.items()}
        is_same = known.keys() == new.keys() and all(
            known[name].shape[1:] == new[name].shape[1:]
            and (name == "target_values" or known[name].shape == new[name].shape)
            for name in new
        )
        for name in new if is_same else ():
            if name == "target_values":
                new[name] = torch.cat([known[name], new[name]])[-_MAX_KEPT_VALUES:]
            else:
                new[name] = known[name] + new[name]
        self._totals = new
        return new


def _of_losses(taken: tuple[Tensor, Tensor], batch: Batch) -> dict[str, dict[str, Tensor]]:
    losses, steps = taken
    if not len(losses):
        return {}
    is_bad = ~losses.isfinite()
    return {
        "": {
            "num": torch.full((), float(len(losses)), dtype=torch.float64, device=losses.device),
            "sum": losses.sum(),
            "high": losses.amax(),
            "bad_step": torch.where(is_bad, steps.double(), math.inf).amin(),
        }
    }


def _of_targets(
    sums: Mapping[str, Tensor], totals: Mapping[str, Tensor]
) -> dict[str, float | Tensor]:
    """Returns what is known of labels or target values, and of the inputs, over the run so far."""
    numbers: dict[str, float | Tensor] = {}
    if "label_counts" in totals:
        labels, predicted = totals["label_counts"], sums["predicted_counts"]
        numbers |= {
            metric_names.NUM_LABELS: labels.sum(),
            metric_names.LARGEST_CLASS: labels.amax() / labels.sum(),
            metric_names.LARGEST_PREDICTED: predicted.gather(0, labels.argmax(0, keepdim=True))
            / predicted.sum(),
            metric_names.ACCURACY: sums["hits"] / sums["label_counts"].sum(),
        }
    if "target_sum" in totals:
        numbers |= {
            metric_names.TARGET_LOW: sums["target_low"],
            metric_names.TARGET_HIGH: sums["target_high"],
            metric_names.TARGET_SPREAD: spreads(
                totals["target_sum"], totals["target_squares"], totals["rows"]
            ).mean(),
        }
    if "input_sum" in totals:
        seen = totals["input_rows"]
        means = totals["input_sum"] / seen
        deviations = spreads(totals["input_sum"], totals["input_squares"], seen)
        numbers[metric_names.COLUMN_MEAN] = means.abs().amax()
        numbers[metric_names.COLUMN_STD] = deviations.amax()
    return numbers


def _of_head(snapshot: Snapshot, sums: Mapping[str, Tensor]) -> Iterator[RuleMetrics]:
    """Yields the kind of the nonlinearity behind the last weight, if there is one."""
    if snapshot.trace and snapshot.weighted:
        last = snapshot.trace[-1]
        is_head = last.weight_name is not None and (
            last.weight_name == snapshot.weighted[-1].weight_name
        )
        if is_head and last.num_units == len(sums["low"]):
            yield RuleMetrics(metrics=(metric_names.HEAD,), layers=(last.kind,), values=(1.0,))


def _numbers(numbers: Mapping[str, float | Tensor]) -> Iterator[RuleMetrics]:
    """Yields numbers of the whole run: those on the device together."""
    for metric, value in numbers.items():
        values = value.double().reshape(1) if isinstance(value, Tensor) else (value,)
        yield RuleMetrics(metrics=(metric,), layers=("",), values=values)
