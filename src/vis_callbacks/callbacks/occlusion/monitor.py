"""`OcclusionMonitor`: what the network needs to see, found by hiding it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

import torch
from torch import Tensor

from vis_callbacks.analysis.occlusion import OcclusionMaps, effective_area, occlude
from vis_callbacks.analysis.occlusion_plan import OcclusionPlan, plan_occlusion
from vis_callbacks.monitor import Monitor
from vis_callbacks.callbacks.occlusion.pictures import (
    VALUE,
    OcclusionFacts,
    draw_over_time,
    draw_views,
)
from vis_callbacks.callbacks.occlusion.question import Question, ask
from vis_callbacks.options import check_count, check_flag, check_numbers, check_period
from vis_callbacks.progress import progress_bar
from vis_callbacks.engine.input_layout import find_layout
from vis_callbacks.engine.schedule import EveryNEpochs, Schedule
from vis_callbacks.engine.scores import expand_target
from vis_callbacks.guard import say
from vis_callbacks.render.film_strip import with_frame
from vis_callbacks.report import Image, Report, Scalar

if TYPE_CHECKING:
    from vis_callbacks.options import MonitorOptions
    from vis_callbacks.engine.probe import Probe
    from vis_callbacks.engine.references import References
    from vis_callbacks.engine.snapshot import Snapshot

_MAX_FRAMES = 8
_MAX_ROWS = 4  # of the strip: the first images, which are of different classes
_LONG_SECONDS = 10.0  # a snapshot that takes longer is said aloud, once


class OcclusionMonitor(Monitor):
    """Hides a square of each reference image, place by place, and shows what that changes.

    The three views of Zeiler and Fergus lie beside the image, each as a function of where the
    square is: the activity of the strongest feature map of the last layer that has maps, the
    probability of the true class, and the most probable class. Where the probability falls,
    the network needed what was hidden; where it rises, that had misled it. Of a signal a window
    in time is hidden, of a volume or a video a cube. Where the outputs are no classes, the
    change of an output's value is shown.

    It needs no gradient and no rule for any layer, so it holds for every network, but many
    forward passes: 169 an image with the defaults. It cannot show evidence of which either of
    two places is enough, and a square is itself something that the network may take for an
    object: `baseline="blur"` leaves no edges.

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
        layer: Whose strongest feature map is followed. None takes the last nonlinearity with
            more than one position.
        coarse_to_fine: Measure each third row and column first, then the quarter of the
            positions where the probability is likely to fall or rise most: about two fifths of
            the passes. Places that were not measured show the nearest coarse one.
        max_forward_passes: Samples that may go through the network at a snapshot. Where more
            are wanted the stride grows, at last images are left out; the caption says so. The
            default leaves room for 8 images with the default square.
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
        if window_size is not None and stride is not None and stride > window_size:
            raise ValueError(
                f"stride={stride} is larger than window_size={window_size}: pixels in between "
                f"would never be hidden. Use 1 to {window_size}."
            )
        _check_baseline(baseline)
        if len(expand_target(target)) > 1:
            raise ValueError(f'target="{target}" is two. Use "label", "predicted" or a class.')
        if layer is not None and not isinstance(layer, str):
            raise TypeError(f'layer={layer!r} is no name. Use one such as "layer4.1.relu-1".')
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
        self._frames: list[tuple[int, Tensor]] = []  # step, (images, *positions)
        self._forget_maps()

    def probes(self) -> Sequence[Probe]:
        """Asks for nothing: all passes are its own."""
        return ()

    def observe(self, snapshot: Snapshot) -> Report:
        """Hides each place of each reference image in turn and says what that changed."""
        references, forward = snapshot.own_passes("to hide parts of")
        layout = find_layout(references.inputs, forward.module)
        images = layout.arranged(references.inputs)
        plan = self._plan(images)
        self._announce(plan)
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
        changes = maps.values[..., VALUE] - _beside(maps.whole[:, VALUE], maps)
        items: list[Scalar | Image] = list(_scalars(changes))
        if snapshot.stage == "fit":
            shares = maps.values[..., VALUE].half()
            self._append(snapshot.step, shares if asked.is_share else changes)
        if snapshot.wants_pictures:
            items += self._pictures(snapshot, references, images, asked, maps)
        return Report(step=snapshot.step, items=tuple(items))

    def state(self) -> Mapping[str, Any]:
        """Returns the maps of the strip."""
        return {"frames": [[step, frame.cpu()] for step, frame in self._frames]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on with the strip; an empty state begins anew."""
        self._forget_maps()
        if state:
            self._frames = [(int(step), frame) for step, frame in state["frames"]]

    def _forget_maps(self) -> None:
        self._frames = []
        self._announced: OcclusionPlan | None = None
        self._was_long = False

    def _plan(self, images: Tensor) -> OcclusionPlan:
        return plan_occlusion(
            tuple(images.shape[2:]),
            len(images),
            window_size=self.window_size,
            stride=self.stride,
            coarse_to_fine=self.coarse_to_fine,
            # One pass an image goes to finding its class and its strongest map.
            max_forward_passes=max(1, self.max_forward_passes - len(images)),
        )

    def _announce(self, plan: OcclusionPlan) -> None:
        """Says once what a snapshot costs, and what was given up for it."""
        if plan == self._announced:
            return
        self._announced = plan
        notes = "".join(f"; {note}" for note in plan.notes)
        say(
            f"{self.name}: {plan.num_forward_passes:,} forward passes a snapshot "
            f"({plan.num_images} images x {plan.num_measured} positions of the square){notes}.",
            level=logging.INFO,
        )

    def _say_if_long(self, seconds: float, plan: OcclusionPlan) -> None:
        if seconds < _LONG_SECONDS or self._was_long:
            return
        self._was_long = True
        say(
            f"{self.name}: a snapshot took {seconds:.0f} s for {plan.num_forward_passes:,} "
            "forward passes. Cheaper: coarse_to_fine=True, fewer num_samples, a larger stride "
            "or every_n_epochs."
        )

    def _append(self, step: int, values: Tensor) -> None:
        """Adds the first images' probabilities, or changes of values, to the strip."""
        self._frames = with_frame(
            self._frames,
            (step, values[:_MAX_ROWS]),
            _MAX_FRAMES,
            key=lambda kept: (kept[0], (kept[1].shape, kept[1].dtype)),
        )

    def _pictures(
        self,
        snapshot: Snapshot,
        references: References,
        images: Tensor,
        asked: Question,
        maps: OcclusionMaps,
    ) -> Iterator[Image]:
        options = self.options
        names = tuple(self.outputs.name(index) for index in range(asked.num_outputs))
        facts = OcclusionFacts(
            step=snapshot.step,
            plan=maps.plan,
            kind=asked.layout.kind,
            baseline=self.baseline,
            source=references.source,
            layer=asked.layer,
            notes=tuple(dict.fromkeys((*maps.plan.notes, asked.targets.note))),
            target=self.target,
            is_share=asked.is_share,
            are_classes=self.outputs.are_classes,
            names=names,
            mean=options.mean,
            std=options.std,
        )
        numbers = {"whole": maps.whole, "targets": asked.targets.indices, "images": images}
        yield Image(
            tag="occlusion/views",
            draw=partial(draw_views, facts=facts),
            arrays={**numbers, "values": maps.values, "units": asked.strongest},
        )
        if not self._frames or snapshot.stage != "fit":
            return
        frames = torch.stack([frame.to(images.device, torch.float32) for _, frame in self._frames])
        yield Image(
            tag="occlusion/over_time",
            draw=partial(draw_over_time, facts=facts, steps=tuple(s for s, _ in self._frames)),
            arrays={**numbers, "frames": frames},
        )


def _beside(numbers: Tensor, maps: OcclusionMaps) -> Tensor:
    """Returns (images,) numbers broadcastable to (images, *positions)."""
    return numbers.view(-1, *[1] * (maps.values.dim() - 2))


def _scalars(changes: Tensor) -> Iterator[Scalar]:
    for name, sizes in (("fall", -changes), ("rise", changes)):
        largest = sizes.clamp(min=0).flatten(1).amax(1).mean()
        yield Scalar(tag=f"occlusion/largest_{name}", value=largest)
    yield Scalar(tag="occlusion/effective_area", value=effective_area(-changes).nanmean())


def _check_baseline(baseline: object) -> None:
    if baseline in ("mean", "blur"):
        return
    if isinstance(baseline, Sequence) and not isinstance(baseline, str):
        check_numbers("baseline", baseline)
    elif isinstance(baseline, bool) or not isinstance(baseline, int | float):
        raise ValueError(
            f'baseline={baseline!r} is none of the choices. Use "mean", "blur", a number in units '
            "of the input, or one for each channel."
        )
