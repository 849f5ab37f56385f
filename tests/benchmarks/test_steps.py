from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.nets import BENCHMARKS, Benchmark
from benchmarks.steps import idle_pairs, idle_python, snapshot_pairs
from pytorch_lightning import Callback
from torch import nn

from benchmarks import steps

TINY = Benchmark("tiny", lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2), 3, 2)
EXTRA = 0.02  # seconds


class Clock:
    """Stands still but for what a callback lets go by."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


CLOCK = Clock()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "perf_counter", CLOCK)


class SlowEveryThird(Callback):
    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        # The hook runs after the update has been counted.
        if (trainer.global_step - 1) % 3 == 0:
            CLOCK.seconds += EXTRA


class Slow(Callback):
    def on_train_batch_start(self, *args: Any) -> None:
        CLOCK.seconds += EXTRA


def test_snapshots_are_paired_with_the_plain_steps_before_them() -> None:
    watched, plain = snapshot_pairs(TINY, lambda: [SlowEveryThird()], num_pairs=5, every=3)

    assert len(watched) == len(plain) == 5
    assert watched == pytest.approx([EXTRA] * len(watched))
    assert plain == [0.0] * len(plain)


def test_a_pair_of_neighbouring_snapshots_is_refused() -> None:
    with pytest.raises(ValueError, match=r"every=2 .* Use 3 or more"):
        snapshot_pairs(TINY, list, num_pairs=5, every=2)


def test_idle_pairs_put_the_callbacks_on_one_side_alone() -> None:
    watched, plain = idle_pairs(TINY, lambda: [Slow()], num_pairs=6, steps_a_run=3)

    assert len(watched) == len(plain) == 6
    assert watched == pytest.approx([EXTRA] * len(watched))
    assert plain == [0.0] * len(plain)


def test_idle_python_sums_the_hooks_of_a_step() -> None:
    seconds = idle_python(TINY, lambda: [Slow(), Slow()], num_steps=5)

    assert seconds == pytest.approx(2 * EXTRA)


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.name)
def test_every_net_gives_a_score_for_each_sample_and_class(benchmark: Benchmark) -> None:
    inputs, labels = benchmark.batch()
    with torch.no_grad():
        scores = benchmark.make()(inputs)

    assert scores.shape == (benchmark.batch_size, benchmark.num_classes)
    assert labels.shape == (benchmark.batch_size,)
