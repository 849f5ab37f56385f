"""`ActivationMaximizationMonitor`: the inputs that classes and units answer to most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.analysis.activation_maximization import (
    PRESETS,
    Frame,
    Maximized,
    Preset,
    Start,
    choose_start,
    maximize,
    score_spread,
)
from vis_callbacks.analysis.selection import evenly_spread
from vis_callbacks.callbacks.activation_maximization.pictures import (
    MaximizationFacts,
    draw_images,
    draw_over_time,
)
from vis_callbacks.callbacks.activation_maximization.targets import MaximizedTargets, run
from vis_callbacks.callbacks.monitor import Monitor
from vis_callbacks.callbacks.options import check_count
from vis_callbacks.engine.schedule import EveryNEpochs, Schedule
from vis_callbacks.engine.scores import Unit, refused_inputs
from vis_callbacks.render.film_strip import with_frame
from vis_callbacks.report import Image, Report, Scalar

if TYPE_CHECKING:
    from vis_callbacks.callbacks.options import MonitorOptions
    from vis_callbacks.engine.isolation import IsolatedForward
    from vis_callbacks.engine.probe import Probe
    from vis_callbacks.engine.references import References
    from vis_callbacks.engine.snapshot import Snapshot

_MAX_FRAMES = 8
_MAX_ROWS = 8  # of the strip
_MAX_SIDE = 64  # of a frame that is kept, in pixels
# The best of many real inputs is what a score is to be compared with; more than these are
# seldom in a batch, and 224 x 224 pixels of each take 19 MB.
_NUM_REAL = 32


class ActivationMaximizationMonitor(Monitor):
    """Makes, by gradient ascent, the image that each class or unit answers to most.

    What comes out is not taken from any image: it shows what the network itself looks for, in
    a class (its unnormalised score) or in any unit of any layer. Early in a training that is
    noise of no structure; later on textures and parts appear. Where they do not, although the
    accuracy is high, the network may rest on something that people do not see.

    All targets are one batch, and each snapshot goes on from the last one's result (or from
    the mean image where that is better), so that a few dozen steps suffice. The score reached
    stands beside the highest one among real images. It is often many times higher: such an
    image is a caricature, and lies where there are no data.

    A target without a gradient, at the mean image, at the last result and at the best real
    image, is called silent and not drawn: a dead unit, mostly.

    Args:
        classes: Indices. None takes all classes, ``max_images`` of them evenly spread where
            there are more, but none where ``units`` are given.
        units: Such as ``"layer4.1.relu-1:17"``; of a unit with positions the strongest one is
            maximized, or the one that is named: ``"layer4.1.relu-1:17@3,5"``.
        num_steps: Of the ascent at each snapshot, forward and backward passes of the batch.
        preset: How images are kept in bounds; a name of
            `vis_callbacks.analysis.activation_maximization.PRESETS`, or a `Preset`.
            ``"simonyan"`` penalises the squared norm alone and never lowers its objective;
            ``"smooth"`` also penalises differences of neighbours, blurs and shifts, and shows
            what the other hides behind fine grids; the four of Yosinski et al. 2015 are
            ``"yosinski_norm"``, ``"yosinski_decay"``, ``"yosinski_blur"`` and
            ``"yosinski_contribution"``.
        max_images: See ``classes``.
        seed: Of the shifts.
        **options: Those of every `Monitor`; ``num_samples`` (here 32) is how many real images
            the scores are compared with.

    Raises:
        TypeError, ValueError: An option is wrong.

    References:
        Simonyan et al. 2014, "Deep inside convolutional networks: visualising image
        classification models and saliency maps"; Yosinski et al. 2015, "Understanding neural
        networks through deep visualization".
    """

    stem: ClassVar[str] = "activation_maximization"
    needs: ClassVar[frozenset[str]] = frozenset({"forward", "references"})
    default_schedule: ClassVar[Schedule] = EveryNEpochs(5)
    picture_schedule: ClassVar[Schedule | None] = None
    tags: ClassVar[Sequence[str]] = (
        "activation_maximization/images",
        "activation_maximization/over_time",
        "activation_maximization/score",
        "activation_maximization/best_real_score",
        "activation_maximization/num_silent",
    )

    def __init__(
        self,
        classes: Sequence[int] | None = None,
        units: Sequence[str | Unit] | None = None,
        num_steps: int = 32,
        preset: str | Preset = "smooth",
        max_images: int = 16,
        seed: int = 0,
        **options: Unpack[MonitorOptions],
    ) -> None:
        _check_classes(classes)
        self._units = _parsed_units(units)
        check_count("num_steps", num_steps)
        check_count("max_images", max_images)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed={seed!r} is no whole number.")
        self._preset = _named_preset(preset)
        self.classes = classes
        self.units = units
        self.num_steps = num_steps
        self.preset = preset
        self.max_images = max_images
        self.seed = seed
        options.setdefault("num_samples", _NUM_REAL)
        super().__init__(**options)
        self._last: Tensor | None = None  # z of the last result, (rows, channels, ...)
        self._frames: list[_Frame] = []

    def probes(self) -> Sequence[Probe]:
        """Asks for nothing: all passes are its own."""
        return ()

    def observe(self, snapshot: Snapshot) -> Report:
        """Goes on with each image for some steps and says how high its score has come."""
        references, forward = snapshot.own_passes("to tell what an input looks like")
        real = _as_images(references.inputs)
        targets, real_scores = self._look_at_real(forward, references.inputs)
        frame, spread = Frame.of(real), score_spread(real_scores)
        score = partial(_score, forward, targets, spread, references.inputs.shape[1:])
        best = real_scores.nan_to_num(-torch.inf).argmax(0)
        start = choose_start(
            score, frame.z(real[best]), self._fitting_last(real, targets), self._preset, frame
        )
        result = maximize(
            score,
            start.z,
            self._preset,
            frame,
            num_steps=self.num_steps,
            seed=self.seed + snapshot.step,
        )
        self._last = result.z
        self._append(snapshot.step, result.z, start.is_silent)
        best_scores = real_scores.gather(0, best[None])[0]
        reached = result.scores * spread
        items: list[Scalar | Image] = list(_scalars(reached, best_scores, start))
        if snapshot.wants_pictures:
            found = _Found(
                frame=frame, start=start, result=result, scores=reached, best_scores=best_scores
            )
            items += self._pictures(snapshot.step, references, targets, best, found)
        return Report(step=snapshot.step, items=tuple(items))

    def state(self) -> Mapping[str, Any]:
        """Returns the last images, for a warm start, and the strip's frames."""
        return {
            "last": None if self._last is None else self._last.cpu(),
            "frames": [[f.step, f.z.cpu(), f.is_silent.cpu()] for f in self._frames],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from the last images; an empty state begins anew."""
        self._last, self._frames = None, []
        if state:
            self._last = state["last"]
            self._frames = [_Frame(int(step), z, silent) for step, z, silent in state["frames"]]

    @torch.no_grad()
    def _look_at_real(
        self, forward: IsolatedForward, inputs: Tensor
    ) -> tuple[MaximizedTargets, Tensor]:
        """Returns the targets, and the score of each real input for each, (samples, rows)."""
        scores, layers = run(forward, inputs, self._units)
        targets = MaximizedTargets.chosen(
            self.classes, self._units, num_classes=scores.shape[1], max_images=self.max_images
        )
        return targets, targets.of_all(scores, layers)

    def _fitting_last(self, real: Tensor, targets: MaximizedTargets) -> Tensor | None:
        """Returns the last result where it has the shape that is needed now."""
        if self._last is None or self._last.shape != (targets.num_rows, *real.shape[1:]):
            return None
        return self._last.to(real)

    def _append(self, step: int, z: Tensor, is_silent: Tensor) -> None:
        rows = evenly_spread(len(z), _MAX_ROWS)
        height, width = (min(length, _MAX_SIDE) for length in z.shape[-2:])
        frame = _Frame(
            step, F.adaptive_avg_pool2d(z[rows], (height, width)).half(), is_silent[rows]
        )
        self._frames = with_frame(
            self._frames, frame, _MAX_FRAMES, key=lambda kept: (kept.step, kept.z.shape)
        )

    def _pictures(
        self,
        step: int,
        references: References,
        targets: MaximizedTargets,
        best: Tensor,
        found: _Found,
    ) -> Iterator[Image]:
        options = self.options
        facts = MaximizationFacts(
            step=step,
            names=tuple(targets.names(options.class_names)),
            class_names=options.class_names,
            num_real=len(references.inputs),
            source=references.source,
            preset=self.preset if isinstance(self.preset, str) else "custom",
            num_steps=self.num_steps,
            mean=options.mean,
            std=options.std,
        )
        real, labels = _as_images(references.inputs)[best], references.labels
        shared = {"real": real, "centre": found.frame.centre.flatten()}
        yield Image(
            tag="activation_maximization/images",
            draw=partial(draw_images, facts=facts),
            arrays={
                **shared,
                "deviations": found.result.z * found.frame.scale,
                "scores": found.scores,
                "best_scores": found.best_scores,
                "is_silent": found.start.is_silent,
                "is_real": found.start.is_real,
                "labels": torch.full_like(best, -1) if labels is None else labels[best],
            },
        )
        device = real.device
        yield Image(
            tag="activation_maximization/over_time",
            draw=partial(
                draw_over_time,
                facts=facts,
                rows=evenly_spread(targets.num_rows, _MAX_ROWS),
                steps=tuple(frame.step for frame in self._frames),
            ),
            arrays={
                **shared,
                "frames": torch.stack([frame.z.to(device) for frame in self._frames]),
                "silent": torch.stack([frame.is_silent.to(device) for frame in self._frames]),
            },
        )


@dataclass(frozen=True)
class _Frame:
    """What the strip keeps of one snapshot: z of some rows, made small."""

    step: int
    z: Tensor
    is_silent: Tensor


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What one snapshot's ascent began with and led to."""

    frame: Frame
    start: Start
    result: Maximized
    scores: Tensor
    best_scores: Tensor


def _score(
    forward: IsolatedForward,
    targets: MaximizedTargets,
    spread: Tensor,
    sample_shape: torch.Size,
    images: Tensor,
) -> Tensor:
    """Returns each row's score for its own target, in units of its spread over real images."""
    inputs = images.reshape(len(images), *sample_shape)
    scores, layers = run(forward, inputs, targets.units)
    return targets.of_rows(scores, layers) / spread


def _as_images(inputs: Tensor) -> Tensor:
    """Returns (samples, channels, height, width)."""
    if inputs.dim() not in (3, 4) or not inputs.is_floating_point():
        raise ValueError(refused_inputs(inputs, "which are no images"))
    return inputs.unsqueeze(1) if inputs.dim() == 3 else inputs


def _scalars(scores: Tensor, best_scores: Tensor, start: Start) -> Iterator[Scalar]:
    """Yields the means over the targets that are not silent, and how many are."""
    loud = ~start.is_silent
    for name, values in (("score", scores), ("best_real_score", best_scores)):
        mean = torch.where(loud, values, torch.nan).nanmean()
        yield Scalar(tag=f"activation_maximization/{name}", value=mean)
    yield Scalar(tag="activation_maximization/num_silent", value=start.is_silent.sum())


def _check_classes(classes: object) -> None:
    if classes is None:
        return
    if isinstance(classes, str) or not isinstance(classes, Sequence) or not classes:
        raise TypeError(f"classes={classes!r} is no list of classes. Use [0, 3], or None for all.")
    for item in classes:
        if isinstance(item, bool) or not isinstance(item, int) or item < 0:
            raise ValueError(f"classes holds {item!r}. Use whole numbers from 0.")


def _parsed_units(units: object) -> tuple[Unit, ...]:
    if units is None:
        return ()
    if isinstance(units, str) or not isinstance(units, Sequence) or not units:
        raise TypeError(f'units={units!r} is no list of units. Use ["layer4.1.relu-1:17"].')
    return tuple(unit if isinstance(unit, Unit) else Unit.parse(unit) for unit in units)


def _named_preset(preset: object) -> Preset:
    if isinstance(preset, Preset):
        return preset
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is none. Use a Preset or one of {', '.join(PRESETS)}.")
    return PRESETS[preset]
