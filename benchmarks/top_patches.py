"""Prints what `TopPatchesMonitor` costs a validation that it reads.

    python -m benchmarks.top_patches

Batches of a watched and of an unwatched validation take turns in pairs. A validation that is
not due costs nothing; by default one in five epochs is.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from pytorch_lightning import Callback
from torch.utils.data import DataLoader

from benchmarks.nets import BENCHMARKS, Benchmark
from benchmarks.ratio import paired_ratio
from benchmarks.steps import Training, one_thread
from benchmarks.trainers import quiet_trainer
from vis_callbacks import TopPatchesMonitor
from vis_callbacks.report import Picture

# One layer near the input and one deep one, as a user would name them.
LAYERS = {
    "cnn": ["net.1", "net.7"],
    "resnet18": ["net.layer1.0.relu", "net.layer4.1.relu-1"],
}
NUM_BATCHES = 12
WARM_UP = 2


class BatchClock(Callback):
    """Times each batch of a validation, from the first of two clocks to the second."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.started = 0.0

    def around(self, callbacks: Sequence[Callback]) -> list[Callback]:
        """Returns the callbacks between two ends."""
        return [_Start(self), *callbacks, self]

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Stops."""
        self.seconds.append(perf_counter() - self.started)


class _Start(Callback):
    def __init__(self, clock: BatchClock) -> None:
        self.clock = clock

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        self.clock.started = perf_counter()


def validation_seconds(
    benchmark: Benchmark, module: Training, callbacks: Sequence[Callback]
) -> list[float]:
    """Returns the seconds of each batch of one validation."""
    clock, batch = BatchClock(), benchmark.batch()
    with TemporaryDirectory() as folder:
        trainer = quiet_trainer(folder, callbacks=clock.around(callbacks))
        loader = DataLoader([batch] * NUM_BATCHES, batch_size=None)
        trainer.validate(module, loader, verbose=False)
    return clock.seconds[WARM_UP:]


def rows(benchmark: Benchmark, num_rounds: int = 4) -> list[str]:
    """Returns lines of the table for one network."""
    module = Training(benchmark.make())
    watched: dict[str, list[float]] = {"first": [], "later": []}
    plain: list[float] = []
    for _ in range(num_rounds):
        monitor = TopPatchesMonitor(LAYERS[benchmark.name])
        plain += validation_seconds(benchmark, module, [])
        for occasion in watched:
            watched[occasion] += validation_seconds(benchmark, module, [monitor])
    pictures = monitor.last_report.of(Picture)
    started = perf_counter()
    for picture in pictures:
        picture.draw(**picture.arrays)
    drawing = (perf_counter() - started) / len(pictures)
    kept = sum(picture.arrays["records"].nbytes for picture in pictures)
    lines = [
        f"{benchmark.name:<12} {occasion} validation batch read / plain       "
        f"{paired_ratio(seconds, plain)}"
        for occasion, seconds in watched.items()
    ]
    lines.append(f"{benchmark.name:<12} a picture {drawing * 1e3:.0f} ms, kept {kept / 1e6:.2f} MB")
    return lines


def main() -> None:
    """Prints the table."""
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    for name in ("pytorch_lightning", "vis_callbacks"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with one_thread():
        for benchmark in BENCHMARKS:
            if benchmark.name in LAYERS:
                print(*rows(benchmark), sep="\n", flush=True)


if __name__ == "__main__":
    main()
