"""Reading top-activating patches as the batches of an evaluation pass by."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from vis_callbacks.engine.labels import whole_labels
from vis_callbacks.engine.sample_numbers import sample_numbers
from vis_callbacks.engine.scores import Unit, describe
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitors.top_patches.receptive_field import ReceptiveField
from vis_callbacks.monitors.top_patches.records import merged, packed
from vis_callbacks.monitors.top_patches.science import (
    ByteImages,
    as_bytes,
    as_pictures,
    factor_and_side,
    finite_samples,
    top_patches,
)

if TYPE_CHECKING:
    from vis_callbacks.engine.probe import Activation, Batch, Probe

PROBE = "patches"

Chosen = Literal["random", "strongest", "selective"]

MAX_PATCH_SIDE = 64  # larger ones are averaged: more would not be seen in a row of nine
MAX_IMAGE_SIDE = 256
_FEW_UNITS = 16  # of more, whole images are kept no larger than patches
_MAX_BYTES = 64 * 2**20  # of the units among which the strongest are looked for
_NUM_LAYERS = 2  # shown where none are named


@dataclass(frozen=True)
class UnitChoice:
    """Which units of a layer are watched: ``max_units`` that a word chooses, or those named."""

    units: Chosen | Sequence[int | str]
    max_units: int
    seed: int

    @property
    def is_measured(self) -> bool:
        """Whether the choice is made among many, once they have been read."""
        return self.units in ("strongest", "selective")

    def candidates(self, layer: str, num_units: int, most: int) -> list[int]:
        """Returns the units to read, in increasing order; at most ``most`` that are not named."""
        if isinstance(self.units, str):
            count = min(num_units, most if self.is_measured else self.max_units)
            generator = torch.Generator().manual_seed(self.seed)
            drawn: list[int] = torch.randperm(num_units, generator=generator)[:count].tolist()
            return sorted(drawn)
        wanted = self._of_layer(layer)
        for unit in wanted:
            unit.check({layer: num_units})
        return list(dict.fromkeys(unit.index for unit in wanted))

    def fits(self, layer: str, num_units: int) -> bool:
        """Whether the layer has the units that are named, one at least."""
        if isinstance(self.units, str):
            return True
        named = self._of_layer(layer)
        return bool(named) and all(unit.index < num_units for unit in named)

    def _of_layer(self, layer: str) -> list[Unit]:
        parsed = [Unit.parse(u) if isinstance(u, str) else Unit(layer, u) for u in self.units]
        return [unit for unit in parsed if unit.layer == layer]


def check_units(units: object) -> None:
    """Raises unless it is one of the words, or whole numbers and names of units."""
    words = get_args(Chosen)
    listed = ", ".join(f'"{word}"' for word in words)
    if isinstance(units, str):
        if units not in words:
            raise ValueError(
                f'units="{units}" is not one of the choices. Use {listed}, or a list: '
                '[3, 17] or ["layer4.1.relu-1:17"].'
            )
        return
    if not isinstance(units, Sequence) or isinstance(units, bytes) or not units:
        raise TypeError(f"units={units!r} is not a list of units. Use {listed}, or [3, 17].")
    for unit in units:
        parsed = Unit.parse(unit) if isinstance(unit, str) else Unit("", unit)
        if parsed.position is not None:
            raise ValueError(
                f'units holds "{unit}", one position of a unit. Patches are looked for at all '
                f'positions: use "{parsed.layer}:{parsed.index}".'
            )


class _LastLayers:
    """The last two layers whose units have places, or else the last; found in a first batch.

    Which these are is known when the batch is over. Until then each layer that comes takes the
    place of an earlier one, whose patches are let go of.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._have_places = self._is_settled = False

    @property
    def chosen(self) -> list[str]:
        return list(self._kept)

    def settle(self) -> None:
        """Keeps to what has been found, and lets go of the first batch's patches."""
        self._kept, self._is_settled = {name: {} for name in self._kept}, True

    def may_want(self, layer: str, *, has_places: bool) -> bool:
        if self._is_settled:
            return layer in self._kept
        return has_places or not self._have_places

    def keep(self, layer: str, found: dict[str, Tensor], *, has_places: bool) -> None:
        """Takes what was found of a layer that is wanted."""
        if self._is_settled:
            return
        count = _NUM_LAYERS - 1 if has_places and self._have_places else 0
        for name in list(self._kept)[: max(0, len(self._kept) - count)]:
            for value in self._kept.pop(name).values():
                value.set_()  # type: ignore[call-overload]  # the engine holds it, too
        self._kept[layer], self._have_places = found, has_places or self._have_places


class PatchReader:
    """The reduction: of each batch the best patches of each unit, with the pixels under them.

    It is made for one run and keeps only what is the same for all batches of it.

    Args:
        choice: Which units.
        top_k, per_image: At most so many patches of a unit, and of one image.
        keep_whole: Keep the whole images.
        fields: By layer; one that is not there yet sees the whole image.
        meet: Called with the inputs of each batch, and whether they have labels.
        chooses_layers: Show the last two layers whose units have places, or else the last.
    """

    def __init__(
        self,
        choice: UnitChoice,
        *,
        top_k: int,
        per_image: int,
        keep_whole: bool,
        fields: Mapping[str, ReceptiveField],
        meet: Callable[[Tensor, bool], object],
        chooses_layers: bool = False,
    ) -> None:
        self._choice = choice
        self._top_k = top_k
        self._per_image = per_image
        self._keep_whole = keep_whole
        self._fields = fields
        self._meet = meet
        self._layers = _LastLayers() if chooses_layers else None
        self._in_batch: set[str] = set()
        self.misfits: set[str] = set()
        self._indices: dict[tuple[str, int, torch.device], Tensor] = {}
        self._boxes: dict[tuple[object, ...], tuple[Tensor, int] | None] = {}
        # Several layers read the same batch; what is kept of it goes when it goes.
        self._batch: weakref.ref[Batch] | None = None
        self._images: dict[int, ByteImages] = {}

    def __getstate__(self) -> dict[str, object]:
        return vars(self) | {"_batch": None, "_images": {}}  # a weak reference cannot be pickled

    def probe(self, layers: Sequence[str] | None) -> Probe:
        """Returns what to read, of these layers."""
        from vis_callbacks.engine.probe import Probe

        return Probe(
            name=PROBE,
            reduce=self.read,
            merge={
                "top": partial(merged, top_k=self._top_k, seed=self._choice.seed),
                "fired": "sum",
                "ignored": "sum",
            },
            layers=layers,
            occasion="evaluation",
        )

    def read(self, activation: Activation, batch: Batch) -> dict[str, Tensor]:
        """Returns packed patches, how many samples excite each unit, and how many are ignored.

        Of layers whose rows are not samples, and of those that are not chosen, nothing.
        """
        layer, values = activation.layer, activation.values
        self._turn_to(batch)
        if len(values) != batch.num_samples:
            self.misfits.add(layer)
        if layer in self._in_batch or layer in self.misfits:
            return {}  # of two passes over a batch the first counts
        self._in_batch.add(layer)
        if self._layers is None:
            return self._patches(activation, values, batch)
        has_places = values.shape[2] > 1
        fits = self._choice.fits(layer, values.shape[1])
        if not fits or not self._layers.may_want(layer, has_places=has_places):
            return {}
        found = self._patches(activation, values, batch)
        self._layers.keep(layer, found, has_places=has_places)
        return found

    def shown(self, met: Sequence[str]) -> list[str]:
        """Returns the layers, of those met, of which patches are shown."""
        chosen = met if self._layers is None else self._layers.chosen
        return [name for name in met if name in chosen and name not in self.misfits]

    def _turn_to(self, batch: Batch) -> None:
        """Begins a batch, if this is another one."""
        if self._batch is None or self._batch() is not batch:
            if self._layers is not None and self._in_batch:
                self._layers.settle()
            self._in_batch.clear()
            self._images.clear()
            self._batch = weakref.ref(batch, lambda _: self._images.clear())

    def _patches(self, activation: Activation, values: Tensor, batch: Batch) -> dict[str, Tensor]:
        inputs = _visible(batch.inputs)
        size = (*as_pictures(inputs[:0]).shape[2:],)
        found = self._boxes_of(activation, size, inputs.dim())
        boxes, extent = found or (None, max(size))
        keeps_whole = boxes is None or self._keep_whole
        index = self._index_of(activation.layer, values, max(size))
        if not len(index):  # units of other layers are named
            none = torch.zeros(0, dtype=torch.int64, device=values.device)
            records = torch.zeros(0, 0, 1, 0, dtype=torch.uint8, device=values.device)
            return {"top": records, "fired": none, "ignored": none.sum()}
        is_large = keeps_whole and len(index) <= _FEW_UNITS
        factor, side = factor_and_side(
            max(size) if keeps_whole else extent, MAX_IMAGE_SIDE if is_large else MAX_PATCH_SIDE
        )
        if factor not in self._images:
            self._images[factor] = as_bytes(inputs, factor)
        images, shown = self._images[factor], values[:, index].float()
        is_valid = finite_samples(shown, images)
        labels = whole_labels(batch.labels, len(inputs))
        self._meet(inputs, labels is not None)
        top = top_patches(
            shown,
            images,
            samples=sample_numbers(batch, values.device),
            is_valid=is_valid,
            labels=labels,
            boxes=boxes,
            keep_whole=keeps_whole,
            top_k=self._top_k,
            per_sample=self._per_image if boxes is not None else 1,
            side=side,
            seed=self._choice.seed,
        )
        return {
            "top": packed(top),
            "fired": ((shown.amax(2) > 0) & is_valid.unsqueeze(1)).sum(0),
            "ignored": (~is_valid).sum(),
        }

    def _index_of(self, layer: str, values: Tensor, image_side: int) -> Tensor:
        """Returns the units that are read, on the device."""
        num_units = values.shape[1]
        key = (layer, num_units, values.device)
        if key not in self._indices:
            side = min(image_side, MAX_PATCH_SIDE)
            most = max(self._choice.max_units, _MAX_BYTES // (self._top_k * 3 * side * side))
            chosen = self._choice.candidates(layer, num_units, most)
            self._indices[key] = torch.tensor(chosen, dtype=torch.int64, device=values.device)
        return self._indices[key]

    def _boxes_of(
        self, activation: Activation, size: tuple[int, ...], rank: int
    ) -> tuple[Tensor, int] | None:
        """Returns what each position sees and the longest side of it; None: all of the image."""
        field = self._fields.get(activation.layer)
        if field is None or field.is_global:
            return None
        (_, num_units, count), shape = activation.values.shape, activation.shape
        grid = field.grid
        if len(shape) == len(grid) + 2:  # images may differ in size
            grid = shape[2:] if shape[1] == num_units else shape[1:-1]
        key = (activation.layer, grid, count, size, activation.values.device)
        if key not in self._boxes:
            boxes = boxes_of(field, grid, size, rank)
            self._boxes[key] = None
            if boxes is not None and len(boxes) == count:
                extent = max(1, int((boxes[:, 2:] - boxes[:, :2]).max()))
                self._boxes[key] = boxes.to(activation.values.device), extent
        return self._boxes[key]


def _visible(inputs: Tensor | None) -> Tensor:
    """Returns inputs of which something can be shown. Raises NothingToShow for all others."""
    if inputs is None:
        raise NothingToShow(
            "the batches have no inputs to cut patches from. Write input_fn=lambda batch: ... that "
            "returns the images."
        )
    if inputs.dim() < 3 and not inputs.is_floating_point():
        raise NothingToShow(
            f"the inputs are {describe(inputs)}, tokens or indices, of which no part can be shown."
        )
    return inputs


def boxes_of(
    field: ReceptiveField, grid: Sequence[int], size: Sequence[int], rank: int
) -> Tensor | None:
    """Returns what each position of a grid sees of a picture, (positions, 4), where it is known.

    ``size`` is the picture's height and width. A picture of sequences (inputs of rank 3) has one
    spatial axis only, the width; one of volumes shows the last two.
    """
    num_axes = rank - 2
    if field.is_global or len(field.axes) != num_axes:
        return None
    lengths = [*field.input_size[: max(0, num_axes - 2)], *size[-min(num_axes, 2) :]]
    windows = field.windows(grid, lengths)
    if windows is None:
        return None
    height, width = windows[:, -2:].unbind(1) if num_axes > 1 else (None, windows[:, 0])
    if height is None:
        height = torch.tensor([0, size[0]]).expand_as(width)
    return torch.stack([height[:, 0], width[:, 0], height[:, 1], width[:, 1]], 1).int()
