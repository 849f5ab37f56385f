"""Receptive fields: which pixels of the input a position of any layer sees.

Read from the operations of a real forward pass, so nothing need be known of how the network is
written: functional pooling, dilation, transposed convolutions, concatenations and residual sums
are operations like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from vis_callbacks.analysis.axis_field import AxisField
from vis_callbacks.analysis.field_layout import (
    Call,
    Factor,
    Layout,
    after,
    everything,
    plain,
    tensors_in,
)
from vis_callbacks.analysis.field_rules import layout_after

_SEVERAL_RESULTS = frozenset({"split", "split_with_sizes", "unbind", "max", "min"})
_NOT_FOLLOWED = "its computation could not be followed"


@dataclass(frozen=True, kw_only=True)
class ReceptiveField:
    """Which part of the input each position of a layer sees.

    It is the field through the convolutional path: what scales whole channels (a
    squeeze-and-excite gate, the statistics of an instance normalisation) sees the whole image,
    and is only said, in ``notes``.

    Attributes:
        axes: By spatial axis of the input (height and width of an image): the field along it;
            None where every position sees all of it.
        positions: The lengths that the layer's positions are made of, the last counting
            fastest, each with the axis of the input that it runs along (None: none).
        input_size: Of the input that it was read with, by spatial axis. For inputs of other
            sizes the border may be told a few pixels too wide.
        reason: Why axes see all of the input; "" where none does.
        notes: What else must be said.
    """

    axes: tuple[AxisField | None, ...]
    positions: tuple[tuple[int, int | None], ...] = ()
    input_size: tuple[int, ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_global(self) -> bool:
        """Whether every position sees the whole input."""
        return all(axis is None for axis in self.axes)

    @property
    def size(self) -> tuple[int | None, ...]:
        """Pixels of the field, by axis; in an input without borders."""
        return tuple(axis.size if axis else None for axis in self.axes)

    @property
    def stride(self) -> tuple[float | None, ...]:
        """Pixels from one position to the next, by axis."""
        return tuple(axis.stride if axis else None for axis in self.axes)

    @property
    def offset(self) -> tuple[int | None, ...]:
        """The first pixel that position 0 sees, by axis; below 0 in the padding."""
        return tuple(axis.offset if axis else None for axis in self.axes)

    @property
    def grid(self) -> tuple[int, ...]:
        """The lengths that the positions are made of."""
        return tuple(length for length, _ in self.positions)

    def fits(self, grid: Sequence[int]) -> bool:
        """Whether `windows` holds for a map of this size.

        A map that was resampled by a ratio that is no whole number, for one, is known at the
        size that it was met with only.
        """
        same_ways = len(grid) == len(self.positions)
        is_regular = all(
            axis is None or axis.period == 1 or axis.period < length
            for length, source in self.positions
            if source is not None and (axis := self.axes[source]) is not None
        )
        return same_ways and (tuple(grid) == self.grid or is_regular)

    def windows(self, grid: Sequence[int], input_size: Sequence[int]) -> Tensor:
        """Returns what each position sees: (positions, axes, 2), first pixel and one behind.

        Args:
            grid: The lengths of the positions, the last counting fastest; see `fits`.
            input_size: Of the input, by spatial axis: windows are clipped to it.
        """
        count = math.prod(grid)
        sizes = torch.tensor(list(input_size), dtype=torch.int64)
        windows = torch.stack([torch.zeros_like(sizes), sizes], 1).repeat(count, 1, 1)
        behind = 1
        for length, (_, source) in zip(reversed(grid), reversed(self.positions), strict=True):
            axis = None if source is None else self.axes[source]
            if source is not None and axis is not None:
                is_known = length == len(axis.seen) and input_size[source] == self._traced(source)
                seen = axis.seen if is_known else [axis.at(i) for i in range(length)]
                table = torch.tensor(seen, dtype=torch.int64)
                place = torch.arange(count) // behind % length
                windows[:, source] = table[place].clamp(0, int(sizes[source]))
            behind *= length
        return windows

    def _traced(self, axis: int) -> int | None:
        return self.input_size[axis] if axis < len(self.input_size) else None

    def state(self) -> dict[str, Any]:
        """Returns plain values and tensors for a checkpoint."""
        return {
            "axes": [
                axis
                and [
                    list(axis.low),
                    list(axis.high),
                    axis.advance,
                    torch.tensor(axis.seen, dtype=torch.int32).reshape(-1, 2),
                ]
                for axis in self.axes
            ],
            "positions": [list(pair) for pair in self.positions],
            "input_size": list(self.input_size),
            "reason": self.reason,
            "notes": list(self.notes),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ReceptiveField:
        """Returns the field that `state` was taken of."""
        return cls(
            axes=tuple(axis and _axis_of(*axis) for axis in state["axes"]),
            positions=tuple((length, source) for length, source in state["positions"]),
            input_size=tuple(state.get("input_size", ())),
            reason=state["reason"],
            notes=tuple(state["notes"]),
        )


def _axis_of(
    low: Sequence[int], high: Sequence[int], advance: int, seen: Tensor | None = None
) -> AxisField:
    pairs = [] if seen is None else seen.tolist()
    return AxisField(tuple(low), tuple(high), advance, tuple((a, b) for a, b in pairs))


def receptive_fields(
    read: Callable[[Tensor], Mapping[str, Tensor]], inputs: Tensor
) -> dict[str, ReceptiveField]:
    """Returns the receptive field of every activation that ``read`` returns.

    Exact for what works by windows and at single places: convolutions of any stride, dilation
    and direction, pooling, interpolation, padding, slices, residual sums and concatenations,
    also where channels come last. Positions of different strides that are joined, attention,
    global pooling, and operations that nobody here knows see the whole image, and ``reason``
    names the operation.

    Args:
        read: Runs the forward pass and returns activations by name, (1, units, *positions).
        inputs: One sample, (1, channels, *spatial); without spatial axes all fields are global.

    References:
        Araujo, Norris and Sim 2019, "Computing receptive fields of convolutional neural
        networks", Distill: sizes and strides of plain chains of windows.
    """
    with FieldTrace(inputs) as trace:
        found = read(inputs)
        return {name: trace.field_of(tensor) for name, tensor in found.items()}


class FieldTrace(TorchDispatchMode):
    """Follows every operation inside it from the inputs on.

    Tensors are told apart by their storage and their view of it, and held by weak references:
    the pass needs no more memory than without.
    """

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        places = [
            (Factor(length, axis, AxisField.of_pixels(length)),)
            for axis, length in enumerate(inputs.shape[2:])
        ]
        self._num_axes = len(places)
        self._input_size = tuple(inputs.shape[2:])
        self._layouts: dict[StorageWeakRef, dict[_View, Layout]] = {}
        self._has_escaped = False
        self._note(inputs, Layout((*(plain(length) for length in inputs.shape[:2]), *places)))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs the operation, and notes what its results see."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = _by_name(func, args, kwargs)
        if any(self._layout_of(tensor) is not None for tensor in tensors_in(given.values())):
            self._follow(func, given, result)
        return result

    def field_of(self, tensor: Tensor) -> ReceptiveField:
        """Returns the field of an activation (1, units, *positions) that was computed inside."""
        layout = self._layout_of(tensor)
        if layout is None or self._has_escaped:
            return ReceptiveField(axes=(None,) * self._num_axes, reason=_NOT_FOLLOWED)
        # What runs along samples or units is no position of a unit.
        lead, rest = [plain(length) for length in tensor.shape[:2]], layout.dims[2:]
        layout = after([layout], [*lead, *rest], "its units lie at different places")
        fields = {f.source: f.field for dim in rest for f in dim if f.source not in layout.lost}
        return ReceptiveField(
            axes=tuple(fields.get(axis) for axis in range(self._num_axes)),
            positions=tuple(
                (f.length, f.source if f.source in fields else None) for dim in rest for f in dim
            ),
            input_size=self._input_size,
            reason=next(iter(layout.lost.values()), "" if self._num_axes else "no spatial axes"),
            notes=tuple(sorted(layout.notes)),
        )

    def _follow(self, func: Any, given: Mapping[str, Any], result: Any) -> None:
        name = func.overloadpacket.__name__
        for index, tensor in enumerate(tensors_in([result])):
            call = Call(name, given, self._layout_of, tuple(tensor.shape))
            if index and name not in _SEVERAL_RESULTS:
                layout = everything(call.result_shape, call.operands, name)
            else:
                layout = layout_after(call)
            self._note(tensor, layout, is_written=func._schema.is_mutable)

    def _note(self, tensor: Tensor, layout: Layout, is_written: bool = False) -> None:
        self._layouts = {
            storage: views
            for storage, views in self._layouts.items()
            if not storage.expired()  # type: ignore[no-untyped-call]
        }
        if tensor.layout != torch.strided:  # it has no storage to be told by
            self._has_escaped = True
            return
        views = self._layouts.setdefault(_storage_of(tensor), {})
        if is_written and views.get(_view_of(tensor)) != layout:
            views.clear()  # other views of what has been overwritten
        views[_view_of(tensor)] = layout

    def _layout_of(self, tensor: Tensor) -> Layout | None:
        """Returns what a tensor sees; None if it does not see the input at all."""
        if tensor.layout != torch.strided:
            return None
        views = self._layouts.get(_storage_of(tensor))
        if views is None:
            return None
        layout = views.get(_view_of(tensor))
        if layout is None:
            layout = everything(tuple(tensor.shape), list(views.values()), "a view of a part")
        return layout


_View = tuple[int, tuple[int, ...], tuple[int, ...]]


def _view_of(tensor: Tensor) -> _View:
    return int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()


def _storage_of(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _by_name(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an operation's arguments by name, those left out at their defaults."""
    arguments = func._schema.arguments
    given = {a.name: a.default_value for a in arguments if a.has_default_value()}
    names = [argument.name for argument in arguments]
    return given | dict(zip(names, args, strict=False)) | dict(kwargs)
