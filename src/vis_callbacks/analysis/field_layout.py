"""What each dimension of a tensor sees of the input: how it is written down."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from vis_callbacks.analysis.axis_field import AxisField

ATTENTION = "attention"


@dataclass(frozen=True)
class Factor:
    """A dimension, or a part of one that a reshape has merged with others.

    Attributes:
        length: Its number of positions.
        source: The spatial axis of the input that it runs along; None: none.
        field: What its positions see along that axis.
    """

    length: int
    source: int | None = None
    field: AxisField | None = None


Dimension = tuple[Factor, ...]


@dataclass(frozen=True)
class Layout:
    """What a tensor sees of the input.

    Attributes:
        dims: Its dimensions, each of the factors that make it up.
        lost: By spatial axis of the input: why each position sees all of it.
        notes: What else must be said.
    """

    dims: tuple[Dimension, ...]
    lost: Mapping[int, str] = field(default_factory=dict)
    notes: frozenset[str] = frozenset()

    @property
    def sources(self) -> set[int]:
        """The spatial axes of the input that positions run along."""
        return {f.source for dim in self.dims for f in dim if f.source is not None}

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the dimensions."""
        return tuple(size_of(dim) for dim in self.dims)


@dataclass(frozen=True)
class Call:
    """One operation: its name, its arguments by name, and what the tensors it reads see."""

    name: str
    given: Mapping[str, Any]
    layout_of: Callable[[Tensor], Layout | None]
    result_shape: tuple[int, ...]

    def layout(self, *names: str) -> Layout | None:
        """Returns the layout of the argument that has one of these names, if it sees the input."""
        value = next((self.given[name] for name in names if name in self.given), None)
        return self.layout_of(value) if isinstance(value, Tensor) else None

    @property
    def operands(self) -> list[Layout]:
        """The layouts of all tensors that see the input."""
        layouts = [self.layout_of(tensor) for tensor in tensors_in(self.given.values())]
        return [layout for layout in layouts if layout is not None]

    def main(self) -> Layout:
        """Returns the layout of the tensor that the operation is about.

        Raises:
            LookupError: It is another argument that sees the input.
        """
        layout = self.layout("self", "input")
        if layout is None:
            raise LookupError(self.name)
        return layout

    def dim(self, name: str = "dim") -> int:
        """Returns a dimension that is an argument, counted from the front."""
        return int(self.given[name]) % max(len(self.main().dims), 1)


def tensors_in(values: Iterable[Any]) -> Iterable[Tensor]:
    """Yields the tensors in arguments or results, lists opened."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def size_of(dim: Dimension) -> int:
    """Returns the length of a dimension."""
    return math.prod(factor.length for factor in dim)


def is_spatial(dim: Dimension) -> bool:
    """Whether positions along it run along an axis of the input."""
    return any(factor.source is not None for factor in dim)


def plain(length: int) -> Dimension:
    """Returns a dimension that runs along no axis of the input."""
    return (Factor(length),)


def after(
    before: Sequence[Layout], dims: Iterable[Dimension], reason: str, notes: Iterable[str] = ()
) -> Layout:
    """Returns the layout of a result; axes that have vanished are lost, for the reason."""
    dims = tuple(dims)
    lost: dict[int, str] = {}
    for axis, why in ((a, w) for layout in before for a, w in layout.lost.items()):
        if why == ATTENTION:  # of several causes it is the one that the reader knows best
            lost[axis] = why
        lost.setdefault(axis, why)
    found = [f.source for dim in dims for f in dim if f.source is not None]
    for axis in {axis for layout in before for axis in layout.sources}:
        if found.count(axis) != 1:
            lost.setdefault(axis, reason)
    kept = tuple(tuple(Factor(f.length) if f.source in lost else f for f in dim) for dim in dims)
    return Layout(kept, lost, frozenset(notes).union(*(layout.notes for layout in before)))


def everything(shape: Sequence[int], operands: Sequence[Layout], reason: str) -> Layout:
    """Returns the layout of a tensor each of whose values may see all of the image."""
    layout = after(operands, [plain(length) for length in shape], reason)
    return (
        replace(layout, lost=dict.fromkeys(layout.lost, reason)) if reason == ATTENTION else layout
    )


def aligned(layout: Layout, place: int, rank: int) -> Dimension:
    """Returns a dimension as broadcasting sees it: the last ones stand above each other."""
    place -= rank - len(layout.dims)
    return layout.dims[place] if place >= 0 else ()


def joined(dims: Sequence[Dimension], length: int) -> Dimension:
    """Returns the dimension of a result that reads all of these at the same place."""
    dims = [dim for dim in dims if size_of(dim) == length and is_spatial(dim)]
    if not dims:
        return plain(length)
    first, *others = dims
    for other in others:
        if [(f.length, f.source) for f in other] != [(f.length, f.source) for f in first]:
            return plain(length)
        first = tuple(map(_joined_factor, first, other))
        if any(f.source is not None and f.field is None for f in first):
            return plain(length)
    return first


def _joined_factor(one: Factor, other: Factor) -> Factor:
    if one.field is None or other.field is None:
        return one
    return replace(one, field=one.field.joined(other.field))


def regrouped(layout: Layout, shape: Sequence[int]) -> list[Dimension]:
    """Returns the factors in their order, shared out anew over the dimensions of a shape.

    A factor that is cut has no places any more. Where the lengths do not divide, nothing is
    known of any.
    """
    factors = (f for dim in layout.dims for f in dim)
    waiting = deque(f for f in factors if f.length != 1 or f.source is not None)
    dims: list[list[Factor]] = []
    for length in shape:
        dims.append([])
        missing = length
        while missing > 1:
            factor = waiting.popleft()
            if missing % factor.length == 0:
                dims[-1].append(factor)
                missing //= factor.length
            elif factor.length % missing == 0:
                dims[-1].append(Factor(missing))
                waiting.appendleft(Factor(factor.length // missing))
                missing = 1
            else:
                return [plain(each) for each in shape]
        if length == 1 and waiting and waiting[0].length == 1:
            dims[-1].append(waiting.popleft())
    if dims:
        dims[-1] += waiting  # maps of a single place, flattened
    return [tuple(dim) for dim in dims]


# The field, and the length of the map behind it, to the field of that map.
Step = Callable[[AxisField, int], AxisField]


def along(dim: Dimension, length: int, step: Step) -> Dimension:
    """Returns a dimension whose field takes the step; a merged one loses its axes."""
    placed = [factor for factor in dim if factor.source is not None]
    if len(placed) != 1 or placed[0].length != size_of(dim) or placed[0].field is None:
        return plain(length)
    return (Factor(length, placed[0].source, step(placed[0].field, length)),)
