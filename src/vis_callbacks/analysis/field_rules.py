"""How each operation hands on what its inputs see: one table of the operations of ATen.

Below autograd few operations are left of the many ways to write a network, so the table is
short. What is not in it may join all positions, and is taken to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from vis_callbacks.analysis.axis_field import AxisField
from vis_callbacks.analysis.field_layout import (
    ATTENTION,
    Call,
    Dimension,
    Layout,
    Step,
    after,
    aligned,
    along,
    everything,
    is_spatial,
    joined,
    plain,
    regrouped,
    size_of,
    tensors_in,
)

GATED = "channels are scaled by numbers that see the whole image (squeeze-and-excite)"
NORMALISED = "a normalisation takes its mean and deviation from the whole image"

_POOLED = "global pooling"
_CONNECTED = "a fully connected layer"
_RESHAPED = "a reshape that mixes positions"
_UNEVEN = "maps of different strides are joined"
_LAID_OUT = "positions of several maps are strung together"
_PICKED = "single positions are picked out"

Rule = Callable[[Call], Layout]


def layout_after(call: Call) -> Layout:
    """Returns the layout of an operation's result."""
    rule = _RULES.get(call.name) or _RULES.get(call.name.rstrip("_"))
    if rule is None:
        rule = _pointwise if _is_pointwise(call.name) else _unknown
    try:
        return rule(call)
    except LookupError:  # an argument that the rule is not about sees the input
        return _unknown(call)


def _unknown(call: Call) -> Layout:
    is_attention = "attention" in call.name or "transformer" in call.name
    reason = ATTENTION if is_attention else call.name.strip("_")
    return everything(call.result_shape, call.operands, reason)


# -- values at the same place


def _is_pointwise(name: str) -> bool:
    names = {name, name.rstrip("_")}
    packets = [getattr(torch.ops.aten, each, None) for each in names]
    return bool(names & _MORE_POINTWISE) or any(
        torch.Tag.pointwise in getattr(packet, overload).tags
        for packet in packets
        if packet is not None
        for overload in packet.overloads()
    )


# Elementwise, but not tagged so (in every version).
_MORE_POINTWISE = frozenset(
    {
        "_prelu_kernel",
        "_to_copy",
        "alias",
        "bernoulli",
        "detach",
        "hardswish",
        "lift_fresh",
        "log_sigmoid_forward",
        "native_dropout",
        "rrelu_with_noise",
    }
)


def _pointwise(call: Call) -> Layout:
    """Values at one place are joined; a factor without places of its own is a gate."""
    operands, notes = call.operands, set()
    if call.name.rstrip("_") in ("mul", "div"):
        gates = [o for o in operands if any(_is_gate(o, other) for other in operands)]
        if gates:
            operands = [layout for layout in operands if layout not in gates]
            notes = {GATED}.union(*(gate.notes for gate in gates))
    rank = len(call.result_shape)
    dims = [
        joined([aligned(layout, place, rank) for layout in operands], length)
        for place, length in enumerate(call.result_shape)
    ]
    return after(operands, dims, _UNEVEN, notes)


def _is_gate(layout: Layout, other: Layout) -> bool:
    """Whether it is one number for all places of the other, made of the whole image."""
    if layout.sources or not layout.lost or not other.sources:
        return False
    rank = max(len(layout.dims), len(other.dims))
    places = [place for place in range(rank) if is_spatial(aligned(other, place, rank))]
    return all(size_of(aligned(layout, place, rank)) == 1 for place in places)


# -- windows


def _convolution(call: Call) -> Layout:
    layout, weight, given = call.main(), call.given["weight"], call.given
    if call.layout("weight") is not None:
        return everything(call.result_shape, call.operands, "a convolution made by the image")

    def step(axis: int) -> Step:
        kernel, stride = weight.shape[2 + axis], _each(given["stride"], axis)
        padding, dilation = _each(given["padding"], axis), _each(given["dilation"], axis)
        if given["transposed"]:
            return lambda field, length: field.transposed(
                kernel, stride, padding, dilation, length=length
            )
        return lambda field, length: field.window(kernel, stride, padding, dilation, length=length)

    result = _in_windows(call, layout, weight.dim() - 2, step)
    channels = [result.dims[0], plain(call.result_shape[1])]  # all of them are mixed
    return after([layout], [*channels, *result.dims[2:]], _RESHAPED)


def _pooling(call: Call) -> Layout:
    given = call.given

    def step(axis: int) -> Step:
        kernel = _each(given["kernel_size"], axis)
        stride = _each(given["stride"] or given["kernel_size"], axis)
        padding, dilation = _each(given["padding"], axis), _each(given.get("dilation", 1), axis)
        return lambda field, length: field.window(kernel, stride, padding, dilation, length=length)

    return _in_windows(call, call.main(), _axes_in(call.name), step)


def _adaptive_pooling(call: Call) -> Layout:
    layout, num_axes = call.main(), _axes_in(call.name)
    sizes, counts = layout.shape[-num_axes:], call.result_shape[-num_axes:]
    if max(counts) == 1:
        dims = [*layout.dims[:-num_axes], *map(plain, counts)]
        return after([layout], dims, _POOLED)

    def step(axis: int) -> Step:
        size, count = sizes[axis], counts[axis]
        bins = [range(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        return lambda field, length: field.resampled(bins, size, length=length)

    return _in_windows(call, layout, num_axes, step)


def _interpolation(call: Call) -> Layout:
    layout, num_axes = call.main(), _axes_in(call.name)
    first, last = _neighbours(call.name)

    def step(axis: int) -> Step:
        size, count = layout.shape[axis - num_axes], call.result_shape[axis - num_axes]
        places = [_source_place(call, i, size, count) for i in range(count)]
        taps = [[place + first, place + last] for place in places]
        return lambda field, length: field.resampled(taps, size, length=length)

    return _in_windows(call, layout, num_axes, step)


def _neighbours(name: str) -> tuple[int, int]:
    """Returns which pixels an interpolation reads, from the one at or before its place."""
    if "nearest" in name:
        return 0, 0
    return (-1, 2) if "cubic" in name else (0, 1)


def _source_place(call: Call, i: int, size: int, count: int) -> int:
    """Returns the input at or before the place that output ``i`` reads."""
    if call.given.get("align_corners"):
        return i * (size - 1) // max(count - 1, 1)
    if "exact" in call.name or "nearest" not in call.name:
        half = 0 if "exact" in call.name else count  # linear kinds begin half a pixel earlier
        return ((2 * i + 1) * size - half) // (2 * count)
    return i * size // count


def _pixel_shuffle(call: Call) -> Layout:
    layout, factor = call.main(), int(call.given["upscale_factor"])

    def step(field: AxisField, length: int) -> AxisField:
        taps = [[i // factor] for i in range(field.period * factor)]
        return field.resampled(taps, field.period, length=length)

    return _in_windows(call, layout, 2, lambda axis: step)


def _padding(call: Call) -> Layout:
    layout = call.main()
    pads = list(call.given["pad"] if "pad" in call.given else call.given["padding"])
    before = pads[::2][::-1]  # the last dimension comes first in them

    def step(axis: int) -> Step:
        return lambda field, length: field.window(1, 1, int(before[axis]), length=length)

    return _in_windows(call, layout, len(before), step)


def _in_windows(call: Call, layout: Layout, num_axes: int, step: Callable[[int], Step]) -> Layout:
    """Returns the layout of a result whose last dimensions have taken a step each."""
    lead = len(layout.dims) - num_axes
    dims = [_kept(dim, call.result_shape[place]) for place, dim in enumerate(layout.dims[:lead])]
    for axis, dim in enumerate(layout.dims[lead:]):
        length = call.result_shape[lead + axis]
        is_same = call.name == "constant_pad_nd" and length == size_of(dim)  # of merged places
        dims.append(dim if is_same else along(dim, length, step(axis)))
    return after([layout], dims, _RESHAPED)


def _kept(dim: Dimension, length: int) -> Dimension:
    return dim if size_of(dim) == length else plain(length)


def _each(value: Any, axis: int) -> int:
    """Returns an argument's number for one axis; a short list holds for all."""
    values = value if isinstance(value, list | tuple) else [value]
    return int(values[axis] if axis < len(values) else values[-1])


def _axes_in(name: str) -> int:
    """Returns the 2 of ``max_pool2d``."""
    found = re.search(r"(\d)d", name)
    return int(found.group(1)) if found else 0


# -- sums over dimensions


def _reduction(call: Call) -> Layout:
    layout, given = call.main(), call.given.get("dim")
    rank = len(layout.dims)
    axes = given if isinstance(given, list | tuple) else [given]
    gone = {int(d) % rank for d in axes if d is not None} or set(range(rank))
    keeps_rank = len(call.result_shape) == rank
    dims = [
        plain(1) if place in gone else dim
        for place, dim in enumerate(layout.dims)
        if keeps_rank or place not in gone
    ]
    return after([layout], dims, _POOLED)


def _over_dim(call: Call) -> Layout:
    """A result of the same places in which each sees all of one dimension."""
    layout, place = call.main(), call.dim()
    dims = _replaced(layout.dims, place, plain(call.result_shape[place]))
    return after([layout], dims, ATTENTION if "softmax" in call.name else call.name)


def _matrix_product(call: Call) -> Layout:
    left = call.layout("mat1", "batch1") or call.layout("self")
    right = call.layout("mat2", "batch2")
    if "mat1" in call.given or "batch1" in call.given:  # else ``self`` is a bias
        left = call.layout("mat1", "batch1")
    if left is not None and right is not None:
        return everything(call.result_shape, call.operands, ATTENTION)
    if left is not None:
        return after([left], [*left.dims[:-1], plain(call.result_shape[-1])], _CONNECTED)
    if right is not None:
        dims = [*right.dims[:-2], plain(call.result_shape[-2]), right.dims[-1]]
        return after([right], dims, _CONNECTED)
    return _unknown(call)


def _batch_norm(call: Call) -> Layout:
    layout = call.main()
    is_of_input = call.given.get("training") or call.given.get("train")
    return after([layout], layout.dims, "", {NORMALISED} if is_of_input else ())


def _layer_norm(call: Call) -> Layout:
    layout = call.main()
    normalised = layout.dims[-len(call.given["normalized_shape"]) :]
    return after(
        [layout], layout.dims, "", {NORMALISED} if any(map(is_spatial, normalised)) else ()
    )


def _group_norm(call: Call) -> Layout:
    return after([call.main()], call.main().dims, "", {NORMALISED})


# -- places that are moved


def _view(call: Call) -> Layout:
    layout = call.main()
    return after([layout], regrouped(layout, call.result_shape), _RESHAPED)


def _permute(call: Call) -> Layout:
    layout = call.main()
    order = list(range(len(layout.dims)))
    if "dims" in call.given:
        order = [int(d) % len(order) for d in call.given["dims"]]
    elif "dim0" in call.given:
        first, second = call.dim("dim0"), call.dim("dim1")
        order[first], order[second] = second, first
    else:
        order.reverse()  # the transpose of a matrix
    return after([layout], [layout.dims[place] for place in order], _RESHAPED)


def _expand(call: Call) -> Layout:
    layout, rank = call.main(), len(call.result_shape)
    dims = [_kept(aligned(layout, p, rank), n) for p, n in enumerate(call.result_shape)]
    return after([layout], dims, _RESHAPED)


def _slice(call: Call) -> Layout:
    layout, place, given = call.main(), call.dim(), call.given
    dim, length, step = layout.dims[place], call.result_shape[place], int(given["step"])
    if length == size_of(dim) and step == 1:
        return layout
    start = int(given["start"] or 0)
    start += size_of(dim) if start < 0 else 0
    sliced = along(dim, length, lambda field, n: field.window(1, step, -start, length=n))
    return after([layout], _replaced(layout.dims, place, sliced), _PICKED)


def _selection(call: Call) -> Layout:
    layout, place = call.main(), call.dim()
    return after([layout], [*layout.dims[:place], *layout.dims[place + 1 :]], _PICKED)


def _part(call: Call) -> Layout:
    """One of the parts that a tensor is cut into, along one dimension."""
    layout, place = call.main(), call.dim()
    part = plain(call.result_shape[place])
    return after([layout], _replaced(layout.dims, place, part), _PICKED)


def _shift(call: Call) -> Layout:
    """Roll and flip: harmless along dimensions that are no places."""
    layout = call.main()
    moved = {int(d) % len(layout.dims) for d in call.given["dims"]} or set(range(len(layout.dims)))
    dims = [plain(size_of(d)) if place in moved else d for place, d in enumerate(layout.dims)]
    return after([layout], dims, call.name)


def _concatenation(call: Call) -> Layout:
    layouts = [call.layout_of(tensor) for tensor in tensors_in([call.given["tensors"]])]
    seeing = [layout for layout in layouts if layout is not None]
    place = int(call.given["dim"]) % len(call.result_shape)
    shape = list(call.result_shape)
    del shape[place]
    dims = []
    for index, length in enumerate(shape):
        behind = index >= place and call.name == "cat"
        dims.append(joined([layout.dims[index + behind] for layout in seeing], length))
    dims.insert(place, plain(call.result_shape[place]))
    return after(seeing, dims, _LAID_OUT)


def _copy(call: Call) -> Layout:
    layout = call.layout("src")
    if layout is None or layout.shape != call.result_shape:
        return _unknown(call)
    return layout


def _replaced(dims: Sequence[Dimension], place: int, dim: Dimension) -> list[Dimension]:
    return [*dims[:place], dim, *dims[place + 1 :]]


def _for(rule: Rule, *names: str) -> Iterable[tuple[str, Rule]]:
    return ((name, rule) for name in names)


_RULES: dict[str, Rule] = dict(
    (
        *_for(_convolution, "convolution", "_convolution", "convolution_overrideable"),
        *_for(_pooling, "max_pool1d", "max_pool2d", "max_pool3d"),
        *_for(_pooling, "max_pool2d_with_indices", "max_pool3d_with_indices"),
        *_for(_pooling, "avg_pool1d", "avg_pool2d", "avg_pool3d"),
        *_for(_adaptive_pooling, "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"),
        *_for(_adaptive_pooling, "adaptive_max_pool2d", "adaptive_max_pool3d"),
        *_for(_interpolation, *(f"upsample_nearest{n}d" for n in (1, 2, 3))),
        *_for(_interpolation, *(f"_upsample_nearest_exact{n}d" for n in (1, 2, 3))),
        *_for(_interpolation, "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d"),
        *_for(_interpolation, "upsample_bicubic2d"),
        *_for(_pixel_shuffle, "pixel_shuffle"),
        *_for(_padding, "constant_pad_nd", *(f"reflection_pad{n}d" for n in (1, 2, 3))),
        *_for(_padding, *(f"replication_pad{n}d" for n in (1, 2, 3))),
        *_for(_reduction, "mean", "sum", "prod", "amax", "amin", "max", "min", "logsumexp"),
        *_for(_reduction, "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm"),
        *_for(_over_dim, "_softmax", "_log_softmax", "cumsum", "cumprod", "glu", "sort", "topk"),
        *_for(_matrix_product, "mm", "bmm", "addmm", "baddbmm"),
        *_for(_batch_norm, "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"),
        *_for(_batch_norm, "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
        *_for(_batch_norm, "_batch_norm_with_update", "_batch_norm_no_update"),
        *_for(_layer_norm, "native_layer_norm"),
        *_for(_group_norm, "native_group_norm"),
        *_for(_view, "view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze"),
        *_for(_permute, "permute", "transpose", "t"),
        *_for(_expand, "expand"),
        *_for(_slice, "slice"),
        *_for(_selection, "select", "unbind"),
        *_for(_part, "split", "split_with_sizes", "index_select", "channel_shuffle"),
        *_for(_shift, "roll", "flip"),
        *_for(_concatenation, "cat", "stack"),
        *_for(_copy, "copy_"),
    )
)
