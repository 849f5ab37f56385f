"""`ActivationMonitor`: what every layer's activations do, and whether units are dying."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
import torch
from torch import Tensor

from vis_callbacks.alerts import readings
from vis_callbacks.alerts.alert import Rule
from vis_callbacks.alerts.rules.dead_units import DeadFromStart, DyingUnits, NewlyDeadUnits
from vis_callbacks.alerts.rules.inputs import ConstantInputs, RawInputs
from vis_callbacks.alerts.rules.non_finite import NonFinite
from vis_callbacks.alerts.rules.saturation import Saturation
from vis_callbacks.alerts.rules.weights import CollapsingWeights
from vis_callbacks.analysis.activations import (
    HISTOGRAM_MERGE,
    MAPS_MERGE,
    MERGE,
    Numbers,
    UnitRows,
    histogram,
    joined,
    log_edges,
    measure,
    measure_maps,
    statistics,
)
from vis_callbacks.analysis.nonlinearities import NONLINEARITIES
from vis_callbacks.analysis.unit_life import READINGS, LifeRaster, UnitLife
from vis_callbacks.analysis.updates import layer_norm, unit_norms
from vis_callbacks.callbacks.activations.map_strips import MapStrips
from vis_callbacks.callbacks.monitor import Monitor
from vis_callbacks.callbacks.options import check_count, check_flag, check_names
from vis_callbacks.engine.schedule import BurstEnds, Bursts
from vis_callbacks.engine.snapshot import Group, Snapshot
from vis_callbacks.render.heat_map import heat_map
from vis_callbacks.render.raster import DEAD, NEVER_FIRED, raster
from vis_callbacks.report import (
    Histogram,
    Image,
    Item,
    Readings,
    ReadingsTable,
    Report,
    Scalar,
    tag,
)

if TYPE_CHECKING:
    from vis_callbacks.callbacks.options import MonitorOptions
    from vis_callbacks.engine.probe import Activation, Batch, LayerInfo, Probe

_DEAD = readings.DEAD_FRACTION
_SHOWN = (readings.SPARSITY, readings.DORMANT_FRACTION, readings.EFFECTIVE_AREA)
_WITH_FLAT_ZERO = frozenset(n.kind for n in NONLINEARITIES if n.has_flat_zero)
_FLAT_READING = {n.kind: readings.flat_share_of(n.kind) for n in NONLINEARITIES if n.saturates}
# TensorBoard draws a card for each tag; more than these nobody looks through.
_MAX_LAYER_SCALARS = 20
_MAX_GROUPS = 3


class ActivationMonitor(Monitor):
    """Shows what every layer's activations do, and tells when units are dying.

    In healthy training activations begin dense and blobby and become sparse and localised, so
    sparsity alone is no alarm. A unit that fired before and is now 0 for every one of many
    different inputs is one: mostly the learning rate is too high.

    Every nonlinearity of the forward pass is read, whether it is a module or a function, at
    the steps 0 (before the first update), 5, 10, 15 and 20, then in bursts. A *unit* is a
    channel or a feature; it is *dead* when it was 0 at every position of every one of at least
    160 samples, over at least 3 snapshots: that says that it fires for fewer than 1.9 % of the
    inputs, not that it never will. GELU, SiLU, tanh and others have no flat zero: they are
    never called dead; their dormant and saturated shares are read instead.

    What it cannot see: a rate that is too high without killing units, as often in residual
    networks and transformers.

    Args:
        layers: Globs over the names of layers (`vis_callbacks.summary` lists them); each gets
            scalars of its own, for 20 layers at most. None reads every nonlinearity and writes
            totals, the worst layer and a heat map.
        map_layers: Layers whose activation maps are shown for one reference sample. None takes
            the first, a middle and the last.
        max_maps: Units a layer whose maps are shown, evenly spread over all: 16 fill a picture
            of the height of a screen.
        histograms: Also write counted histograms of the activations.
        **options: Those of every `Monitor`.

    Raises:
        TypeError, ValueError: An option is wrong.

    References:
        Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement learning".
    """

    stem: ClassVar[str] = "activations"
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
        options.setdefault("num_samples", 1)  # one sample is shown
        super().__init__(**options)
        self._forget_units()

    def probes(self) -> Sequence[Probe]:
        """Asks for the units of every nonlinearity, and once a burst for its maps."""
        from vis_callbacks.engine.probe import Probe

        edges = log_edges() if self.histograms else None
        return (
            Probe(
                name="units",
                reduce=partial(_reduce_units, numbers=Numbers()),
                merge=MERGE,
                layers=self.layers,
            ),
            Probe(
                name="maps",
                reduce=partial(_reduce_maps, edges=edges),
                merge={**MAPS_MERGE, **HISTOGRAM_MERGE},
                layers=self.layers,
                schedule=BurstEnds(self.schedule),
            ),
        )

    def observe(self, snapshot: Snapshot) -> Report:
        """Updates the life of every unit and says what the layers do."""
        measures = snapshot.values["units"]
        if not measures:
            raise ValueError(
                "no nonlinearity was seen in the forward pass. Name layers to read: "
                'ActivationMonitor(layers=["..."]); vis_callbacks.summary(model, inputs) lists them'
            )
        infos = {info.name: info for info in snapshot.trace}
        measures = {name: measures[name] for name in infos if name in measures}
        self.life.immortal = {name for name in infos if infos[name].kind not in _WITH_FLAT_ZERO}
        rows = UnitRows.of(joined(self.life.table, measures), measures)
        norms = snapshot.once(
            "norms of the activations' weights",
            lambda: _unit_norms(infos, list(measures), snapshot.weights),
        )
        self.life.update(snapshot.step, rows, norms)
        table = self.life.readings()
        items: list[Item] = [
            *_run_readings(snapshot),
            ReadingsTable(
                metrics=(readings.NON_FINITE, *READINGS),
                layers=rows.table.layers,
                values=torch.cat([rows.non_finite()[None], table]),
            ),
            *_flat_readings(rows, infos),
            *_norm_readings(norms),
        ]
        if "maps" in snapshot.values:
            life = dict(zip(READINGS, table, strict=True))
            items += self._shown(snapshot, rows, life)
        return Report(step=snapshot.step, items=tuple(items))

    def _shown(
        self, snapshot: Snapshot, rows: UnitRows, life: Mapping[str, Tensor]
    ) -> Iterator[Item]:
        """Yields what is there to be looked at; rules need none of it."""
        layers, maps = rows.table.layers, snapshot.values["maps"]
        stats = statistics(rows, maps)
        yield ReadingsTable(
            metrics=_SHOWN, layers=layers, values=torch.stack([stats[name] for name in _SHOWN])
        )
        yield from self._scalars(layers, stats, life)
        yield from _group_scalars(snapshot.optimizer)
        shown = life[_DEAD] if self._can_die(layers) else stats["dormant_fraction"]
        self._layers_over_time.append(snapshot.step, (100 * shown).round().nan_to_num(-1))
        self._units_over_time.append(snapshot.step, self.life.all_states())
        if snapshot.wants_pictures:
            yield from self._pictures(snapshot, layers)
        if self.histograms:
            yield from _histograms([name for name in layers if name in maps], maps)

    def _can_die(self, layers: Sequence[str]) -> bool:
        return any(layer not in self.life.immortal for layer in layers)

    def state(self) -> Mapping[str, Any]:
        """Returns the life of the units and what the pictures show of the past."""
        return {
            "life": self.life.state(),
            "units": self._units_over_time.state(),
            "layers": self._layers_over_time.state(),
            "strips": self._strips.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on with the life of the units; an empty state begins anew."""
        self._forget_units()
        if state:
            self.life.restore(state["life"])
            self._units_over_time.restore(state["units"])
            self._layers_over_time.restore(state["layers"])
            self._strips.restore(state["strips"])

    def _forget_units(self) -> None:
        self.life = UnitLife()
        self._units_over_time = LifeRaster()
        self._layers_over_time = LifeRaster()
        self._strips = MapStrips(self.map_layers, self.max_maps)

    def _scalars(
        self, layers: Sequence[str], stats: Mapping[str, Tensor], life: Mapping[str, Tensor]
    ) -> Iterator[Scalar]:
        if self._can_die(layers):
            width = life[readings.NUM_UNITS]
            for metric in (_DEAD, readings.NEWLY_DEAD):
                total = (life[metric] * width).nansum() / width.nansum()
                yield Scalar(tag=tag(metric, "total"), value=total)
            worst = life[_DEAD].nan_to_num(0).amax()
            yield Scalar(tag=tag(_DEAD, "worst_layer"), value=worst)
        for metric in ("sparsity", "effective_area"):
            yield Scalar(tag=tag(metric, "total"), value=stats[metric].nanmean())
        if self.layers is not None:
            numbers = {
                _DEAD: life[_DEAD],
                **{m: stats[m] for m in ("sparsity", "effective_area", "dormant_fraction")},
            }
            for metric, values in numbers.items():
                for layer, value in zip(layers[:_MAX_LAYER_SCALARS], values, strict=False):
                    yield Scalar(tag=tag(metric, layer), value=value)

    def _pictures(self, snapshot: Snapshot, layers: Sequence[str]) -> Iterator[Image]:
        yield from self._strips.pictures(snapshot, self.options, self.life)
        can_die = self._can_die(layers)
        percents = self._layers_over_time.table()
        yield Image(
            tag="activations/unit_life",
            draw=partial(
                _draw_unit_life,
                rows=layers,
                steps=self._layers_over_time.steps,
                what="dead" if can_die else "dormant",
                num_samples=snapshot.num_samples.get("units", 0),
            ),
            arrays={"percents": percents},
        )
        if can_die and self.life.table is not None:
            yield Image(
                tag="activations/raster",
                draw=partial(
                    _draw_raster,
                    widths=dict(self.life.table.num_units),
                    steps=self._units_over_time.steps,
                    min_samples=self.life.min_samples,
                ),
                arrays={"states": self._units_over_time.table(), "percents": percents[:, -1]},
            )


def _reduce_units(activation: Activation, batch: Batch, numbers: Numbers) -> dict[str, Tensor]:
    return measure(
        activation.values,
        activation.nonlinearity,
        activation.inputs,
        num_samples=batch.num_samples,
        sums=activation.magnitudes,
        numbers=numbers,
    )


def _reduce_maps(activation: Activation, batch: Batch, edges: Tensor | None) -> dict[str, Tensor]:
    measured = measure_maps(activation.values, activation.nonlinearity, sums=activation.magnitudes)
    if edges is not None:
        measured |= histogram(activation.values, edges.to(activation.values.device))
    return measured


def _unit_norms(
    infos: Mapping[str, LayerInfo], names: Sequence[str], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Returns by layer the norm of each unit's incoming weights, where these are known."""
    norms: dict[str, Tensor] = {}
    for name in names:
        weight_name = infos[name].weight_name
        if weight_name is None or weight_name not in weights:
            continue
        weight = weights[weight_name]
        num_units = infos[name].num_units
        is_transposed = weight.shape[0] != num_units
        groups = num_units // weight.shape[1] if is_transposed else 1
        norm = unit_norms(weight, is_transposed=is_transposed, groups=groups)
        if norm.shape[0] == num_units:
            norms[name] = norm
    return norms


def _run_readings(snapshot: Snapshot) -> Iterator[ReadingsTable]:
    """Yields the numbers of the whole run that rules look at."""
    groups, stats = snapshot.optimizer, snapshot.input_stats
    known = {
        readings.LEARNING_RATE: max((group.lr for group in groups), default=math.nan),
        readings.WEIGHT_DECAY: max((group.weight_decay for group in groups), default=math.nan),
        readings.NUM_SAMPLES: float(snapshot.num_samples.get("units", 0)),
    }
    measured = {
        readings.CONSTANT_INPUTS: stats.get("share_constant"),
        readings.INPUT_MEAN: stats.get("mean"),
        readings.INPUT_STD: stats.get("std"),
    }
    if snapshot.loss is not None:
        loss = torch.as_tensor(snapshot.loss)
        measured |= {readings.LOSS: loss, readings.NON_FINITE_LOSS: ~loss.isfinite()}
    numbers = {metric: value.double() for metric, value in measured.items() if value is not None}
    columns = tuple((value,) for value in known.values())
    yield ReadingsTable(metrics=tuple(known), layers=("",), values=columns)
    if numbers:
        values = torch.stack(list(numbers.values()))[:, None]
        yield ReadingsTable(metrics=tuple(numbers), layers=("",), values=values)


def _flat_readings(rows: UnitRows, infos: Mapping[str, LayerInfo]) -> Iterator[Readings]:
    layers = rows.table.layers
    by_metric: dict[str, list[int]] = {}
    for place, name in enumerate(layers):
        metric = _FLAT_READING.get(infos[name].kind)
        if metric is not None:
            by_metric.setdefault(metric, []).append(place)
    if by_metric:
        shares = rows.flat_share()
        for metric, places in by_metric.items():
            named = tuple(layers[place] for place in places)
            yield Readings(metric=metric, layers=named, values=shares[places])


def _norm_readings(norms: Mapping[str, Tensor]) -> Iterator[Readings]:
    if norms:
        values = torch.stack([layer_norm(norm) for norm in norms.values()])
        yield Readings(metric=readings.WEIGHT_NORM, layers=tuple(norms), values=values)


def _group_scalars(groups: Sequence[Group]) -> Iterator[Scalar]:
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


def _histograms(
    names: Sequence[str], measures: Mapping[str, Mapping[str, Tensor]]
) -> Iterator[Histogram]:
    edges = log_edges()
    for name in list(names)[:_MAX_LAYER_SCALARS]:
        measured = measures[name]
        yield Histogram(
            tag=f"activations/histogram/{tag(name)}",
            counts=measured["counts"],
            edges=edges,
            total=measured["total"],
            total_of_squares=measured["total_of_squares"],
        )


def _draw_unit_life(
    percents: np.ndarray, *, rows: Sequence[str], steps: Sequence[int], what: str, num_samples: int
) -> np.ndarray:
    shares = np.where(percents < 0, np.nan, percents / 100.0)
    meaning = {
        "dead": "dead: 0 for every one of 160 samples or more, over 3 snapshots or more",
        "dormant": "dormant: on average below a tenth of the layer's mean (no flat zero here)",
    }[what]
    caption = [
        f"{what} units by layer and step, first layer on top; step {steps[-1]:,}, "
        f"{num_samples} samples a snapshot",
        meaning,
    ]
    return heat_map(shares, rows, steps, caption, units=f"{what} fraction")


def _draw_raster(
    states: np.ndarray,
    percents: np.ndarray,
    *,
    widths: Mapping[str, int],
    steps: Sequence[int],
    min_samples: int,
) -> np.ndarray:
    layers = list(widths)
    by_layer = np.split(states, np.cumsum(list(widths.values()))[:-1])
    # Whole percents: of a wide layer a few units are 0 %.
    died = [np.count_nonzero(rows[:, -1] == DEAD) for rows in by_layer]
    worst = max(range(len(layers)), key=lambda layer: (percents[layer], died[layer]))
    if percents[worst] > 0:
        why = f"the layer with most dead units ({percents[worst]} %)"
    elif died[worst]:
        why = f"{died[worst]} of them dead"
    else:
        # A unit that never fired is dead, too, but for how many samples is not known here.
        has_silent = any((rows[:, -1] == NEVER_FIRED).any() for rows in by_layer)
        why = "no unit of any layer " + ("has died" if has_silent else "is dead")
    rows = by_layer[worst]
    caption = [
        f"life of the units of {layers[worst]}; {why}",
        f"dead: 0 for every one of {min_samples} samples or more",
    ]
    return raster(rows, steps, caption)
