"""The networks that costs are measured on: small and fast, so that overhead shows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50, vit_b_16


@dataclass(frozen=True)
class Benchmark:
    """One network with the batch it is trained on.

    Attributes:
        name: As in the table.
        make: Makes the network; called once for each side of a comparison.
        sample_shape: Of one input.
        batch_size: Samples a step.
        num_classes: Scores a sample.
        max_ratio: What a training step with a snapshot may cost, as a multiple of a plain
            step; None where there is no limit.
        device: Kind of the device that it is trained on.
    """

    name: str
    make: Callable[[], nn.Module]
    sample_shape: tuple[int, ...]
    batch_size: int
    num_classes: int
    max_ratio: float | None = None
    device: str = "cpu"

    def batch(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Returns a batch of noise; its content does not change what a step costs."""
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(self.batch_size, *self.sample_shape, generator=generator)
        labels = torch.randint(self.num_classes, (self.batch_size,), generator=generator)
        return inputs, labels


def mlp() -> nn.Module:
    """784-512-512-10."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


def cnn() -> nn.Module:
    """Three convolutions for patches of 32 x 32 pixels of twelve photographs."""
    return nn.Sequential(
        nn.Conv2d(3, 48, kernel_size=7, stride=2, padding=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(48, 64, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 96, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 12),
    )


class Transformer(nn.Module):
    """A vision transformer: patches of 4 x 4 of 32 x 32 pixels, pre-norm blocks.

    Args:
        num_blocks: Each is attention and a feed-forward part with GELU.
        width: Of a token.
    """

    def __init__(self, num_blocks: int = 12, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, kernel_size=4, stride=4)
        self.positions = nn.Parameter(0.02 * torch.randn(64, width))
        self.blocks = nn.Sequential(
            OrderedDict((f"block{index}", _block(width)) for index in range(num_blocks))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the class scores."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))


def _block(width: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width,
        nhead=4,
        dim_feedforward=2 * width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )


def small_resnet18() -> nn.Module:
    """Torchvision's resnet18 with ten classes."""
    return resnet18(num_classes=10)


BENCHMARKS = (
    Benchmark("mlp", mlp, (1, 28, 28), 128, 10, max_ratio=1.15),
    Benchmark("cnn", cnn, (3, 32, 32), 64, 12, max_ratio=1.05),
    Benchmark("resnet18", small_resnet18, (3, 64, 64), 32, 10, max_ratio=1.05),
    Benchmark("transformer", Transformer, (3, 32, 32), 16, 10),
)

LARGE_NETS: Mapping[str, Callable[[], nn.Module]] = {"resnet50": resnet50, "vit_b_16": vit_b_16}
LARGE_BATCHES = (128, 256)


def large_benchmarks(device: str, side: int = 224) -> list[Benchmark]:
    """Returns networks that keep an accelerator busy, on images of ``side`` pixels."""
    return [
        Benchmark(f"{name}/{size}", make, (3, side, side), size, 1000, device=device)
        for name, make in LARGE_NETS.items()
        for size in LARGE_BATCHES
    ]
