"""`ActivationMaximizationMonitor`: the inputs that classes and units answer to most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.engine.input_layout import find_layout
from vis_callbacks.engine.schedule import EveryNEpochs, Schedule
from vis_callbacks.engine.score_functions import run_with_layers
from vis_callbacks.engine.scores import (
    Unit,
    at_least_float32,
    find_scores,
    per_output,
    refused_inputs,
    select_scores,
    value_of_unit,
)
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.activation_maximization.pictures import (
    MaximizationFacts,
    draw_images,
    draw_over_time,
)
from vis_callbacks.monitors.activation_maximization.science import (
    PRESETS,
    Frame,
    Preset,
    maximize,
    score_spread,
)
from vis_callbacks.options import check_count
from vis_callbacks.pictures.film_strip import FilmStrip, evenly_spread
from vis_callbacks.report import Picture, Report, Scalar

if TYPE_CHECKING:
    from vis_callbacks.engine.input_layout import InputKind
    from vis_callbacks.engine.isolation import IsolatedForward
    from vis_callbacks.engine.references import References
    from vis_callbacks.engine.snapshot import Snapshot
    from vis_callbacks.monitors.activation_maximization.science import Maximized, Score
    from vis_callbacks.options import MonitorOptions

_MAX_ROWS = 8  # of the strip
_MAX_SIDE = 64  # of a frame that is kept, in pixels
_MAX_LENGTH = 160  # of a signal that is kept
# The best of many real inputs is what a score is to be compared with; more than these are
# seldom in a batch, and 224 x 224 pixels of each take 19 MB.
_NUM_REAL = 32


@dataclass(frozen=True)
class MaximizedTargets:
    """The targets, a row of the batch each: classes, then units."""

    classes: tuple[int, ...]
    units: tuple[Unit, ...]

    def look(self, forward: IsolatedForward, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the scores, and the activations of the units' layers, of one pass."""
        names = list(dict.fromkeys(unit.layer for unit in self.units))
        if not names:
            return forward(inputs), {}
        output, layers = run_with_layers(forward, inputs, names)
        values = {name: at_least_float32(layer.values) for name, layer in layers.items()}
        return at_least_float32(find_scores(output, len(inputs))), values

    def of_all(self, scores: Tensor, layers: dict[str, Tensor]) -> Tensor:
        """Returns the score of each sample for each target, (samples, rows)."""
        numbers = self._numbers_on(scores.device)
        values = [value_of_unit(layers[unit.layer], unit) for unit in self.units]
        return torch.cat(
            [per_output(scores)[:, numbers], *(value[:, None] for value in values)], dim=1
        )

    def of_rows(self, scores: Tensor, layers: dict[str, Tensor]) -> Tensor:
        """Returns the score of each row for its own target, (rows,)."""
        num_classes = len(self.classes)
        numbers = self._numbers_on(scores.device)
        parts = [select_scores(scores[:num_classes], numbers)] if num_classes else []
        for row, unit in enumerate(self.units, start=num_classes):
            parts.append(value_of_unit(layers[unit.layer][row : row + 1], unit))
        return torch.cat(parts)

    def best_of_class(self, real_scores: Tensor, labels: Tensor | None) -> Tensor:
        """Returns of each row the best of the samples (samples, rows) of its own class, (rows,).

        Of a unit, and of a class that no sample has, it is the best of all.
        """
        known = real_scores.nan_to_num(-torch.inf)
        if labels is not None and self.classes:
            numbers = self._numbers_on(known.device)
            is_other = labels[:, None] != numbers  # (samples, classes)
            is_other = is_other & ~is_other.all(0)
            known[:, : len(numbers)].masked_fill_(is_other, -torch.inf)
        return known.argmax(0)

    def _numbers_on(self, device: torch.device) -> Tensor:
        """Returns the classes' numbers, sent there once: each time would wait for the device."""
        if device not in self._sent:
            self._sent[device] = torch.tensor(self.classes, dtype=torch.int64, device=device)
        return self._sent[device]

    @cached_property
    def _sent(self) -> dict[torch.device, Tensor]:
        return {}


class ActivationMaximizationMonitor(Monitor):
    """Makes, by gradient ascent, the input that maximizes the score of each class or unit.

    The result is not taken from any image. It shows what the network itself detects as a class
    (its unnormalised score), an output that is not a class, or any unit of any layer. Inputs may
    be images, signals and volumes. Early in a training the result is noise; later, textures and
    parts appear. If they do not, although the accuracy is high, the network may rely on something
    that people do not see.

    All targets are one batch, and each snapshot continues from the previous result (or from the
    mean image if that scores higher), so a few dozen steps are enough. The image with the highest
    score on the way is shown, beside the real image of the class that scores highest, and the
    highest-scoring image of any class if that is another. Made images often score many times
    higher than real ones: they are caricatures, unlike any data. If one scores lower, the ascent
    is also tried from the real image. If that does not help, the preset allows less than the real
    image has, and the picture says so. A target without a gradient at any of these images is
    called silent and is not drawn; usually it is a dead unit.

    Args:
        classes: Indices of classes or outputs. None takes all of them, ``max_images`` evenly
            spread where there are more, but none where ``units`` are given.
        units: Such as ``"layer4.1.relu-1:17"``; of a unit with positions the strongest one is
            maximized, or the one that is named: ``"layer4.1.relu-1:17@3,5"``.
        num_steps: Steps of the ascent at each snapshot, each a forward and a backward pass of the
            batch; as many again if a real image scores higher than the result.
        preset: How images are kept in bounds: a `Preset`, or a name of `PRESETS`.
            ``"natural"`` penalises the squared norm and differences of neighbours, blurs, shifts,
            turns and scales, and goes along the colours of the real images; ``"olah"`` also goes
            along waves, as Olah et al. 2017 do; ``"smooth"`` neither turns nor scales, and each
            channel goes its own way; ``"simonyan"`` penalises the squared norm alone; the four of
            Yosinski et al. 2015 are ``"yosinski_norm"``, ``"yosinski_decay"``,
            ``"yosinski_blur"`` and ``"yosinski_contribution"``.
        max_images: See ``classes``.
        seed: Of the shifts, turns and scales.
        **options: Those of every `Monitor`; ``num_samples`` (here 32) is how many real images
            the scores are compared with.

    Raises:
        TypeError, ValueError: An option is wrong.

    References:
        Simonyan et al. 2014, "Deep inside convolutional networks: visualising image
        classification models and saliency maps"; Yosinski et al. 2015, "Understanding neural
        networks through deep visualization"; Olah et al. 2017, "Feature visualization".
    """

    stem: ClassVar[str] = "activation_maximization"
    default_options: ClassVar[MonitorOptions] = {"num_samples": _NUM_REAL}
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
        preset: str | Preset = "natural",
        max_images: int = 16,
        seed: int = 0,
        **options: Unpack[MonitorOptions],
    ) -> None:
        _check_classes(classes)
        self._units = _parsed_units(units)
        check_count("num_steps", num_steps)
        check_count("max_images", max_images)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed={seed!r} is not a whole number.")
        self._preset = _named_preset(preset)
        self.classes = classes
        self.units = units
        self.num_steps = num_steps
        self.preset = preset
        self.max_images = max_images
        self.seed = seed
        super().__init__(**options)
        self._last: Tensor | None = None  # z of the last result, (rows, channels, ...)
        self._strip = FilmStrip()

    def observe(self, snapshot: Snapshot) -> Report:
        """Goes on with each image for some steps and says how high its score has come."""
        references, forward = snapshot.own_passes("to tell what an input looks like")
        inputs = references.inputs
        layout = find_layout(inputs, forward.module)
        if not inputs.is_floating_point():
            raise NothingToShow(
                refused_inputs(inputs, "which are not floating point and have no gradient")
            )
        real = layout.arranged(inputs)
        targets, real_scores = self._look_at_real(forward, references)
        frame, spread = Frame.of(real), score_spread(real_scores)
        best = real_scores.nan_to_num(-torch.inf).argmax(0)

        def score(images: Tensor) -> Tensor:
            """Returns each row's score, in units of its spread over real images."""
            scores, layers = targets.look(forward, layout.restored(images))
            return targets.of_rows(self._of_classes(scores), layers) / spread

        result = self._maximized(score, frame, real[best], snapshot.step)
        rows = evenly_spread(len(best), _MAX_ROWS)
        if snapshot.stage == "fit":
            self._last = result.z
            small = _small(result.z[rows]).half()
            self._strip.add(snapshot.step, frames=small, silent=result.is_silent[rows])
        scores, best_scores = result.scores * spread, real_scores.gather(0, best[None])[0]
        items: list[Scalar | Picture] = list(_scalars(scores, best_scores, result.is_silent))
        if not snapshot.wants_pictures:
            return Report(step=snapshot.step, items=tuple(items))
        labels = references.labels if self.outputs.are_classes else None
        labels = None if labels is None else labels.to(best.device)
        own = targets.best_of_class(real_scores, labels)
        facts = self._facts(snapshot, references, layout.kind, targets)
        shared = {"real": real[own], "centre": frame.centre.flatten()}
        arrays = {
            **shared,
            "best": real[best],
            "deviations": result.z * frame.scale,
            "scores": scores,
            "best_scores": best_scores,
            "real_scores": real_scores.gather(0, own[None])[0],
            "is_best": best == own,
            "is_silent": result.is_silent,
            "is_real": result.is_real,
            "labels": torch.full_like(best, -1) if labels is None else labels[best],
        }
        draw = partial(draw_images, facts=facts)
        items.append(Picture(tag="activation_maximization/images", draw=draw, arrays=arrays))
        if snapshot.stage == "fit":
            steps, arrays = tuple(self._strip.steps), self._strip.stacked(real.device)
            draw = partial(draw_over_time, facts=facts, rows=rows, steps=steps)
            tag = "activation_maximization/over_time"
            items.append(Picture(tag=tag, draw=draw, arrays={**shared, **arrays}))
        return Report(step=snapshot.step, items=tuple(items))

    def _maximized(self, score: Score, frame: Frame, real: Tensor, step: int) -> Maximized:
        """Goes on from the last images where they are of this shape, else from real ones."""
        last = self._last
        return maximize(
            score,
            frame.z(real),
            None if last is None or last.shape != real.shape else last.to(real),
            self._preset,
            frame,
            num_steps=self.num_steps,
            seed=self.seed + step,
        )

    def _facts(
        self, snapshot: Snapshot, references: References, kind: InputKind, targets: MaximizedTargets
    ) -> MaximizationFacts:
        """Returns what the pictures say of how they were made."""
        classes = [self.outputs.name(number) for number in targets.classes]
        has_classes = self.outputs.are_classes and references.labels is not None and bool(classes)
        return MaximizationFacts(
            step=snapshot.step,
            kind=kind,
            names=(*classes, *(f"unit {unit}" for unit in targets.units)),
            name=self.outputs.name,
            num_real=len(references.inputs),
            source=references.source,
            preset=self.preset if isinstance(self.preset, str) else "custom",
            num_steps=self.num_steps,
            has_classes=has_classes,
            mean=self.options.mean,
            std=self.options.std,
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns the last images, for a warm start, and the strip's frames."""
        last = None if self._last is None else self._last.cpu()
        return {"last": last, "strip": self._strip.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from the last images; an empty state begins anew."""
        self._last = state.get("last")
        self._strip.load_state_dict(state.get("strip", {}))

    @torch.no_grad()
    def _look_at_real(
        self, forward: IsolatedForward, references: References
    ) -> tuple[MaximizedTargets, Tensor]:
        """Returns the targets, and the score of each real input for each, (samples, rows)."""
        scores, layers = MaximizedTargets((), self._units).look(forward, references.inputs)
        self.outputs.learn(scores, references.labels)
        scores = self._of_classes(scores)
        classes, num_classes = self.classes, scores.shape[1]
        if classes is None:
            classes = [] if self._units else evenly_spread(num_classes, self.max_images)
        for number in classes:
            if number >= num_classes:
                raise ValueError(
                    f"classes holds {number}, which is not a class of these scores: they have "
                    f"{num_classes}. Use 0 to {num_classes - 1}."
                )
        targets = MaximizedTargets(tuple(classes), self._units)
        return targets, targets.of_all(scores, layers)

    def _of_classes(self, scores: Tensor) -> Tensor:
        """Returns (samples, classes, ...) where the outputs are classes, and else the outputs."""
        return self.outputs.class_scores(scores) if self.outputs.are_classes else scores


def _small(z: Tensor) -> Tensor:
    """Returns images of at most 64 x 64 pixels (a volume's middle slice), signals of 160 values."""
    if z.dim() == 3:
        return F.adaptive_avg_pool1d(z, min(z.shape[2], _MAX_LENGTH))
    if z.dim() == 5:
        z = z[:, :, z.shape[2] // 2]
    height, width = (min(length, _MAX_SIDE) for length in z.shape[2:])
    return F.adaptive_avg_pool2d(z, (height, width))


def _scalars(scores: Tensor, best_scores: Tensor, is_silent: Tensor) -> Iterator[Scalar]:
    """Yields the means over the targets that are not silent, and how many are."""
    for name, values in (("score", scores), ("best_real_score", best_scores)):
        mean = values.masked_fill(is_silent, torch.nan).nanmean()
        yield Scalar(tag=f"activation_maximization/{name}", value=mean)
    yield Scalar(tag="activation_maximization/num_silent", value=is_silent.sum())


def _check_classes(classes: object) -> None:
    if classes is None:
        return
    if isinstance(classes, str) or not isinstance(classes, Sequence) or not classes:
        raise TypeError(
            f"classes={classes!r} is not a list of classes. Use [0, 3], or None for all."
        )
    for item in classes:
        if isinstance(item, bool) or not isinstance(item, int) or item < 0:
            raise ValueError(f"classes holds {item!r}. Use whole numbers from 0.")


def _parsed_units(units: object) -> tuple[Unit, ...]:
    if units is None:
        return ()
    if isinstance(units, str) or not isinstance(units, Sequence) or not units:
        raise TypeError(f'units={units!r} is not a list of units. Use ["layer4.1.relu-1:17"].')
    return tuple(unit if isinstance(unit, Unit) else Unit.parse(unit) for unit in units)


def _named_preset(preset: object) -> Preset:
    if isinstance(preset, Preset):
        return preset
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ValueError(f"preset={preset!r} is none. Use a Preset or one of {', '.join(PRESETS)}.")
    return PRESETS[preset]
