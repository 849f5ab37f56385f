"""How far from the borders of the input the fields of a layer begin: found out by few marks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_FIRST_WINDOW = 3  # neighbours: windows that take turns show in them, and slopes in far marks
_MARKS_AT_ONCE = 6


@dataclass(frozen=True)
class Pattern:
    """What the positions of a layer see in an input without borders, along its dimension ``dim``.

    Position ``i`` sees the pixels ``low[r] + q * advance`` to ``high[r] + q * advance - 1`` with
    ``q, r = divmod(i, len(low))``. A plain convolutional network has one pair, a transposed
    convolution of stride 2 has two.
    """

    dim: int
    low: tuple[int, ...]
    high: tuple[int, ...]
    advance: int

    @property
    def size(self) -> int:
        """Pixels of the largest window."""
        return max(high - low for low, high in zip(self.low, self.high, strict=True))

    @property
    def stride(self) -> float:
        """Pixels from one position to the next, on average."""
        return self.advance / len(self.low)

    def at(self, position: int) -> tuple[int, int]:
        """Returns the first pixel that a position sees and the one behind the last."""
        turns, place = divmod(position, len(self.low))
        return self.low[place] + turns * self.advance, self.high[place] + turns * self.advance


class Edge:
    """How far from one border of the input the field of each position of a layer begins.

    The distances lie between ``low`` and ``high``, both of the shape of the layer's grid. Where a
    position sees nothing, the distance is the ``length`` of the input. ``side`` is 0 for the
    input's beginning and 1 for its end; ``hint`` is what the positions are thought to see.
    """

    def __init__(
        self, grid: tuple[int, ...], length: int, side: int, hint: Pattern | None = None
    ) -> None:
        self._hint = hint
        self.length = length
        self._side = side
        self.low = torch.zeros(grid, dtype=torch.int64)
        self.high = torch.full(grid, length)
        self._window = _FIRST_WINDOW

    @property
    def sees(self) -> bool:
        """Whether any position sees the input."""
        return bool((self.low < self.length).any())

    @property
    def dims(self) -> list[int]:
        """The dimensions along which distances differ."""
        return [
            dim
            for dim in range(self.low.dim())
            if any(bool((x != x.narrow(dim, 0, 1)).any()) for x in (self.low, self.high))
        ]

    def has_grid(self, grid: tuple[int, ...]) -> bool:
        """Whether the positions are those of this grid, but for dimensions that tell nothing."""
        return len(self.dims) < 2 and all(self.low.shape[dim] == grid[dim] for dim in self.dims)

    def tell(self, mark: int, is_marked: Tensor) -> None:
        """Takes what a mark of so many pixels from the border has reached."""
        self.high = torch.where(is_marked, self.high.clamp_max(mark - 1), self.high)
        self.low = torch.where(is_marked, self.low, self.low.clamp_min(mark))

    def wanted(self) -> set[int]:
        """Returns the marks that would tell most; none where all is known.

        A few neighbours away from the borders are measured. If their pattern contradicts no
        mark, it tells the others; else more of them are measured.
        """
        low, high = self._lines()
        is_open = low < high
        if not is_open.any():
            return set()
        first, run = int(high.argmin()), _run(low, high, self.length)
        targets = is_open
        if len(self.dims) == 1 and not is_open[first]:
            if self._hint is not None:
                seen, self._hint = [self._hint.at(place) for place in range(len(low))], None
                ends = [self.length - behind for _, behind in seen[::-1]]
                if self._follow(low, high, ends if self._side else [start for start, _ in seen]):
                    return set()
            if len(run) >= self._window:
                # Of all layers near one place, so that they share marks.
                start = run.start + int((low[run.start : run.stop] < self.length // 2).sum())
                start = min(start, run.stop - self._window)
                targets = torch.zeros_like(is_open)
                targets[start : start + self._window] = is_open[start : start + self._window]
                if not targets.any():
                    found = _repeating(low, start, self._window)
                    told = [found.at(i) for i in range(len(low))] if found else []
                    if not found or not self._follow(low, high, told):
                        self._window *= 2
                    return self.wanted()
        places = targets.nonzero().flatten()
        few = torch.linspace(0, len(places) - 1, min(_MARKS_AT_ONCE, len(places))).long()
        asked = [first, *places[few].tolist()] if is_open[first] else places[few].tolist()
        return set().union(*(_marks_for(place, low, high, run) for place in asked))

    def repeating(self) -> _Repeating | None:
        """Returns the pattern of the distances, if all are known and have one."""
        low, high = self._lines()
        run = _run(low, high, self.length)
        if len(self.dims) != 1 or bool((low < high).any()):
            return None
        return _repeating(low, run.start, len(run))

    def _lines(self) -> tuple[Tensor, Tensor]:
        """Returns both bounds along the one dimension that tells something, the nearest first."""
        dims = self.dims
        if len(dims) > 1:
            return self.low.flatten(), self.high.flatten()
        if not dims:
            return self.low.flatten()[:1], self.high.flatten()[:1]
        low, high = (along(x, dims[0]) for x in (self.low, self.high))
        return (low.flip(0), high.flip(0)) if self._side else (low, high)

    def _follow(self, low: Tensor, high: Tensor, distances: list[int]) -> bool:
        """Takes these distances from a border further out, unless a mark contradicts them."""
        nearest = torch.tensor(distances).clamp_min(int(high.min()))
        line = torch.where(low < self.length, nearest, low)
        if bool(((line < low) | (line > high)).any()):
            return False
        (dim,) = self.dims
        shape = [len(line) if d == dim else 1 for d in range(self.low.dim())]
        line = line.flip(0) if self._side else line
        self.low = self.high = line.view(shape).expand(self.low.shape)
        return True


def _marks_for(place: int, low: Tensor, high: Tensor, run: range) -> set[int]:
    """Returns marks that tell a distance: where even steps put it, or else half-way."""
    least, most = int(low[place]), int(high[place])
    if place in run:
        away = (torch.arange(run.start, run.stop) - place) * round(int(high.max()) / len(low))
        nearest = max(least, int((low[run.start : run.stop] - away).max()))
        farthest = min(most, int((high[run.start : run.stop] - away).min()))
        if nearest == farthest:
            return {mark for mark in (nearest, nearest + 1) if least < mark <= most}
        if nearest < farthest:
            least, most = nearest, farthest
    return {(least + most + 1) // 2}


def along(values: Tensor, dim: int) -> Tensor:
    """Returns the first line of values along a dimension."""
    return values.movedim(dim, 0).reshape(values.shape[dim], -1)[:, 0]


@dataclass(frozen=True)
class _Repeating:
    """Distances that repeat after ``period`` places, ``advance`` pixels later."""

    period: int
    advance: int
    start: int
    values: list[int]  # of one period from ``start`` on

    def at(self, place: int) -> int:
        """Returns the distance of any place, also of one that no map has."""
        turns, rest = divmod(place - self.start, self.period)
        return self.values[rest] + turns * self.advance


def _run(low: Tensor, high: Tensor, length: int) -> range:
    """Returns the last places in a row whose fields begin behind the nearest one, for sure."""
    is_away = (low > high.min()).tolist()
    sees = (low < length).tolist()
    end = len(is_away)
    while end and not sees[end - 1]:
        end -= 1
    start = end
    while start and is_away[start - 1] and sees[start - 1]:
        start -= 1
    return range(start, end)


def _repeating(line: Tensor, start: int, count: int) -> _Repeating | None:
    """Returns the shortest pattern that some neighbours follow, seen twice at least."""
    values = line[start : start + count]
    for period in range(1, (count - 1) // 2 + 1):
        steps = values[period:] - values[:-period]
        if steps[0] > 0 and bool((steps == steps[0]).all()):
            return _Repeating(period, int(steps[0]), start, values[:period].tolist())
    return None


def pattern_of(near: Edge, far: Edge) -> Pattern | None:
    """Returns the pattern of the fields between both edges, if it could be found."""
    low, high = near.repeating(), far.repeating()
    if low is None or high is None or near.dims != far.dims:
        return None
    if low.advance * high.period != high.advance * low.period:
        return None
    period, last = math.lcm(low.period, high.period), near.low.shape[near.dims[0]] - 1
    return Pattern(
        near.dims[0],
        tuple(low.at(place) for place in range(period)),
        tuple(near.length - high.at(last - place) for place in range(period)),
        low.advance * period // low.period,
    )
