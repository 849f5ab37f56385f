"""What is read of a training step beside its activations: loss, inputs, optimizer groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vis_callbacks.analysis.updates import select, update_norms
from vis_callbacks.engine.snapshot import Group


def loss_of(outputs: Any, accumulated_batches: int) -> Tensor | None:
    """Returns the loss of one batch, or None where the loop returned none.

    Lightning divides it by the number of batches whose gradients are accumulated.
    """
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        return None
    return loss.detach().reshape(()).float() * accumulated_batches


def input_sums(inputs: Tensor) -> dict[str, Tensor]:
    """Returns sums that tell whether inputs are constant or on an odd scale, on the device.

    ``constant`` counts the samples whose values are all equal.
    """
    flat = inputs.detach().flatten(1) if inputs.dim() > 1 else inputs.detach().unsqueeze(1)
    values = flat.float()
    low, high = values.amin(1), values.amax(1)  # aminmax was measured 15 times slower
    # Row by row in float32, then in float64: as exact as need be, at a third of the time.
    sums, norms = values.sum(1), torch.linalg.vector_norm(values, dim=1)
    return {
        "samples": torch.full((), len(values), dtype=torch.float64, device=values.device),
        "constant": (low == high).sum().double(),
        "values": torch.full((), values.numel(), dtype=torch.float64, device=values.device),
        "sum": sums.sum(dtype=torch.float64),
        "squares": norms.double().square().sum(),
    }


def input_stats(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the share of constant inputs, and mean and standard deviation of all values."""
    mean = sums["sum"] / sums["values"]
    variance = sums["squares"] / sums["values"] - mean.square()
    return {
        "share_constant": sums["constant"] / sums["samples"],
        "mean": mean,
        "std": variance.clamp_min(0).sqrt(),
    }


class UpdateWatch:
    """Keeps a few values of each optimizer group over one step, to see how far they move."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._selections = [
            [select(group["params"]) for group in optimizer.param_groups]
            for optimizer in optimizers
        ]
        self._before = [[s.values() for s in selections] for selections in self._selections]

    def norms(self) -> list[list[tuple[Tensor, Tensor]]]:
        """Returns (norm of the weights before, norm of the change) by optimizer and group."""
        return [
            [
                update_norms(before, selection.values())
                for selection, before in zip(selections, earlier, strict=True)
            ]
            for selections, earlier in zip(self._selections, self._before, strict=True)
        ]


def groups_of(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    norms: Sequence[Sequence[tuple[Tensor, Tensor]]] | None,
) -> tuple[Group, ...]:
    """Returns what is known of each parameter group of the optimizers."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    several = len(optimizers) > 1
    groups = []
    for i, optimizer in enumerate(optimizers):
        kind = type(optimizer).__name__
        for j, group in enumerate(optimizer.param_groups):
            path = [kind, *([str(i)] if several else [])]
            path += [str(j)] if len(optimizer.param_groups) > 1 else []
            weight_norm, update_norm = norms[i][j] if norms is not None else (None, None)
            groups.append(
                Group(
                    name="/".join(path),
                    kind=kind,
                    parameter_names=tuple(names.get(id(p), "") for p in group["params"]),
                    lr=float(group["lr"]),
                    momentum=_momentum_of(group),
                    weight_decay=float(group.get("weight_decay", 0.0)),
                    weight_norm=weight_norm,
                    update_norm=update_norm,
                )
            )
    return tuple(groups)


def _momentum_of(group: Mapping[str, Any]) -> float | None:
    if "momentum" in group:
        return float(group["momentum"])
    betas = group.get("betas")
    return float(betas[0]) if betas else None
