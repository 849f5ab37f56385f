"""Receptive fields: which pixels of the input a position of any layer sees.

Rows or columns of the input are marked by NaN, and the network itself carries the marks to all
that depends on them. So nothing need be known of how it is written or of what it is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vis_callbacks.guard import Catch
from vis_callbacks.monitors.top_patches.edges import Edge, Pattern, along, pattern_of
from vis_callbacks.monitors.top_patches.marks import (
    WIDE,
    MarkedPass,
    NotFollowedError,
    exact_windows,
)

Read = Callable[[Tensor], Mapping[str, Tensor]]
Grids = Mapping[str, tuple[int, ...]]

_MAX_MARKS, _MAX_MARKS_A_LAYER = 64, 8  # from one border, at one size of the input
_MARKS_A_PASS = 8
_STRIP = 80  # pixels across a strip that is marked along its length
_FEW_POSITIONS = 16  # along an axis: most of them are cut off
_ENLARGED = (2, 4, 8)  # inputs so much longer are tried where fields are cut off by the user's size
_NOT_FOLLOWED = "its computation could not be followed"


@dataclass(frozen=True, kw_only=True)
class AxisField:
    """What the positions of a layer see along one axis of the input.

    Attributes:
        dim: The dimension of the layer's grid that runs along it; None: ``seen`` is of all
            positions, the last dimension counting fastest.
        seen: Of each position the first pixel that it sees and the one behind the last, equal where
            it sees none.
        pattern: What they would see without borders; None where it could not be found out.
    """

    dim: int | None
    seen: tuple[tuple[int, int], ...]
    pattern: Pattern | None = None

    @property
    def size(self) -> int:
        """Pixels of the largest window."""
        return self.pattern.size if self.pattern else max(b - a for a, b in self.seen)


@dataclass(frozen=True, kw_only=True)
class ReceptiveField:
    """Which part of the input each position of a layer sees.

    It is the field through the convolutional path: what scales whole channels (a
    squeeze-and-excite gate, the statistics of an instance normalisation) sees the whole image,
    and is only said, in ``notes``.

    Attributes:
        axes: By spatial axis of the input; None where every position sees all of it.
        grid: The lengths of the layer's positions.
        input_size: Of the input that it was measured with.
        reason: Why all positions see the whole input; "" where they do not.
        notes: What else must be said.
    """

    axes: tuple[AxisField | None, ...]
    grid: tuple[int, ...] = ()
    input_size: tuple[int, ...] = ()
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_global(self) -> bool:
        """Whether every position sees the whole input."""
        return all(axis is None for axis in self.axes)

    @property
    def size(self) -> tuple[int | None, ...]:
        """Pixels of the field, by axis; in an input without borders, where that is known."""
        return tuple(axis.size if axis else None for axis in self.axes)

    @property
    def stride(self) -> tuple[float | None, ...]:
        """Pixels from one position to the next, by axis; None where it is not known."""
        return tuple(axis.pattern.stride if axis and axis.pattern else None for axis in self.axes)

    def windows(self, grid: Sequence[int], input_size: Sequence[int]) -> Tensor | None:
        """Returns what each position sees: (positions, axes, 2), first pixel and one behind.

        It is exact for the size that was measured. For others it follows the pattern, which may
        be a few pixels too wide at the border; None where there is no pattern.
        """
        is_measured = (tuple(grid), tuple(input_size)) == (self.grid, self.input_size)
        tables = []
        for axis, length in zip(self.axes, input_size, strict=True):
            if axis is None:
                table = torch.tensor([[0, length]]).expand(math.prod(grid), 2)
            else:
                seen = axis.seen
                if not is_measured:
                    if axis.dim is None or axis.pattern is None or len(grid) != len(self.grid):
                        return None
                    seen = tuple(axis.pattern.at(place) for place in range(grid[axis.dim]))
                table = torch.tensor(seen, dtype=torch.int64).clamp(0, length)
                if axis.dim is not None:
                    shape = [len(seen) if d == axis.dim else 1 for d in range(len(grid))]
                    table = table.view(*shape, 2).expand(*grid, 2).reshape(-1, 2)
            tables.append(table)
        return torch.stack(tables, 1)

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> ReceptiveField:
        """Returns the field that the state was taken of."""
        axes = []
        for axis in state["axes"]:
            pattern = axis and axis["pattern"]
            axes.append(axis and AxisField(**{**axis, "pattern": pattern and Pattern(**pattern)}))
        return cls(**{**state, "axes": tuple(axes)})


def receptive_fields(read: Read, inputs: Tensor) -> dict[str, ReceptiveField]:
    """Returns the receptive field of every activation that ``read`` returns for one sample.

    Each field is measured at the size of the inputs, where it is exact at the borders. Sizes and
    strides of fields that are cut off on all sides there are measured on longer strips, if the
    network takes them. It costs some tens of passes of one sample for each axis.

    Raises:
        NotFollowedError: The network does not take a NaN.
    """
    with exact_windows(), Catch() as caught:
        return _measured(read, inputs)
    read(inputs)  # if this raises, it was not for the marks
    raise NotFollowedError(f"receptive fields cannot be measured: {caught.error}") from caught.error


def _measured(read: Read, inputs: Tensor) -> dict[str, ReceptiveField]:
    inputs = inputs if inputs.is_floating_point() else inputs.float()
    if inputs.dim() < 3:
        return {name: ReceptiveField(axes=(), reason="no spatial axes") for name in read(inputs)}
    size = tuple(inputs.shape[2:])
    middle = _marked(inputs, [(n // 2, max(1, n // 8)) for n in size])
    with MarkedPass(explains=True) as explained:
        found = read(middle)
    grids = {name: tuple(values.shape[2:]) for name, values in found.items()}
    reasons = {name: explained.reason_of(values) for name, values in found.items()}
    local = [name for name, reason in reasons.items() if reason in ("", WIDE)]
    probing = _Probing(read, inputs)
    probing.find_out_whether_rows_mix(middle, found)
    axes = [probing.fields(axis, grids, local) for axis in range(len(size))]
    return {
        name: ReceptiveField(
            axes=tuple(fields.get(name) for fields in axes),
            grid=grids[name],
            input_size=size,
            reason=(reasons[name] or _NOT_FOLLOWED) if not any(f.get(name) for f in axes) else "",
            notes=explained.notes_of(values),
        )
        for name, values in found.items()
    }


def _marked(inputs: Tensor, parts: Sequence[tuple[int, int]]) -> Tensor:
    """Returns a copy with NaN in a box: by axis its first pixel and its length."""
    marked = inputs.clone()
    box = marked
    for axis, (start, length) in enumerate(parts):
        box = box.narrow(2 + axis, start, length)
    box.fill_(math.nan)
    return marked


class _Probing:
    """Marks the inputs of one network."""

    def __init__(self, read: Read, inputs: Tensor) -> None:
        self._read = read
        self._inputs = inputs
        self._together = _MARKS_A_PASS

    def find_out_whether_rows_mix(self, marked: Tensor, found: Mapping[str, Tensor]) -> None:
        """Reads several marks in one pass only where a sample is read the same among others."""
        with Catch() as caught:
            among = self._reached(torch.cat([self._inputs, marked, self._inputs]))
        self._together = 1 if caught.error is not None else self._together
        for name, values in found.items():
            alone = values.isnan().any(1).cpu()
            expected = torch.cat([torch.zeros_like(alone), alone, torch.zeros_like(alone)])
            if caught.error is None and not torch.equal(among.get(name, alone), expected):
                self._together = 1

    def _reached(self, batch: Tensor) -> dict[str, Tensor]:
        """Returns by layer which positions the marks have reached: (samples, *positions)."""
        parts = []
        for part in torch.split(batch, self._together):
            with MarkedPass(is_resized=part.shape[2:] != self._inputs.shape[2:]):
                found = self._read(part)
            parts.append({name: values.isnan().any(1).cpu() for name, values in found.items()})
        names = set(parts[0]).intersection(*parts)
        return {name: torch.cat([part[name] for part in parts]) for name in names}

    def fields(self, axis: int, grids: Grids, local: Sequence[str]) -> dict[str, AxisField | None]:
        """Returns the fields along one axis; of the local operations also beyond the input."""
        few = {n: grids[n] for n in local if max(grids[n], default=1) < _FEW_POSITIONS}
        patterns = self._patterns_of_larger(axis, few)
        edges, strip = {}, self._strip(axis, 1)
        if strip is not self._inputs:
            with Catch():
                edges = self._edges(strip, axis, grids, patterns)
        is_strip_enough = all(edge.has_grid(grids[n]) for n, pair in edges.items() for edge in pair)
        if len(edges) < len(grids) or not is_strip_enough:
            edges = self._edges(self._inputs, axis, grids, patterns)
        patterns |= {n: found for n, pair in edges.items() if (found := pattern_of(*pair))}
        missing = {n: grids[n] for n in local if n in edges and n not in patterns and n not in few}
        patterns |= self._patterns_of_larger(axis, missing)
        return {name: _field(*pair, patterns.get(name)) for name, pair in edges.items()}

    def _patterns_of_larger(self, axis: int, grids: Grids) -> dict[str, Pattern]:
        """Returns the patterns in longer inputs, if the network takes them.

        A map that does not grow with its input, behind an adaptive pooling, has another pattern at
        each size.
        """
        patterns: dict[str, Pattern] = {}
        missing = dict(grids)
        for factor in _ENLARGED if grids else ():
            strip = self._strip(axis, factor)
            with Catch() as caught:
                larger = self._edges(strip, axis, missing, {})
            if caught.error is not None:
                break
            for name, (near, far) in larger.items():
                if found := pattern_of(near, far):
                    longer = near.length - self._inputs.shape[2 + axis]
                    more = near.low.shape[found.dim] - missing.pop(name)[found.dim]
                    if abs(more * found.stride - longer) <= found.stride:
                        patterns[name] = found
            if not missing:
                break
        return patterns

    def _strip(self, axis: int, factor: int) -> Tensor:
        """Returns an input so many times as long, and narrow in the other axes."""
        strip = self._inputs
        for other in range(self._inputs.dim() - 2):
            if other != axis and self._inputs.shape[2 + other] > _STRIP:
                strip = strip.narrow(2 + other, 0, _STRIP)
        return strip if factor == 1 else torch.cat([strip] * factor, 2 + axis)

    def _edges(
        self, inputs: Tensor, axis: int, grids: Grids, hints: Mapping[str, Pattern]
    ) -> dict[str, tuple[Edge, Edge]]:
        """Marks the input from both of its ends until all is known, or there were enough marks."""
        length, names = inputs.shape[2 + axis], set(grids)
        pairs: dict[str, tuple[Edge, Edge]] = {}
        most = _MAX_MARKS + _MAX_MARKS_A_LAYER * len(names)
        for side in (0, 1):
            asked: set[int] = set()
            wanted = {1, length}
            while wanted and len(asked) < most:
                marks = sorted(wanted)[:_MARKS_A_PASS]
                whole = [(0, n) for n in inputs.shape[2:]]
                batch = []
                for mark in marks:
                    whole[axis] = (length - mark if side else 0, mark)
                    batch.append(_marked(inputs, whole))
                found = self._reached(torch.cat(batch))
                for name in list(names):
                    masks = found.get(name, torch.empty(0))
                    if name not in pairs:
                        grid, hint = tuple(masks.shape[1:]), hints.get(name)
                        pairs[name] = Edge(grid, length, 0, hint), Edge(grid, length, 1, hint)
                    if masks.shape != (len(marks), *pairs[name][0].low.shape):
                        names.remove(name)  # its rows are no samples, or not the same at each pass
                        continue
                    for mark, mask in zip(marks, masks, strict=True):
                        pairs[name][side].tell(mark, mask)
                asked.update(marks)
                wanted = set().union(*(pairs[name][side].wanted() for name in names)) - asked
        return {name: pairs[name] for name in names}


def _field(near: Edge, far: Edge, pattern: Pattern | None) -> AxisField | None:
    """Returns the field along an axis from how far it begins from both ends."""
    dims = {*near.dims, *far.dims} or ({pattern.dim} if pattern else set())
    if not dims or not near.sees:
        return None  # all positions see the same
    first, behind = near.low, far.length - far.low  # where it is not known, the wider
    dim = dims.pop() if len(dims) == 1 else None
    if dim is None:
        first, behind = first.flatten(), behind.flatten()
    else:
        first, behind = along(first, dim), along(behind, dim)
    pairs = zip(first.tolist(), behind.tolist(), strict=True)
    seen = tuple((low, high) if low < high else (0, 0) for low, high in pairs)
    return AxisField(dim=dim, seen=seen, pattern=pattern)
