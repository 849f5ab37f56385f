"""What is read of a training step beside its activations: loss, inputs, optimizer groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vis_callbacks.engine.plain_tensors import is_plain, plain
from vis_callbacks.engine.snapshot import Group
from vis_callbacks.engine.updates import select, update_norms

_MIN_VALUES = 8  # of a sample: three black-and-white features are equal in every fourth sample


def loss_of(outputs: Any) -> Tensor | None:
    """Returns the loss of one batch as the loop has it, or None where it returned none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        return None
    return loss.detach()


class StepSums:
    """Loss and inputs of one step's micro-batches, as sums that merge over ranks by adding.

    Only what needs the batch is reduced while it is there; the arithmetic on these few numbers
    waits until `values` is asked for. Within a burst that is at its end: between two training
    steps the caches are cold, and each kind of small operation costs some 30 microseconds.
    """

    def __init__(self) -> None:
        self._losses: list[tuple[Tensor, int]] = []
        self._inputs: list[_InputRows] = []

    def add_loss(self, loss: Tensor, accumulated_batches: int) -> None:
        """Takes the loss of one batch, which Lightning has divided by ``accumulated_batches``."""
        self._losses.append((loss.clone(), accumulated_batches))  # the user may write into theirs

    def add_inputs(self, inputs: Tensor | None, device: torch.device) -> None:
        """Takes the inputs (samples, ...) of one batch; those that are not judged add nothing."""
        if inputs is not None and is_plain(inputs) and _are_judged(inputs):
            values = plain(inputs).flatten(1).float()
        else:  # every rank adds the same names
            values = torch.empty(0, 1, device=device)
        self._inputs.append(
            _InputRows(
                low=values.amin(1),  # aminmax was measured 15 times slower
                high=values.amax(1),
                # Row by row in float32, then in float64: as exact as need be, at a third of
                # the time.
                sums=values.sum(1),
                norms=torch.linalg.vector_norm(values, dim=1),
                num_values=values.numel(),
            )
        )

    def values(self) -> dict[str, Tensor]:
        """Returns the sums over all micro-batches, float64 on the device.

        ``loss_sum`` and ``loss_batches``, where there is a loss; ``samples``, ``constant`` (how
        many samples have nothing but equal values), ``values``, ``sum`` and ``squares``, where
        there are inputs: of those that are judged, so all 0 where none is.
        """
        sums: dict[str, Tensor] = {}
        if self._losses:
            losses = [loss.reshape(()).double() * factor for loss, factor in self._losses]
            sums["loss_sum"] = sum(losses[1:], start=losses[0])
            sums["loss_batches"] = torch.full_like(sums["loss_sum"], len(losses))
        for rows in self._inputs:
            for name, value in rows.sums_of().items():
                sums[name] = sums[name] + value if name in sums else value
        return sums


def _are_judged(inputs: Tensor) -> bool:
    """Whether a constant sample, or a large mean, says anything.

    A sample of one number, an index or a token has one value only, and a few features are
    equal by chance. Integers are looked up or scaled by the model itself.
    """
    return inputs.is_floating_point() and math.prod(inputs.shape[1:]) >= _MIN_VALUES


@dataclass(frozen=True)
class _InputRows:
    """What is read of a batch's inputs, a number a sample."""

    low: Tensor
    high: Tensor
    sums: Tensor
    norms: Tensor
    num_values: int

    def sums_of(self) -> dict[str, Tensor]:
        """Returns sums that tell whether inputs are constant or on an odd scale."""
        total = self.sums.sum(dtype=torch.float64)
        return {
            "samples": torch.full_like(total, len(self.low)),
            "constant": (self.low == self.high).sum().double(),
            "values": torch.full_like(total, self.num_values),
            "sum": total,
            "squares": self.norms.double().square().sum(),
        }


def input_stats(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the share of constant inputs, and mean and standard deviation of all values.

    NaN where no input was judged.
    """
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


_Norms = Sequence[Sequence[tuple[Tensor, Tensor]]]  # by optimizer and group


class GroupTable:
    """The parameter groups of a run's optimizers: their names, which stay, and their rates."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._known: dict[tuple[int, ...], _GroupNames] = {}

    def now(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        norms: _Norms | None = None,
    ) -> tuple[Group, ...]:
        """Returns what is known of each group at this step; ``norms`` as `UpdateWatch` has them."""
        groups = []
        for i, optimizer in enumerate(optimizers):
            for j, group in enumerate(optimizer.param_groups):
                names = self._names(optimizers, i, j)
                weight_norm, update_norm = _norms_of(norms, i, j)
                groups.append(
                    Group(
                        name=names.name,
                        kind=names.kind,
                        parameter_names=names.parameter_names,
                        lr=float(group["lr"]),
                        momentum=_momentum_of(group),
                        weight_decay=float(group.get("weight_decay", 0.0)),
                        weight_norm=weight_norm,
                        update_norm=update_norm,
                    )
                )
        return tuple(groups)

    def _names(self, optimizers: Sequence[torch.optim.Optimizer], i: int, j: int) -> _GroupNames:
        parameters = optimizers[i].param_groups[j]["params"]
        num_groups = len(optimizers[i].param_groups)
        key = (len(optimizers), i, num_groups, j, len(parameters))  # the user may add some
        if key not in self._known:
            kind = type(optimizers[i]).__name__
            path = [kind, *([str(i)] if len(optimizers) > 1 else [])]
            path += [str(j)] if num_groups > 1 else []
            names = {id(parameter): name for name, parameter in self._model.named_parameters()}
            self._known[key] = _GroupNames(
                "/".join(path), kind, tuple(names.get(id(p), "") for p in parameters)
            )
        return self._known[key]


def _norms_of(norms: _Norms | None, i: int, j: int) -> tuple[Tensor | None, Tensor | None]:
    """Returns the norms of one group, None for one that has joined during the step."""
    is_known = norms is not None and i < len(norms) and j < len(norms[i])
    return norms[i][j] if norms is not None and is_known else (None, None)


class _GroupNames(NamedTuple):
    name: str
    kind: str
    parameter_names: tuple[str, ...]


def _momentum_of(group: Mapping[str, Any]) -> float | None:
    if "momentum" in group:
        return float(group["momentum"])
    betas = group.get("betas")
    return float(betas[0]) if betas else None
