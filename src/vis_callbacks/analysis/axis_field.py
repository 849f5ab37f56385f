"""Which pixels each position of a map sees, along one axis of an input without end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class AxisField:
    """Position ``i`` sees the pixels ``low .. high - 1``, the same way again each period.

    With ``q, r = divmod(i, len(low))`` these are ``low[r] + q * advance`` and
    ``high[r] + q * advance``. A plain convolutional network has a period of 1: then the three
    numbers are its offset, offset + size, and stride. A transposed convolution of stride 2
    gives even and odd positions windows of their own: a period of 2. So the table stays exact
    where one size and one stride would only bound the field.

    Padding needs no case of its own: positions below 0 and behind the end are as good as any,
    and what they see lies outside of the image and is clipped in the end.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    advance: int

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

    def window(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> AxisField:
        """Returns the field behind a convolution or a pooling."""
        period = self.period // math.gcd(self.period, stride)
        taps = [
            [i * stride - padding + tap * dilation for tap in range(kernel)] for i in range(period)
        ]
        return self._reading(taps, self.advance * stride * period // self.period)

    def transposed(self, kernel: int, stride: int, padding: int, dilation: int = 1) -> AxisField:
        """Returns the field behind a transposed convolution.

        An output between two kernels, which is the bias alone, is given its neighbour's field.
        """
        taps = []
        for i in range(self.period * stride):
            places = (i + padding - tap * dilation for tap in range(kernel))
            hits = [place // stride for place in places if place % stride == 0]
            taps.append(hits or [(i + padding) // stride])
        return self._reading(taps, self.advance)

    def resampled(self, taps: Sequence[Sequence[int]], num_inputs: int) -> AxisField:
        """Returns the field of outputs that each read these inputs, of ``num_inputs``."""
        return self._reading(taps, self.at(num_inputs)[0] - self.at(0)[0])

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
        )._shortest()

    def _reading(self, taps: Iterable[Sequence[int]], advance: int) -> AxisField:
        seen = [[self.at(tap) for tap in each] for each in taps]
        return AxisField(
            tuple(min(low for low, _ in each) for each in seen),
            tuple(max(high for _, high in each) for each in seen),
            advance,
        )._shortest()

    def _shortest(self) -> AxisField:
        """Returns the same field with the shortest period that says it."""
        for period in range(1, self.period):
            advance, rest = divmod(self.advance * period, self.period)
            if self.period % period == 0 and rest == 0:
                shorter = AxisField(self.low[:period], self.high[:period], advance)
                if all(shorter.at(i) == self.at(i) for i in range(self.period)):
                    return shorter
        return self


PIXELS = AxisField((0,), (1,), 1)  # of the input itself
