"""Gradients and updates of single weights over one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vis_callbacks.engine.layers import strip_compiled
from vis_callbacks.engine.plain_tensors import is_plain
from vis_callbacks.engine.updates import select

_VALUES_PER_WEIGHT = 4096  # give the norm of an update within some 3 %


class ParameterWatch:
    """Reads the trainable weights (two axes or more) of a model before and after an update.

    Gradients are those that the optimizer is about to use: unscaled, and before Lightning clips
    them. Sharded weights, of which no rank has the whole, are left out.

    Attributes:
        num_values: By weight.
        without_gradient: Weights that no gradient has reached.
        without_optimizer: Weights that no optimizer of the run holds.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._weights = {
            strip_compiled(name): parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.dim() > 1 and is_plain(parameter)
        }
        held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
        self.num_values = {name: weight.numel() for name, weight in self._weights.items()}
        self.without_optimizer = [n for n, w in self._weights.items() if id(w) not in held]
        self.without_gradient: list[str] = []
        self._selections = {
            name: select([weight], _VALUES_PER_WEIGHT) for name, weight in self._weights.items()
        }
        self._before: dict[str, Tensor] = {}
        self._norms: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Reads the weights that an optimizer is about to move; a second call adds nothing."""
        ours = {id(p) for group in optimizer.param_groups for p in group["params"]}
        due = {n: w for n, w in self._weights.items() if id(w) in ours and n not in self._before}
        self.without_gradient += [n for n, w in due.items() if w.grad is None]
        reached = {n: w for n, w in due.items() if w.grad is not None and is_plain(w.grad)}
        if not reached:
            return
        gradients = torch._foreach_norm([w.grad for w in reached.values()])  # type: ignore[misc]
        weights = torch._foreach_norm([w.detach() for w in reached.values()])
        for name, gradient, weight in zip(reached, gradients, weights, strict=True):
            self._norms[name] = {"gradient": gradient, "weight": weight}
            self._before[name] = self._selections[name].values()

    @torch.no_grad()
    def norms(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Returns by weight: ``gradient``, ``weight`` and ``update``, the norm of its change.

        The update is that of evenly spread values, scaled to all of them.
        """
        names = list(self._before)
        if names:
            before = list(self._before.values())
            changes = torch._foreach_sub(
                [self._selections[name].values() for name in names], before
            )
            for name, part, norm in zip(names, before, torch._foreach_norm(changes), strict=True):
                scale = (self.num_values[name] / len(part)) ** 0.5
                self._norms[name]["update"] = norm * scale if scale != 1 else norm
        return self._norms
