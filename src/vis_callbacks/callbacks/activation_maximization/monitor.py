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
    Frame,
    Maximized,
    maximize,
    score_spread,
)
from vis_callbacks.analysis.maximization_presets import PRESETS, Preset
from vis_callbacks.analysis.selection import evenly_spread
from vis_callbacks.callbacks.activation_maximization.pictures import (
    MaximizationFacts,
    draw_images,
    draw_over_time,
)
from vis_callbacks.callbacks.activation_maximization.targets import MaximizedTargets, run
from vis_callbacks.monitor import Monitor
from vis_callbacks.options import check_count
from vis_callbacks.engine.input_layout import InputLayout, find_layout
from vis_callbacks.engine.schedule import EveryNEpochs, Schedule
from vis_callbacks.engine.scores import Unit, refused_inputs
from vis_callbacks.guard import NothingToShow
from vis_callbacks.render.film_strip import with_frame
from vis_callbacks.report import Image, Report, Scalar

if TYPE_CHECKING:
    from vis_callbacks.options import MonitorOptions
    from vis_callbacks.engine.input_layout import InputKind
    from vis_callbacks.engine.isolation import IsolatedForward
    from vis_callbacks.engine.probe import Probe
    from vis_callbacks.engine.references import References
    from vis_callbacks.engine.snapshot import Snapshot

_MAX_FRAMES = 8
_MAX_ROWS = 8  # of the strip
_MAX_SIDE = 64  # of a frame that is kept, in pixels
_MAX_LENGTH = 160  # of a signal that is kept
# The best of many real inputs is what a score is to be compared with; more than these are
# seldom in a batch, and 224 x 224 pixels of each take 19 MB.
_NUM_REAL = 32


class ActivationMaximizationMonitor(Monitor):
    """Makes, by gradient ascent, the input that each class or unit answers to most.

    What comes out is not taken from any image: it shows what the network itself looks for, in
    a class (its unnormalised score) or in any unit of any layer. Early in a training that is
    noise of no structure; later on textures and parts appear. Where they do not, although the
    accuracy is high, the network may rest on something that people do not see.

    All targets are one batch, and each snapshot goes on from the last one's result (or from
    the mean image where that is better), so that a few dozen steps suffice. Of all images on the
    way the one of highest score is shown. Beside it stand the real image of the class that
    scores highest, and the highest of any where that is another. What is made often scores many
    times higher: it is a caricature, and lies where there are no data. Where it scores lower
    than the real image the ascent is tried from there as well, and if that does not help it is
    said: what the preset allows is less than what the real image has.

    Inputs may be images, signals and volumes. Of outputs that are no classes each is maximized
    as a value.

    A target without a gradient, at the mean image, at the last result and at the best real
    image, is called silent and not drawn: a dead unit, mostly.

    Args:
        classes: Indices of classes or outputs. None takes all of them, ``max_images`` evenly
            spread where there are more, but none where ``units`` are given.
        units: Such as ``"layer4.1.relu-1:17"``; of a unit with positions the strongest one is
            maximized, or the one that is named: ``"layer4.1.relu-1:17@3,5"``.
        num_steps: Of the ascent at each snapshot, forward and backward passes of the batch; as
            many again where a real image scores higher than what came of it.
        preset: How images are kept in bounds; a name of
            `vis_callbacks.analysis.maximization_presets.PRESETS`, or a `Preset`.
            ``"simonyan"`` penalises the squared norm alone; ``"smooth"`` also penalises
            differences of neighbours, blurs and shifts, and shows what the other hides behind
            fine grids; the four of Yosinski et al. 2015 are ``"yosinski_norm"``,
            ``"yosinski_decay"``, ``"yosinski_blur"`` and ``"yosinski_contribution"``.
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
        layout = _differentiable(references.inputs, forward)
        real = layout.arranged(references.inputs)
        targets, real_scores = self._look_at_real(forward, references)
        frame, spread = Frame.of(real), score_spread(real_scores)
        best = real_scores.nan_to_num(-torch.inf).argmax(0)
        result = maximize(
            partial(self._score, forward, layout, targets, spread),
            frame.z(real[best]),
            self._fitting_last(real, targets),
            self._preset,
            frame,
            num_steps=self.num_steps,
            seed=self.seed + snapshot.step,
        )
        if snapshot.stage == "fit":
            self._last = result.z
            self._append(snapshot.step, result)
        labels = references.labels if self.outputs.are_classes else None
        labels = None if labels is None else labels.to(best.device)
        found = _Found(
            result=result,
            frame=frame,
            kind=layout.kind,
            scores=result.scores * spread,
            real_scores=real_scores,
            best=best,
            best_of_class=targets.best_of_class(real_scores, labels),
            labels=labels,
        )
        items: list[Scalar | Image] = list(_scalars(found))
        if snapshot.wants_pictures:
            items += self._pictures(snapshot, references, real, targets, found)
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
        self, forward: IsolatedForward, references: References
    ) -> tuple[MaximizedTargets, Tensor]:
        """Returns the targets, and the score of each real input for each, (samples, rows)."""
        scores, layers = run(forward, references.inputs, self._units)
        self.outputs.learn(scores, references.labels)
        scores = self._of_classes(scores)
        targets = MaximizedTargets.chosen(
            self.classes, self._units, num_classes=scores.shape[1], max_images=self.max_images
        )
        return targets, targets.of_all(scores, layers)

    def _of_classes(self, scores: Tensor) -> Tensor:
        """Returns (samples, classes, ...) where the outputs are classes, and else the outputs."""
        return self.outputs.class_scores(scores) if self.outputs.are_classes else scores

    def _score(
        self,
        forward: IsolatedForward,
        layout: InputLayout,
        targets: MaximizedTargets,
        spread: Tensor,
        images: Tensor,
    ) -> Tensor:
        """Returns each row's score for its target, in units of its spread over real images."""
        scores, layers = run(forward, layout.restored(images), targets.units)
        return targets.of_rows(self._of_classes(scores), layers) / spread

    def _fitting_last(self, real: Tensor, targets: MaximizedTargets) -> Tensor | None:
        """Returns the last result where it has the shape that is needed now."""
        if self._last is None or self._last.shape != (targets.num_rows, *real.shape[1:]):
            return None
        return self._last.to(real)

    def _append(self, step: int, result: Maximized) -> None:
        rows = evenly_spread(len(result.z), _MAX_ROWS)
        frame = _Frame(step, _small(result.z[rows]).half(), result.is_silent[rows])
        self._frames = with_frame(
            self._frames, frame, _MAX_FRAMES, key=lambda kept: (kept.step, kept.z.shape)
        )

    def _pictures(
        self,
        snapshot: Snapshot,
        references: References,
        real: Tensor,
        targets: MaximizedTargets,
        found: _Found,
    ) -> Iterator[Image]:
        options, result = self.options, found.result
        labels = None if found.labels is None else found.labels[found.best]
        facts = MaximizationFacts(
            step=snapshot.step,
            kind=found.kind,
            names=tuple(targets.names(self.outputs.name)),
            name=self.outputs.name,
            num_real=len(references.inputs),
            source=references.source,
            preset=self.preset if isinstance(self.preset, str) else "custom",
            num_steps=self.num_steps,
            has_classes=found.labels is not None and bool(targets.classes),
            mean=options.mean,
            std=options.std,
        )
        shared = {"real": real[found.best_of_class], "centre": found.frame.centre.flatten()}
        yield Image(
            tag="activation_maximization/images",
            draw=partial(draw_images, facts=facts),
            arrays={
                **shared,
                "best": real[found.best],
                "deviations": result.z * found.frame.scale,
                "scores": found.scores,
                "best_scores": found.best_scores,
                "real_scores": found.of(found.best_of_class),
                "is_best": found.best == found.best_of_class,
                "is_silent": result.is_silent,
                "is_real": result.is_real,
                "labels": torch.full_like(found.best, -1) if labels is None else labels,
            },
        )
        if not self._frames or snapshot.stage != "fit":
            return
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
    """What one snapshot's ascent led to, and what real inputs score.

    Attributes:
        result: With scores in units of their spread over real inputs.
        frame: Of z.
        kind: Of the inputs.
        scores: (rows,) of what was made.
        real_scores: (samples, rows).
        best: (rows,) the real input of highest score.
        best_of_class: (rows,) that among those of its class.
        labels: (samples,) the classes of the real inputs, where they are known.
    """

    result: Maximized
    frame: Frame
    kind: InputKind
    scores: Tensor
    real_scores: Tensor
    best: Tensor
    best_of_class: Tensor
    labels: Tensor | None

    def of(self, samples: Tensor) -> Tensor:
        """Returns the score of one real input for each row, (rows,)."""
        return self.real_scores.gather(0, samples[None])[0]

    @property
    def best_scores(self) -> Tensor:
        """The highest score among the real inputs, (rows,)."""
        return self.of(self.best)


def _differentiable(inputs: Tensor, forward: IsolatedForward) -> InputLayout:
    """Returns how inputs lie; raises NothingToShow where no gradient reaches them."""
    layout = find_layout(inputs, forward.module)
    if not inputs.is_floating_point():
        raise NothingToShow(refused_inputs(inputs, "and no gradient can be taken there"))
    return layout


def _small(z: Tensor) -> Tensor:
    """Returns images of at most 64 x 64 pixels, signals of at most 160 values.

    Of a volume it is the middle slice.
    """
    if z.dim() == 3:
        return F.adaptive_avg_pool1d(z, min(z.shape[2], _MAX_LENGTH))
    if z.dim() == 5:
        z = z[:, :, z.shape[2] // 2]
    height, width = (min(length, _MAX_SIDE) for length in z.shape[2:])
    return F.adaptive_avg_pool2d(z, (height, width))


def _scalars(found: _Found) -> Iterator[Scalar]:
    """Yields the means over the targets that are not silent, and how many are."""
    is_silent = found.result.is_silent
    for name, values in (("score", found.scores), ("best_real_score", found.best_scores)):
        mean = torch.where(is_silent, torch.nan, values).nanmean()
        yield Scalar(tag=f"activation_maximization/{name}", value=mean)
    yield Scalar(tag="activation_maximization/num_silent", value=is_silent.sum())


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
