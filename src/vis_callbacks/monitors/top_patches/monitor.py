"""`TopPatchesMonitor`: the parts of real images that excite each unit most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
from torch import Tensor

from vis_callbacks.engine.nonlinearities import NONLINEARITIES
from vis_callbacks.engine.schedule import EveryNEpochs
from vis_callbacks.guard import Catch, NothingToShow
from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.top_patches.marks import NotFollowedError
from vis_callbacks.monitors.top_patches.pictures import PatchPage, draw
from vis_callbacks.monitors.top_patches.reader import (
    PROBE,
    Chosen,
    PatchReader,
    UnitChoice,
    boxes_of,
    check_units,
)
from vis_callbacks.monitors.top_patches.receptive_field import ReceptiveField, receptive_fields
from vis_callbacks.monitors.top_patches.records import TopPatches, packed, unpacked
from vis_callbacks.monitors.top_patches.science import (
    as_pictures,
    class_purity,
    drawn_by_lot,
    selective_order,
)
from vis_callbacks.options import check_count, check_flag, check_names
from vis_callbacks.report import Item, Picture, Report, Scalar, tag

if TYPE_CHECKING:
    from vis_callbacks.engine.probe import LayerInfo, Probe, Values
    from vis_callbacks.engine.schedule import Schedule
    from vis_callbacks.engine.snapshot import Snapshot
    from vis_callbacks.options import MonitorOptions

_WITH_FLAT_ZERO = frozenset(n.kind for n in NONLINEARITIES if n.has_flat_zero)
# TensorBoard draws a card for each tag; more than these nobody looks through.
_MAX_LAYERS = 20


class TopPatchesMonitor(Monitor):
    """Shows the parts of validation images that activate each unit most.

    The images that a unit responds to show best what it detects: one row per unit, with its
    strongest patches, each cut out to the unit's receptive field. They are collected during the
    validation, without an extra pass (except for compiled models and those with
    ``nn.MultiheadAttention``), in memory that does not grow with the data.

    It shows what the strongest responses have in common. It does not show what else activates a
    unit, nor whether the network uses the unit.

    The receptive field is measured at the first snapshot, by a few dozen forward passes of one
    sample in which rows or columns are marked. At that snapshot, patches larger than 256 pixels
    are therefore cut from images averaged to that size. Units after attention, global pooling or
    a fully connected layer see the whole image: it is shown, and the caption says why.

    Args:
        layers: Globs over the names of layers (`vis_callbacks.summary` lists them), 20 layers
            at most. Modules that are not nonlinearities can be named, too. None takes the last two
            nonlinearities whose units have positions, or else the last one.
        units: Which units. ``"random"`` draws some, the same ones at each snapshot.
            ``"strongest"`` takes those with the largest activation, ``"selective"`` of each
            class in turn the one whose patches are of it most often; both look among all units
            of the layer (among as many as 64 MB hold), so the rows may change. A list holds
            indices, for all layers, or ``"layer:index"``.
        top_k: Patches per unit: 9, as in Zeiler and Fergus.
        max_units: Units per layer, if ``units`` is a word; 8 rows fill a screen.
        patches_per_image: How many patches one image may have in a row. 1 shows different
            images. More suppresses what overlaps a stronger one by more than 30 % of their
            union.
        show_images: Show whole images with the receptive field as a box.
        seed: Of the random choice of units, and of images that activate a unit equally.
        **options: Those of every `Monitor`.

    Raises:
        TypeError, ValueError: An option is wrong.

    References:
        Girshick et al. 2014, "Rich feature hierarchies for accurate object detection and
        semantic segmentation", section 3.1. Zeiler and Fergus 2014, "Visualizing and
        understanding convolutional networks", figure 2.
    """

    stem: ClassVar[str] = "top_patches"
    default_schedule: ClassVar[Schedule] = EveryNEpochs(5)
    picture_schedule: ClassVar[Schedule | None] = None
    tags: ClassVar[Sequence[str]] = (
        "top_patches/<layer>",
        "class_purity/<layer>",
        "concentration/<layer>",
    )

    def __init__(
        self,
        layers: Sequence[str] | None = None,
        units: Chosen | Sequence[int | str] = "random",
        top_k: int = 9,
        max_units: int = 8,
        patches_per_image: int = 1,
        show_images: bool = False,
        seed: int = 0,
        **options: Unpack[MonitorOptions],
    ) -> None:
        check_names("layers", layers, allow_empty=False)
        check_units(units)
        check_count("top_k", top_k)
        check_count("max_units", max_units)
        check_count("patches_per_image", patches_per_image)
        check_flag("show_images", show_images)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed={seed!r} is a {type(seed).__name__}. Use a whole number.")
        self.layers = layers
        self.units = units
        self.top_k = top_k
        self.max_units = max_units
        self.patches_per_image = patches_per_image
        self.show_images = show_images
        self.seed = seed
        super().__init__(**options)
        self._choice = UnitChoice(units, max_units, seed)
        self._reader: PatchReader | None = None
        self._fields: dict[str, ReceptiveField] = {}
        self._last: dict[str, tuple[int, Tensor]] = {}  # step and samples, (units, k), shown last
        self._sample: Tensor | None = None
        self._has_labels = self._is_volume = False

    def probes(self) -> Sequence[Probe]:
        """Asks for the strongest patches of an evaluation."""
        self._reader = PatchReader(
            self._choice,
            top_k=self.top_k,
            per_image=self.patches_per_image,
            keep_whole=self.show_images,
            fields=self._fields,
            meet=self._meet,
            chooses_layers=self.layers is None,
        )
        return (self._reader.probe(self.layers),)

    def observe(self, snapshot: Snapshot) -> Report:
        """Says what the patches have in common, and shows them."""
        read = snapshot.values.get(PROBE, {})
        names = self._names(snapshot, read)
        just_measured = self._measure_fields(snapshot, names)
        items: list[Item] = []
        for name in names:
            if read[name]["top"].shape[0]:  # else no unit of this layer was asked for
                top = unpacked(read[name]["top"])
                if name in just_measured and self._sample is not None:
                    top = _located(top, self._fields[name], self._sample)
                items += self._items(name, top, read[name], snapshot)
        self._sample = None
        return Report(step=snapshot.step, items=tuple(items))

    def state_dict(self) -> dict[str, Any]:
        """Returns the receptive fields, and which samples were shown last."""
        return {
            "fields": {name: field.state_dict() for name, field in self._fields.items()},
            "last": {name: [step, shown.cpu()] for name, (step, shown) in self._last.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with what was known; an empty state begins anew."""
        self._sample = None
        # In place: the probe of this run looks at the same dictionary.
        self._fields.clear()
        for name, of_field in state.get("fields", {}).items():
            self._fields[str(name)] = ReceptiveField.from_state_dict(of_field)
        last = state.get("last", {})
        self._last = {str(name): (int(step), shown) for name, (step, shown) in last.items()}

    def _names(self, snapshot: Snapshot, read: Values) -> list[str]:
        """Returns the layers that are shown, in the order of the forward pass.

        Raises:
            ValueError: Too many are named.
            NothingToShow: There is none, though samples have passed by.
        """
        met = [info.name for info in snapshot.trace if info.name in read]
        if self.layers is not None and len(met) > _MAX_LAYERS:
            raise ValueError(
                f"layers={list(self.layers)} matches {len(met)} layers; patches are shown "
                f"for at most {_MAX_LAYERS}. Name fewer."
            )
        reader = self._reader
        misfits = [name for name in met if reader is not None and name in reader.misfits]
        why = NothingToShow(
            f"the rows of {', '.join(misfits)} are not samples, so what excites a unit cannot be "
            "told apart by image. Leave such layers out of layers."
            if misfits
            else "no nonlinearity was seen in the forward pass. Name the layers: "
            'TopPatchesMonitor(layers=["..."]); vis_callbacks.summary(model, inputs) lists them.'
        )
        names = met if reader is None else reader.shown(met)
        names = [name for name in names if "top" in read[name]]
        if misfits and names and self.layers is not None:
            self.guard.record("observe", why)  # said once; the other layers are shown
        if not names and snapshot.num_samples.get(PROBE, 0) and (misfits or self.layers is None):
            raise why
        return names

    def _meet(self, inputs: Tensor, has_labels: bool) -> None:
        """Keeps one sample until the end of the evaluation: receptive fields are measured by it."""
        self._has_labels, self._is_volume = has_labels, inputs.dim() > 4
        if self._sample is None:
            with torch.inference_mode(False), torch.no_grad():
                self._sample = inputs[:1].detach().clone()

    def _measure_fields(self, snapshot: Snapshot, names: Sequence[str]) -> set[str]:
        """Measures the receptive fields that are not known yet; returns whose they are."""
        missing = [name for name in names if name not in self._fields]
        sample, read = self._sample, snapshot.read_layers
        if not missing or sample is None or read is None:
            return set()
        unknown = ReceptiveField(axes=(None,), reason="its computation could not be followed")
        with Catch() as caught:
            found = receptive_fields(partial(read, missing), sample)
        if (error := caught.error) is not None:
            if isinstance(error, NotFollowedError):
                error = NothingToShow(f"whole images are shown: {error}")
            self.guard.record("measuring receptive fields", error)
            found = {}
        self._fields.update({name: found.get(name, unknown) for name in missing})
        return set(missing)

    def _items(
        self, name: str, top: TopPatches, read: Mapping[str, Tensor], snapshot: Snapshot
    ) -> Iterator[Item]:
        info, before = snapshot.layer(name), self._last.get(name)
        self._last[name] = snapshot.step, top.samples.clone()
        is_shown = top.values > (0 if info.kind in _WITH_FLAT_ZERO else -torch.inf)
        is_counted = is_shown & ~drawn_by_lot(top, is_shown)
        classes, count, share = class_purity(top.labels, is_counted)
        rows = self._rows(top, classes, count)
        if self._has_labels:
            is_full = is_counted[rows].all(1)  # one patch is always of one class
            pure = torch.where(is_full, share[rows], torch.nan).nanmean()
            yield Scalar(tag=tag("class_purity", name), value=pure)
        if math.prod(info.shape[1:]) > info.num_units:
            spread = torch.where(is_shown, top.concentrations, torch.nan)[rows]
            yield Scalar(tag=tag("concentration", name), value=spread.nanmean())
        if snapshot.wants_pictures:
            arrays = {
                "records": packed(top.rows(rows)),
                "rows": rows,
                "fired": read["fired"][rows],
                "ignored": read["ignored"],
            }
            if before is not None and before[1].shape == top.samples.shape:
                arrays["before"] = before[1].to(rows.device)[rows]
            page = self._page(info, len(count), before and before[0], snapshot)
            yield Picture(
                tag=f"top_patches/{tag(name)}", draw=partial(draw, page=page), arrays=arrays
            )

    def _page(
        self, info: LayerInfo, num_read: int, step_before: int | None, snapshot: Snapshot
    ) -> PatchPage:
        return PatchPage(
            layer=info.name,
            step=snapshot.step,
            num_samples=snapshot.num_samples.get(PROBE, 0),
            candidates=tuple(self._choice.candidates(info.name, info.num_units, num_read)),
            num_units=info.num_units,
            choice=self._choice,
            field=self._fields.get(info.name),
            has_flat_zero=info.kind in _WITH_FLAT_ZERO,
            is_whole=self.show_images,
            has_labels=self._has_labels,
            is_volume=self._is_volume,
            step_before=step_before,
            class_names=tuple(self.options.class_names or ()),
            mean=self.options.mean,
            std=self.options.std,
        )

    def _rows(self, top: TopPatches, classes: Tensor, count: Tensor) -> Tensor:
        """Returns which rows are shown, in their order."""
        if not self._choice.is_measured:
            return torch.arange(len(count), device=count.device)
        if self.units == "strongest":
            order = top.values[:, 0].argsort(descending=True, stable=True)
        else:
            order = selective_order(classes, count)
        return order[: self.max_units]


def _located(top: TopPatches, field: ReceptiveField, sample: Tensor) -> TopPatches:
    """Returns patches that were kept as whole images with the boxes that they have in them.

    Only for images of the size that the field was measured at: in others the position stands
    for another place.
    """
    size = torch.tensor(as_pictures(sample).shape[2:], dtype=torch.int32)
    boxes = boxes_of(field, field.grid, size.tolist(), sample.dim())
    if boxes is None:
        return top
    device = top.boxes.device
    is_same_size = (top.regions[..., 2:] == size.to(device)).all(-1, keepdim=True)
    places = top.positions.clamp_max(len(boxes) - 1).long()
    return replace(top, boxes=torch.where(is_same_size, boxes.to(device)[places], top.boxes))
