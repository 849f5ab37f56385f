"""Trainings that are healthy, or sick in a known way, with the alerts they must raise.

Each takes a second or two on one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vis_callbacks.alerts.alert import Alert

BATCH_SIZE = 32
_PATCHES_TO_LEARN = 110

Data = tuple[Tensor, Tensor]  # (samples, channels, height, width), labels
Batches = Iterator[Data]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One training and what must be said of it.

    Attributes:
        rate: Factor on the optimizer's rate, of the share of the training that is done.
        corrupt: Inputs of a batch and the share of the training that is done -> inputs.
        expected: The one kind of alert that must come; None demands silence.
        after, by: Share of the training between which it must come.
        forbidden: Kinds that must not come; None forbids all but the expected.
    """

    number: int
    title: str
    task: Literal["digits", "patches"]
    network: Callable[[], nn.Sequential]
    optimizer: Callable[..., torch.optim.Optimizer]
    steps: int = 400
    rate: Callable[[float], float] = lambda done: 1.0
    corrupt: Callable[[Tensor, float], Tensor] = lambda inputs, done: inputs
    expected: str | None = None
    after: float = 0.0
    by: float = 1.0
    forbidden: tuple[str, ...] | None = ()

    def data(self) -> Data:
        """Returns the normalised inputs and the labels to learn from."""
        return digits() if self.task == "digits" else patches()

    def batches(self, seed: int) -> Batches:
        """Yields one batch a step, shuffled anew for each pass over the data."""
        inputs, labels = self.data()
        generator = torch.Generator().manual_seed(seed)
        order = torch.empty(0, dtype=torch.long)
        for step in range(self.steps):
            if len(order) < BATCH_SIZE:
                order = torch.randperm(len(labels), generator=generator)
            chosen, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
            yield self.corrupt(inputs[chosen], step / self.steps), labels[chosen]

    def seeded_network(self, seed: int) -> nn.Sequential:
        """Returns the network with its initial weights; leaves the global generator alone."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return self.network()

    def complaint(self, alerts: list[Alert]) -> str:
        """Returns what is wrong with these alerts, "" if they are as expected."""
        raised = [a for a in alerts if a.state == "firing" and a.severity != "info"]
        said = ", ".join(f"{a.kind} ({a.severity}) at {a.step}" for a in raised) or "nothing"
        wanted = [alert.step for alert in raised if alert.kind == self.expected]
        if self.expected is not None and not wanted:
            return f"{self.title}: expected {self.expected}, got {said}"
        if wanted and not self.after * self.steps <= wanted[0] <= self.by * self.steps:
            return f"{self.title}: {self.expected} at an unexpected time: {said}"
        for alert in raised:
            is_forbidden = self.forbidden is None or alert.kind in self.forbidden
            if is_forbidden and alert.kind != self.expected:
                return f"{self.title}: {alert.kind} must not come: {said}"
        return ""


@cache
def digits() -> Data:
    """Returns 1,437 handwritten digits, 8 x 8, normalised."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None]
    labels = torch.tensor(bunch.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:1437]
    return _normalised(images[order]), labels[order]


@cache
def patches() -> Data:
    """Returns 110 patches of each of 12 photographs, 16 x 16 (32 x 32 averaged), normalised."""
    from photographs import PhotoPatches, load_photographs, split_photographs

    left, _ = split_photographs(load_photographs())
    learned = PhotoPatches(left, _PATCHES_TO_LEARN, mean=(0, 0, 0), std=(1, 1, 1))
    images, labels = zip(*learned, strict=True)
    return _normalised(F.avg_pool2d(torch.stack(images), 2)), torch.tensor(labels)


def _normalised(images: Tensor) -> Tensor:
    return (images - images.mean()) / images.std()


def mlp(*widths: int, nonlinearity: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Returns a dense network for the digits."""
    layers: list[nn.Module] = [nn.Flatten()]
    for num_inputs, width in zip((64, *widths), widths, strict=False):
        layers += [nn.Linear(num_inputs, width), nonlinearity()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


class SpatialMean(nn.Module):
    """Mean over the positions of a map."""

    def forward(self, maps: Tensor) -> Tensor:
        """Returns (samples, channels)."""
        return maps.mean((2, 3))


def cnn(dropout: float = 0.0) -> nn.Sequential:
    """Returns a convolutional network for the patches."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        SpatialMean(),
        nn.Linear(32, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, 12),
    )


def _mlp_with_negative_bias() -> nn.Sequential:
    network = mlp(64, 64, 64)
    nn.init.constant_(network.get_submodule("3").bias, -20.0)
    return network


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _spike(factor: float) -> Callable[[float], float]:
    return lambda done: factor if 0.60 <= done < 0.63 else 1.0


def _black(inputs: Tensor, done: float) -> Tensor:
    return torch.zeros_like(inputs) if done >= 0.5 else inputs


def _one_nan(inputs: Tensor, done: float) -> Tensor:
    if done == 0.5:
        inputs = inputs.clone()
        inputs[0] = math.nan
    return inputs


def _sgd(rate: float, **options: float) -> Callable[..., torch.optim.Optimizer]:
    return partial(torch.optim.SGD, lr=rate, **options)


def _adam(rate: float) -> Callable[..., torch.optim.Optimizer]:
    return partial(torch.optim.Adam, lr=rate)


_RATE = ("dying_units",)
_DEAD = ("dying_units", "dead_from_start")

SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        number=1,
        title="dense, SGD .1",
        task="digits",
        network=partial(mlp, 64, 64, 64),
        optimizer=_sgd(0.1),
        forbidden=None,
    ),
    Scenario(
        number=2,
        title="dense, SGD 1.0",
        task="digits",
        network=partial(mlp, 64, 64, 64),
        optimizer=_sgd(1.0),
        expected="dying_units",
        by=0.3,
    ),
    Scenario(
        number=3,
        title="wide dense, Adam 1e-3",
        task="digits",
        network=partial(mlp, 128, 128, 128, 128),
        optimizer=_adam(1e-3),
        forbidden=None,
    ),
    Scenario(
        number=4,
        title="wide dense, Adam .1",
        task="digits",
        network=partial(mlp, 128, 128, 128, 128),
        optimizer=_adam(0.1),
        expected="dying_units",
        by=0.3,
    ),
    Scenario(
        number=5,
        title="convolutional, Adam 1e-3",
        task="patches",
        network=cnn,
        optimizer=_adam(1e-3),
        forbidden=None,
    ),
    Scenario(
        number=6,
        title="convolutional with dropout and cosine, Adam .1",
        task="patches",
        network=partial(cnn, 0.5),
        optimizer=_adam(0.1),
        rate=_cosine,
        expected="dying_units",
        by=0.3,
    ),
    Scenario(
        number=7,
        title="bias of the second layer -20",
        task="digits",
        network=_mlp_with_negative_bias,
        optimizer=_sgd(0.01, momentum=0.9),
        expected="dead_from_start",
        forbidden=_RATE,
    ),
    Scenario(
        number=8,
        title="all inputs 0 in the second half",
        task="digits",
        network=partial(mlp, 64, 64, 64),
        optimizer=_adam(1e-3),
        corrupt=_black,
        expected="constant_inputs",
        after=0.5,
        forbidden=_RATE,
    ),
    Scenario(
        number=9,
        title="rate x 300 for a moment",
        task="digits",
        network=partial(mlp, 64, 64, 64),
        optimizer=_adam(1e-3),
        rate=_spike(300.0),
        expected="dying_units",
        after=0.60,
        by=0.75,
    ),
    Scenario(
        number=10,
        title="rate x 5 for a moment",
        task="digits",
        network=partial(mlp, 64, 64, 64),
        optimizer=_adam(1e-3),
        rate=_spike(5.0),
        forbidden=None,
    ),
    Scenario(
        number=11,
        title="dense with GELU, Adam .03",
        task="digits",
        network=partial(mlp, 64, 64, 64, nonlinearity=nn.GELU),
        optimizer=_adam(0.03),
        forbidden=_DEAD,
    ),
    Scenario(
        number=12,
        title="one sample of NaN",
        task="patches",
        network=cnn,
        optimizer=_adam(1e-3),
        corrupt=_one_nan,
        expected="non_finite",
        after=0.5,
        forbidden=_DEAD,
    ),
    Scenario(
        number=13,
        title="weight decay .3",
        task="digits",
        network=partial(mlp, 64, 64, 64),
        optimizer=_sgd(0.01, momentum=0.9, weight_decay=0.3),
        steps=600,
        expected="collapsing_weights",
        forbidden=_RATE,
    ),
)


@contextmanager
def one_thread() -> Iterator[None]:
    """Trains the same everywhere: another order of summation decides runs at the edge.

    With SGD 1.0 a seed that kills its units on one thread overflows on two.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
