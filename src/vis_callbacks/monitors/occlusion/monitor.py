"""`OcclusionMonitor`: what the network needs to see, found by hiding it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

from torch import Tensor

from vis_callbacks.engine.input_layout import find_layout
from vis_callbacks.engine.maps import effective_area
from vis_callbacks.engine.schedule import EveryNEpochs, Schedule
from vis_callbacks.engine.scores import expand_target
from vis_callbacks.guard import log
from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.occlusion.pictures import (
    VALUE,
    OcclusionFacts,
    draw_over_time,
    draw_views,
)
from vis_callbacks.monitors.occlusion.plan import OcclusionPlan, check_stride, plan_occlusion
from vis_callbacks.monitors.occlusion.science import ask, occlude
from vis_callbacks.options import check_count, check_flag, check_numbers, check_period
from vis_callbacks.pictures.film_strip import FilmStrip
from vis_callbacks.progress import progress_bar
from vis_callbacks.report import Picture, Report, Scalar

if TYPE_CHECKING:
    from vis_callbacks.engine.input_layout import InputKind
    from vis_callbacks.engine.snapshot import Snapshot
    from vis_callbacks.monitors.occlusion.science import Question
    from vis_callbacks.options import MonitorOptions

_MAX_ROWS = 4  # of the strip: the first images, which are of different classes
_LONG_SECONDS = 10.0  # a snapshot that takes longer is said aloud, once


class OcclusionMonitor(Monitor):
    """Hides a square of each reference image, place by place, and shows the effect.

    Beside each image are the three views of Zeiler and Fergus, as functions of the position of
    the square: the activity of the strongest feature map of the last layer that has maps, the
    probability of the true class, and the most probable class. Where the probability falls, the
    network needed what was hidden. Where it rises, the hidden part had misled it. In a signal it
    hides a window in time, and in a volume or a video a cube. If the outputs are not classes, it
    shows the change of an output's value.

    It works for every network, since it needs no gradient, but it takes many forward passes: 169
    per image with the defaults. If either of two places is enough for the network, it shows
    neither. The network may also take the square itself for an object; `baseline="blur"` leaves no
    edges.

    Args:
        window_size: Side of the square in pixels. None takes a quarter of the image's shorter
            side; of a signal a sixteenth of its length.
        stride: Pixels between two positions. None takes a quarter of the window: 13 x 13
            positions on a square image of any size, 61 on a signal.
        baseline: What the square shows: ``"mean"``, the mean colour of the reference samples;
            ``"blur"``, the image without its details; a number in units of the input; or a
            colour, one such number for each channel.
        target: Whose probability is shown: ``"label"``, the true class; ``"predicted"``, the
            class that is most probable without a square; or the index of a class.
        layer: The layer whose strongest feature map is shown. None takes the last nonlinearity
            with more than one position.
        coarse_to_fine: Measure each third row and column first, then the quarter of the
            positions where the probability is likely to fall or rise most: about two fifths of
            the passes. Places that were not measured show the nearest coarse one.
        max_forward_passes: Samples that may go through the network at a snapshot. If more are
            needed, the stride grows, and then images are left out; the caption says so. The
            default is enough for 8 images with the default square.
        batch_size: Images with a square that go through the network at a time.
        **options: Those of every `Monitor`.

    Raises:
        TypeError, ValueError: An option is wrong.

    References:
        Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014,
        section 4.2 and figure 7.
    """

    stem: ClassVar[str] = "occlusion"
    needs: ClassVar[frozenset[str]] = frozenset({"forward", "references"})
    default_schedule: ClassVar[Schedule] = EveryNEpochs(5)
    picture_schedule: ClassVar[Schedule | None] = None
    tags: ClassVar[Sequence[str]] = (
        "occlusion/views",
        "occlusion/over_time",
        "occlusion/largest_fall",
        "occlusion/largest_rise",
        "occlusion/effective_area",
    )

    def __init__(
        self,
        window_size: int | None = None,
        stride: int | None = None,
        baseline: Literal["mean", "blur"] | float | Sequence[float] = "mean",
        target: Literal["label", "predicted"] | int = "label",
        layer: str | None = None,
        coarse_to_fine: bool = False,
        max_forward_passes: int = 2_000,
        batch_size: int = 64,
        **options: Unpack[MonitorOptions],
    ) -> None:
        check_period("window_size", window_size)
        check_period("stride", stride)
        if window_size is not None and stride is not None:
            check_stride(stride, window_size)
        _check_baseline(baseline)
        if len(expand_target(target)) > 1:
            raise ValueError(f'target="{target}" is two. Use "label", "predicted" or a class.')
        if layer is not None and not isinstance(layer, str):
            raise TypeError(f'layer={layer!r} is not a name. Use one such as "layer4.1.relu-1".')
        check_flag("coarse_to_fine", coarse_to_fine)
        check_count("max_forward_passes", max_forward_passes)
        check_count("batch_size", batch_size)
        self.window_size = window_size
        self.stride = stride
        self.baseline = baseline
        self.target = target
        self.layer = layer
        self.coarse_to_fine = coarse_to_fine
        self.max_forward_passes = max_forward_passes
        self.batch_size = batch_size
        super().__init__(**options)
        self._strip = FilmStrip()
        self._announced: OcclusionPlan | None = None
        self._was_long = False

    def observe(self, snapshot: Snapshot) -> Report:
        """Hides each place of each reference image in turn and says what that changed."""
        references, forward = snapshot.own_passes("to hide parts of")
        layout = find_layout(references.inputs, forward.module)
        images = layout.arranged(references.inputs)
        plan = self._plan(images)
        images = images[: plan.num_images]
        started = perf_counter()
        with progress_bar(plan.num_forward_passes, f"occlusion at step {snapshot.step:,}") as told:
            asked = ask(
                forward,
                layout,
                images,
                references.labels,
                self.outputs,
                target=self.target,
                layer=self.layer,
                may_be_classes=self.options.outputs == "auto",
                batch_size=self.batch_size,
            )
            maps = occlude(
                asked.measure,
                images,
                plan,
                self.baseline,
                batch_size=self.batch_size,
                progress=told,
            )
        self._say_if_long(perf_counter() - started, plan)
        values, whole = maps.values[..., VALUE], maps.whole[:, VALUE]
        changes = values - whole.view(-1, *[1] * (values.dim() - 1))
        if snapshot.stage == "fit" and asked.is_share:
            self._strip.add(snapshot.step, shares=values[:_MAX_ROWS].half())
        elif snapshot.stage == "fit":
            self._strip.add(snapshot.step, changes=changes[:_MAX_ROWS])
        items: list[Scalar | Picture] = list(_scalars(changes))
        if snapshot.wants_pictures:
            known = {"images": images, "whole": maps.whole, "targets": asked.targets}
            facts = self._facts(snapshot, references.source, layout.kind, plan, asked)
            draw, arrays = partial(draw_views, facts=facts), {**known, "values": maps.values}
            items.append(Picture(tag="occlusion/views", draw=draw, arrays=arrays))
            if snapshot.stage == "fit":
                (frames,) = self._strip.stacked(images.device).values()
                draw = partial(draw_over_time, facts=facts, steps=tuple(self._strip.steps))
                arrays = {**known, "frames": frames}
                items.append(Picture(tag="occlusion/over_time", draw=draw, arrays=arrays))
        return Report(step=snapshot.step, items=tuple(items))

    def _facts(
        self, snapshot: Snapshot, source: str, kind: InputKind, plan: OcclusionPlan, asked: Question
    ) -> OcclusionFacts:
        """Returns what the pictures say of how they were made."""
        return OcclusionFacts(
            plan=plan,
            names=[self.outputs.name(index) for index in range(asked.num_outputs)],
            source=source,
            step=snapshot.step,
            kind=kind,
            baseline=self.baseline,
            target=self.target,
            layer=asked.layer,
            notes=tuple(dict.fromkeys((*plan.notes, asked.note))),
            is_share=asked.is_share,
            are_classes=self.outputs.are_classes,
            mean=self.options.mean,
            std=self.options.std,
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns the maps of the strip."""
        return {"strip": self._strip.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the strip; an empty state begins anew."""
        self._strip.load_state_dict(state.get("strip", {}))
        self._announced, self._was_long = None, False

    def _plan(self, images: Tensor) -> OcclusionPlan:
        """Returns where the square stands; says once what that costs and what is given up."""
        plan = plan_occlusion(
            tuple(images.shape[2:]),
            len(images),
            window_size=self.window_size,
            stride=self.stride,
            coarse_to_fine=self.coarse_to_fine,
            # One pass an image goes to finding its class and its strongest map.
            max_forward_passes=max(1, self.max_forward_passes - len(images)),
        )
        if plan != self._announced:
            self._announced = plan
            notes = "".join(f"; {note}" for note in plan.notes)
            log(
                f"{self.name}: {plan.num_forward_passes:,} forward passes a snapshot "
                f"({plan.num_images} images x {plan.num_measured} positions of the square){notes}.",
                level=logging.INFO,
            )
        return plan

    def _say_if_long(self, seconds: float, plan: OcclusionPlan) -> None:
        if seconds < _LONG_SECONDS or self._was_long:
            return
        self._was_long = True
        log(
            f"{self.name}: a snapshot took {seconds:.0f} s for {plan.num_forward_passes:,} "
            "forward passes. Cheaper: coarse_to_fine=True, fewer num_samples, a larger stride "
            "or every_n_epochs."
        )


def _scalars(changes: Tensor) -> Iterator[Scalar]:
    """Yields the largest fall and rise, and the share of positions that carry the falls."""
    falls, rises = (-changes).clamp(min=0), changes.clamp(min=0)
    for name, sizes in (("fall", falls), ("rise", rises)):
        yield Scalar(tag=f"occlusion/largest_{name}", value=sizes.flatten(1).amax(1).mean())
    yield Scalar(tag="occlusion/effective_area", value=effective_area(falls).nanmean())


def _check_baseline(baseline: object) -> None:
    if baseline in ("mean", "blur"):
        return
    if isinstance(baseline, Sequence) and not isinstance(baseline, str):
        check_numbers("baseline", baseline)
    elif isinstance(baseline, bool) or not isinstance(baseline, int | float):
        raise ValueError(
            f'baseline must be "mean", "blur", a number in units of the input or one for each '
            f"channel; got {baseline!r}"
        )
