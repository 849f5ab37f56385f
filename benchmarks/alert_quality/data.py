"""Real and made-up data that come with scikit-learn, scikit-image and Python itself."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from sklearn import datasets
from torch import Tensor

from photographs import PhotoPatches, load_photographs, split_photographs

Tensors = tuple[Tensor, ...]
Split = tuple[Tensors, Tensors]  # to learn from, to judge by

CONTEXT = 24  # characters of a sequence


@cache
def digits() -> Split:
    """Handwritten digits, (1, 8, 8), and their labels."""
    bunch = datasets.load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None]
    return _split(_normalised(images), torch.tensor(bunch.target))


@cache
def digit_rows() -> Split:
    """The same digits as sequences of eight rows."""
    learned, kept = digits()
    return (learned[0][:, 0], learned[1]), (kept[0][:, 0], kept[1])


@cache
def digit_table() -> Split:
    """The same digits as 64 columns in 0-1, without labels."""
    learned, kept = (part[0].flatten(1) for part in digits())
    low, high = learned.min(), learned.max()
    return ((learned - low) / (high - low),), ((kept - low) / (high - low),)


@cache
def wrong_labels() -> Split:
    """The same digits; 30 % of the labels to learn from are drawn at random."""
    (images, labels), kept = digits()
    generator = torch.Generator().manual_seed(7)
    is_drawn = torch.rand(len(labels), generator=generator) < 0.3
    drawn = torch.randint(10, labels.shape, generator=generator)
    return (images, torch.where(is_drawn, drawn, labels)), kept


@cache
def patches() -> Split:
    """Patches of twelve photographs, (3, 16, 16), and which photograph they are of."""
    sides = split_photographs(load_photographs())
    drawn = [
        PhotoPatches(side, count, mean=(0, 0, 0), std=(1, 1, 1), seed=seed)
        for side, count, seed in zip(sides, (120, 40), (20, 21), strict=True)
    ]
    images = [F.avg_pool2d(torch.stack([one[i][0] for i in range(len(one))]), 2) for one in drawn]
    labels = [torch.tensor([one[i][1] for i in range(len(one))]) for one in drawn]
    mean, std = (f(images[0].transpose(0, 1).flatten(1), dim=1) for f in (torch.mean, torch.std))
    images = [(each - mean[:, None, None]) / std[:, None, None] for each in images]
    return (images[0], labels[0]), (images[1], labels[1])


@cache
def gray_patches() -> Split:
    """The same patches without colour and labels, (1, 16, 16)."""
    learned, kept = ((part[0].mean(1, keepdim=True),) for part in patches())
    return learned, kept


@cache
def written_on() -> Split:
    """Digits written on patches, (3, 16, 16), and where they are: (1, 16, 16)."""
    parts = []
    for (images, _), (numbers, _) in zip(patches(), digits(), strict=True):
        count = min(len(images), len(numbers))
        masks = F.interpolate(numbers[:count], scale_factor=2.0, mode="bilinear") > 0.5
        order = torch.randperm(count, generator=torch.Generator().manual_seed(5))
        written = torch.where(masks, 0.5 * images[order] + 0.7, images[order])
        parts.append((written, masks.float()))
    return parts[0], parts[1]


@cache
def cancer() -> Split:
    """Thirty measures of cells, and whether they are malign."""
    return _table(*datasets.load_breast_cancer(return_X_y=True))


@cache
def many_classes() -> Split:
    """A table of 20 columns and six classes in clusters."""
    return _table(
        *datasets.make_classification(
            2000, 20, n_informative=8, n_classes=6, class_sep=1.5, random_state=1
        )
    )


@cache
def friedman() -> Split:
    """Friedman's first function of ten columns, with noise."""
    return _table(*datasets.make_friedman1(2000, 10, noise=1.0, random_state=2))


@cache
def noisy_friedman() -> Split:
    """Friedman's first function, with noise that leaves two fifths of the variance to explain."""
    return _table(*datasets.make_friedman1(2000, 10, noise=6.0, random_state=8))


@cache
def friedman2() -> Split:
    """Friedman's second function of four columns, with noise."""
    return _table(*datasets.make_friedman2(2000, noise=30.0, random_state=3))


@cache
def houses() -> Split:
    """A table like California's houses: eight skewed columns, prices with a ceiling."""
    generator = torch.Generator().manual_seed(6)
    columns = torch.randn(2400, 8, generator=generator)
    place = (columns[:, 6] * 1.5).sin() * (columns[:, 7] * 1.2).cos()
    income = columns[:, 0].exp()
    noise = 0.25 * torch.randn(2400, generator=generator)
    prices = (0.6 * income + place - 0.3 * columns[:, 5].square() + noise).clamp_max(3.0)
    skewed = torch.cat([columns[:, :3].exp(), columns[:, 3:]], dim=1)
    return _table(skewed.numpy(), prices.numpy())


@cache
def text() -> Split:
    """Sequences of 24 characters of English prose, and the characters that follow each."""
    prose = "".join(
        getattr(datasets, f"load_{name}")().DESCR
        for name in ("breast_cancer", "diabetes", "digits", "iris", "wine", "linnerud")
    ).lower()
    known = sorted({*prose})
    codes = torch.tensor([known.index(character) for character in prose])
    pieces = codes.unfold(0, CONTEXT + 1, 7)
    cut = len(pieces) * 4 // 5
    learned, kept = pieces[:cut], pieces[cut + 4 :][::4]
    return (learned[:, :-1], learned[:, 1:]), (kept[:, :-1], kept[:, 1:])


def num_characters() -> int:
    """Returns how many different characters the prose has."""
    return 1 + int(max(part.max() for side in text() for part in side))


def _normalised(values: Tensor) -> Tensor:
    return (values - values.mean()) / values.std()


def _table(columns: object, targets: object) -> Split:
    inputs = torch.as_tensor(columns, dtype=torch.float32)
    wanted = torch.as_tensor(targets)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    if wanted.is_floating_point():
        wanted = _normalised(wanted.float())[:, None]
    return _split(inputs, wanted)


def _split(*columns: Tensor, share: float = 0.7) -> Split:
    order = torch.randperm(len(columns[0]), generator=torch.Generator().manual_seed(4))
    cut = int(share * len(order))
    learned, kept = (tuple(c[part] for c in columns) for part in (order[:cut], order[cut:]))
    return learned, kept
