"""`ActivationMonitor`: what every layer's activations do, and whether units are dying."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from torch import Tensor

from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.alert import Rule
from vis_callbacks.alerts.rules.dead_units import DeadFromStart, DyingUnits, NewlyDeadUnits
from vis_callbacks.alerts.rules.inputs import ConstantInputs, RawInputs
from vis_callbacks.alerts.rules.layers import Saturation, UnreachedLayers
from vis_callbacks.alerts.rules.non_finite import NonFinite
from vis_callbacks.alerts.rules.weights import CollapsingWeights
from vis_callbacks.engine.nonlinearities import NONLINEARITIES
from vis_callbacks.engine.schedule import BurstEnds, Bursts
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.activations.dead_units import DeadUnitTracker, StateHistory
from vis_callbacks.monitors.activations.map_films import MapFilms
from vis_callbacks.monitors.activations.pictures import draw_raster, draw_unit_life
from vis_callbacks.monitors.activations.science import (
    HISTOGRAM_SUMS,
    MAP_SUMS,
    UNIT_SUMS,
    Sums,
    UnitRows,
    has_mask,
    log_edges,
    measure,
    measure_maps,
    new_number,
    num_nonzero,
    unit_norms,
)
from vis_callbacks.options import check_count, check_flag, check_names
from vis_callbacks.report import (
    Histogram,
    Item,
    LayerTable,
    Picture,
    Report,
    RuleMetrics,
    Scalar,
    tag,
)

if TYPE_CHECKING:
    from vis_callbacks.engine.probe import LayerInfo, Probe
    from vis_callbacks.engine.snapshot import Group, Snapshot
    from vis_callbacks.options import MonitorOptions

# TensorBoard draws a card for each tag; more than these nobody looks through.
_MAX_LAYER_SCALARS = 20
_MAX_GROUPS = 3

_DEAD = metric_names.DEAD_FRACTION
_SHOWN = (metric_names.SPARSITY, metric_names.DORMANT_FRACTION, metric_names.EFFECTIVE_AREA)
_WITH_FLAT_ZERO = frozenset(n.kind for n in NONLINEARITIES if n.has_flat_zero)
_SATURATING = frozenset(n.kind for n in NONLINEARITIES if n.saturates)

_HOW_TO_READ_MAPS = (
    "They need a pass of one sample: write input_fn=lambda batch: ... that returns the inputs and "
    "forward_fn=lambda model, inputs: ... that calls the model with them, or map_layers=[] for "
    "no maps."
)


class ActivationMonitor(Monitor):
    """Shows how every layer's activations change, and tells when units are dying.

    In healthy trainings, activations begin dense and become sparse and localised, so sparsity
    alone is no sign of trouble. A unit that fired before and is now 0 on many different inputs
    is one: usually the learning rate is too high.

    Every nonlinearity of the forward pass is read, whether it is a module or a function, at
    the steps 0 (before the first update), 5, 10, 15 and 20, then in bursts. A *unit* is a
    channel or a feature. It is *dead* if it was 0 at every position of at least 160 samples,
    over at least 3 snapshots: it then fires for fewer than 1.9 % of the inputs, which does not
    mean that it never will. GELU, SiLU, tanh and others have no flat zero, so their units are
    never called dead; their dormant and saturated shares are read instead. A layer is judged by
    the samples that have reached it; pruned units are not dead.

    All of this is read in the user's own pass. Only the maps need an extra pass. If that is not
    possible, only they are left out.

    It cannot see a learning rate that is too high without killing units, which is common in
    residual networks and transformers.

    Args:
        layers: Globs over the names of layers (`vis_callbacks.summary` lists them). Each of at
            most 20 layers gets its own scalars. None reads every nonlinearity and writes totals,
            the worst layer and a heat map.
        map_layers: Layers whose activation maps are shown for one reference sample. None takes
            the first, a middle and the last that a pass of this sample reaches; ``[]`` shows none.
        max_maps: Units per layer whose maps are shown, evenly spread over all; 16 fill the height
            of a screen.
        histograms: Also write counted histograms of the activations.
        **options: Those of every `Monitor`.

    Raises:
        TypeError, ValueError: An option is wrong.

    References:
        Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement learning".
    """

    stem: ClassVar[str] = "activations"
    default_options: ClassVar[MonitorOptions] = {"num_samples": 1}  # one sample is shown
    needs: ClassVar[frozenset[str]] = frozenset({"references"})
    default_schedule = Bursts()
    rules: ClassVar[Sequence[Rule]] = (
        NonFinite(),
        ConstantInputs(),
        DyingUnits(),
        DeadFromStart(),
        CollapsingWeights(),
        NewlyDeadUnits(),
        Saturation(),
        RawInputs(),
        UnreachedLayers(),
    )
    tags: ClassVar[Sequence[str]] = (
        "dead_fraction/total",
        "dead_fraction/worst_layer",
        "newly_dead/total",
        "sparsity/total",
        "effective_area/total",
        "update_ratio/<group>",
        "learning_rate/<group>",
        "dead_fraction/<layer>",
        "sparsity/<layer>",
        "effective_area/<layer>",
        "dormant_fraction/<layer>",
        "activations/maps/<layer>",
        "activations/unit_life",
        "activations/raster",
        "activations/histogram/<layer>",
        "activations/layers",
    )

    def __init__(
        self,
        layers: Sequence[str] | None = None,
        map_layers: Sequence[str] | None = None,
        max_maps: int = 16,
        histograms: bool = False,
        **options: Unpack[MonitorOptions],
    ) -> None:
        check_names("layers", layers, allow_empty=False)
        check_names("map_layers", map_layers)
        check_count("max_maps", max_maps)
        check_flag("histograms", histograms)
        self.layers = layers
        self.map_layers = map_layers
        self.max_maps = max_maps
        self.histograms = histograms
        super().__init__(**options)
        self._begin_anew()

    def probes(self) -> Sequence[Probe]:
        """Asks for the units of every nonlinearity, and once a burst for its maps."""
        from vis_callbacks.engine.probe import Probe

        reduce = partial(measure, number=lru_cache(256)(new_number))
        edges = lru_cache(8)(log_edges) if self.histograms else None  # sending them takes long
        reduce_maps = partial(measure_maps, edges=edges)
        return (
            Probe(name="units", reduce=reduce, merge=UNIT_SUMS, layers=self.layers),
            Probe(
                name="maps",
                reduce=reduce_maps,
                merge=MAP_SUMS | HISTOGRAM_SUMS,
                layers=self.layers,
                schedule=BurstEnds(self.schedule),
            ),
        )

    def observe(self, snapshot: Snapshot) -> Report:
        """Updates what is known of every unit and says what the layers do."""
        items: list[Item] = [*_of_run(snapshot)]
        if snapshot.values["units"]:
            items += self._of_units(snapshot, snapshot.values["units"])
        else:
            self.guard.record("observe", NothingToShow(self._why_nothing()))
        if "maps" in snapshot.values:
            items += _of_groups(snapshot.optimizer)
        return Report(step=snapshot.step, items=tuple(items))

    def state_dict(self) -> dict[str, Any]:
        """Returns what is known of the units and what the pictures show of the past."""
        return {name: part.state_dict() for name, part in self._remembered.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with what was known of the units; an empty state begins anew."""
        self._begin_anew()
        for name, part in self._remembered.items() if state else ():
            part.load_state_dict(state[name])

    def _begin_anew(self) -> None:
        self.dead_units = DeadUnitTracker()
        self._units_over_time = StateHistory()
        self._layers_over_time = StateHistory()
        self._films = MapFilms(self.map_layers, self.max_maps)
        self._is_masked: dict[str, bool] = {}

    @property
    def _remembered(self) -> dict[str, DeadUnitTracker | StateHistory | MapFilms]:
        return {
            "dead_units": self.dead_units,
            "units": self._units_over_time,
            "layers": self._layers_over_time,
            "films": self._films,
        }

    def _why_nothing(self) -> str:
        if self.layers is not None:
            return "none of the named layers was called"
        return (
            "no nonlinearity was seen in the forward pass (if the model has any, it did not run at"
            " this step, or ran in another thread or under vmap). Name layers to read: "
            'ActivationMonitor(layers=["..."]); vis_callbacks.summary(model, inputs) lists them'
        )

    def _of_units(self, snapshot: Snapshot, sums: Sums) -> Iterator[Item]:
        """Yields what rules learn of the units, and what is to be seen of them."""
        infos, tracker = {info.name: info for info in snapshot.trace}, self.dead_units
        cannot_die = {name for name in infos if infos[name].kind not in _WITH_FLAT_ZERO}
        tracker.cannot_die = frozenset(cannot_die)
        rows = UnitRows({name: sums[name] for name in infos if name in sums}, tracker.table)
        weights = snapshot.once(
            "weights of the activations", lambda: self._weights(infos, rows, snapshot.weights)
        )
        widths = rows.table.num_units
        norms = {name: n for name, (n, _) in weights.items() if len(n) == widths[name]}
        tracker.update(snapshot.step, rows, norms)
        names, metrics = tracker.metrics()
        yield RuleMetrics(
            metrics=(metric_names.NON_FINITE, metric_names.REACHED, *names),
            layers=rows.table.layers,
            values=torch.cat([torch.stack([rows.non_finite(), rows.num_samples]), metrics]),
        )
        yield from _of_flat_parts(rows, infos)
        if weights:
            sizes = torch.stack([torch.linalg.vector_norm(n) for n, _ in weights.values()])
            counts = torch.stack([count for _, count in weights.values()]).to(sizes)
            yield RuleMetrics(
                metrics=(metric_names.WEIGHT_NORM, metric_names.NUM_WEIGHTS),
                layers=tuple(weights),
                values=torch.stack([sizes, counts]),
            )
        if "maps" in snapshot.values:
            yield from self._shown(snapshot, rows, dict(zip(names, metrics, strict=True)))

    def _weights(
        self, infos: Mapping[str, LayerInfo], rows: UnitRows, weights: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Returns of each layer its units' norms and how many weights are not 0, where known.

        It learns which weights are masked, too.
        """
        known: dict[str, tuple[Tensor, Tensor]] = {}
        for layer, num_units in rows.table.num_units.items():
            name = infos[layer].weight_name if layer in infos else None
            if name is None:
                continue
            if layer not in self._is_masked:  # asked once: to find nothing takes long
                self._is_masked[layer] = has_mask(name, weights)
            weight = weights.get(name)
            norms = None if weight is None else unit_norms(weight, num_units)
            if weight is not None and norms is not None:
                known[layer] = norms, num_nonzero(weight)
        masked = {layer for layer, is_masked in self._is_masked.items() if is_masked}
        self.dead_units.masked = frozenset(masked)
        return known

    def _shown(
        self, snapshot: Snapshot, rows: UnitRows, metrics: Mapping[str, Tensor]
    ) -> Iterator[Item]:
        """Yields what is there to be looked at; rules need none of it."""
        layers, maps = rows.table.layers, snapshot.values["maps"]
        stats = rows.statistics(maps)
        values = torch.stack([stats[name] for name in _SHOWN])
        yield RuleMetrics(metrics=_SHOWN, layers=layers, values=values)
        yield LayerTable(
            tag="activations/layers",
            metrics=(_DEAD, *_SHOWN),
            layers=layers,
            values=torch.cat([metrics[_DEAD][None].to(values), values]),
        )
        can_die = any(layer not in self.dead_units.cannot_die for layer in layers)
        yield from self._scalars(layers, stats, metrics, can_die)
        percents = (100 * (metrics[_DEAD] if can_die else stats["dormant_fraction"])).round()
        percents, states = percents.nan_to_num(-1), self.dead_units.all_states()
        self._layers_over_time.append(snapshot.step, percents, dict.fromkeys(layers, 1))
        self._units_over_time.append(snapshot.step, states, rows.table.num_units)
        if snapshot.wants_pictures:
            # Where maps cannot be had, nothing else is lost over it.
            with self.guard.optional("maps of activations", _HOW_TO_READ_MAPS):
                yield from self._films.pictures(snapshot, self.options, self.dead_units)
            yield from self._pictures(snapshot.num_samples.get("units", 0), can_die)
        if self.histograms:
            for name in [name for name in layers if name in maps][:_MAX_LAYER_SCALARS]:
                counted = {total: maps[name][total] for total in HISTOGRAM_SUMS}
                spelled = f"activations/histogram/{tag(name)}"
                yield Histogram(tag=spelled, edges=log_edges(), **counted)

    def _scalars(
        self,
        layers: Sequence[str],
        stats: Mapping[str, Tensor],
        metrics: Mapping[str, Tensor],
        can_die: bool,
    ) -> Iterator[Scalar]:
        if can_die:
            width = metrics[metric_names.NUM_UNITS]
            for metric in (_DEAD, metric_names.NEWLY_DEAD):
                total = (metrics[metric] * width).nansum() / width.nansum()
                yield Scalar(tag=tag(metric, "total"), value=total)
            worst = metrics[_DEAD].nan_to_num(0).amax()
            yield Scalar(tag=tag(_DEAD, "worst_layer"), value=worst)
        for metric in ("sparsity", "effective_area"):
            yield Scalar(tag=tag(metric, "total"), value=stats[metric].nanmean())
        for metric, values in {_DEAD: metrics[_DEAD], **stats}.items() if self.layers else ():
            for layer, value in zip(layers[:_MAX_LAYER_SCALARS], values, strict=False):
                yield Scalar(tag=tag(metric, layer), value=value)

    def _pictures(self, num_samples: int, can_die: bool) -> Iterator[Picture]:
        tracker, percents = self.dead_units, self._layers_over_time.table()
        counts_rows, was_reached = tracker.counts_rows(), tracker.was_reached()
        draw = partial(
            draw_unit_life,
            rows=tracker.table.layers,
            steps=tuple(self._layers_over_time.steps),
            what="dead" if can_die else "dormant",
            num_samples=num_samples,
        )
        of_layers = {"percents": percents, "counts_rows": counts_rows, "was_reached": was_reached}
        yield Picture(tag="activations/unit_life", draw=draw, arrays=of_layers)
        if can_die:
            widths, steps = dict(tracker.table.num_units), tuple(self._units_over_time.steps)
            draw = partial(draw_raster, widths=widths, steps=steps)
            of_units = {"states": self._units_over_time.table(), "percents": percents[:, -1]}
            arrays = {**of_units, "counts_rows": counts_rows}
            yield Picture(tag="activations/raster", draw=draw, arrays=arrays)


def _of_run(snapshot: Snapshot) -> Iterator[RuleMetrics]:
    """Yields the numbers of the whole run that rules look at."""
    groups, stats = snapshot.optimizer, snapshot.input_stats
    numbers: dict[str, float | Tensor | None] = {
        metric_names.LEARNING_RATE: max((group.lr for group in groups), default=math.nan),
        metric_names.WEIGHT_DECAY: max((group.weight_decay for group in groups), default=math.nan),
        metric_names.NUM_SAMPLES: float(snapshot.num_samples.get("units", 0)),
        metric_names.CONSTANT_INPUTS: stats.get("share_constant"),
        metric_names.INPUT_MEAN: stats.get("mean"),
        metric_names.INPUT_STD: stats.get("std"),
    }
    if snapshot.loss is not None:
        loss = torch.as_tensor(snapshot.loss)
        numbers |= {metric_names.LOSS: loss, metric_names.NON_FINITE_LOSS: ~loss.isfinite()}
    tensors = {name: value for name, value in numbers.items() if isinstance(value, Tensor)}
    plain = {n: v for n, v in numbers.items() if v is not None and n not in tensors}
    yield RuleMetrics(metrics=tuple(plain), layers=("",), values=tuple(plain.values()))
    if tensors:
        values = torch.stack([value.double() for value in tensors.values()])
        yield RuleMetrics(metrics=tuple(tensors), layers=("",), values=values)


def _of_flat_parts(rows: UnitRows, infos: Mapping[str, LayerInfo]) -> Iterator[RuleMetrics]:
    """Yields the share of flat values of the layers whose nonlinearity has a flat part."""
    places: dict[str, list[int]] = {}
    for place, layer in enumerate(rows.table.layers):
        if layer in infos and infos[layer].kind in _SATURATING:
            places.setdefault(infos[layer].kind, []).append(place)
    shares = rows.flat_share() if places else torch.empty(0)
    for kind, of_kind in places.items():
        layers = tuple(rows.table.layers[place] for place in of_kind)
        yield RuleMetrics(
            metrics=(metric_names.flat_share_of(kind),), layers=layers, values=shares[of_kind]
        )


def _of_groups(groups: Sequence[Group]) -> Iterator[Scalar]:
    """Yields rate and update ratio of each group; of many, the largest and the smallest rate."""
    shown = list(groups)
    if len(shown) > _MAX_GROUPS:
        by_rate = sorted(shown, key=lambda group: group.lr)
        shown = [by_rate[0], by_rate[-1]]
    for group in shown:
        yield Scalar(tag=tag("learning_rate", group.name), value=group.lr)
        if group.weight_norm is not None and group.update_norm is not None:
            ratio = group.update_norm / group.weight_norm
            yield Scalar(tag=tag("update_ratio", group.name), value=ratio)
