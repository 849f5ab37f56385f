"""The losses of all steps, of which nothing but their tensors is kept until somebody looks."""

from __future__ import annotations

import torch
from torch import Tensor

_MAX_LOOSE = 256  # tensors that are kept one by one


class LossLog:
    """Keeps the loss of each batch on its device: no operation and no wait at a step."""

    def __init__(self) -> None:
        self._loose: list[Tensor] = []
        self._parts: list[Tensor] = []
        self._steps: list[int] = []

    def note(self, step: int, loss: Tensor | None) -> None:
        """Takes the loss of one batch; there are several at a step that accumulates."""
        if loss is not None:
            self._steps.append(step)
            self._loose.append(loss)
            if len(self._loose) >= _MAX_LOOSE:
                self._gather()

    def take(self) -> tuple[Tensor, Tensor]:
        """Returns (losses, their steps) since the last time, both on the device, float64."""
        self._gather()
        losses = torch.cat(self._parts) if self._parts else torch.zeros(0, dtype=torch.float64)
        first, num = (self._steps or [0])[0], len(self._steps)
        if self._steps == list(range(first, first + num)):  # made there, without a transfer
            steps = torch.arange(first, first + num, device=losses.device)
        else:
            steps = torch.tensor(self._steps, device=losses.device)
        self._parts, self._steps = [], []
        return losses, steps

    def has_bad(self) -> bool:
        """Whether one of those since the last time is not finite: this waits for the device."""
        self._gather()
        return any(not bool(part.isfinite().all()) for part in self._parts)

    def _gather(self) -> None:
        if self._loose:
            loose = [loss.reshape(()).to(self._loose[0].device) for loss in self._loose]
            self._parts.append(torch.stack(loose).double())
            self._loose = []
