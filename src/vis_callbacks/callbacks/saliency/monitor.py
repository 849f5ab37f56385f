"""`SaliencyMonitor`: what in the image drives a class, or any unit of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

import torch
from torch import Tensor

from vis_callbacks.analysis.probabilities import probabilities
from vis_callbacks.analysis.saliency import METHODS, named_method
from vis_callbacks.analysis.saliency_maps import effective_area, share_in_mask
from vis_callbacks.callbacks.monitor import Monitor
from vis_callbacks.callbacks.options import check_flag, check_names
from vis_callbacks.callbacks.saliency.pictures import SaliencyFacts, draw_grid, draw_strip
from vis_callbacks.callbacks.saliency.questions import Answer, Question, answer_to
from vis_callbacks.callbacks.saliency.record import SaliencyRecord, shrunk
from vis_callbacks.engine.schedule import EveryNEpochs, Schedule
from vis_callbacks.engine.score_functions import Positions, last_layer_with_maps, unit_score
from vis_callbacks.engine.scores import Unit, expand_target, refused_inputs, resolve_targets
from vis_callbacks.render.saliency_maps import MAX_TILE
from vis_callbacks.report import Image, Report, Scalar

if TYPE_CHECKING:
    from vis_callbacks.callbacks.options import MonitorOptions
    from vis_callbacks.engine.isolation import IsolatedForward
    from vis_callbacks.engine.probe import Probe
    from vis_callbacks.engine.references import References
    from vis_callbacks.engine.snapshot import Snapshot


class SaliencyMonitor(Monitor):
    """Shows which pixels of the reference images the network's answer hangs on.

    The same images at every epoch; for each the map of its true class and, where that is
    another one, of the predicted class, side by side: one sees what the network looks at, when
    that settles, and what it took for something else. `unit` asks the same of any unit of any
    layer.

    What it cannot tell: that the network is *right* to look there; nor what a region means
    together with others. Guided backpropagation and the deconvnet draw the image's edges
    whatever the network has learned (`sanity_check` measures that).

    Args:
        methods: Of ``"gradient"``, ``"guided_backprop"``, ``"deconvnet"``,
            ``"input_x_gradient"``, ``"smoothgrad"``, ``"integrated_gradients"``, ``"grad_cam"``
            and ``"guided_grad_cam"``. The gradient is the cheapest, suits every network, and
            has the plainest meaning; SmoothGrad takes 25 times as long, integrated gradients 50.
        target: Which class's score is explained: ``"label"``, ``"predicted"``, ``"both"`` or
            the index of a class.
        unit: Explain a unit instead of a class: ``"layer4.1.relu-1:17"``, or with a position
            ``"layer4.1.relu-1:17@3,5"``. `vis_callbacks.summary` lists the layers.
        positions: Without a position in ``unit``: its ``"strongest"`` one on each image, or
            the ``"sum"`` over all of them.
        cam_layer: Where Grad-CAM looks. None takes the last nonlinearity that has maps (before
            the unit, if one is explained).
        mask_fn: Batch to masks (samples, height, width) of where the object is, 0 outside:
            then the share of the saliency inside is logged.
        sanity_check: Log how alike the maps stay when the weights of the top layer are
            replaced by random ones: near 1, a map does not show what the network has learned.
            Doubles the cost.
        **options: Those of every `Monitor`.

    Raises:
        TypeError, ValueError: An option is wrong.

    References:
        Simonyan et al. 2014, "Deep inside convolutional networks: visualising image
        classification models and saliency maps"; Springenberg et al. 2015, "Striving for
        simplicity"; Adebayo et al. 2018, "Sanity checks for saliency maps".
    """

    stem: ClassVar[str] = "saliency"
    needs: ClassVar[frozenset[str]] = frozenset({"forward", "references"})
    default_schedule: ClassVar[Schedule] = EveryNEpochs(1)
    picture_schedule: ClassVar[Schedule | None] = None
    tags: ClassVar[Sequence[str]] = (
        "saliency/<method>",
        "saliency/over_time/<method>",
        "saliency/effective_area/<method>",
        "saliency/similarity/<method>",
        "saliency/in_mask/<method>",
        "saliency/sanity_score/<method>",
        "saliency/completeness_error/integrated_gradients",
    )

    def __init__(
        self,
        methods: Sequence[str] = ("gradient",),
        target: Literal["both", "label", "predicted"] | int = "both",
        unit: str | Unit | None = None,
        positions: Literal["strongest", "sum"] = "strongest",
        cam_layer: str | None = None,
        mask_fn: Callable[[Any], Tensor] | None = None,
        sanity_check: bool = False,
        **options: Unpack[MonitorOptions],
    ) -> None:
        _check_methods(methods)
        expand_target(target)
        if unit is not None and not isinstance(unit, str | Unit):
            raise TypeError(f'unit={unit!r} is a {type(unit).__name__}. Use "layer4.1.relu-1:17".')
        if positions not in ("strongest", "sum"):
            raise ValueError(f'positions={positions!r} is none. Use "strongest" or "sum".')
        if cam_layer is not None and not isinstance(cam_layer, str):
            raise TypeError(f'cam_layer={cam_layer!r} is no name. Use one such as "layer4.1.relu".')
        if mask_fn is not None and not callable(mask_fn):
            raise TypeError(f"mask_fn={mask_fn!r} cannot be called. Give a function.")
        check_flag("sanity_check", sanity_check)
        if sanity_check and unit is not None:
            raise ValueError(
                "sanity_check=True replaces the weights of the top layer, on which no unit below "
                "it depends. Leave it off with unit=..., or explain a class."
            )
        self.methods = methods
        self.target = target
        self.unit = unit
        self.positions: Positions = positions
        self.cam_layer = cam_layer
        self.mask_fn = mask_fn
        self.sanity_check = sanity_check
        self._unit = Unit.parse(unit) if isinstance(unit, str) else unit
        super().__init__(**options)
        self._record = SaliencyRecord()

    def probes(self) -> Sequence[Probe]:
        """Asks for nothing: all passes are its own."""
        return ()

    def observe(self, snapshot: Snapshot) -> Report:
        """Explains the network's answers to the reference samples by each method."""
        references, forward = snapshot.own_passes("to explain")
        if not references.inputs.is_floating_point():
            raise TypeError(
                refused_inputs(
                    references.inputs,
                    "and no gradient can be taken there",
                    "what the network sees as floating point numbers",
                )
            )
        with torch.no_grad():
            questions = self._questions(forward, references)
        cam_layer = self._cam_layer(forward, references.inputs)
        items: list[Scalar | Image] = []
        for method in self.methods:
            answer = answer_to(method, questions, references.inputs, cam_layer)
            items += self._scalars(answer, references)
            if snapshot.stage == "fit":
                items += self._recorded(snapshot.step, answer)
            if snapshot.wants_pictures:
                items += self._pictures(snapshot, references, answer)
        return Report(step=snapshot.step, items=tuple(items))

    def state(self) -> Mapping[str, Any]:
        """Returns the maps of the strips, and the last ones."""
        return self._record.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on with the strips; an empty state begins anew."""
        self._record = SaliencyRecord()
        if state:
            self._record.restore(state)

    def _questions(self, forward: IsolatedForward, references: References) -> list[Question]:
        """Returns what is to be explained: a unit, or the class of each target."""
        inputs = references.inputs
        if self._unit is not None:
            score = unit_score(forward, self._unit, positions=self.positions)
            nobody = torch.full((len(inputs),), -1, device=inputs.device)
            values = score(inputs)
            asked = partial(Question, unit=self._unit, positions=self.positions)
            return [asked(forward, "unit", nobody, values)]
        scores = forward(inputs)
        shares = probabilities(scores)
        questions = []
        for target in expand_target(self.target):
            found = resolve_targets(scores, target, references.labels)
            values = shares.gather(1, found.indices.unsqueeze(1)).squeeze(1)
            column = target if isinstance(target, str) else f"class {target}"
            questions.append(
                Question(forward, column, found.indices, values, found.note, shares.shape[1])
            )
        return questions

    def _cam_layer(self, forward: IsolatedForward, inputs: Tensor) -> str | None:
        """Returns where Grad-CAM looks; None where no method asks for it."""
        if not any(METHODS[method].uses_layer for method in self.methods):
            return None
        before = None if self._unit is None else self._unit.layer
        return self.cam_layer or last_layer_with_maps(forward, inputs, before=before)

    def _scalars(self, answer: Answer, references: References) -> Iterator[Scalar]:
        """Yields a method's numbers: means over the samples, for the first target."""
        method, maps = answer.method, answer.maps[0]
        yield _mean(f"saliency/effective_area/{method}", effective_area(maps))
        if references.masks is not None:
            shares = share_in_mask(maps, references.masks.to(maps.device))
            yield _mean(f"saliency/in_mask/{method}", shares)
        if answer.first.completeness_error is not None:
            errors = answer.first.completeness_error
            yield Scalar(tag=f"saliency/completeness_error/{method}", value=errors.nanmedian())
        if self.sanity_check:
            yield _mean(f"saliency/sanity_score/{method}", answer.sanity(references.inputs))

    def _recorded(self, step: int, answer: Answer) -> Iterator[Scalar]:
        """Adds the first target's maps to the past, and yields how like the last ones they are."""
        method, maps, first = answer.method, answer.maps[0], answer.questions[0]
        similarity = self._record.similarity(method, maps)
        self._record.append(method, step, maps, first.classes, first.values)
        if similarity is not None:
            yield _mean(f"saliency/similarity/{method}", similarity)

    def _pictures(
        self, snapshot: Snapshot, references: References, answer: Answer
    ) -> Iterator[Image]:
        """Yields all samples at this step, and the first ones over the training."""
        method, questions, options = answer.method, answer.questions, self.options
        inputs = _small_images(references.inputs)
        facts = SaliencyFacts(
            method=method,
            is_signed=METHODS[method].is_signed,
            step=snapshot.step,
            columns=tuple(question.column for question in questions),
            unit=None if self._unit is None else self._named_unit(self._unit),
            num_relus=answer.first.num_relus,
            cam_layer=answer.cam_layer,
            source=references.source,
            notes=tuple(dict.fromkeys(q.note for q in questions if q.note)),
            class_names=options.class_names,
            mean=options.mean,
            std=options.std,
        )
        arrays = {
            "images": inputs,
            "maps": torch.stack([shrunk(maps, MAX_TILE) for maps in answer.maps]),
            "strengths": torch.stack([maps.abs().flatten(1).mean(1) for maps in answer.maps]),
            "classes": torch.stack([question.classes for question in questions]),
            "values": torch.stack([question.values for question in questions]),
        }
        # A single score has no class that a label could name.
        num_classes = questions[0].num_classes
        if references.labels is not None and num_classes != 1:
            labels = references.labels.to(inputs.device)
            is_class = (labels >= 0) & ((labels < num_classes) | (num_classes == 0))
            arrays["labels"] = torch.where(is_class, labels, -1)
        if answer.first.completeness_error is not None:
            arrays["completeness"] = answer.first.completeness_error
        yield Image(tag=f"saliency/{method}", draw=partial(draw_grid, facts=facts), arrays=arrays)
        steps = self._record.steps(method)
        if len(steps) > 1 and snapshot.stage == "fit":
            over_time = self._record.arrays(method)
            yield Image(
                tag=f"saliency/over_time/{method}",
                draw=partial(draw_strip, steps=steps, facts=facts),
                arrays={"images": inputs[: over_time["maps"].shape[1]], **over_time},
            )

    def _named_unit(self, unit: Unit) -> str:
        where = {"strongest": " at its strongest position", "sum": ", the sum over its positions"}
        return f"unit {unit}{where[self.positions] if unit.position is None else ''}"


def _mean(name: str, values: Tensor) -> Scalar:
    return Scalar(tag=name, value=values.nanmean())


def _small_images(inputs: Tensor) -> Tensor:
    """Returns images averaged to the size they are shown at; other inputs as they are."""
    if inputs.dim() != 4:
        return inputs
    samples, channels = inputs.shape[:2]
    small = shrunk(inputs.flatten(0, 1).float(), MAX_TILE)
    return small.view(samples, channels, *small.shape[1:])


def _check_methods(methods: object) -> None:
    check_names("methods", methods, allow_empty=False)
    for method in methods if isinstance(methods, Sequence) else ():
        named_method(method)
