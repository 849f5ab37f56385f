"""Which axis of a module's output holds its units: channels come second, or last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from vis_callbacks.engine.capture import WeightedCall

_CHANNELS_SECOND = ("batchnorm", "conv", "instancenorm", "pooling")  # files of torch.nn.modules


def unit_axis_of(
    module: nn.Module, name: str, values: Tensor, calls: Iterable[WeightedCall]
) -> int | None:
    """Returns the axis of the units in a module's output, 1 or -1; None where nothing tells.

    A whole block may have its channels second (a convolutional one), last (a block of a Swin
    transformer), or last inside and second outside (ConvNeXt). What it multiplied with tells:
    only convolutions, or only linear layers, or, where both were met, the axis that is as long
    as the latest fitting weight has outputs.

    Args:
        module: It has just returned ``values``.
        name: Its name in the model.
        values: (samples, ...).
        calls: With weights, so far in this forward pass, the latest last.
    """
    if values.dim() == 2:
        return 1
    if (known := _axis_of_kind(module)) is not None:
        return known
    made = list(calls)[::-1]
    inside = [call for call in made if f"{call.block}.".startswith(f"{name}.")]
    axes = {call.unit_axis for call in inside or made}
    if not axes:
        return 1 if values.dim() in (4, 5) else -1
    only = axes.pop() if len(axes) == 1 else None
    if inside and only == 1 and values.dim() > 3 and not _has_layer_norm(module):
        return 1
    for call in inside or made:
        fitting = [axis for axis in (1, -1) if values.shape[axis] == call.num_outputs]
        if len(fitting) == 2:
            return -1 if only == -1 else None
        # A linear layer across the tokens has as many outputs as there are tokens: no units.
        if fitting and (values.dim() > 3 or fitting == [-1] or call.unit_axis == 1):
            return fitting[0]
    return only if values.dim() > 3 or only == -1 else None


def _has_layer_norm(module: nn.Module) -> bool:
    return any(type(part) is nn.LayerNorm for part in module.modules())


def _axis_of_kind(module: nn.Module) -> int | None:
    """Returns the axis that the module's own kind states."""
    home, _, file = type(module).__module__.rpartition(".")
    if isinstance(module, nn.GroupNorm) or (
        home == "torch.nn.modules" and file in _CHANNELS_SECOND
    ):
        return 1
    return -1 if type(module) in (nn.Linear, nn.LayerNorm) else None
