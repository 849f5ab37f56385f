"""What is read of a training step beside its activations: loss, inputs, optimizer groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vis_callbacks.engine.plain_tensors import is_plain, plain
from vis_callbacks.engine.snapshot import Group
from vis_callbacks.engine.updates import select, update_norms

_MIN_VALUES = 8  # of a sample: three black-and-white features are equal in every fourth sample

Norms = Mapping[tuple[int, int], tuple[Tensor, Tensor]]  # by the places of optimizer and group


def loss_of(outputs: Any) -> Tensor | None:
    """Returns the loss of one batch as the loop has it, or None where it returned none."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        return None
    return loss.detach()


class _InputRows(NamedTuple):
    """What is read of a batch's inputs, a number a sample."""

    low: Tensor
    high: Tensor
    sums: Tensor
    norms: Tensor
    num_values: int


class StepSums:
    """Loss and inputs of one step's micro-batches, as sums that merge over ranks by adding.

    Only what needs the batch is reduced while it is there; the arithmetic on these few numbers
    waits until `totals` is asked for. Within a burst that is at its end: between two training
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

    @cached_property
    def totals(self) -> Mapping[str, Tensor]:
        """The sums over all micro-batches, float64 on the device.

        ``loss_sum`` and ``loss_batches``, where there is a loss; ``samples``, ``constant`` (how
        many samples have nothing but equal values), ``values``, ``sum`` and ``squares``, where
        there are inputs: of those that are judged, so all 0 where none is.
        """
        totals: dict[str, Tensor] = {}
        if self._losses:
            losses = [loss.reshape(()).double() * factor for loss, factor in self._losses]
            totals["loss_sum"] = sum(losses[1:], start=losses[0])
            totals["loss_batches"] = torch.full_like(losses[0], len(losses))
        for rows in self._inputs:
            total = rows.sums.sum(dtype=torch.float64)
            sums = {
                "samples": torch.full_like(total, len(rows.low)),
                "constant": (rows.low == rows.high).sum().double(),
                "values": torch.full_like(total, rows.num_values),
                "sum": total,
                "squares": rows.norms.double().square().sum(),
            }
            totals |= {name: totals[name] + v if name in totals else v for name, v in sums.items()}
        return totals

    def mean_loss(self) -> Tensor | None:
        """Returns the step's loss, None where the loop returned none."""
        totals = self.totals
        return totals["loss_sum"] / totals["loss_batches"] if "loss_sum" in totals else None

    def input_stats(self) -> dict[str, Tensor]:
        """Returns the share of constant inputs, and mean and standard deviation of all values.

        NaN where no input was judged; empty where there was no batch.
        """
        totals = self.totals
        if "samples" not in totals:
            return {}
        mean = totals["sum"] / totals["values"]
        variance = totals["squares"] / totals["values"] - mean.square()
        return {
            "share_constant": totals["constant"] / totals["samples"],
            "mean": mean,
            "std": variance.clamp_min(0).sqrt(),
        }


def _are_judged(inputs: Tensor) -> bool:
    """Whether a constant sample, or a large mean, says anything.

    A sample of one number, an index or a token has one value only, and a few features are
    equal by chance. Integers are looked up or scaled by the model itself.
    """
    return inputs.is_floating_point() and math.prod(inputs.shape[1:]) >= _MIN_VALUES


class UpdateWatch:
    """Keeps a few values of each optimizer group over one step, to see how far they move."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        selections = {
            (i, j): select(group["params"])
            for i, optimizer in enumerate(optimizers)
            for j, group in enumerate(optimizer.param_groups)
        }
        self._before = {place: (s, s.values()) for place, s in selections.items()}

    def norms(self) -> Norms:
        """Returns (norm of the weights before, norm of the change) of each group."""
        return {
            place: update_norms(before, selection.values())
            for place, (selection, before) in self._before.items()
        }


class GroupTable:
    """The parameter groups of a run's optimizers: their names and their rates."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._names: dict[tuple[int, ...], tuple[str, ...]] = {}  # by the identities of a group

    def now(
        self, optimizers: Sequence[torch.optim.Optimizer], norms: Norms | None = None
    ) -> tuple[Group, ...]:
        """Returns what is known of each group at this step; ``norms`` as `UpdateWatch` has them."""
        groups = []
        for i, optimizer in enumerate(optimizers):
            kind = type(optimizer).__name__
            for j, group in enumerate(optimizer.param_groups):
                places = [i] * (len(optimizers) > 1) + [j] * (len(optimizer.param_groups) > 1)
                # A group that has joined during the step has no norms.
                weight_norm, update_norm = (norms or {}).get((i, j), (None, None))
                momentum = group.get("momentum", (group.get("betas") or (None,))[0])
                groups.append(
                    Group(
                        name="/".join([kind, *map(str, places)]),
                        kind=kind,
                        parameter_names=self._names_of(group["params"]),
                        lr=float(group["lr"]),
                        momentum=None if momentum is None else float(momentum),
                        weight_decay=float(group.get("weight_decay", 0.0)),
                        weight_norm=weight_norm,
                        update_norm=update_norm,
                        place=i,
                    )
                )
        return tuple(groups)

    def _names_of(self, parameters: Sequence[Tensor]) -> tuple[str, ...]:
        # Not by weak references: torch.utils.swap_tensors refuses a tensor that has one.
        key = tuple(map(id, parameters))
        if key not in self._names:
            names = {id(known): name for name, known in self._model.named_parameters()}
            self._names[key] = tuple(names.get(identity, "") for identity in key)
        return self._names[key]
