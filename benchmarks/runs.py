"""What the default monitors cost over whole runs, from the Trainer's start to its end.

Runs with and without them take turns. Batches are small, so that a step takes little and what is
ours shows: 5,000 steps are some minutes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from pytorch_lightning import Callback
from torch import nn

from benchmarks.nets import BENCHMARKS, Benchmark
from benchmarks.ratio import Ratio, paired_ratio
from benchmarks.steps import StepClock, train
from vis_callbacks import default_monitors

PAIRS = {300: 7, 1000: 5, 5000: 3}  # by the number of steps
VALIDATION_BATCHES = 8
_SMALL_BATCHES = {"mlp": 64, "cnn": 32, "resnet18": 4}
_MAX_SHARE, _FREE_SECONDS = 1.05, 1.0


def digits_net() -> nn.Module:
    """Three convolutions for digits of 8 x 8 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


DIGITS = Benchmark("digits", digits_net, (1, 8, 8), 32, 10)


@dataclass(frozen=True)
class RunCost:
    """Whole runs with monitors against such without.

    Attributes:
        net: The network's name.
        what: Which part of which run.
        ratio: Of the seconds.
        excess: Median seconds beyond ``allowed`` times those without.
        seconds: Median seconds without.
        limit: What ``excess`` may be.
        allowed: The factor.
    """

    net: str
    what: str
    ratio: Ratio
    excess: float
    seconds: float
    limit: float
    allowed: float

    @property
    def limit_words(self) -> str:
        """The limit as the table has it."""
        return f"<= {self.allowed:g}x" + (f" + {self.limit:g} s" if self.limit else "")

    def __str__(self) -> str:
        return f"{self.ratio} of {self.seconds:.1f} s"


def run_costs(names: list[str], lengths: list[int]) -> Iterator[RunCost]:
    """Yields the costs of runs of some networks and lengths, those of the first of few epochs."""
    benchmarks = {benchmark.name: benchmark for benchmark in BENCHMARKS}
    for name in (name for name in names if name in _SMALL_BATCHES):
        small = replace(benchmarks[name], batch_size=_SMALL_BATCHES[name])
        for steps in lengths:
            num_pairs = PAIRS.get(steps, 3)
            watched, plain = _in_turn(lambda c, b=small, n=steps: run_seconds(b, c, n), num_pairs)
            yield _cost(name, f"a run of {steps:,} steps", watched, plain, _FREE_SECONDS)
    watched, plain = _in_turn(lambda c: first_epoch_seconds(benchmarks["cnn"], c, 500), 5)
    yield _cost("cnn", "the first 500 steps of 50 epochs", watched, plain)
    watched, plain = _in_turn(lambda c: run_seconds(DIGITS, c, 300), 7)
    yield _cost("digits", "a run of 300 steps", watched, plain, allowed=1.10)


def run_seconds(benchmark: Benchmark, callbacks: list[Callback], num_steps: int) -> float:
    """Returns what a whole run of one epoch takes."""
    started = perf_counter()
    with TemporaryDirectory() as folder:
        train(
            benchmark,
            callbacks,
            num_steps=num_steps,
            num_validation_batches=VALIDATION_BATCHES,
            folder=Path(folder),
        )
        return perf_counter() - started


def first_epoch_seconds(benchmark: Benchmark, callbacks: list[Callback], num_steps: int) -> float:
    """Returns what the first of 50 epochs takes, with its validation."""
    clock = StepClock()
    with TemporaryDirectory() as folder:
        train(
            benchmark,
            [*callbacks, _EndsInSecondEpoch()],
            num_steps=num_steps,
            num_epochs=50,
            num_validation_batches=VALIDATION_BATCHES,
            folder=Path(folder),
            clock=clock,
        )
    return sum(clock.seconds[:num_steps]) + clock.tails[0]


class _EndsInSecondEpoch(Callback):
    """Ends the run in its second epoch: the end of the first is not to be that of the run."""

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        trainer.should_stop = trainer.current_epoch > 0


def _in_turn(
    seconds_of: Callable[[list[Callback]], float], num_pairs: int
) -> tuple[list[float], list[float]]:
    """Returns seconds with and without monitors; the order changes from pair to pair."""
    seconds_of([*default_monitors()])  # finds everything cold
    watched: list[float] = []
    plain: list[float] = []
    for number in range(num_pairs):
        for is_watched in (True, False) if number % 2 else (False, True):
            side = watched if is_watched else plain
            side.append(seconds_of([*default_monitors()] if is_watched else []))
    return watched, plain


def _cost(
    net: str,
    what: str,
    watched: list[float],
    plain: list[float],
    limit: float = 0.0,
    allowed: float = _MAX_SHARE,
) -> RunCost:
    excess = statistics.median(w - allowed * p for w, p in zip(watched, plain, strict=True))
    seconds = statistics.median(plain)
    return RunCost(net, what, paired_ratio(watched, plain), excess, seconds, limit, allowed)
