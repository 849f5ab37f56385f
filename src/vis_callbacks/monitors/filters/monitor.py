"""`FilterMonitor`: the first layer's filters over time, and whether they learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

import numpy as np
import torch
from torch import Tensor

from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.alert import Rule
from vis_callbacks.alerts.rules.filters import (
    FiltersBlowUp,
    FiltersNotJudged,
    HardlyLearned,
    InitialNoise,
    OddFilters,
)
from vis_callbacks.alerts.rules.over_fitting import OverFitting
from vis_callbacks.engine.schedule import Decaying, EveryNEpochs
from vis_callbacks.engine.snapshot import Snapshot, Weights
from vis_callbacks.guard import Catch
from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.filters.layers import MAX_LAYERS, WatchedLayer, watched_layers
from vis_callbacks.monitors.filters.losses import check_loss_names, loss_pair
from vis_callbacks.monitors.filters.numbers import (
    MEASURED,
    FilterRecord,
    LayerNumbers,
    layer_numbers,
    readings_of,
    roughness_of_inputs,
    scalars_of,
)
from vis_callbacks.monitors.filters.pictures import draw_grid, draw_strip
from vis_callbacks.options import check_choice, check_count
from vis_callbacks.report import Item, Picture, Report, RuleMetrics, tag

if TYPE_CHECKING:
    from vis_callbacks.engine.probe import Probe
    from vis_callbacks.options import MonitorOptions

_MAX_SHOWN = 256
_MANY, _MANY_LARGE, _LARGE = 64, 25, 16  # filters in a picture, and the side of a large one
_HOW_TO_READ_INPUTS = "Write input_fn=lambda batch: ... that returns the inputs as a tensor."


class FilterMonitor(Monitor):
    """Shows the filters of the first layer, what training added, and whether they learn.

    The weights of the first layer apply to the input directly, so they can be shown as images. It
    is found by following one forward pass: a convolution in one to three dimensions, the patch
    embedding of a transformer, or a linear layer on flattened images. If several layers read the
    input, each of them is shown (at most 8).

    Noise in filters is mostly *inherited* from the initial weights and not learned, so each filter
    is shown with the part that training added. Noise alone is no sign of trouble, since healthy
    networks keep it. An alert is raised if the layer is noisy *and* has not moved (on 122
    trainings that no threshold was taken from: no false alarm, recall .68). Over-fitting does not
    show in the filters of natural images, so that remark uses the losses that the user logs.

    The numbers are read at step 0, every 50 steps up to step 500 and then every max(50,
    planned steps // 20); pictures once an epoch.

    Args:
        layer: Name of another layer to show, any one with a weight.
        max_filters: The most filters in the picture, 256 at most. Where a layer has more, those
            with the largest norm are shown. Defaults to 64, which fit a screen beside what was
            learned, or 25 if a filter is more than 16 pixels wide or high.
        scale: ``"filter"`` gives each filter its own colour scale, so that structure is visible in
            all of them; ``"layer"`` uses one scale for all, which shows the filters that matter.
            Both are centred on 0 and end at the 99 % quantile of the absolute values.
        order: ``"index"``, or ``"norm"``: the largest first, by the norm of the latest snapshot.
        image_shape: (channels, height, width) of the inputs before they were flattened, where a
            linear layer touches the input and the batch does not tell.
        loss_names: Names under which the user logs (training, validation) loss, or accuracy, for
            the remark on over-fitting. None finds "train_loss" and "val_loss" and the like.
        **options: Those of every `Monitor`.

    Raises:
        TypeError, ValueError: An option is wrong.

    References:
        Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks",
        figures 4 and 6.
    """

    stem: ClassVar[str] = "filters"
    needs: ClassVar[frozenset[str]] = frozenset({"references"})
    default_schedule = Decaying()
    picture_schedule = EveryNEpochs(1)
    rules: ClassVar[Sequence[Rule]] = (
        HardlyLearned(),
        FiltersBlowUp(),
        InitialNoise(),
        OverFitting(),
        OddFilters(),
        FiltersNotJudged(),
    )
    tags: ClassVar[Sequence[str]] = (
        "filter_noise/<layer>",
        "filter_change/<layer>",
        "filter_inherited/<layer>",
        "filter_learned_noise/<layer>",
        "filter_decay_left/<layer>",
        "filter_share/<which>/<layer>",
        "filters/<layer>",
        "filters/over_time/<layer>",
    )

    def __init__(
        self,
        layer: str | None = None,
        max_filters: int | None = None,
        scale: Literal["filter", "layer"] = "filter",
        order: Literal["index", "norm"] = "index",
        image_shape: Sequence[int] | None = None,
        loss_names: Sequence[str] | None = None,
        **options: Unpack[MonitorOptions],
    ) -> None:
        _check_layer(layer)
        _check_max_filters(max_filters)
        check_choice("scale", scale, ("filter", "layer"))
        check_choice("order", order, ("index", "norm"))
        _check_image_shape(image_shape)
        check_loss_names(loss_names)
        self.layer = layer
        self.max_filters = max_filters
        self.scale = scale
        self.order = order
        self.image_shape = image_shape
        self.loss_names = loss_names
        super().__init__(**options)
        self._records: dict[str, FilterRecord] = {}
        self._before_training: Tensor | None = None

    def probes(self) -> Sequence[Probe]:
        """Asks for no activation; keeps a named layer's weight as it is before the training."""
        model = self._model() if self._model is not None else None
        self._before_training = None
        if self.layer is not None and model is not None:
            with Catch():  # a wrong name is reported by observe; a lazy layer has no weight yet
                self._before_training = Weights(model)[f"{self.layer}.weight"].clone()
        return ()

    def observe(self, snapshot: Snapshot) -> Report:
        """Reads the weights and says what became of the initial ones."""
        layers = self._layers(snapshot)
        items: list[Item] = [*readings_of(layers), *self._readings_of_run(snapshot)]
        for of in layers:
            items += scalars_of(of)
            if snapshot.wants_pictures:
                items += [self._grid(of, snapshot.step), self._strip(of)]
        return Report(step=snapshot.step, items=tuple(items))

    def state_dict(self) -> dict[str, Any]:
        """Returns the initial filters and the frames of the strips."""
        return {"records": {name: record.state_dict() for name, record in self._records.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the initial filters; an empty state begins anew."""
        self._before_training = None
        self._records = {
            str(name): FilterRecord.restored(record)
            for name, record in state.get("records", {}).items()
        }

    def _layers(self, snapshot: Snapshot) -> list[LayerNumbers]:
        """Reads each layer; one that cannot be read is reported and left out."""
        read: list[LayerNumbers] = []
        errors: list[tuple[str, Exception]] = []
        for layer in watched_layers(snapshot, self.layer, self.image_shape)[:MAX_LAYERS]:
            with Catch() as caught:
                read.append(self._read(layer, snapshot))
            if caught.error is not None:
                errors.append((layer.name, caught.error))
        if not read:
            raise errors[0][1]
        for name, error in errors:
            with self.guard.optional(f'"{name}"'):  # no failure: the others are read
                raise error
        return read

    def _read(self, layer: WatchedLayer, snapshot: Snapshot) -> LayerNumbers:
        weight = snapshot.weights[layer.weight.weight_name or ""]
        filters = layer.filters(weight)
        record = self._record(layer, filters, snapshot)
        of_inputs = None
        with self.guard.optional("the roughness of the inputs", _HOW_TO_READ_INPUTS):
            of_inputs = roughness_of_inputs(layer, filters, record, snapshot.references)
        return layer_numbers(layer, weight, filters, record, snapshot, of_inputs)

    def _record(self, layer: WatchedLayer, filters: Tensor, snapshot: Snapshot) -> FilterRecord:
        """Returns the layer's past, up to date; it begins here if none is known."""
        record = self._records.get(layer.name)
        if record is not None:
            record.to(filters.device)
            if record.initial.shape == filters.shape or record.grow(filters):
                record.append(snapshot.step, filters)
                return record
        initial = self._initial(layer, filters) if snapshot.is_reference else None
        begins_with = filters if initial is None else initial
        record = FilterRecord(begins_with, snapshot.step, is_before_update=initial is not None)
        self._records[layer.name] = record
        return record

    def _initial(self, layer: WatchedLayer, filters: Tensor) -> Tensor | None:
        """Returns the filters before the first update, None where nobody kept them."""
        weight, self._before_training = self._before_training, None
        weight = layer.weight.initial if weight is None else weight
        if weight is None:
            return None
        initial = layer.filters(weight)
        return initial if initial.shape == filters.shape else None

    def _readings_of_run(self, snapshot: Snapshot) -> Iterator[RuleMetrics]:
        """Yields the numbers of the whole run that rules look at."""
        training, validation = loss_pair(snapshot.metrics, self.loss_names)
        if training is None and snapshot.loss is not None:
            training = torch.as_tensor(snapshot.loss)
        if snapshot.planned_steps is not None:
            planned = (float(snapshot.planned_steps),)
            yield RuleMetrics(metrics=(metric_names.PLANNED_STEPS,), layers=("",), values=planned)
        stats = snapshot.input_stats
        numbers = {
            metric_names.TRAINING_LOSS: training,
            metric_names.VALIDATION_LOSS: validation,
            metric_names.INPUT_MEAN: stats.get("mean"),
            metric_names.INPUT_STD: stats.get("std"),
        }
        for metric, value in numbers.items():
            if value is not None:
                yield RuleMetrics(metrics=(metric,), layers=("",), values=value.reshape(1))

    def _grid(self, of: LayerNumbers, step: int) -> Picture:
        numbers = of.numbers
        is_large = of.filters.ndim > 3 and max(of.filters.shape[2:]) > _LARGE
        many = _MANY_LARGE if is_large else _MANY
        draw = partial(
            _draw_grid,
            known=dict(of.known),
            layer=of.layer.name,
            step=step,
            num_filters=of.num_filters,
            max_filters=many if self.max_filters is None else self.max_filters,
            scale=self.scale,
            order=self.order,
        )
        arrays = {
            "filters": of.filters,
            "learned": of.split.learned,
            "learned_share": of.split.learned_share,
            "norms": numbers.norms,
            "rough": numbers.roughness,
            "is_dead": numbers.is_dead,
            "measured": of.measured,
        }
        if numbers.noise_like is not None:
            arrays["noise_like"] = numbers.noise_like
        return Picture(tag=f"filters/{tag(of.layer.name)}", draw=draw, arrays=arrays)

    def _strip(self, of: LayerNumbers) -> Picture:
        record = of.record
        draw = partial(
            draw_strip,
            layer=of.layer.name,
            steps=tuple(record.strip.steps),
            num_filters=of.num_filters,
            first_step=record.first_step,
            scale=self.scale,
            order=self.order,
        )
        frames = record.strip.stacked(of.filters.device)["filters"]
        norms = record.of_strip(of.numbers.norms)
        return Picture(
            tag=f"filters/over_time/{tag(of.layer.name)}",
            draw=draw,
            arrays={"frames": frames, "norms": norms},
        )


def _draw_grid(measured: np.ndarray, *, known: dict[str, float], **others: Any) -> np.ndarray:
    """Draws once the measured numbers have crossed to the host."""
    numbers = dict(zip(MEASURED, map(float, measured), strict=True)) | known
    return draw_grid(numbers=numbers, **others)


def _check_layer(layer: object) -> None:
    if layer is not None and not isinstance(layer, str):
        raise TypeError(f'layer={layer!r} is a {type(layer).__name__}. Use one name: "conv1".')
    if layer == "":
        raise ValueError('layer="" is not a name. Use None for the first layer.')


def _check_max_filters(max_filters: int | None) -> None:
    if max_filters is None:
        return
    check_count("max_filters", max_filters)
    if max_filters > _MAX_SHOWN:
        raise ValueError(
            f"max_filters={max_filters} is more than one picture can show. "
            f"Use at most {_MAX_SHOWN}."
        )


def _check_image_shape(value: object) -> None:
    if value is None:
        return
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"image_shape={value!r} is not a shape. Use (1, 28, 28).")
    for length in value:
        check_count("image_shape", length)
    if not 2 <= len(value) <= 4:
        raise ValueError(f"image_shape={tuple(value)} has {len(value)} axes. Use (1, 28, 28).")
