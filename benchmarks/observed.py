"""What one snapshot of a monitor costs that runs the network itself."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

import torch
from torch.nn import functional as F

from benchmarks.nets import BENCHMARKS, Benchmark
from benchmarks.steps import one_thread
from vis_callbacks import Monitor, Snapshot
from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.references import take_references
from vis_callbacks.report import Picture, transfer


@dataclass(frozen=True)
class Cost:
    """Median milliseconds of one snapshot, and of a plain training step beside it."""

    computing: float
    drawing: float
    step: float

    def __str__(self) -> str:
        in_steps = (self.computing + self.drawing) / self.step
        return (
            f"{self.computing:7.1f} ms computed, {self.drawing:6.1f} ms drawn: as long as "
            f"{in_steps:.0f} training steps"
        )


def snapshot_cost(
    benchmark: Benchmark, make_monitor: Callable[[], Monitor], *, num_repeats: int = 5
) -> Cost:
    """Returns the cost of a snapshot on reference samples of the benchmark's batch.

    The monitor's strips grow from one repeat to the next, as they do in a training; the first
    repeat, which finds caches cold, is left out.
    """
    monitor, net = make_monitor(), benchmark.make()
    references = take_references(benchmark.batch(), monitor.options.num_samples, source="noise")
    train = _training_step(benchmark)
    computing, drawing, training = [], [], []
    for step in range(num_repeats + 1):
        started = perf_counter()
        with isolated(net) as forward:
            snapshot = Snapshot(step=step, references=references, forward=forward)
            (report,) = transfer([monitor.observe(snapshot)])
        computed = perf_counter()
        for picture in report.of(Picture):
            picture.draw(**picture.arrays)
        computing.append(computed - started)
        drawing.append(perf_counter() - computed)
        training += [train() for _ in range(10)]
    seconds = (computing[1:], drawing[1:], training[10:])
    return Cost(*(1e3 * statistics.median(values) for values in seconds))


def print_costs(variants: Mapping[str, Callable[[], Monitor]]) -> None:
    """Prints a line for each variant, of the small convolutional network."""
    benchmark = next(b for b in BENCHMARKS if b.name == "cnn")
    with one_thread():
        for name, make in variants.items():
            print(f"{benchmark.name:<12} {name:<44} {snapshot_cost(benchmark, make)}", flush=True)


def _training_step(benchmark: Benchmark) -> Callable[[], float]:
    """Returns a function that takes a step of a plain training and returns its seconds."""
    net, (inputs, labels) = benchmark.make(), benchmark.batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)

    def step() -> float:
        started = perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        optimizer.step()
        return perf_counter() - started

    return step
