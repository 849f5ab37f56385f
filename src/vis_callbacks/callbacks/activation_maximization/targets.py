"""Which classes and units are maximized, and their scores: one row of a batch each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vis_callbacks.engine.score_functions import run_with_layers
from vis_callbacks.engine.scores import (
    Unit,
    at_least_float32,
    find_scores,
    select_scores,
    value_of_unit,
)

if TYPE_CHECKING:
    from vis_callbacks.engine.isolation import IsolatedForward


@dataclass(frozen=True)
class MaximizedTargets:
    """The targets in the order of the rows: classes, then units."""

    classes: tuple[int, ...]
    units: tuple[Unit, ...]

    @classmethod
    def chosen(
        cls,
        classes: Sequence[int] | None,
        units: Sequence[Unit] | None,
        *,
        num_classes: int,
        max_images: int,
    ) -> MaximizedTargets:
        """Returns what is asked for; where nothing is, all classes, of many a part.

        Raises:
            ValueError: A class that the scores do not have.
        """
        for number in classes or ():
            if number >= num_classes:
                raise ValueError(
                    f"classes holds {number}, which is no class of these scores: they have "
                    f"{num_classes}. Use 0 to {num_classes - 1}."
                )
        if classes is None:
            count = 0 if units else min(num_classes, max_images)
            classes = [index * num_classes // count for index in range(count)]
        return cls(tuple(classes), tuple(units or ()))

    @property
    def num_rows(self) -> int:
        """How many targets there are."""
        return len(self.classes) + len(self.units)

    def names(self, name: Callable[[int], str]) -> list[str]:
        """Returns what each target is called in pictures, a class or output by its name."""
        return [*map(name, self.classes), *(f"unit {unit}" for unit in self.units)]

    def best_of_class(self, real_scores: Tensor, labels: Tensor | None) -> Tensor:
        """Returns of each row the sample of highest score: of a class, among those of its label.

        Of a unit, and of a class that no sample has, it is the best of all.

        Args:
            real_scores: (samples, rows), see `of_all`.
            labels: (samples,), or None where they name no classes.
        """
        known = real_scores.nan_to_num(-torch.inf)
        if labels is not None and self.classes:
            numbers = known.new_tensor(self.classes, dtype=torch.int64)
            is_other = labels.to(known.device)[:, None] != numbers  # (samples, classes)
            is_other = is_other & ~is_other.all(0)
            known[:, : len(numbers)].masked_fill_(is_other, -torch.inf)
        return known.argmax(0)

    def of_all(self, scores: Tensor, layers: dict[str, Tensor]) -> Tensor:
        """Returns the score of each sample for each target, (samples, rows)."""
        columns = [
            select_scores(scores, scores.new_full((len(scores),), number, dtype=torch.int64))
            for number in self.classes
        ]
        columns += [value_of_unit(layers[unit.layer], unit) for unit in self.units]
        return torch.stack(columns, dim=1)

    def of_rows(self, scores: Tensor, layers: dict[str, Tensor]) -> Tensor:
        """Returns the score of each row for its own target, (rows,)."""
        num_classes = len(self.classes)
        numbers = torch.tensor(self.classes, dtype=torch.int64, device=scores.device)
        parts = [select_scores(scores[:num_classes], numbers)] if num_classes else []
        for row, unit in enumerate(self.units, start=num_classes):
            parts.append(value_of_unit(layers[unit.layer][row : row + 1], unit))
        return torch.cat(parts)


def run(
    forward: IsolatedForward, inputs: Tensor, units: Sequence[Unit]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the scores, and the activations of the units' layers, of one pass.

    Raises:
        ValueError: A layer was not met.
    """
    names = list(dict.fromkeys(unit.layer for unit in units))
    if not names:
        return forward(inputs), {}
    output, layers = run_with_layers(forward, inputs, names)
    values = {name: at_least_float32(layer.values) for name, layer in layers.items()}
    return at_least_float32(find_scores(output, len(inputs))), values
