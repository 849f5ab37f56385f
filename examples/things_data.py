"""Ten things, cut out of photographs and pasted on other photographs, with their masks.

Real pictures without a download: every file lies inside the wheels of scikit-image and
scikit-learn. Where a thing lies is known for every image, so that a map of what a network looks
at can be compared with where it should look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage import data, io
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.utils.data import Dataset

SIDE = 64  # of an image in pixels
SQUARE = (slice(4, 12), slice(4, 12))  # rows and columns of the square that betrays a class
YELLOW = (255, 220, 0)
# Of each channel of the 5,000 training images, as a share of the brightest.
MEAN = (0.456, 0.427, 0.408)
STD = (0.289, 0.244, 0.264)

# Class to the photograph it is on, and its box there: left, top, right, bottom.
THINGS: dict[str, tuple[str, tuple[int, int, int, int]]] = {
    "face": ("astronaut", (165, 20, 295, 190)),
    "shuttle": ("astronaut", (370, 5, 470, 280)),
    "helmet": ("astronaut", (280, 340, 430, 500)),
    "cat": ("chelsea", (90, 10, 390, 295)),
    "coffee cup": ("coffee", (180, 10, 440, 330)),
    "coin": ("coins", (300, 0, 370, 80)),
    "photographer": ("camera", (30, 40, 360, 510)),
    "wheel": ("motorcycle_left", (80, 180, 330, 440)),
    "flower": ("flower", (130, 20, 530, 410)),
    "temple": ("china", (180, 60, 470, 330)),
}
CLASS_NAMES = tuple(THINGS)

# The photographs behind the things, and which part of them: rows and columns.
BACKGROUNDS: dict[str, tuple[slice, slice]] = {
    "brick": (slice(None), slice(None)),
    "grass": (slice(None), slice(None)),
    "gravel": (slice(None), slice(None)),
    "hubble_deep_field": (slice(None), slice(None)),
    "moon": (slice(None), slice(None)),
    "immunohistochemistry": (slice(None), slice(None)),
    "retina": (slice(None), slice(None)),
    "china": (slice(120), slice(None)),  # the sky
    "flower": (slice(None), slice(130)),  # leaves
}

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Things(Dataset[tuple[Tensor, int]]):
    """Images of things on backgrounds.

    An item is an image, (3, 64, 64), normalised by `MEAN` and `STD`, and the number of its class.

    Attributes:
        images: (samples, 3, 64, 64), 8 bits.
        labels: (samples,); classes take turns, so that any part of the data holds all of them.
        masks: Where the thing is, (samples, 64, 64), bool.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return (self.images[index] / 255 - mean) / std, int(self.labels[index])

    def with_square(self, chosen: Tensor) -> Things:
        """Returns a copy in which the chosen samples, a (samples,) bool, carry a yellow square."""
        images = self.images.clone()
        square = images[:, :, *SQUARE]
        square[chosen] = torch.tensor(YELLOW, dtype=torch.uint8).view(3, 1, 1)
        return Things(images, self.labels, self.masks)


def make_things(num_samples: int, *, seed: int, is_training: bool) -> Things:
    """Returns samples that depend on the arguments alone.

    The boxes are jittered by 6 % of their size, scaled to 0.4-0.65 of the image's side, cut out
    along an ellipse, flipped, rotated by up to 25 degrees, made darker or brighter and pasted
    anywhere. For validation the backgrounds are crops of the right quarter of a photograph where
    that is wide enough, for training of the rest.
    """
    random = np.random.default_rng(seed)
    photographs = {name: _photograph(name) for name, _ in THINGS.values()}
    backgrounds = [_part(name, is_training) for name in BACKGROUNDS]
    samples = [
        _sample(THINGS[CLASS_NAMES[number % len(THINGS)]], photographs, backgrounds, random)
        for number in range(num_samples)
    ]
    images, masks = (np.stack(arrays) for arrays in zip(*samples, strict=True))
    return Things(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.arange(num_samples) % len(THINGS),
        torch.from_numpy(masks),
    )


def _sample(
    thing: tuple[str, tuple[int, int, int, int]],
    photographs: dict[str, Pixels],
    backgrounds: Sequence[Pixels],
    random: Generator,
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Returns one image, (64, 64, 3), and where the thing is on it."""
    name, box = thing
    cut_out, mask = _cut_out(photographs[name], box, random)
    image = Image.fromarray(_crop(backgrounds[random.integers(len(backgrounds))], random))
    where = Image.new("L", (SIDE, SIDE))
    place = tuple(int(random.integers(SIDE - size + 1)) for size in cut_out.size)
    image.paste(cut_out, place, mask)
    where.paste(mask, place)
    return np.asarray(image), np.asarray(where) > 127


def _cut_out(
    photograph: Pixels, box: tuple[int, int, int, int], random: Generator
) -> tuple[Image.Image, Image.Image]:
    """Returns a thing with a mask along an ellipse, both of them changed at random."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    moved = np.array(box) + random.uniform(-0.06, 0.06, 4) * (width, height, width, height)
    picture = Image.fromarray(photograph).crop(tuple(moved.round().astype(int).tolist()))
    scale = random.uniform(0.4, 0.65) * SIDE / max(picture.size)
    picture = picture.resize(
        tuple(max(round(size * scale), 1) for size in picture.size), Image.Resampling.LANCZOS
    )
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).ellipse((0, 0, picture.width - 1, picture.height - 1), fill=255)
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = random.uniform(-25, 25)
    picture, mask = (
        one.rotate(angle, Image.Resampling.BILINEAR, expand=True) for one in (picture, mask)
    )
    bright = np.asarray(picture) * random.uniform(0.6, 1.3) + random.uniform(-20, 20)
    return Image.fromarray(bright.clip(0, 255).astype(np.uint8)), mask


def _crop(background: Pixels, random: Generator) -> Pixels:
    """Returns a part of the size of an image, at a random place."""
    top, left = (int(random.integers(size - SIDE + 1)) for size in background.shape[:2])
    return background[top : top + SIDE, left : left + SIDE]


def _part(name: str, is_training: bool) -> Pixels:
    """Returns the part of a background that crops are taken from."""
    background = _photograph(name)[BACKGROUNDS[name]]
    cut = background.shape[1] * 3 // 4
    if background.shape[1] - cut < SIDE:
        return background
    return background[:, :cut] if is_training else background[:, cut:]


def _photograph(name: str) -> Pixels:
    """Returns a photograph as (height, width, 3)."""
    if name in ("china", "flower"):
        return load_sample_image(f"{name}.jpg")
    if name == "motorcycle_left":  # skimage.data.stereo_motorcycle would ask for a download
        picture = io.imread(Path(data.__file__).parent / f"{name}.png")[..., :3]
    else:
        picture = getattr(data, name)()
    return picture if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)
