"""`ActivationMonitor`: what every layer's activations do, and whether units are dying."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from torch import Tensor

from vis_callbacks.alerts import readings
from vis_callbacks.alerts.alert import Rule
from vis_callbacks.alerts.rules.dead_units import DeadFromStart, DyingUnits, NewlyDeadUnits
from vis_callbacks.alerts.rules.inputs import ConstantInputs, RawInputs
from vis_callbacks.alerts.rules.non_finite import NonFinite
from vis_callbacks.alerts.rules.saturation import Saturation
from vis_callbacks.alerts.rules.unreached import UnreachedLayers
from vis_callbacks.alerts.rules.weights import CollapsingWeights
from vis_callbacks.analysis.activations import (
    HISTOGRAM_MERGE,
    MAPS_MERGE,
    MERGE,
    Measures,
    Numbers,
    UnitRows,
    histogram,
    joined,
    log_edges,
    measure,
    measure_maps,
    statistics,
)
from vis_callbacks.analysis.life_raster import LifeRaster
from vis_callbacks.analysis.nonlinearities import NONLINEARITIES
from vis_callbacks.analysis.unit_life import READINGS, UnitLife
from vis_callbacks.callbacks.activations.map_strips import MapStrips
from vis_callbacks.callbacks.activations.numbers import (
    MAX_LAYER_SCALARS,
    UnitWeights,
    flat_readings,
    group_scalars,
    has_mask,
    histograms,
    run_readings,
    unit_weights,
    weight_readings,
)
from vis_callbacks.callbacks.activations.pictures import draw_raster, draw_unit_life
from vis_callbacks.callbacks.extras import Extras
from vis_callbacks.callbacks.monitor import Monitor
from vis_callbacks.callbacks.options import check_count, check_flag, check_names
from vis_callbacks.engine.schedule import BurstEnds, Bursts
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.guard import NothingToShow
from vis_callbacks.report import (
    Image,
    Item,
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

_HOW_TO_READ_MAPS = (
    "They need a pass of one sample: write input_fn=lambda batch: ... that returns the inputs and "
    "forward_fn=lambda model, inputs: ... that calls the model with them, or map_layers=[] for "
    "no maps."
)


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
    never called dead; their dormant and saturated shares are read instead. A layer is judged by
    the samples that have reached it; pruned units are not dead.

    All of this is read of the user's own pass. Only the maps need an extra one: where that is
    not possible, they alone are left out.

    What it cannot see: a rate that is too high without killing units, as often in residual
    networks and transformers.

    Args:
        layers: Globs over the names of layers (`vis_callbacks.summary` lists them); each gets
            scalars of its own, for 20 layers at most. None reads every nonlinearity and writes
            totals, the worst layer and a heat map.
        map_layers: Layers whose activation maps are shown for one reference sample. None takes
            the first, a middle and the last that a pass of this sample reaches; ``[]`` shows none.
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
        items: list[Item] = [*run_readings(snapshot)]
        measures = snapshot.values["units"]
        if measures:
            items += self._of_units(snapshot, measures)
        else:
            self.guard.note("observe", NothingToShow(self._why_nothing()))
        if "maps" in snapshot.values:
            items += group_scalars(snapshot.optimizer)
        return Report(step=snapshot.step, items=tuple(items))

    def _of_units(self, snapshot: Snapshot, measures: Measures) -> Iterator[Item]:
        """Yields what rules learn of the units, and what is to be seen of them."""
        infos = {info.name: info for info in snapshot.trace}
        measures = {name: measures[name] for name in infos if name in measures}
        self.life.immortal = {name for name in infos if infos[name].kind not in _WITH_FLAT_ZERO}
        rows = UnitRows.of(joined(self.life.table, measures), measures)
        widths = {name: n for name, n in rows.table.num_units.items() if name in infos}
        weights = snapshot.once(
            "weights of the activations", lambda: self._weights(infos, widths, snapshot.weights)
        )
        norms = {n: w.norms for n, w in weights.items() if len(w.norms) == widths[n]}
        self.life.update(snapshot.step, rows, norms)
        table = self.life.readings()
        yield ReadingsTable(
            metrics=(readings.NON_FINITE, readings.REACHED, *READINGS),
            layers=rows.table.layers,
            values=torch.cat([torch.stack([rows.non_finite(), rows.num_samples]), table]),
        )
        yield from flat_readings(rows, infos)
        yield from weight_readings(weights)
        if "maps" in snapshot.values:
            yield from self._shown(snapshot, rows, dict(zip(READINGS, table, strict=True)))

    def _weights(
        self,
        infos: Mapping[str, LayerInfo],
        widths: Mapping[str, int],
        weights: Mapping[str, Tensor],
    ) -> dict[str, UnitWeights]:
        """Returns by layer what is known of its units' weights, and learns which are masked."""
        names = {name: infos[name].weight_name for name in widths}
        for name, weight_name in names.items():
            if name not in self._is_masked:  # asked once: to find nothing takes long
                self._is_masked[name] = has_mask(weight_name, weights)
        self.life.masked = {name for name, is_masked in self._is_masked.items() if is_masked}
        return unit_weights(names, widths, weights)

    def _why_nothing(self) -> str:
        if self.layers is not None:
            return "none of the layers that it was told to read was called"
        return (
            "no nonlinearity was seen in the forward pass. Name layers to read: "
            'ActivationMonitor(layers=["..."]); vis_callbacks.summary(model, inputs) lists them'
        )

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
        shown = life[_DEAD] if self._can_die(layers) else stats["dormant_fraction"]
        percents = (100 * shown).round().nan_to_num(-1)
        self._layers_over_time.append(snapshot.step, percents, dict.fromkeys(layers, 1))
        widths = rows.table.num_units
        self._units_over_time.append(snapshot.step, self.life.all_states(), widths)
        if snapshot.wants_pictures:
            yield from self._pictures(snapshot, layers)
        if self.histograms:
            yield from histograms([name for name in layers if name in maps], maps)

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
        self._is_masked: dict[str, bool] = {}
        self._extras = Extras(type(self).__name__)

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
                for layer, value in zip(layers[:MAX_LAYER_SCALARS], values, strict=False):
                    yield Scalar(tag=tag(metric, layer), value=value)

    def _pictures(self, snapshot: Snapshot, layers: Sequence[str]) -> Iterator[Image]:
        yield from self._maps(snapshot)
        can_die = self._can_die(layers)
        percents = self._layers_over_time.table()
        yield Image(
            tag="activations/unit_life",
            draw=partial(
                draw_unit_life,
                rows=layers,
                steps=self._layers_over_time.steps,
                what="dead" if can_die else "dormant",
                num_samples=snapshot.num_samples.get("units", 0),
            ),
            arrays={
                "percents": percents,
                "counts_rows": self.life.counts_rows(),
                "was_reached": self.life.was_reached(),
            },
        )
        if can_die and self.life.table is not None:
            yield Image(
                tag="activations/raster",
                draw=partial(
                    draw_raster,
                    widths=dict(self.life.table.num_units),
                    steps=self._units_over_time.steps,
                    min_samples=self.life.min_samples,
                ),
                arrays={
                    "states": self._units_over_time.table(),
                    "percents": percents[:, -1],
                    "counts_rows": self.life.counts_rows(),
                },
            )

    def _maps(self, snapshot: Snapshot) -> Iterator[Image]:
        """Yields the strips of maps; where one cannot be had, nothing else is lost over it."""
        with self._extras.contain("maps of activations", _HOW_TO_READ_MAPS):
            yield from self._strips.pictures(snapshot, self.options, self.life)


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
