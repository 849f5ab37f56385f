"""What monitors cost, measured by themselves, and how all of a run keep within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

# The pictures of step 0 and of the end are drawn in any run, also in one of a few seconds.
_FREE_SECONDS = 1.0


@dataclass(eq=False)
class Overhead:
    """Seconds spent for one monitor, as a share of the run's.

    Host time: kernels that a GPU runs behind the training's own are not waited for.

    Attributes:
        limit: The share of the run's time that all monitors may have taken when this one draws;
            None: any.
        seconds: Spent so far.
        drawing: Seconds of the last snapshot with pictures; 0: there was none yet.
        first_drawing: What is reckoned with until then, at least.
        may_show: Whether there is room for what rests no alert and is cheap, as a burst's maps.
    """

    limit: float | None = None
    seconds: float = 0.0
    drawing: float = 0.0
    first_drawing: float = 0.0
    may_show: bool = True
    _started: float = field(default_factory=lambda: perf_counter())  # a test may replace it

    def spend(self, seconds: float) -> None:
        """Counts time that was measured elsewhere."""
        self.seconds += seconds

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Counts the time of the block."""
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds += perf_counter() - began

    @property
    def run_seconds(self) -> float:
        """Seconds since the run began."""
        return perf_counter() - self._started

    @property
    def percent(self) -> float:
        """The monitor's share of the run so far, in percent."""
        return 100.0 * self.seconds / max(self.run_seconds, 1e-9)


class Budget:
    """What all monitors of a run have taken together, and whether there is room for more.

    There is room for a monitor's pictures where all that was taken, and what its last ones took,
    lie within its limit. What is drawn in any case has a second of its own and counts only beyond
    it. Ranks `learn` the same `numbers`, so that all of them decide alike.
    """

    def __init__(self, overheads: Sequence[Overhead]) -> None:
        self._overheads = overheads
        self._in_any_case = 0.0
        self._claimed = 0.0  # of what was found to have room since the numbers were learned
        self.learn(self.numbers())

    def numbers(self) -> list[float]:
        """Returns what the ranks are to add up: 1, the run's seconds, and those of monitors."""
        run_seconds = max((one.run_seconds for one in self._overheads), default=0.0)
        spent = sum(one.seconds for one in self._overheads)
        drawing = [one.drawing for one in self._overheads]
        return [1.0, run_seconds, spent, self._in_any_case, *drawing]

    def learn(self, numbers: Sequence[float]) -> None:
        """Takes the numbers, added up over the ranks."""
        means = [number / numbers[0] for number in numbers[1:]]
        self._run_seconds, spent, in_any_case, *drawing = means
        self._counted, self._claimed = spent - min(in_any_case, _FREE_SECONDS), 0.0
        # Of pictures that were never drawn, and so are not known, the dearest others tell.
        highest = max(drawing, default=0.0)
        self._expected = {
            one: cost or max(highest, one.first_drawing)
            for one, cost in zip(self._overheads, drawing, strict=True)
        }
        # The end's pictures are expected to take as much of the free second as step 0's.
        spare = max(_FREE_SECONDS - 2 * in_any_case, 0.0)
        for one in self._overheads:
            one.may_show = self._left(one) + spare >= 0

    def claim(self, one: Overhead) -> bool:
        """Whether there is room for pictures of this monitor, which it is then given."""
        cost = self._expected[one]
        has_room = self._left(one) >= cost
        self._claimed += cost if has_room else 0.0
        return has_room

    def exceeds(self, share: float, *, after: float) -> bool:
        """Whether more than this share was taken of a run that is older than some seconds."""
        return self._run_seconds > after and self._counted > share * self._run_seconds

    @contextmanager
    def drawing_in_any_case(self) -> Iterator[None]:
        """Counts what the block takes as that of pictures that do not wait."""
        before = sum(one.seconds for one in self._overheads)
        try:
            yield
        finally:
            self._in_any_case += sum(one.seconds for one in self._overheads) - before

    def spend_drawing(self, one: Overhead, seconds: float, *, in_any_case: bool) -> None:
        """Counts what a monitor's pictures took beside the training."""
        one.seconds += seconds
        one.drawing += seconds
        self._in_any_case += seconds if in_any_case else 0.0

    def _left(self, one: Overhead) -> float:
        if one.limit is None:
            return math.inf
        return one.limit * self._run_seconds - self._counted - self._claimed


@contextmanager
def divided(
    everyone: Callable[[], Sequence[Overhead]], asking: Callable[[], Sequence[Overhead]]
) -> Iterator[None]:
    """Counts the time of the block: what no monitor counts itself is shared by those who asked.

    Extra passes, opening and closing captures, merging over ranks and the transfer serve several
    monitors at once. ``asking`` tells for whom the block works; it is called before the block,
    and after it where that is only known then. Where nobody asks in particular, all share.
    """
    sharing, before = asking(), sum(overhead.seconds for overhead in everyone())
    began = perf_counter()
    try:
        yield
    finally:
        counted = sum(overhead.seconds for overhead in everyone()) - before
        rest = max(perf_counter() - began - counted, 0.0)
        sharing = sharing or asking() or everyone()
        for overhead in sharing:
            overhead.seconds += rest / len(sharing)
