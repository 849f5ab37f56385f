"""Optimizers and schedules of the rate, by their names in the table of configurations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR


class Lion(Optimizer):
    """Steps of one size in the direction of the momentum's sign (Chen et al. 2023)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Takes one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in filter(lambda weight: weight.grad is not None, group["params"]):
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(group["lr"] * momentum.lerp(weight.grad, 0.1).sign())
                momentum.lerp_(weight.grad, 0.01)
        return loss


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": partial(torch.optim.SGD, fused=True),
    "momentum": partial(torch.optim.SGD, momentum=0.9, fused=True),
    "Nesterov": partial(
        torch.optim.SGD, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    ),
    "Adam": partial(torch.optim.Adam, fused=True),
    "AdamW": partial(torch.optim.AdamW, weight_decay=0.05, fused=True),
    "NAdam": partial(torch.optim.NAdam, foreach=True),
    "RMSprop": partial(torch.optim.RMSprop, foreach=True),
    "Lion": partial(Lion, weight_decay=0.1),
}


def _constant(step: int, steps: int) -> float:
    return 1.0


def _cosine(step: int, steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def _warm_up(step: int, steps: int) -> float:
    """A linear rise over a tenth of the steps, then a cosine to 0."""
    rise = steps // 10
    return (step + 1) / rise if step < rise else _cosine(step - rise, steps - rise)


_FACTORS = {"constant": _constant, "cosine": _cosine, "warm-up": _warm_up}
SCHEDULES = (*_FACTORS, "OneCycle")


def schedule_of(name: str, optimizer: Optimizer, rate: float, steps: int) -> dict[str, Any]:
    """Returns the schedule as Lightning wants it."""
    scheduler: LRScheduler
    if name == "OneCycle":
        cycles = "betas" in optimizer.defaults or "momentum" in optimizer.defaults
        scheduler = OneCycleLR(optimizer, rate, total_steps=steps + 1, cycle_momentum=cycles)
    else:
        scheduler = LambdaLR(optimizer, partial(_FACTORS[name], steps=steps))
    return {"scheduler": scheduler, "interval": "step"}
