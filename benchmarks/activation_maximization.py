"""What a snapshot of `ActivationMaximizationMonitor` costs, and what a warm start is worth.

    python -m benchmarks.activation_maximization      about five minutes

The second table: at every epoch, from the untrained network on, each image goes on from the
last epoch's with a quarter of the steps. The score it reaches, mean over the targets, is
divided by the one that all steps from the mean image reach. All is seeded.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.nets import cnn
from benchmarks.observed import print_costs
from benchmarks.steps import one_thread
from vis_callbacks import ActivationMaximizationMonitor
from vis_callbacks.monitors.activation_maximization.science import (
    PRESETS,
    Frame,
    maximize,
    score_spread,
)

VARIANTS = {
    "defaults: 12 classes, 32 steps": ActivationMaximizationMonitor,
    'preset "simonyan"': lambda: ActivationMaximizationMonitor(preset="simonyan"),
    "4 units": lambda: ActivationMaximizationMonitor(units=[f"7:{i}" for i in range(4)]),
}

NUM_STEPS = 32
EPOCHS = (1, 2, 3, 5, 8)
SEEDS = (2, 3, 4)  # constants were chosen on 0 and 1
NUM_REAL = 32
# Photographs lie beside the demo, which is no package.


class Samples(NamedTuple):
    """What a network learns from, and real images that it does not."""

    images: Tensor
    labels: Tensor
    real: Tensor


@dataclass(frozen=True)
class Task:
    """One network with the data and the optimizer that suit it."""

    name: str
    load: Callable[[], Samples]
    make: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Mean scores over all targets, of one network at one epoch.

    Attributes:
        warm: A quarter of the steps from the last epoch's image.
        short: A quarter of the steps from the mean image.
        cold: All steps from the mean image.
        num_higher: Share of the targets whose warm score is at least the cold one.
    """

    warm: float
    short: float
    cold: float
    num_higher: float


def photographs() -> Samples:
    """Returns patches of twelve photographs."""
    from benchmarks.filter_alerts import patches

    (images, labels), (real, _) = (part.tensors for part in patches())
    return Samples(images, labels, real[:NUM_REAL])


def digits() -> Samples:
    """Returns handwritten digits, 8 x 8."""
    from benchmarks.filter_alerts import digits as split

    (images, labels), (real, _) = (part.tensors for part in split())
    return Samples(images, labels, real[:NUM_REAL])


def digits_cnn() -> nn.Module:
    """Two convolutions for 8 x 8 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def _sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)


def _adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=2e-3)


TASKS = (
    Task("photographs", photographs, cnn, _sgd),
    Task("digits", digits, digits_cnn, _adam),
)


class Problem:
    """What the monitor would maximize: each class's score of one network, in relative units."""

    def __init__(self, net: nn.Module, real: Tensor) -> None:
        with torch.no_grad():
            scores = net(real)
        self.net, self.spread, self.frame = net, score_spread(scores), Frame.of(real)
        self.best = self.frame.z(real[scores.argmax(0)])

    def score(self, inputs: Tensor) -> Tensor:
        """Returns the score of each row for its own class."""
        return self.net(inputs).diagonal() / self.spread

    def ascended(
        self, preset: str, num_steps: int, seed: int, last: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns z and the scores in the network's own units."""
        given = self.score, self.best, last, PRESETS[preset], self.frame
        result = maximize(*given, num_steps=num_steps, seed=seed)
        return result.z, result.scores * self.spread


def networks(task: Task, samples: Samples, seed: int) -> Iterator[nn.Module]:
    """Yields the network before training and after each epoch."""
    torch.manual_seed(seed)
    net = task.make()
    optimizer = task.optimizer(net)
    yield net
    for _ in range(max(EPOCHS)):
        for index in torch.randperm(len(samples.images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(samples.images[index]), samples.labels[index]).backward()
            optimizer.step()
        yield net


def comparisons(
    task: Task, samples: Samples, seed: int, presets: tuple[str, ...]
) -> Iterator[tuple[str, int, Comparison]]:
    """Yields what is found for each preset at each epoch."""
    last: dict[str, Tensor] = {}
    for epoch, net in enumerate(networks(task, samples, seed)):
        problem = Problem(net, samples.real)
        for preset in presets:
            z, warm = problem.ascended(preset, NUM_STEPS // 4, epoch, last.get(preset))
            last[preset] = z
            if epoch in EPOCHS:
                _, short = problem.ascended(preset, NUM_STEPS // 4, epoch)
                _, cold = problem.ascended(preset, NUM_STEPS, epoch)
                yield (
                    preset,
                    epoch,
                    Comparison(
                        warm=warm.mean().item(),
                        short=short.mean().item(),
                        cold=cold.mean().item(),
                        num_higher=(warm >= cold).float().mean().item(),
                    ),
                )


def print_warm_starts(presets: tuple[str, ...] = ("simonyan", "smooth")) -> None:
    """Prints a line for each network, preset and epoch."""
    print(f"\n{NUM_STEPS // 4} steps, as a share of the score of {NUM_STEPS} from the mean image:")
    print(f"{'':<12} {'preset':<10} epoch  from the last image      from the mean  targets higher")
    for task in TASKS:
        samples, found = task.load(), {}
        for seed in SEEDS:
            for preset, epoch, comparison in comparisons(task, samples, seed, presets):
                found.setdefault((preset, epoch), []).append(comparison)
        for (preset, epoch), results in sorted(found.items()):
            warm = [result.warm / result.cold for result in results]
            short = statistics.median(result.short / result.cold for result in results)
            higher = statistics.mean(result.num_higher for result in results)
            print(
                f"{task.name:<12} {preset:<10} {epoch:>5}  least {min(warm):5.2f} median "
                f"{statistics.median(warm):5.2f} {short:14.2f} {higher:15.0%}",
                flush=True,
            )


if __name__ == "__main__":
    print_costs(VARIANTS)
    with one_thread():
        print_warm_starts()
