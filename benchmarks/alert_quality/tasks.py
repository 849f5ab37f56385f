"""What is trained for, and how well it went: a score of which 1 is perfect and 0 worth nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.alert_quality import data
from benchmarks.alert_quality.data import Split, Tensors

Loss = Callable[[nn.Module, Tensors], Tensor]
WORSE = 0.03  # a score that is lower by this is clearly worse: 3 points of accuracy


@dataclass(frozen=True)
class Task:
    """One data set, what is minimised on it, and how the result is judged.

    Attributes:
        score: Network and data -> share of right answers, of variance explained, of the loss of
            the best constant that is gone.
        margin: By how much lower a score counts as sick.
    """

    data: Callable[[], Split]
    loss: Loss
    score: Callable[[nn.Module, Split], float]
    margin: float = WORSE


def classes(split: Callable[[], Split], smoothing: float = 0.0) -> Task:
    """Tells classes apart; judged by accuracy."""
    return Task(split, partial(_cross_entropy, smoothing=smoothing), _accuracy)


def yes_or_no(split: Callable[[], Split]) -> Task:
    """Tells two classes apart with one output."""
    return Task(split, _binary, lambda net, split: _agreement(net(split[1][0])[:, 0] > 0, split))


def values(split: Callable[[], Split], loss: Callable[..., Tensor] = F.mse_loss) -> Task:
    """Predicts a number; judged by the share of the variance that is explained."""
    return Task(split, lambda net, batch: loss(net(batch[0]), batch[1]), _explained)


def copies(split: Callable[[], Split]) -> Task:
    """Gives back what it gets through a bottleneck; judged likewise."""

    def loss(net: nn.Module, batch: Tensors) -> Tensor:
        return F.mse_loss(net(batch[0]).flatten(1), batch[0].flatten(1))

    return Task(split, loss, _explained)


def masks() -> Task:
    """Finds the pixels of a digit; judged by Dice's coefficient."""

    def loss(net: nn.Module, batch: Tensors) -> Tensor:
        return F.binary_cross_entropy_with_logits(net(batch[0]), batch[1])

    def dice(net: nn.Module, split: Split) -> float:
        images, wanted = split[1]
        found = (net(images) > 0).float()
        return (2 * (found * wanted).sum() / (found.sum() + wanted.sum())).item()

    return Task(data.written_on, loss, dice)


def characters() -> Task:
    """Says which character comes next; judged by the loss that is gone."""

    def loss(net: nn.Module, batch: Tensors) -> Tensor:
        return F.cross_entropy(net(batch[0]).transpose(1, 2), batch[1])

    def gone(net: nn.Module, split: Split) -> float:
        shares = split[1][1].flatten().bincount() / split[1][1].numel()
        return 1 - loss(net, split[1]).item() / torch.special.entr(shares).sum().item()

    return Task(data.text, loss, gone)


def variational() -> Task:
    """A variational autoencoder; judged by how much of the loss without a code is gone."""

    def score(net: nn.Module, split: Split) -> float:
        shares = split[0][0].mean(0).clamp(1e-4, 1 - 1e-4)
        images = split[1][0]
        nothing = F.binary_cross_entropy(shares.expand_as(images), images, reduction="sum")
        return 1 - _elbo(net, split[1]).item() / (nothing.item() / len(images))

    return Task(data.digit_table, _elbo, score)


def contrastive(split: Callable[[], Split], batch: int = 24) -> Task:
    """Learns features from pairs of views (Chen et al. 2020); judged by the loss that is gone.

    About a third of it can go, for images that look alike are told apart as well; so a third of
    the usual margin is clearly worse.
    """

    def loss(net: nn.Module, batch: Tensors) -> Tensor:
        images = batch[0]
        views = F.normalize(net(torch.cat([_seen_anew(images), _seen_anew(images)])), dim=1)
        alike = (views @ views.T / 0.5).fill_diagonal_(-math.inf)
        return F.cross_entropy(alike, torch.arange(len(views)).roll(len(images)))

    def gone(net: nn.Module, split: Split) -> float:
        torch.manual_seed(0)
        losses = [loss(net, (images,)) for images in split[1][0][: 10 * batch].split(batch)]
        return 1 - torch.stack(losses).mean().item() / math.log(2 * batch - 1)

    return Task(split, loss, gone, margin=WORSE / 3)


def adversarial() -> Task:
    """Makes digits; judged by how near mean and covariance come (Heusel et al. 2017)."""

    def score(net: nn.Module, split: Split) -> float:
        torch.manual_seed(0)
        real, made = split[1][0].double(), net.made(1000).double()
        return 1 - _frechet(real, made) / _frechet(real, real.mean(0).expand(2, -1))

    return Task(data.digit_table, _cross_entropy, score, margin=0.15)


def _cross_entropy(net: nn.Module, batch: Tensors, smoothing: float = 0.0) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1], label_smoothing=smoothing)


def _binary(net: nn.Module, batch: Tensors) -> Tensor:
    return F.binary_cross_entropy_with_logits(net(batch[0])[:, 0], batch[1].float())


def _accuracy(net: nn.Module, split: Split) -> float:
    return _agreement(net(split[1][0]).argmax(1), split)


def _agreement(answers: Tensor, split: Split) -> float:
    return (answers == split[1][1]).float().mean().item()


def _explained(net: nn.Module, split: Split) -> float:
    wanted = split[1][-1].flatten(1)
    missed = (net(split[1][0]).flatten(1) - wanted).square().mean()
    return 1 - (missed / (wanted - wanted.mean(0)).square().mean()).item()


def _elbo(net: nn.Module, batch: Tensors) -> Tensor:
    images = batch[0]
    scores, mean, log_variance = net(images)
    wrong = F.binary_cross_entropy_with_logits(scores, images, reduction="sum")
    spread = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
    return (wrong + spread) / len(images)


def _seen_anew(images: Tensor) -> Tensor:
    """Shifts each image by a pixel or none, changes its contrast, and adds noise."""
    down, right = (int(shift) for shift in torch.randint(-1, 2, (2,)))
    contrast = 0.7 + 0.6 * torch.rand(len(images), 1, 1, 1)
    return contrast * images.roll((down, right), (2, 3)) + 0.2 * torch.randn_like(images)


def _frechet(real: Tensor, made: Tensor) -> float:
    """Returns Fréchet's distance of the Gaussians that have their means and covariances."""
    means = (real.mean(0) - made.mean(0)).square().sum()
    one, other = real.T.cov(), made.T.cov()
    root = torch.linalg.eigvals(one @ other).real.clamp_min(0).sqrt().sum()
    return (means + one.trace() + other.trace() - 2 * root).item()
