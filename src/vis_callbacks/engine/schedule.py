"""When a snapshot is due: pure functions of the step and of a few facts of the run."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

# Statistics, as their rules were measured: the first look lies before any update (a first look
# at step 20 instead costs a quarter of the recall), and 160 samples bound a silent unit's rate.
NEVER_THINNED = 20
_APART = 5
_SAMPLES_PER_BURST, _MIN_BURST, _MAX_BURST, _BURST_OF_UNKNOWN_BATCHES = 160, 3, 8, 5
_LONGEST_BURST = 100  # a user's own schedule may have bursts that never end
_INTERVAL, _MAX_INTERVAL = 50, 1000
_PER_STRETCH = 10  # bursts at one interval before it may grow
_PARTS_OF_RUN = 20
_EVERY_EPOCH_UNTIL = 10


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a schedule may know of a run; None where it is not known."""

    planned_steps: int | None = None
    steps_per_epoch: int | None = None
    batch_size: int | None = None

    def is_last(self, step: int) -> bool:
        """Whether it is the last planned step."""
        return step == _last(self)


class Schedule(ABC):
    """Says at which steps a snapshot is due. Step 0, before any update, always is."""

    @abstractmethod
    def next_due(self, step: int, facts: RunFacts) -> int | None:
        """Returns the first due step after ``step`` (at least 0), or None where none comes."""

    @final
    def due(self, step: int, facts: RunFacts) -> bool:
        """Whether a snapshot is due at this step."""
        return step == 0 or (step > 0 and self.next_due(step - 1, facts) == step)

    def ends_burst(self, step: int, facts: RunFacts) -> bool:
        """Whether this due step is the last of those that belong together."""
        return self.due(step, facts)


@final
@dataclass(frozen=True)
class EveryNSteps(Schedule):
    """The steps 0, n, 2n, ..."""

    n: int

    def next_due(self, step: int, facts: RunFacts) -> int | None:
        """Returns the next multiple of n."""
        return (step // self.n + 1) * self.n


@final
@dataclass(frozen=True)
class EveryNEpochs(Schedule):
    """The last step of every n-th epoch; later on, epochs evenly spaced on a log scale.

    Counting epochs from 1: after epoch 10 three are due a doubling (10, 13, 16, 20, 26, 32, 40,
    ... for n = 1), each rounded up to a multiple of n: what changes slowly needs fewer pictures.
    The last one planned is always due. A run of fewer than two epochs is divided into twenty
    parts instead, and so is one whose epochs have no known length; where its end is unknown too,
    the steps are those of `LogSpaced`.
    """

    n: int

    def next_due(self, step: int, facts: RunFacts) -> int | None:
        """Returns the last step of the next due epoch."""
        length, planned = facts.steps_per_epoch, facts.planned_steps
        if length is None and planned is None:
            return LogSpaced().next_due(step, facts)
        if planned is not None and (length is None or planned < 2 * length):
            return _next_of_parts(step, planned)
        if length is None or length < 1:
            return None
        ended = (step + 1) // length  # epochs that are over once this step is
        following = (ended // self.n + 1) * self.n
        if following > _EVERY_EPOCH_UNTIL:
            target = _next_log_spaced(following - self.n, _EVERY_EPOCH_UNTIL, per_doubling=3)
            following = -(-target // self.n) * self.n
        if planned is not None and ended < planned // length < following:
            following = planned // length
        return following * length - 1


@dataclass(frozen=True)
class _InBursts(Schedule):
    """Bursts at intervals.

    A burst every 50 steps up to step 500, then every max(50, planned steps // 20). Where the end
    is unknown that interval doubles after each ten bursts, up to 1,000; where it is known, the
    last step is due as well, so that what is shown of a run shows its end.
    """

    @abstractmethod
    def _end(self, burst: int, start: int, facts: RunFacts) -> int:
        """Returns the step of the last snapshot of a burst."""

    @final
    def next_due(self, step: int, facts: RunFacts) -> int | None:
        """Returns the next step of the burst, or the start of the next one."""
        burst, start = _latest_burst(step, facts)
        following = start + ((step - start) // _APART + 1) * _APART
        if following > self._end(burst, start, facts):
            following = _start(burst + 1, facts)
        return _or_last(following, step, facts)

    @final
    def ends_burst(self, step: int, facts: RunFacts) -> bool:
        """Whether this due step is the last of its burst."""
        is_last = step == self._end(*_latest_burst(step, facts), facts) or step == _last(facts)
        return is_last and self.due(step, facts)


@final
class Bursts(_InBursts):
    """Several snapshots 5 steps apart, then a pause: for statistics of single samples.

    The steps 0, 5, 10, 15, 20; then bursts of ceil(160 / batch size)
    snapshots, 3 to 8, or 5 where the size is unknown.
    """

    def _end(self, burst: int, start: int, facts: RunFacts) -> int:
        if burst == 0:
            return NEVER_THINNED
        size = _BURST_OF_UNKNOWN_BATCHES
        if facts.batch_size:
            size = min(max(-(-_SAMPLES_PER_BURST // facts.batch_size), _MIN_BURST), _MAX_BURST)
        return start + (size - 1) * _APART


@final
class Decaying(_InBursts):
    """Bursts of a single snapshot: for numbers of weights."""

    def _end(self, burst: int, start: int, facts: RunFacts) -> int:
        return start


@final
@dataclass(frozen=True)
class BurstEnds(Schedule):
    """Of another schedule, step 0 and the last step of each burst: for what is only shown."""

    of: Schedule

    def next_due(self, step: int, facts: RunFacts) -> int | None:
        """Returns the next step that ends a burst, None where no burst of a fair size ends."""
        following = self.of.next_due(step, facts)
        for _ in range(_LONGEST_BURST):
            if following is None or self.of.ends_burst(following, facts):
                return following
            following = self.of.next_due(following, facts)
        return None


@final
@dataclass(frozen=True)
class LogSpaced(Schedule):
    """Steps evenly spaced on a log scale, and the last planned one: for pictures.

    The defaults give 0, 50, 71, 100, 142, 200, ...: two a doubling, 20 up to step 25,000.
    """

    first: int = 50
    per_doubling: int = 2

    def next_due(self, step: int, facts: RunFacts) -> int | None:
        """Returns the next step of the series, or the last planned one if that comes first."""
        return _or_last(_next_log_spaced(step, self.first, self.per_doubling), step, facts)


def schedule_from_options(
    every_n_train_steps: int | None, every_n_epochs: int | None, default: Schedule
) -> Schedule:
    """Returns the schedule that a monitor's options ask for. Raises ValueError for both."""
    if every_n_train_steps is not None and every_n_epochs is not None:
        raise ValueError(
            f"every_n_train_steps={every_n_train_steps} and every_n_epochs={every_n_epochs} "
            "exclude each other. Give one of them."
        )
    if every_n_train_steps is not None:
        return EveryNSteps(every_n_train_steps)
    return EveryNEpochs(every_n_epochs) if every_n_epochs is not None else default


def _last(facts: RunFacts) -> float:
    """Returns the last planned step."""
    return math.inf if facts.planned_steps is None else facts.planned_steps - 1


def _or_last(following: int, step: int, facts: RunFacts) -> int:
    """Returns the next due step, or the last planned one if that comes first."""
    last = _last(facts)
    return int(last) if step < last < following else following


def _start(burst: int, facts: RunFacts) -> int:
    """Returns the step at which a burst starts; burst 0 at step 0."""
    return next(
        start + (burst - first) * interval
        for first, start, interval in _stretches(facts.planned_steps)
        if burst < first + _PER_STRETCH
    )


def _latest_burst(step: int, facts: RunFacts) -> tuple[int, int]:
    """Returns the last burst that starts at ``step`` or before, and where it starts."""
    return next(
        (first + (step - start) // interval, step - (step - start) % interval)
        for first, start, interval in _stretches(facts.planned_steps)
        if step < start + _PER_STRETCH * interval
    )


def _stretches(planned_steps: int | None) -> Iterator[tuple[int, int, int]]:
    """Yields, for each ten bursts, the first one's number and start, and their interval."""
    first, start, interval = 0, 0, _INTERVAL
    while True:
        yield first, start, interval
        first, start = first + _PER_STRETCH, start + _PER_STRETCH * interval
        if planned_steps is None:
            interval = min(2 * interval, _MAX_INTERVAL)
        else:
            interval = max(_INTERVAL, planned_steps // _PARTS_OF_RUN)


def _next_of_parts(step: int, planned: int) -> int | None:
    """Returns the next last step of one of twenty equal parts of the run."""
    if planned < 1:
        return None
    part = (step + 1) * _PARTS_OF_RUN // planned + 1
    following = -(-part * planned // _PARTS_OF_RUN) - 1
    return following if following < planned else None


def _next_log_spaced(value: int, first: int, per_doubling: int) -> int:
    """Returns the least ceil(first * 2 ** (k / per_doubling)), k >= 0, above ``value``."""
    if value < first:
        return first
    # One step back, since rounding may have put the exponent on the wrong side of a whole one.
    k = max(math.floor(per_doubling * math.log2(value / first)) - 1, 0)
    while (following := math.ceil(first * 2 ** (k / per_doubling) - 1e-9)) <= value:
        k += 1
    return following
