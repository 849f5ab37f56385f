"""Whether a model's outputs are scores of classes, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vis_callbacks.engine.labels import class_labels
from vis_callbacks.engine.scores import per_output

OutputKind = Literal["auto", "classes", "values"]

_MANY_SAMPLES = 50  # so many show in one comparison what fewer show in three
_LOOKS_NEEDED = 3
_MIN_CONFIDENCE_Z = 2.33  # standard errors above chance: one in a hundred by luck alone
_MAX_LUCK = 0.001  # the probability that so many classes are met by clusters without names


@dataclass
class _Learned:
    """What outputs and labels have shown so far."""

    looks_above_chance: int = 0  # comparisons in a row in which they agreed
    has_agreed: bool = False
    is_beyond_probability: bool = False  # a single output was once below 0 or above 1
    has_other_labels: bool = False  # those of a single output were once not 0 or 1


class Outputs:
    """What is known of a model's outputs: class scores, or values that are no classes.

    Of contrastive networks, autoencoders and regressions nothing may be called "class 52" or
    "misclassified", although their batches may have labels. So the outputs count as scores of
    classes where the user says so (``outputs="classes"``, or ``class_names``), and else only once
    labels and outputs agree: the labels are whole numbers below the number of outputs, one a
    sample, and the highest output is the label more often than by chance, for more classes than
    by luck, in three comparisons in a row (in one of 50 samples or more).

    A single output is the score of class 1; class 0 has its negative, and the probability that is
    left. Once its labels were other numbers than 0 and 1, such as ages, it stays a value.
    """

    def __init__(self, kind: OutputKind = "auto", class_names: Sequence[str] | None = None) -> None:
        self._kind = kind
        self._class_names = class_names
        self._learned = _Learned()

    @property
    def are_classes(self) -> bool:
        """Whether the outputs may be called scores of classes."""
        if self._kind != "auto":
            return self._kind == "classes"
        return self._class_names is not None or self._learned.has_agreed

    def learn(self, scores: Tensor, labels: Tensor | None) -> bool:
        """Compares outputs with labels; returns whether the outputs are classes.

        It waits for the device: call it where pictures are made, not at each step. Scores are
        (samples, outputs, ...), as the model returns them in evaluation mode. Labels are as a loss
        takes them, see `class_labels`; of another form, such as masks, they are no evidence.
        """
        learned = self._learned
        scores = per_output(scores.detach()).cpu()  # a few numbers, looked at in many ways
        scores, is_finite = scores.float(), scores.isfinite().all(1)
        if scores.shape[1] == 1 and not _in_range(scores[is_finite]):
            learned.is_beyond_probability = True
        classes, _ = class_labels(labels, len(scores))
        if classes is None or self._kind != "auto" or learned.has_agreed:
            return self.are_classes
        classes = classes.cpu()
        if scores.shape[1] == 1 and bool((classes > 1).any()):
            learned.has_other_labels = True
        is_known = is_finite & (classes >= 0)
        scores, classes = scores[is_known], classes[is_known]
        if learned.has_other_labels or not _agree(self.class_scores(scores), classes):
            learned.looks_above_chance = 0
            return self.are_classes
        learned.looks_above_chance += 1
        enough = 1 if len(classes) >= _MANY_SAMPLES else _LOOKS_NEEDED
        learned.has_agreed = learned.looks_above_chance >= enough
        return self.are_classes

    def class_scores(self, scores: Tensor) -> Tensor:
        """Returns (samples, classes, ...): a single score s becomes (-s, s), all else stays."""
        if scores.shape[1] != 1:
            return scores
        other = 1 - scores if self._is_single_probability(scores) else -scores
        return torch.cat([other, scores], 1)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns the probabilities (samples, classes) of scores (samples, outputs, ...).

        Scores at several positions are averaged. Rows that are probabilities stay as they are.
        """
        scores = per_output(scores)
        if scores.shape[1] == 1:
            one = scores if self._is_single_probability(scores) else scores.sigmoid()
            return torch.cat([1 - one, one], 1)
        is_probability = (scores >= 0).all(1) & ((scores.sum(1) - 1).abs() < 1e-3)
        return torch.where(is_probability[:, None], scores, scores.softmax(1))

    def name(self, index: int) -> str:
        """Returns what an output is called: the class's name, "class 3" or "output 3"."""
        if not self.are_classes:
            return f"output {index}"
        names = self._class_names or ()
        return str(names[index]) if 0 <= index < len(names) else f"class {index}"

    def state_dict(self) -> dict[str, Any]:
        """Returns what must survive a restart."""
        return dict(vars(self._learned))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned; an empty state begins anew."""
        self._learned = _Learned(**state)

    def _is_single_probability(self, scores: Tensor) -> bool:
        """Whether a single output has so far never left the range of a probability."""
        return not self._learned.is_beyond_probability and _in_range(scores)


def _agree(scores: Tensor, labels: Tensor) -> bool:
    """Whether labels and scores (samples, classes) agree better than by chance."""
    num_classes = scores.shape[1]
    if not len(labels) or num_classes < 2 or bool((labels >= num_classes).any()):
        return False
    predicted = scores.argmax(1)
    counts = torch.bincount(labels, minlength=num_classes).double()
    num_predicted = torch.bincount(predicted, minlength=num_classes).double()
    num_right = torch.bincount(labels[predicted == labels], minlength=num_classes).double()
    # What labels and predictions of these frequencies have in common by chance: a network that
    # always says the largest class is right by its share, and no better than that.
    chance = float((counts * num_predicted).sum()) / len(labels) ** 2
    error = (chance * (1 - chance) / len(labels)) ** 0.5
    is_above = float(num_right.sum()) / len(labels) > chance + _MIN_CONFIDENCE_Z * error
    num_present = int((counts > 0).sum())
    num_met = int(((2 * num_right > counts) & (counts > 0)).sum())
    return is_above and num_met >= _classes_needed(num_present, num_classes)


def _classes_needed(num_present: int, num_classes: int) -> int:
    """Returns how many of the classes the outputs of their number must mostly meet.

    Clusters without names meet each by luck, with a probability of one in ``num_classes``. Few
    classes must all be met.
    """
    from scipy.special import bdtrc  # the probability of more than so many

    for num_met in range(num_present):
        if bdtrc(num_met, num_present, 1 / num_classes) < _MAX_LUCK:
            return num_met + 1
    return num_present


def _in_range(scores: Tensor) -> bool:
    """Whether all may be probabilities."""
    return bool(((scores >= 0) & (scores <= 1)).all())
