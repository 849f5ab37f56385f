"""The planted object: a class is where a small detail of a photograph is pasted.

The four classes are the quadrants of the detail, the fifth is that it is nowhere: without it a
network would have to guess a class for an image whose detail is hidden, and would often guess
the true one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor, nn

from photographs import load_photographs, split_photographs

SIDE, DETAIL = 32, 8
CLASS_NAMES = ("upper left", "upper right", "lower left", "lower right", "nowhere")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class Planted(NamedTuple):
    """Images with their classes, and where the detail's upper left corner is."""

    images: Tensor  # (samples, 3, 32, 32), normalised
    labels: Tensor
    corners: Tensor  # (samples, 2): row, column


def detail() -> Tensor:
    """Returns the astronaut's face, (3, 8, 8) in 0-1."""
    face = torch.from_numpy(data.astronaut()[60:124, 190:254].copy()).permute(2, 0, 1)
    return F.adaptive_avg_pool2d(face.float() / 255, DETAIL)


def planted(
    photographs: Sequence[Tensor], num_samples: int, seed: int, *, num_classes: int = 5
) -> Planted:
    """Returns patches of photographs with the detail pasted at a random place of a quadrant."""
    generator = torch.Generator().manual_seed(seed)

    def below(highest: int) -> int:
        return int(torch.randint(highest, (), generator=generator))

    images = torch.empty(num_samples, 3, SIDE, SIDE)
    labels = torch.randint(num_classes, (num_samples,), generator=generator)
    corners = torch.zeros(num_samples, 2, dtype=torch.int64)
    pasted = detail()
    for image, label, corner in zip(images, labels.tolist(), corners, strict=True):
        photograph = photographs[below(len(photographs))]
        top, left = (below(length - SIDE + 1) for length in photograph.shape[1:])
        image.copy_(photograph[:, top : top + SIDE, left : left + SIDE])
        if label < 4:
            row, column = (SIDE // 2 * half + below(9) for half in divmod(label, 2))
            image[:, row : row + DETAIL, column : column + DETAIL] = pasted
            corner.copy_(torch.tensor([row, column]))
    shift, scale = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, STD))
    return Planted((images - shift) / scale, labels, corners)


def both_halves() -> tuple[list[Tensor], list[Tensor]]:
    """Returns photographs to train on and, apart from them, to test on."""
    return split_photographs(load_photographs())


def position_sensitive_net() -> nn.Module:
    """Returns a small convolutional network whose head knows where a feature is."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(512, 5),
    )


def trained(net: nn.Module, samples: Planted, *, num_epochs: int, seed: int) -> nn.Module:
    """Returns the network, trained in place."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(num_epochs):
        for index in torch.randperm(len(samples.images), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(samples.images[index]), samples.labels[index]).backward()
            optimizer.step()
    return net.eval()
