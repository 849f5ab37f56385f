"""Small trainings with one mistake each, of the kinds that people make, and what mends them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import torch
from sklearn.datasets import load_digits, make_friedman1
from torch import Tensor, nn
from torch.nn import functional as F

Split = tuple[Tensor, Tensor, Tensor, Tensor]  # inputs and targets to learn from, and to judge by
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Program:
    """One training.

    Attributes:
        data: Returns what it is trained on and judged by.
        mended: The same without a mistake in it, for remedies that say to look at the data.
        score: Accuracy, or the share of the variance that is explained.
        weighs_classes: Whether each class is drawn as often as the others.
        watched_by: Of the monitors; `EmbeddingMonitor` takes longest. What one raises alone would
            often be a remark beside what another one says.
    """

    layers: Callable[[], list[nn.Module]]
    loss: Loss
    data: Callable[[], Split]
    mended: Callable[[], Split] | None = None
    rate: float = 0.05
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD
    decay: float = 0.0
    steps: int = 240
    score: Literal["accuracy", "r2"] = "accuracy"
    weighs_classes: bool = False
    watched_by: tuple[str, ...] = ("ActivationMonitor", "FilterMonitor", "LearningMonitor")


# -- data


@cache
def digits() -> Split:
    """8 x 8 digits, normalised."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(found.data).float()[order], torch.tensor(found.target)[order]
    x = (x - x.mean()) / x.std()
    return x[:1400], y[:1400], x[1400:], y[1400:]


def changed(
    inputs: Callable[[Tensor], Tensor] = lambda x: x,
    targets: Callable[[Tensor], Tensor] = lambda y: y,
    of: Callable[[], Split] = digits,
) -> Callable[[], Split]:
    """Returns data of which inputs or targets are changed."""

    def data() -> Split:
        x, y, later_x, later_y = of()
        return inputs(x), targets(y), inputs(later_x), targets(later_y)

    return data


@cache
def friedman() -> Split:
    """Friedman's first regression, targets (samples, 1); all normalised."""
    found_x, found_y = make_friedman1(1600, random_state=0)
    x, y = torch.tensor(found_x).float(), torch.tensor(found_y).float()[:, None]
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    return x[:1200], y[:1200], x[1200:], y[1200:]


def rare() -> Split:
    """Two classes that overlap, of which one is 3 % of the samples to learn from."""
    generator = torch.Generator().manual_seed(1)
    y = (torch.rand(4000, generator=generator) < 0.03).long()
    later = torch.arange(400) % 2  # judged by as many of each
    x, later_x = (
        torch.randn(len(labels), 10, generator=generator) + 0.7 * labels[:, None]
        for labels in (y, later)
    )
    return x, y, later_x, later


# -- networks


def mlp(
    *widths: int,
    act: type[nn.Module] = nn.ReLU,
    last: tuple[nn.Module, ...] = (),
    start: Callable[[list[nn.Module]], object] = lambda layers: None,
) -> Callable[[], list[nn.Module]]:
    """Returns what makes the layers; ``start`` changes their initial weights."""

    def layers() -> list[nn.Module]:
        made: list[nn.Module] = []
        for before, after in pairwise(widths):
            made += [nn.Linear(before, after), act()]
        made = [*made[:-1], *last]
        start(made)
        return made

    return layers


def _with_bias(layers: list[nn.Module]) -> None:
    nn.init.constant_(layers[2].bias, -20.0)


def _large(layers: list[nn.Module]) -> None:
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight)


def _tiny(layers: list[nn.Module]) -> None:
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)


def minus_cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    """Has the wrong sign."""
    return -F.cross_entropy(scores, labels)


def with_a_penalty(scores: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy and a term beside it, so that it is none of the formulas that are known."""
    return F.cross_entropy(scores, labels) + 1e-3 * scores.square().mean().sqrt() + 1.0


def of_probabilities(shares: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of one class, for probabilities."""
    return F.nll_loss(shares.clamp_min(1e-7).log(), labels)


def of_raw_logarithms(shares: Tensor, labels: Tensor) -> Tensor:
    """The same without care for what is not positive."""
    return F.nll_loss(shares.log(), labels)


def of_yes_and_no(shares: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of labels 0 and 1."""
    return F.binary_cross_entropy(shares, labels.float()[:, None])


_TEN = mlp(64, 64, 64, 10)
_ONE = mlp(10, 64, 64, 1)
_CLASSES = Program(layers=_TEN, loss=F.cross_entropy, data=digits)
_REGRESSION = Program(layers=_ONE, loss=F.mse_loss, data=friedman, score="r2", rate=0.02)
_ADAM = replace(_CLASSES, optimizer=torch.optim.Adam, rate=0.001)
_PRICES = changed(targets=lambda y: 200 + 50 * y, of=friedman)
_EVEN = changed(targets=lambda y: y % 2)


def _deep(depth: int, act: type[nn.Module] = nn.ReLU) -> Callable[[], list[nn.Module]]:
    return mlp(64, *[32] * depth, 10, act=act)


PROGRAMS: Mapping[str, Program] = {
    # rates that are too high
    "SGD 1.0": replace(_CLASSES, layers=mlp(64, 64, 64, 64, 10), rate=1.0),
    "SGD 2.0, two layers": replace(_CLASSES, rate=2.0),
    "Adam 0.1": replace(_ADAM, layers=mlp(64, 128, 128, 128, 128, 10), rate=0.1),
    "Adam 0.05": replace(_ADAM, layers=mlp(64, 64, 64, 64, 10), rate=0.05),
    "RMSprop 0.1": replace(_CLASSES, optimizer=torch.optim.RMSprop, rate=0.1),
    "tanh, SGD 10": replace(_CLASSES, layers=mlp(64, 64, 64, 10, act=nn.Tanh), rate=10.0),
    "GELU, Adam 0.3": replace(_ADAM, layers=mlp(64, 64, 64, 10, act=nn.GELU), rate=0.3),
    "regression, SGD 1.0": replace(_REGRESSION, rate=1.0),
    "regression, linear, SGD 3": replace(_REGRESSION, layers=mlp(10, 1), rate=3.0),
    "linear, SGD 1e5": replace(_CLASSES, layers=mlp(64, 10), rate=1e5),
    # and too low
    "SGD 1e-4": replace(_CLASSES, rate=1e-4),
    "SGD 1e-5": replace(_CLASSES, rate=1e-5),
    "Adam 1e-5": replace(_ADAM, rate=1e-5),
    "regression, SGD 1e-4": replace(_REGRESSION, rate=1e-4),
    "regression, Adam 1e-5": replace(_REGRESSION, optimizer=torch.optim.Adam, rate=1e-5),
    "convolution, SGD 1e-4": replace(
        _CLASSES,
        layers=lambda: [
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 16, 5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 10),
        ],
        rate=1e-4,
    ),
    # initial weights
    "bias of -20": replace(_CLASSES, layers=mlp(64, 64, 64, 64, 10, start=_with_bias)),
    "weights from N(0, 1)": replace(_CLASSES, layers=mlp(64, 128, 128, 10, start=_large)),
    "regression, weights from N(0, 1)": replace(
        _REGRESSION, layers=mlp(10, 64, 64, 1, start=_large)
    ),
    "weights from N(0, .01)": replace(_CLASSES, layers=mlp(64, 64, 64, 64, 10, start=_tiny)),
    "20 layers of ReLU": replace(_ADAM, layers=_deep(20)),
    "30 layers of ReLU": replace(_CLASSES, layers=_deep(30)),
    "12 layers of sigmoid": replace(_ADAM, layers=_deep(12, nn.Sigmoid)),
    "5 layers of sigmoid": replace(_CLASSES, layers=_deep(5, nn.Sigmoid)),
    # weight decay
    "weight decay 0.3": replace(_CLASSES, layers=mlp(64, 64, 64, 64, 10), decay=0.3, steps=600),
    "weight decay 1.0": replace(_CLASSES, decay=1.0),
    "regression, weight decay 1.0": replace(_REGRESSION, decay=1.0),
    # inputs and targets
    "inputs x 255": replace(_CLASSES, data=changed(lambda x: 127 + 80 * x)),
    "inputs x 255, Adam": replace(_ADAM, data=changed(lambda x: 127 + 80 * x), rate=0.01),
    "regression, inputs x 1000": replace(
        _REGRESSION, data=changed(lambda x: 1000 * x, of=friedman)
    ),
    "one column of 1e4": replace(
        _REGRESSION,
        data=changed(lambda x: torch.cat([x[:, :1] * 5e3 + 2e4, x[:, 1:]], 1), of=friedman),
    ),
    "prices": replace(_REGRESSION, data=_PRICES),
    "prices, SGD 0.1": replace(_REGRESSION, data=_PRICES, rate=0.1),
    "blank inputs": replace(_CLASSES, data=changed(torch.zeros_like), mended=digits),
    "inputs that are NaN here and there": replace(
        _CLASSES,
        data=changed(lambda x: torch.where(torch.arange(len(x))[:, None] == 700, torch.nan, x)),
        mended=digits,
    ),
    "labels / 255": replace(_ADAM, data=changed(targets=lambda y: y // 255), mended=digits),
    "inputs x 255, features alone": replace(
        _CLASSES, data=changed(lambda x: 127 + 80 * x), watched_by=("EmbeddingMonitor",)
    ),
    "inputs that are NaN, activations alone": replace(
        _CLASSES,
        data=changed(lambda x: torch.where(torch.arange(len(x))[:, None] == 700, torch.nan, x)),
        mended=digits,
        watched_by=("ActivationMonitor",),
    ),
    "a rare class": replace(_ADAM, layers=mlp(10, 32, 2), data=rare),
    "a rare class, SGD": replace(_CLASSES, layers=mlp(10, 32, 2), data=rare),
    # output layer and loss
    "softmax twice": replace(_CLASSES, layers=mlp(64, 64, 64, 10, last=(nn.Softmax(1),))),
    "softmax twice, Adam": replace(_ADAM, layers=mlp(64, 64, 10, last=(nn.Softmax(1),)), rate=3e-4),
    "ReLU before cross_entropy": replace(_ADAM, layers=mlp(64, 64, 10, last=(nn.ReLU(),))),
    "sigmoid before cross_entropy": replace(_CLASSES, layers=mlp(64, 64, 10, last=(nn.Sigmoid(),))),
    "softmax over one output": replace(
        _CLASSES, layers=mlp(64, 64, 1, last=(nn.Softmax(1),)), loss=of_yes_and_no, data=_EVEN
    ),
    "regression, softmax over one output": replace(
        _REGRESSION, layers=mlp(10, 64, 1, last=(nn.Softmax(1),))
    ),
    "cross-entropy of sigmoids": replace(
        _CLASSES, layers=mlp(64, 64, 10, last=(nn.Sigmoid(),)), loss=of_probabilities
    ),
    "logarithm of scores": replace(_CLASSES, loss=of_raw_logarithms),
    "regression ends in a ReLU": replace(_REGRESSION, layers=mlp(10, 64, 1, last=(nn.ReLU(),))),
    "prices end in a sigmoid": replace(
        _REGRESSION,
        layers=mlp(10, 64, 1, last=(nn.Sigmoid(),)),
        data=changed(targets=lambda y: 5 + y, of=friedman),
    ),
    "regression ends in a tanh": replace(
        _REGRESSION,
        layers=mlp(10, 64, 1, last=(nn.Tanh(),)),
        data=changed(targets=lambda y: 3 * y, of=friedman),
    ),
    "a loss of one's own, 5 layers of sigmoid": replace(
        _CLASSES, layers=_deep(5, nn.Sigmoid), loss=with_a_penalty
    ),
    "minus the loss": replace(_CLASSES, loss=minus_cross_entropy),
    "minus the loss, Adam": replace(_ADAM, loss=minus_cross_entropy),
    "targets (N,)": replace(_REGRESSION, data=changed(targets=lambda y: y[:, 0], of=friedman)),
    "targets (N,), Adam": replace(
        _REGRESSION,
        data=changed(targets=lambda y: y[:, 0], of=friedman),
        rate=0.003,
        optimizer=torch.optim.Adam,
    ),
}


# -- what remedies say, done to a program


def with_rate(factor: float) -> Callable[[Program], Program]:
    """Multiplies the learning rate."""
    return lambda program: replace(program, rate=factor * program.rate)


def normalised(program: Program, *, inputs: bool, targets: bool) -> Program:
    """Normalises columns of the inputs, or targets that are no classes, by what is learned from."""

    def scaled(values: Tensor, by: Tensor) -> Tensor:
        deviation = by.std(0)
        return (values - by.mean(0)) / torch.where(deviation > 0, deviation, 1.0)

    def data() -> Split:
        x, y, later_x, later_y = program.data()
        if inputs:
            x, later_x = scaled(x, x), scaled(later_x, x)
        if targets and y.is_floating_point():
            y, later_y = scaled(y, y), scaled(later_y, y)
        return x, y, later_x, later_y

    return replace(program, data=data)


def with_layers(program: Program, change: Callable[[list[nn.Module]], list[nn.Module]]) -> Program:
    """Changes the layers."""
    return replace(program, layers=lambda: change(program.layers()))


def with_last(kind: str) -> Callable[[Program], Program]:
    """Takes the activation at the end out, and puts another one in where one is named."""
    made: dict[str, Callable[[], list[nn.Module]]] = {
        "sigmoid": lambda: [nn.Sigmoid()],
        "softmax": lambda: [nn.Softmax(1)],
    }

    def change(layers: list[nn.Module]) -> list[nn.Module]:
        bare = layers if isinstance(layers[-1], nn.Linear) else layers[:-1]
        return [*bare, *made.get(kind, list)()]

    return lambda program: with_layers(program, change)


def initialised(program: Program) -> Program:
    """Gives all layers their own initialisation back."""

    def change(layers: list[nn.Module]) -> list[nn.Module]:
        for layer in layers:
            reset: Any = getattr(layer, "reset_parameters", None)
            if reset is not None:
                reset()
        return layers

    return with_layers(program, change)


def by_kaiming(program: Program) -> Program:
    """Initialises all weights by Kaiming's method."""

    def change(layers: list[nn.Module]) -> list[nn.Module]:
        for layer in layers:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return layers

    return with_layers(program, change)


def with_relu(program: Program) -> Program:
    """Uses ReLU in place of every hidden activation."""

    def change(layers: list[nn.Module]) -> list[nn.Module]:
        hidden = (nn.Sigmoid, nn.Tanh, nn.Softmax)
        return [nn.ReLU() if isinstance(layer, hidden) else layer for layer in layers]

    return with_layers(program, change)


def of_one_shape(program: Program) -> Program:
    """Gives outputs and targets one shape."""
    return replace(program, loss=lambda out, y: program.loss(out.squeeze(1), y))


def of_scores(program: Program) -> Program:
    """Uses cross_entropy, and takes the activation at the end out."""
    return replace(with_last("")(program), loss=F.cross_entropy)


def of_other_sign(program: Program) -> Program:
    """Takes the minus sign out."""
    return replace(program, loss=lambda out, y: -program.loss(out, y))
