"""Published rules for networks that do not learn, on the same trainings: what they need, and say.

- SageMaker Debugger's ``DeadRelu``: more than half of a layer's units fire on less than 1 % of one
  batch (``threshold_inactivity`` 1.0, ``threshold_layer`` 50.0, its defaults).
- keras-contrib's ``DeadReluDetector``: 10 % of a layer's units are 0 on all training data, here on
  128 samples of it.
- AUTOTRAINER (Zhang et al. 2021), with the thresholds of its ``monitor.py``; it needs accuracies,
  and looks after each epoch, here after each sixth of a training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback
from torch import Tensor, nn

NUM_LOOKS = 6
_NUM_SAMPLES = 128
Look = Mapping[str, float]


class Looks(Callback):
    """Reads what the published rules need, six times a training."""

    def __init__(self, steps: int, data: Any, score: Callable[..., float] | None) -> None:
        self.due = {(part + 1) * steps // NUM_LOOKS - 1 for part in range(NUM_LOOKS)}
        self.data, self.score = data, score
        self.rows: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        """Opens the hooks where a look is due."""
        self._fired: list[Tensor] = []
        self._row: dict[str, float] | None = None
        if batch_idx + trainer.current_epoch * trainer.num_training_batches in self.due:
            self._row = {"step": trainer.global_step}
            self._hooks = self._watched(module)

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        """Reads gradients."""
        if self._row is None:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None and p.dim() > 1]
        norms = [gradient.norm().item() for gradient in gradients]
        zeros = sum((gradient == 0).sum().item() for gradient in gradients)
        self._row |= {
            "zero_gradients": zeros / max(sum(map(torch.numel, gradients)), 1),
            "first_gradient": norms[0],
            "first_by_last": norms[0] / norms[-1] if norms[-1] > 0 else math.nan,
        }

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the hooks off and looks at the training data."""
        row = self._row
        if row is None:
            return
        for hook in self._hooks:
            hook.remove()
        shares = [(fired.float().mean(0) <= 0.01).float().mean() for fired in self._fired]
        row["inactive"] = max(map(float, shares), default=0.0)
        with evaluated(module):
            learned, kept = (tuple(t[:_NUM_SAMPLES] for t in part) for part in self.data)
            self._fired = []
            hooks = self._watched(module)
            if self.score is not None:
                row["accuracy"] = self.score(module.net, (learned, learned))
            elif hooks:
                module.net(learned[0])
            for hook in hooks:
                hook.remove()
            never = [(~fired.any(0)).float().mean() for fired in self._fired]
            row["dead"] = max(map(float, never), default=0.0)
            if self.score is not None:
                row["test_accuracy"] = self.score(module.net, (learned, kept))
        row["loss"] = float(outputs["loss"])
        self.rows.append(row)

    def _watched(self, module: nn.Module) -> list[Any]:
        return [
            part.register_forward_hook(lambda part, inputs, output: self._note(output))
            for part in module.modules()
            if isinstance(part, nn.ReLU)
        ]

    def _note(self, output: Tensor) -> None:
        """Keeps which samples a unit fires on; of a map or a sequence, at any place."""
        fired = output.detach() > 0
        if fired.dim() > 2:
            fired = fired.flatten(2).any(2) if fired.dim() == 4 else fired.any(1)
        self._fired.append(fired)


@contextmanager
def evaluated(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients and without a trace in the random numbers."""
    with torch.no_grad(), torch.random.fork_rng(devices=()):
        module.eval()
        try:
            yield
        finally:
            module.train()


def dead_relu(looks: Sequence[Look]) -> int | None:
    """SageMaker's: returns the step at which it alarms, None if it does not."""
    return _first(looks, lambda look: look["inactive"] > 0.5)


def dead_relu_detector(looks: Sequence[Look]) -> int | None:
    """keras-contrib's: returns the step at which it alarms, None if it does not."""
    return _first(looks, lambda look: look["dead"] > 0.1)


def auto_trainer(looks: Sequence[Look]) -> int | None:
    """AUTOTRAINER's, all its symptoms: returns the step at which it alarms, None if it does not."""
    return next(
        (
            int(looks[end - 1]["step"])
            for end in range(1, len(looks) + 1)
            if _has_symptom(looks[:end])
        ),
        None,
    )


RULES: Mapping[str, Callable[[Sequence[Look]], int | None]] = {
    "SageMaker DeadRelu": dead_relu,
    "keras-contrib DeadReluDetector": dead_relu_detector,
    "AUTOTRAINER": auto_trainer,
}


def _first(looks: Sequence[Look], is_found: Callable[[Look], bool]) -> int | None:
    return next((int(look["step"]) for look in looks if is_found(look)), None)


def _has_symptom(looks: Sequence[Look]) -> bool:
    latest = looks[-1]
    if not math.isfinite(latest["loss"]):
        return True
    if "accuracy" not in latest or len(looks) < 0.3 * NUM_LOOKS:
        return False
    known, kept = ([look[name] for look in looks] for name in ("accuracy", "test_accuracy"))
    is_slow = max(map(_largest_rise, (known, kept))) < 0.01
    if max(known) < 0.6 or max(kept) < 0.6 or is_slow:
        return is_slow or any(map(_has_odd_gradient, looks))
    return _is_unstable(known)


def _has_odd_gradient(look: Look) -> bool:
    ratio = look["first_by_last"]
    vanishes = ratio < 1e-3 and look["first_gradient"] < 1e-4
    return look["zero_gradients"] >= 0.7 or ratio > 70 or vanishes


def _largest_rise(values: Sequence[float]) -> float:
    return max((after - before for before, after in itertools.pairwise(values)), default=0.0)


def _is_unstable(values: Sequence[float]) -> bool:
    triples = [*zip(values, values[1:], values[2:], strict=False)]
    tops = [b for a, b, c in triples if b >= a and b >= c]
    bottoms = [b for a, b, c in triples if b <= a and b <= c]
    swings = sum(top - bottom >= 0.03 for top, bottom in zip(tops, bottoms, strict=False))
    return swings >= 0.2 * len(values)
