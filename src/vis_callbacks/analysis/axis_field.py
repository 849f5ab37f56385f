"""Which pixels each position of a map sees, along one axis of an input without end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class AxisField:
    """Position ``i`` sees the pixels ``low .. high - 1``, the same way again each period.

    With ``q, r = divmod(i, len(low))`` these are ``low[r] + q * advance`` and
    ``high[r] + q * advance``. A plain convolutional network has a period of 1: then the three
    numbers are its offset, offset + size, and stride. A transposed convolution of stride 2
    gives even and odd positions windows of their own: a period of 2. So the table stays exact
    where one size and one stride would only bound the field.

    To this pattern positions below 0 and behind the end are as good as any. In a map that ends
    they are padding and see nothing, though the pixels that they would see may lie within the
    image: a stride need not reach its border. So ``seen`` follows the positions of one map.

    Attributes:
        low, high, advance: The pattern.
        seen: Of each position of the map that was met the first pixel that it sees and the one
            behind the last, equal where it sees none; empty where only the pattern is known.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    advance: int
    seen: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of_pixels(cls, count: int) -> AxisField:
        """Returns the field of the pixels of an input."""
        return cls((0,), (1,), 1, tuple((i, i + 1) for i in range(count)))

    @property
    def period(self) -> int:
        """After how many positions the windows repeat."""
        return len(self.low)

    @property
    def size(self) -> int:
        """Pixels of the largest window."""
        return max(high - low for low, high in zip(self.low, self.high, strict=True))

    @property
    def stride(self) -> float:
        """Pixels from one position to the next, on average over a period."""
        return self.advance / self.period

    @property
    def offset(self) -> int:
        """First pixel that position 0 sees; below 0 where it lies in the padding."""
        return self.low[0]

    def at(self, position: int) -> tuple[int, int]:
        """Returns the first pixel that the position sees and the one behind the last."""
        turns, place = divmod(position, self.period)
        return self.low[place] + turns * self.advance, self.high[place] + turns * self.advance

    def window(
        self, kernel: int, stride: int, padding: int, dilation: int = 1, *, length: int = 0
    ) -> AxisField:
        """Returns the field behind a convolution or a pooling, whose map has this length."""
        period = self.period // math.gcd(self.period, stride)

        def taps(i: int) -> Sequence[int]:
            first = i * stride - padding
            return range(first, first + kernel * dilation, dilation)

        return self._reading(taps, period, self.advance * stride * period // self.period, length)

    def transposed(
        self, kernel: int, stride: int, padding: int, dilation: int = 1, *, length: int = 0
    ) -> AxisField:
        """Returns the field behind a transposed convolution, whose map has this length.

        An output between two kernels, which is the bias alone, is given its neighbour's field.
        """

        def taps(i: int) -> Sequence[int]:
            places = (i + padding - tap * dilation for tap in range(kernel))
            hits = [place // stride for place in places if place % stride == 0]
            return hits or [(i + padding) // stride]

        return self._reading(taps, self.period * stride, self.advance, length)

    def resampled(
        self, taps: Sequence[Sequence[int]], num_inputs: int, *, length: int = 0
    ) -> AxisField:
        """Returns the field of outputs that each read these inputs, of ``num_inputs``."""

        def taps_of(i: int) -> Sequence[int]:
            turns, place = divmod(i, len(taps))
            return [tap + turns * num_inputs for tap in taps[place]]

        advance = self.at(num_inputs)[0] - self.at(0)[0]
        return self._reading(taps_of, len(taps), advance, length)

    def joined(self, other: AxisField) -> AxisField | None:
        """Returns what positions see that read both; None where the strides differ."""
        if self.advance * other.period != other.advance * self.period:
            return None
        period = math.lcm(self.period, other.period)
        both = [(self.at(i), other.at(i)) for i in range(period)]
        return AxisField(
            tuple(min(a[0], b[0]) for a, b in both),
            tuple(max(a[1], b[1]) for a, b in both),
            self.advance * period // self.period,
            tuple(_hull(pair) for pair in zip(self.seen, other.seen, strict=False)),
        )._shortest()

    def _reading(
        self, taps: Callable[[int], Sequence[int]], period: int, advance: int, length: int
    ) -> AxisField:
        """Returns the field of positions that read those given by ``taps``."""
        pattern = [[self.at(tap) for tap in taps(i)] for i in range(period)]
        count = len(self.seen)
        seen = (
            _hull([self.seen[tap] for tap in taps(i) if 0 <= tap < count]) for i in range(length)
        )
        return AxisField(
            tuple(min(low for low, _ in each) for each in pattern),
            tuple(max(high for _, high in each) for each in pattern),
            advance,
            tuple(seen) if count else (),
        )._shortest()

    def _shortest(self) -> AxisField:
        """Returns the same field with the shortest period that says it."""
        for period in range(1, self.period):
            advance, rest = divmod(self.advance * period, self.period)
            if self.period % period == 0 and rest == 0:
                shorter = AxisField(self.low[:period], self.high[:period], advance, self.seen)
                if all(shorter.at(i) == self.at(i) for i in range(self.period)):
                    return shorter
        return self


def _hull(parts: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Returns from the first to the last of what the parts see; (0, 0) for nothing."""
    some = [(low, high) for low, high in parts if low < high]
    return (min(low for low, _ in some), max(high for _, high in some)) if some else (0, 0)


PIXELS = AxisField((0,), (1,), 1)  # of an input without end
