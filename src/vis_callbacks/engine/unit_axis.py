"""Where the units of an activation lie: channels come second, or last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from vis_callbacks.engine.weight_search import WeightedCall

_CHANNELS_SECOND = ("batchnorm", "conv", "instancenorm", "pooling")  # files of torch.nn.modules


def unit_axis_of(
    module: nn.Module, name: str, values: Tensor, calls: Iterable[WeightedCall]
) -> int | None:
    """Returns the axis of the units in a module's output, 1 or -1; None where nothing tells.

    A whole block may have its channels second (a convolutional one), last (a block of a Swin
    transformer), or last inside and second outside (ConvNeXt). What it multiplied with tells:
    only convolutions, or only linear layers, or, where both were met, the axis that is as long
    as the latest fitting weight has outputs. ``calls`` are those of this pass, the latest last.
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
    has_layer_norm = any(type(part) is nn.LayerNorm for part in module.modules())
    if inside and only == 1 and values.dim() > 3 and not has_layer_norm:
        return 1
    for call in inside or made:
        fitting = [axis for axis in (1, -1) if values.shape[axis] == call.num_outputs]
        if len(fitting) == 2:
            return -1 if only == -1 else None
        # A linear layer across the tokens has as many outputs as there are tokens: no units.
        if fitting and (values.dim() > 3 or fitting == [-1] or call.unit_axis == 1):
            return fitting[0]
    return only if values.dim() > 3 or only == -1 else None


def _axis_of_kind(module: nn.Module) -> int | None:
    """Returns the axis that the module's own kind states."""
    home, _, file = type(module).__module__.rpartition(".")
    is_channels_second = home == "torch.nn.modules" and file in _CHANNELS_SECOND
    if isinstance(module, nn.GroupNorm) or is_channels_second:
        return 1
    return -1 if type(module) in (nn.Linear, nn.LayerNorm) else None


def samples_units_positions(values: Tensor, unit_axis: int, num_samples: int) -> Tensor:
    """Returns a view (samples, units, positions) of an activation, of a copy only if it must.

    Tokens before samples, (tokens, samples, units), are recognised by the batch size. Where
    a multiple of the batch size comes first (windows, frames) they are positions of their
    sample; where nothing fits, each row counts as a sample of its own for the sums, while
    the number of samples is always the batch's.
    """
    axis = unit_axis % values.dim()
    rows = values.shape[0]
    if axis == 1 and rows == num_samples > 0:  # nearly always
        return values.flatten(2) if values.dim() > 2 else values.unsqueeze(2)
    if values.dim() == 3 and axis == 2 and rows != num_samples == values.shape[1]:
        values, rows = values.transpose(0, 1), num_samples
    if rows == 0:
        return values.movedim(axis, 1).reshape(0, values.shape[axis], 1)
    units_second = values.movedim(axis, 1).flatten(2) if values.dim() > 2 else values.unsqueeze(2)
    if num_samples > 0 and rows > num_samples and rows % num_samples == 0:
        shape = (num_samples, rows // num_samples, *units_second.shape[1:])
        return units_second.reshape(shape).transpose(1, 2).flatten(2)
    return units_second
