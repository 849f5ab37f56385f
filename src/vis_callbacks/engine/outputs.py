"""Whether a model's outputs are scores of classes, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

OutputKind = Literal["auto", "classes", "values"]

_MANY_SAMPLES = 50  # so many tell at one look what fewer tell at three
_LOOKS_NEEDED = 3
_MIN_CONFIDENCE_Z = 2.33  # standard errors above chance: one in a hundred by luck alone


class Outputs:
    """What is known of a model's outputs: class scores, or values that are no classes.

    Contrastive networks, autoencoders and regressions have outputs too, and their batches may
    have labels. Of such a model nothing may be called "class 52" or "misclassified". So the
    outputs count as scores of classes where the user says so (``outputs="classes"``, or
    ``class_names``), and else only once labels and outputs agree: the labels are whole numbers
    below the number of outputs, and the highest output is the label more often than by chance,
    for at least half of the classes, at three looks running (at one of 50 samples or more).

    A single output is the score of class 1. Class 0 has its negative, and the probability
    that is left.

    Args:
        kind: What the user says.
        class_names: By class.
    """

    def __init__(self, kind: OutputKind = "auto", class_names: Sequence[str] | None = None) -> None:
        self._kind = kind
        self._class_names = class_names
        self._looks_above_chance = 0
        self._has_agreed = False
        self._is_beyond_probability = False

    @property
    def are_classes(self) -> bool:
        """Whether the outputs may be called scores of classes."""
        if self._kind != "auto":
            return self._kind == "classes"
        return self._class_names is not None or self._has_agreed

    def learn(self, scores: Tensor, labels: Tensor | None) -> bool:
        """Compares outputs with labels; returns whether the outputs are classes.

        It waits for the device: call it where pictures are made, not at each step.

        Args:
            scores: (samples, outputs, ...), as the model returns them, in evaluation mode and
                of samples that nothing was hidden from.
            labels: (samples,) whole numbers, or None. Negative ones name no class.
        """
        scores = _per_output(scores.detach())
        if scores.shape[1] == 1 and not bool(((scores >= 0) & (scores <= 1)).all()):
            self._is_beyond_probability = True
        if self._has_agreed or labels is None or self._kind != "auto":
            return self.are_classes
        is_labelled = labels >= 0
        scores, labels = scores[is_labelled], labels.to(scores.device)[is_labelled]
        if not self._agree(self.class_scores(scores), labels):
            self._looks_above_chance = 0
            return self.are_classes
        self._looks_above_chance += 1
        enough = 1 if len(labels) >= _MANY_SAMPLES else _LOOKS_NEEDED
        self._has_agreed = self._looks_above_chance >= enough
        return self.are_classes

    def class_scores(self, scores: Tensor) -> Tensor:
        """Returns (samples, classes, ...): a single score s becomes (-s, s), all else stays."""
        if scores.shape[1] != 1:
            return scores
        if self._is_single_probability(scores):
            return torch.cat([1 - scores, scores], 1)
        return torch.cat([-scores, scores], 1)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Returns (samples, classes): of each class its probability.

        Of scores at several positions the mean. Rows that are probabilities stay as they are.

        Args:
            scores: (samples, outputs, ...) as the model returns them.
        """
        scores = _per_output(scores)
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

    def state(self) -> Mapping[str, Any]:
        """Returns what must survive a restart."""
        return {
            "looks_above_chance": self._looks_above_chance,
            "has_agreed": self._has_agreed,
            "is_beyond_probability": self._is_beyond_probability,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned."""
        self._looks_above_chance = int(state.get("looks_above_chance", 0))
        self._has_agreed = bool(state.get("has_agreed", False))
        self._is_beyond_probability = bool(state.get("is_beyond_probability", False))

    def _is_single_probability(self, scores: Tensor) -> bool:
        """Whether a single output has so far never left the range of a probability."""
        return not self._is_beyond_probability and bool(((scores >= 0) & (scores <= 1)).all())

    def _agree(self, scores: Tensor, labels: Tensor) -> bool:
        """Whether labels and scores (samples, classes) agree better than by chance."""
        num_classes = scores.shape[1]
        if not len(labels) or num_classes < 2 or bool((labels >= num_classes).any()):
            return False
        is_right = scores.argmax(1) == labels
        counts = torch.bincount(labels, minlength=num_classes)
        num_right = torch.bincount(labels[is_right], minlength=num_classes)
        # Always the same class is right by the share of the largest class.
        chance = max(1 / num_classes, float(counts.max()) / len(labels))
        if int((counts > 0).sum()) == 1:
            return False
        error = (chance * (1 - chance) / len(labels)) ** 0.5
        is_above = float(is_right.double().mean()) > chance + _MIN_CONFIDENCE_Z * error
        # Clusters that meet a class by luck do so for few classes: each by one in num_classes.
        is_class_right = (2 * num_right > counts) & (counts > 0)
        return is_above and 2 * int(is_class_right.sum()) >= int((counts > 0).sum())


def _per_output(scores: Tensor) -> Tensor:
    return scores.flatten(2).mean(2) if scores.dim() > 2 else scores
