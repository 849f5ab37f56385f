"""Small patches of twelve photographs that come with scikit-image and scikit-learn.

Real pictures without a download: every file lies inside one of the two wheels. The task
made of them is "which photograph is this patch from?". The left four fifths of each
photograph are for training, the right fifth is for validation, so no pixel is in both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from skimage import data
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.utils.data import Dataset

FROM_SCIKIT_IMAGE = (
    "astronaut",
    "brick",
    "chelsea",
    "coffee",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
)
FROM_SCIKIT_LEARN = ("china", "flower")
CLASS_NAMES = (*FROM_SCIKIT_IMAGE, *FROM_SCIKIT_LEARN)


def load_photographs() -> list[Tensor]:
    """Returns the photographs, (3, height, width) in 0-1, in the order of `CLASS_NAMES`."""
    pictures = [getattr(data, name)() for name in FROM_SCIKIT_IMAGE]
    pictures += [load_sample_image(f"{name}.jpg") for name in FROM_SCIKIT_LEARN]
    return [_to_tensor(picture) for picture in pictures]


def split_photographs(photographs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the left four fifths of every photograph, and the right fifths."""
    cuts = [photograph.shape[-1] * 4 // 5 for photograph in photographs]
    left = [photograph[..., :cut] for photograph, cut in zip(photographs, cuts, strict=True)]
    right = [photograph[..., cut:] for photograph, cut in zip(photographs, cuts, strict=True)]
    return left, right


def channel_statistics(
    photographs: Sequence[Tensor],
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation per channel; every photograph counts the same."""
    means = torch.stack([photograph.mean(dim=(1, 2)) for photograph in photographs])
    squares = torch.stack([photograph.square().mean(dim=(1, 2)) for photograph in photographs])
    mean = means.mean(dim=0)
    std = (squares.mean(dim=0) - mean.square()).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def training_patches(patches_per_photograph: int) -> PhotoPatches:
    """Returns patches of the left parts of all photographs, normalised by their statistics."""
    left, _ = split_photographs(load_photographs())
    mean, std = channel_statistics(left)
    return PhotoPatches(left, patches_per_photograph, mean=mean, std=std)


class PhotoPatches(Dataset[tuple[Tensor, int]]):
    """Square patches at random places, the places drawn once; the label is the photograph.

    Args:
        photographs: One (3, height, width) tensor in 0-1 for each class.
        patches_per_photograph: Classes are balanced.
        mean: Taken off each channel.
        std: Each channel is divided by it.
        size: Side of a patch in pixels.
        seed: Of the places, apart from the global random numbers.
    """

    def __init__(
        self,
        photographs: Sequence[Tensor],
        patches_per_photograph: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        size: int = 32,
        seed: int = 0,
    ) -> None:
        shift, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
        self.photographs = [(photograph - shift) / scale for photograph in photographs]
        self.size = size
        generator = torch.Generator().manual_seed(seed)
        places = [
            (label, _below(height - size, generator), _below(width - size, generator))
            for label, (_, height, width) in enumerate(p.shape for p in photographs)
            for _ in range(patches_per_photograph)
        ]
        # Classes take turns, so that any part of the data holds all of them.
        turns = range(patches_per_photograph)
        self.places = [place for turn in turns for place in places[turn::patches_per_photograph]]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label, top, left = self.places[index]
        patch = self.photographs[label][:, top : top + self.size, left : left + self.size]
        return patch, label


def _below(highest: int, generator: torch.Generator) -> int:
    return int(torch.randint(highest + 1, (), generator=generator))


def _to_tensor(picture: np.ndarray) -> Tensor:
    if picture.ndim == 2:  # brick, grass and gravel are grey
        picture = np.stack([picture] * 3, axis=-1)
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float().div(255)
