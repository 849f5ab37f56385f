"""Over-fitting, told from the two losses that the user logs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.alert import Finding, Outcome, Severity
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.rules.conditions import quoted

_SINGLE_FILTERS = 5  # the least kernel for which the learned part is compared with the inputs


@dataclass(frozen=True, kw_only=True)
class OverFitting:
    """A remark: the validation loss rises while the training loss falls.

    It rests on the two losses that the user logs, never on the filters: in 221 trainings
    over-fitting did not show in the filters of natural images. How often it is right was not
    measured.

    Attributes:
        min_rise: Validation loss / its own minimum.
        num_validations: Validations running.
        min_learned_roughness: Roughness of the learned part / that of the inputs, from which on
            it is named as supporting evidence.
    """

    kind: ClassVar[str] = "over_fitting"
    severity: ClassVar[Severity] = "info"

    min_rise: float = 1.1
    num_validations: int = 3
    min_learned_roughness: float = 0.8

    def check(self, history: History) -> Outcome:
        """Returns whether the two losses have parted for some validations running."""
        known = validations(history)
        latest = known[-self.num_validations :]
        if len(known) <= self.num_validations:
            return None
        best, training_then, step = min(known[: -self.num_validations])
        has_risen = all(loss >= self.min_rise * best for loss, _, _ in latest)
        training = sum(loss for _, loss, _ in latest) / len(latest)
        if not (has_risen and best > 0 and training < training_then):
            return None
        rough = [
            layer
            for layer in history.layers(metric_names.LEARNED_ROUGHNESS)
            if self._is_rough(history, layer)
        ]
        also = (
            f" In {quoted(tuple(rough))}, the learned part of the filters is as rough as the inputs"
            " (with smooth images this happens in healthy networks, too)."
            if rough
            else ""
        )
        return Finding(
            message=f"Over-fitting: the validation loss was lowest, {best:.3g}, at step {step},"
            f" and has been above {self.min_rise:g} times that at the latest {len(latest)}"
            f" validations (now {latest[-1][0]:.3g}), while the training loss fell.{also}",
            layers=tuple(rough),
            since_step=step,
            evidence={
                "validation_loss": latest[-1][0],
                "best_validation_loss": best,
                "training_loss": training,
                "training_loss_at_best": training_then,
            },
            could_be=("a validation set that differs from the training set",),
            remedy=f"Stop at step {step} (early stopping), or regularise: augmentation, more data,"
            " weight decay.",
        )

    def _is_rough(self, history: History, layer: str) -> bool:
        if not history.latest(metric_names.KERNEL_SIZE, layer) >= _SINGLE_FILTERS:
            return False
        learned = history.latest(metric_names.LEARNED_ROUGHNESS, layer)
        return learned >= self.min_learned_roughness * history.latest(
            metric_names.INPUT_ROUGHNESS, layer
        )


def validations(history: History) -> list[tuple[float, float, int]]:
    """Returns (validation loss, training loss, step) wherever the validation loss is a new one."""
    found, before = [], math.nan
    validation = history.series(metric_names.VALIDATION_LOSS)
    training = history.series(metric_names.TRAINING_LOSS)
    for step, loss, trained in zip(history.steps, validation, training, strict=True):
        if not math.isnan(loss) and loss != before:
            before = loss
            found.append((loss, trained, step))
    return found
