"""What a monitor costs, measured by itself, and how it keeps within a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

# A share of a run that has hardly begun says nothing: the first snapshots come at the first steps.
_MIN_SECONDS = 5.0


@dataclass
class Overhead:
    """Seconds spent for one monitor, as a share of the run's.

    Host time: kernels that a GPU runs behind the training's own are not waited for.

    Attributes:
        limit: The share that is allowed; None: any.
        thinning: Bursts are that many times rarer than scheduled (a power of two).
        gives_up_pictures: Whether pictures have been given up to keep within the limit.
    """

    limit: float | None = None
    seconds: float = 0.0
    thinning: int = 1
    gives_up_pictures: bool = False
    _started: float = field(default_factory=perf_counter)

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

    def keep_within_limit(self, percent: float, run_seconds: float) -> str | None:
        """Thins what follows where the share is above the limit; returns what it gave up.

        Pictures go before statistics. All ranks must be given the same numbers.
        """
        if self.limit is None or percent <= 100 * self.limit or run_seconds < _MIN_SECONDS:
            return None
        if not self.gives_up_pictures:
            self.gives_up_pictures = True
            return "pictures"
        self.thinning *= 2
        return f"every second burst of snapshots (now {self.thinning} times rarer)"


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
