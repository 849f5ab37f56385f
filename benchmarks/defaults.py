"""What a whole training at the default schedules costs, computed from measured snapshots.

Two whole runs would scatter by more than the difference that is looked for. So each kind of
snapshot is timed in a short run, and the schedules tell how many a long one has.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.nets import Benchmark
from benchmarks.steps import WARM_UP_STEPS, StepClock, train
from vis_callbacks import Monitor
from vis_callbacks.engine.schedule import BurstEnds, RunFacts

NUM_EPOCHS = 4  # of the short run; pictures are due at the end of each
STEPS_AN_EPOCH = 130  # holds whole bursts, and steps enough between them
VALIDATION_BATCHES = 8  # 512 samples of the small CNN: as many as a map takes

MakeMonitor = Callable[[], Monitor]


@dataclass(frozen=True)
class Costs:
    """Seconds beyond a plain step, by kind of snapshot, of one monitor.

    Attributes:
        numbers: Within a burst.
        shown: With scalars written.
        pictures: With pictures drawn and written, by a training step.
        epoch_end: Of a validation that was collected, with all that follows.
        plain: Seconds of a plain step.
    """

    numbers: float = 0.0
    shown: float = 0.0
    pictures: float = 0.0
    epoch_end: float = 0.0
    plain: float = 0.0


def kinds_of(monitor: Monitor, facts: RunFacts, num_steps: int) -> dict[int, str]:
    """Returns by step what the monitor does there: the schedules, as a session keeps them."""
    if any(probe.occasion == "evaluation" for probe in monitor.probes()):
        ends = range((facts.steps_per_epoch or num_steps) - 1, num_steps, facts.steps_per_epoch)
        return {s: "epoch_end" for s in ends if monitor.schedule.due(s, facts)}
    kinds: dict[int, str] = {}
    whole = BurstEnds(monitor.schedule)
    next_picture: float | None = 0
    for step in range(num_steps):
        if not monitor.schedule.due(step, facts):
            continue
        kinds[step] = "shown" if whole.due(step, facts) else "numbers"
        if kinds[step] == "shown" and next_picture is not None and step >= next_picture:
            kinds[step] = "pictures"
            pictures = monitor.picture_schedule
            next_picture = pictures.next_due(step, facts) if pictures else 0
    return kinds


def measure(benchmark: Benchmark, make: MakeMonitor) -> Costs:
    """Returns what each kind of snapshot takes: medians of a short run."""
    facts = RunFacts(
        planned_steps=NUM_EPOCHS * STEPS_AN_EPOCH,
        steps_per_epoch=STEPS_AN_EPOCH,
        batch_size=benchmark.batch_size,
    )
    clock, bare = _timed(benchmark, [make()]), _timed(benchmark, [])
    kinds = kinds_of(make(), facts, NUM_EPOCHS * STEPS_AN_EPOCH)
    by_kind: dict[str, list[float]] = {}
    plain = [
        seconds
        for step, seconds in enumerate(clock.seconds)
        if step >= WARM_UP_STEPS and kinds.get(step, "epoch_end") == "epoch_end"
    ]
    level = statistics.median(plain)
    for step, kind in kinds.items():
        if step >= WARM_UP_STEPS and kind != "epoch_end":
            by_kind.setdefault(kind, []).append(clock.seconds[step] - level)
    # The first epoch's end finds everything cold.
    tails = (statistics.median(c.tails[1:]) for c in (clock, bare))
    epoch_end = next(tails) - next(tails)
    medians = {kind: statistics.median(seconds) for kind, seconds in by_kind.items()}
    return Costs(**medians, epoch_end=max(0.0, epoch_end), plain=level)


def seconds_of(
    costs: Costs,
    monitor: Monitor,
    *,
    epochs: int,
    steps_per_epoch: int,
    until: int | None = None,
) -> float:
    """Returns the seconds of all snapshots of a training, up to one of its steps."""
    facts = RunFacts(
        planned_steps=epochs * steps_per_epoch, steps_per_epoch=steps_per_epoch, batch_size=64
    )
    counts = Counter(kinds_of(monitor, facts, until or epochs * steps_per_epoch).values())
    return sum(count * getattr(costs, kind) for kind, count in counts.items())


def _timed(benchmark: Benchmark, monitors: Sequence[Monitor]) -> StepClock:
    clock = StepClock()
    with TemporaryDirectory() as folder:
        train(
            benchmark,
            monitors,
            num_steps=STEPS_AN_EPOCH,
            num_epochs=NUM_EPOCHS,
            num_validation_batches=VALIDATION_BATCHES,
            folder=Path(folder),
            clock=clock,
        )
    return clock
