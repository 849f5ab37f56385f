"""`SaliencyMonitor`: what in the image drives a class, or any unit of the network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

import torch
from torch import Tensor

from vis_callbacks.engine.cam_layer import CamLayer, choose_cam_layer, named_cam_layer
from vis_callbacks.engine.maps import effective_area
from vis_callbacks.engine.schedule import EveryNEpochs, Schedule
from vis_callbacks.engine.score_functions import class_score, unit_score
from vis_callbacks.engine.scores import (
    MethodUnsuitedError,
    NoGradientError,
    Positions,
    Target,
    Unit,
    expand_target,
    refused_inputs,
    resolve_targets,
    select_scores,
)
from vis_callbacks.guard import NothingToShow, log
from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.saliency.methods import METHODS, named_method
from vis_callbacks.monitors.saliency.pictures import pictures_of
from vis_callbacks.monitors.saliency.questions import Answer, Question, answer_to, sanity_score
from vis_callbacks.monitors.saliency.science import (
    rank_correlation,
    remembered,
    share_in_mask,
)
from vis_callbacks.options import check_choice, check_flag, check_names
from vis_callbacks.pictures.film_strip import FilmStrip
from vis_callbacks.report import Picture, Report, Scalar

if TYPE_CHECKING:
    from vis_callbacks.engine.isolation import IsolatedForward
    from vis_callbacks.engine.references import References
    from vis_callbacks.engine.snapshot import Snapshot
    from vis_callbacks.options import MonitorOptions

_STRIP_SAMPLES = 2  # rows of a picture over the training
_CAM_SAMPLES = 2  # enough to find Grad-CAM's layer; a model may squeeze one sample away

# What columns are called while the outputs are not known to be scores of classes.
_NEUTRAL = {"label": "output = label", "predicted": "highest output"}
_UNKNOWN_OUTPUTS = (
    "the labels do not tell yet what the outputs stand for, so these are named by their numbers "
    "(set the option outputs to say what they are)"
)


class SaliencyMonitor(Monitor):
    """Shows which pixels of the reference images the network's answer depends on.

    It shows the same images at every epoch, each with the map of its true class and, if that
    differs, of the predicted class. The maps show what the network relies on, when that settles,
    and what it mistook for another class. ``unit`` shows the same for any unit of any layer.

    It cannot tell whether the network is *right* to rely on a region, nor what a region means
    together with others. Guided backpropagation and the deconvnet show the image's edges whatever
    the network has learned (``sanity_check`` measures that).

    Args:
        methods: Of ``"gradient"``, ``"guided_backprop"``, ``"deconvnet"``,
            ``"input_x_gradient"``, ``"smoothgrad"``, ``"integrated_gradients"``, ``"grad_cam"``
            and ``"guided_grad_cam"``. The gradient is the cheapest, suits every network, and
            has the plainest meaning; SmoothGrad takes 25 times as long, integrated gradients 50.
        target: Which class's score is explained: ``"label"``, ``"predicted"``, ``"both"`` or
            the index of a class. A single output is the score of class 1, and its negative that
            of class 0. While the outputs are not known to be scores of classes, they are named by
            their index (see ``outputs`` of `Monitor`).
        unit: Explain a unit instead of a class: ``"layer4.1.relu-1:17"``, or with a position
            ``"layer4.1.relu-1:17@3,5"``. `vis_callbacks.summary` lists the layers.
        positions: Without a position in ``unit``: its ``"strongest"`` one on each image, or
            the ``"sum"`` over all of them.
        cam_layer: The layer that Grad-CAM uses. None takes the last layer that all paths from the
            input to the score pass through, and on most of whose positions the score depends.
        mask_fn: Returns the masks of a batch (samples, height, width), which are 0 outside the
            object. The share of the saliency inside is then logged.
        overlay: Draw each map also over its image, which is grey there. None does so for colour
            images.
        sanity_check: Log how similar the maps stay if the weights of the top layer are replaced
            by random ones. Near 1, a map does not show what the network has learned. This doubles
            the cost.
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
        overlay: bool | None = None,
        sanity_check: bool = False,
        **options: Unpack[MonitorOptions],
    ) -> None:
        check_names("methods", methods, allow_empty=False)
        for method in methods:
            named_method(method)
        expand_target(target)
        if unit is not None and not isinstance(unit, str | Unit):
            raise TypeError(f'unit={unit!r} is a {type(unit).__name__}. Use "layer4.1.relu-1:17".')
        check_choice("positions", positions, ("strongest", "sum"))
        if cam_layer is not None and not isinstance(cam_layer, str):
            raise TypeError(
                f'cam_layer={cam_layer!r} is not a name. Use one such as "layer4.1.relu".'
            )
        if mask_fn is not None and not callable(mask_fn):
            raise TypeError(f"mask_fn={mask_fn!r} cannot be called. Give a function.")
        if overlay is not None:
            check_flag("overlay", overlay)
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
        self.overlay = overlay
        self.sanity_check = sanity_check
        self._unit = Unit.parse(unit) if isinstance(unit, str) else unit
        super().__init__(**options)
        self._begin_anew()

    def observe(self, snapshot: Snapshot) -> Report:
        """Explains the network's answers to the reference samples by each method."""
        references, forward = snapshot.own_passes("to explain")
        if not references.inputs.is_floating_point():
            raise NothingToShow(
                refused_inputs(
                    references.inputs,
                    "which are not floating point and have no gradient",
                    "what the network sees as floating point numbers",
                )
            )
        try:
            with torch.no_grad():
                questions = self._questions(snapshot, forward, references)
        except MethodUnsuitedError as why:  # of the unit's layer
            raise NothingToShow(str(why)) from why
        items: list[Scalar | Picture] = []
        for method in self.methods:
            answer = self._answer(method, questions, forward, references.inputs)
            if answer is None:
                continue
            items += self._scalars(answer, forward, references)
            if snapshot.stage == "fit":
                items += self._recorded(snapshot.step, answer)
            if snapshot.wants_pictures:
                items += pictures_of(
                    answer,
                    references,
                    self._films[method] if snapshot.stage == "fit" else None,
                    step=snapshot.step,
                    unit=self._name_of_unit,
                    notes=self._notes(questions, references),
                    has_overlay=self.overlay,
                    options=self.options,
                )
        return Report(step=snapshot.step, items=tuple(items))

    def state_dict(self) -> dict[str, Any]:
        """Returns the maps of the strips, and the last ones."""
        return {
            "films": {method: film.state_dict() for method, film in self._films.items()},
            "last": {method: maps.cpu() for method, maps in self._last.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the strips; an empty state begins anew."""
        self._begin_anew()
        for method, film in state.get("films", {}).items():
            self._films[method].load_state_dict(film)
        self._last.update(state.get("last", {}))

    def _begin_anew(self) -> None:
        self._films: dict[str, FilmStrip] = defaultdict(FilmStrip)
        self._last: dict[str, Tensor] = {}
        self._chosen_layer: CamLayer | None = None
        self._left_out: set[str] = set()

    def _questions(
        self, snapshot: Snapshot, forward: IsolatedForward, references: References
    ) -> list[Question]:
        """Returns what is to be explained: a unit, or the output of each target."""
        inputs = references.inputs
        if self._unit is not None:
            score = unit_score(forward, self._unit, positions=self.positions)
            nobody = torch.full((len(inputs),), -1, device=inputs.device)
            return [Question("unit", lambda _: score, nobody, score(inputs))]
        scores = forward(inputs)
        if snapshot.wants_pictures:
            self.outputs.learn(scores, references.labels)
        # A single output has a class 1 only where it is the score of one.
        are_classes = self.outputs.are_classes or (scores.shape[1] == 1 and self.target == 1)
        read = self.outputs.class_scores if are_classes else None
        shares = self.outputs.probabilities(scores) if are_classes else scores
        questions = []
        labels = references.labels
        for target in self._targets(scores.shape[1], are_classes, has_labels=labels is not None):
            found = resolve_targets(read(scores) if read else scores, target, labels)
            column = target if isinstance(target, str) else self.outputs.name(target)
            if column == "label" and labels is None:  # its note says so
                column = "predicted"
            questions.append(
                Question(
                    column if are_classes else _NEUTRAL.get(column, column),
                    partial(class_score, forward, read=read),
                    found.indices,
                    select_scores(shares, found.indices),
                    found.note if are_classes else _neutral(found.note),
                    shares.shape[1] if are_classes else 0,
                )
            )
        return questions

    def _targets(
        self, num_outputs: int, are_classes: bool, *, has_labels: bool
    ) -> Sequence[Target]:
        """Returns the targets that mean something for outputs of this kind."""
        targets = expand_target(self.target)
        if not has_labels:
            targets = targets[:1]  # of "both": what stands in for the label is the prediction
        if are_classes or isinstance(self.target, int):
            return targets
        if num_outputs == 1:
            return (0,)
        # Labels name none of the outputs that the user calls values.
        return ("predicted",) if self.options.outputs == "values" else targets

    def _answer(
        self,
        method: str,
        questions: Sequence[Question],
        forward: IsolatedForward,
        inputs: Tensor,
    ) -> Answer | None:
        """Returns what a method says; None, said once, where it does not suit the network."""
        try:
            layer = None
            if METHODS[method].uses_layer:
                layer = self._cam_layer(questions[0], forward, inputs[:_CAM_SAMPLES])
            return answer_to(method, questions, forward, inputs, layer)
        except NoGradientError as why:
            raise NothingToShow(str(why)) from why
        except MethodUnsuitedError as why:
            if method not in self._left_out:
                self._left_out.add(method)
                log(f"{self.name}: the map of {method} is left out: {why}")
            return None

    def _cam_layer(self, question: Question, forward: IsolatedForward, inputs: Tensor) -> CamLayer:
        """Returns where Grad-CAM looks, which is found once a run."""
        if self._chosen_layer is None or not self._chosen_layer.is_final:
            if self.cam_layer is not None:
                self._chosen_layer = named_cam_layer(forward, inputs, self.cam_layer)
            else:
                score = question.score(question.indices[: len(inputs)])
                before = None if self._unit is None else self._unit.layer
                self._chosen_layer = choose_cam_layer(forward, inputs, score, before=before)
        return self._chosen_layer

    def _scalars(
        self, answer: Answer, forward: IsolatedForward, references: References
    ) -> Iterator[Scalar]:
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
            scores = sanity_score(answer, forward, references.inputs)
            yield _mean(f"saliency/sanity_score/{method}", scores)

    def _recorded(self, step: int, answer: Answer) -> Iterator[Scalar]:
        """Adds the first target's maps to the film, and yields how like the last ones they are."""
        method, first = answer.method, answer.questions[0]
        maps, last = remembered(answer.maps[0]), self._last.get(method)
        self._last[method] = maps
        self._films[method].add(
            step,
            maps=maps[:_STRIP_SAMPLES],
            indices=first.indices[:_STRIP_SAMPLES],
            values=first.values[:_STRIP_SAMPLES].float(),
            are_classes=first.are_classes,
        )
        if last is not None and last.shape == maps.shape:
            similarity = rank_correlation(last.to(maps.device).float(), maps.float())
            yield _mean(f"saliency/similarity/{method}", similarity)

    def _notes(self, questions: Sequence[Question], references: References) -> list[str]:
        """Returns what must be said of the targets."""
        notes = dict.fromkeys(question.note for question in questions if question.note)
        is_unknown = self._unit is None and not questions[0].num_classes
        if is_unknown and self.options.outputs == "auto" and references.labels is not None:
            notes[_UNKNOWN_OUTPUTS] = None
        return list(notes)

    @property
    def _name_of_unit(self) -> str:
        if self._unit is None:
            return ""
        where = {"strongest": " at its strongest position", "sum": ", the sum over its positions"}
        return f"unit {self._unit}{where[self.positions] if self._unit.position is None else ''}"


def _neutral(note: str) -> str:
    """Returns a note on the targets for outputs that are not known to be classes."""
    return note.replace("the predicted class", "the highest output").replace("classes", "outputs")


def _mean(name: str, values: Tensor) -> Scalar:
    return Scalar(tag=name, value=values.nanmean())
