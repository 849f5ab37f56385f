"""Trains eight small networks and saves what FilterMonitor shows of their first layers.

    python -m benchmarks.filter_gallery

About six minutes on one core; nothing is downloaded. The pictures are those of the page on
filters in the documentation.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pytorch_lightning import LightningModule, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.models import resnet18

from benchmarks.nets import cnn
from benchmarks.trainers import quiet_trainer
from gallery import save_latest_pictures
from photographs import training_patches
from vis_callbacks import FilterMonitor

NUM_CLASSES = 12
Optimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Entry:
    """One network of the gallery, and how long it is trained."""

    network: Callable[[], nn.Module]
    data: Callable[[], Dataset[tuple[Tensor, Tensor]]]
    optimizer: Optimizer
    steps: int = 900
    batch_size: int = 32


class Classifier(LightningModule):
    """Any network, trained with cross-entropy."""

    def __init__(self, network: nn.Module, optimizer: Optimizer) -> None:
        super().__init__()
        self.network, self.make_optimizer = network, optimizer

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the class scores."""
        return self.network(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss to minimise."""
        inputs, labels = batch
        return F.cross_entropy(self(inputs), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns the optimizer of the entry."""
        return self.make_optimizer(self.parameters())


class PatchTransformer(nn.Module):
    """A vision transformer of three blocks on patches of 8 x 8 pixels."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=8, stride=8)
        self.positions = nn.Parameter(0.02 * torch.randn(16, width))
        block = nn.TransformerEncoderLayer(
            width, 4, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 3, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, NUM_CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the class scores."""
        tokens = self.patch_embedding(images).flatten(2).transpose(1, 2)
        return self.head(self.blocks(tokens + self.positions).mean(1))


def convolutional(channels: int, kernel: int, *, stride: int = 2) -> nn.Module:
    """Returns three convolutions; the first has 32 filters."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, kernel, stride=stride, padding=kernel // 2),
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(48, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, NUM_CLASSES),
    )


def small_stem() -> nn.Module:
    """Returns a resnet18 as it is used for 32 x 32 pixels: 3 x 3, no stride, no pooling."""
    network = resnet18(num_classes=NUM_CLASSES)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


patches = partial(training_patches, 500)


def digits() -> Dataset[tuple[Tensor, Tensor]]:
    """Returns 1,797 handwritten digits, (1, 8, 8)."""
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None]
    return TensorDataset((images - images.mean()) / images.std(), torch.tensor(bunch.target))


def five_channels() -> Dataset[tuple[Tensor, Tensor]]:
    """Returns patches with two more channels: stand-ins for two further bands of a satellite."""
    of_photographs = patches()
    samples = [of_photographs[index] for index in range(0, 6000, 2)]
    images = torch.stack([image for image, _ in samples])
    grey = images.mean(1, keepdim=True)
    red_against_blue = images[:, :1] - images[:, 2:]
    blurred = F.avg_pool2d(grey, 5, stride=1, padding=2)
    labels = torch.tensor([label for _, label in samples])
    return TensorDataset(torch.cat([images, red_against_blue, blurred], 1), labels)


def sgd(rate: float, **options: float) -> Optimizer:
    """Returns SGD with momentum."""
    return lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9, **options)


def adam_w(rate: float) -> Optimizer:
    """Returns AdamW with its usual weight decay."""
    return lambda parameters: torch.optim.AdamW(parameters, lr=rate)


ENTRIES = {
    "demo": Entry(cnn, patches, sgd(0.05, weight_decay=5e-4), batch_size=64),
    "demo_rate_100_times_too_small": Entry(
        cnn, patches, sgd(1e-4, weight_decay=5e-4), steps=300, batch_size=64
    ),
    "resnet18_7x7": Entry(
        lambda: resnet18(num_classes=NUM_CLASSES), patches, sgd(0.05, weight_decay=5e-4), 500
    ),
    "resnet18_3x3": Entry(small_stem, patches, sgd(0.05, weight_decay=5e-4), 150, 16),
    "digits_5x5": Entry(lambda: convolutional(1, 5, stride=1), digits, sgd(0.05)),
    "transformer": Entry(PatchTransformer, patches, adam_w(1e-3)),
    "five_channels": Entry(
        lambda: convolutional(5, 7), five_channels, sgd(0.02, weight_decay=5e-4)
    ),
    "linear_on_digits": Entry(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        digits,
        lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    ),
}


def train(entry: Entry, run: Path) -> list[str]:
    """Trains one network with its pictures in ``run``; returns the alerts."""
    seed_everything(0, verbose=False)
    monitor = FilterMonitor(max_overhead=None)
    trainer = quiet_trainer(
        run,
        max_steps=entry.steps,
        max_epochs=-1,
        callbacks=[monitor],
        logger=TensorBoardLogger(run.parent, name=run.name, version=""),
    )
    loader = DataLoader(entry.data(), batch_size=entry.batch_size, shuffle=True, drop_last=True)
    trainer.fit(Classifier(entry.network(), entry.optimizer), loader)
    return [f"[{alert.severity}] {alert.message}" for alert in monitor.alerts]


def main(arguments: list[str] | None = None) -> None:
    """Trains the networks and writes ``<folder>/<name>.png`` and ``<name>_over_time.png``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("docs/images/filters"))
    parser.add_argument("--only", nargs="*", choices=ENTRIES, default=list(ENTRIES))
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        with TemporaryDirectory() as folder:
            said = train(ENTRIES[name], Path(folder) / name)
            for path in save_latest_pictures(Path(folder) / name, Path(folder) / "pictures"):
                suffix = "_over_time" if "over_time" in path.name else ""
                target = options.folder / f"{name}{suffix}.png"
                target.write_bytes(path.read_bytes())
                print(target)
        print(name, said or "no alert")


if __name__ == "__main__":
    # The samples are in memory: more worker processes would only slow the runs down.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    torch.set_num_threads(1)
    main()
