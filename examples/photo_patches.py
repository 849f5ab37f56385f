"""Trains one network twice, in health and with a learning rate that kills its units.

    python examples/photo_patches.py

The network learns which of twelve photographs a patch of 32 x 32 pixels is from (see
photographs.py; nothing is downloaded). The two runs lie side by side in ``demo_runs/``:

* ``healthy``: learning rate 0.01. The activations begin dense and become sparse; no alert.
* ``sick``: learning rate 0.1. Within the first epoch most units of the second layer, which
  fired at first, fall silent for every image. The monitor raises an alert long before the
  validation accuracy tells: it stays below that of ``healthy``, with some seeds at chance.

What is needed for your own training are the lines marked with (1) to (3).
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from photographs import (
    CLASS_NAMES,
    PhotoPatches,
    channel_statistics,
    load_photographs,
    split_photographs,
)
from vis_callbacks import (  # (1)
    ActivationMaximizationMonitor,
    Monitor,
    OcclusionMonitor,
    TopPatchesMonitor,
    default_monitors,
)

LEARNING_RATES = {"healthy": 0.01, "sick": 0.1}


class PatchClassifier(LightningModule):
    """A small convolutional network with a large first filter, trained by SGD."""

    def __init__(self, num_classes: int, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.features = nn.Sequential(
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
        )
        self.classifier = nn.Linear(96, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the class scores, (samples, classes), for (samples, 3, height, width)."""
        return self.classifier(self.features(images))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss to minimise."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs loss and accuracy; Lightning averages them over the validation."""
        images, labels = batch
        scores = self(images)
        accuracy = (scores.argmax(dim=1) == labels).float().mean()
        self.log("val_loss", F.cross_entropy(scores, labels))
        self.log("val_accuracy", accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns SGD with momentum at the learning rate the run was given."""
        return torch.optim.SGD(
            self.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=5e-4
        )


@dataclass(frozen=True)
class PatchData:
    """Both data sets, and how their images were normalised."""

    training: PhotoPatches
    validation: PhotoPatches
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_data(patches_per_photograph: int = 1000) -> PatchData:
    """Returns training patches, and an eighth as many for validation."""
    left, right = split_photographs(load_photographs())
    mean, std = channel_statistics(left)
    return PatchData(
        training=PhotoPatches(left, patches_per_photograph, mean=mean, std=std, seed=0),
        validation=PhotoPatches(right, patches_per_photograph // 8, mean=mean, std=std, seed=1),
        mean=mean,
        std=std,
    )


def make_monitors(data: PatchData) -> list[Monitor]:
    """Returns the four that may always be on, and the three that one adds to look closer."""
    # This training is short and there to be looked at: no picture waits for room in the budget.
    images = {"class_names": CLASS_NAMES, "mean": data.mean, "std": data.std, "max_overhead": None}
    return [
        *default_monitors(**images),
        OcclusionMonitor(**images),
        TopPatchesMonitor(layers=["features.4", "features.7"], **images),
        ActivationMaximizationMonitor(**images),
    ]


def train(name: str, learning_rate: float, data: PatchData, options: argparse.Namespace) -> None:
    """Trains one network into ``<output>/<name>`` and prints what came of it."""
    if (options.output / name).exists():
        raise SystemExit(
            f"{options.output / name} exists already, and TensorBoard would mix two runs: "
            "remove it, or give another --output."
        )
    print(f"\n=== {name}: learning rate {learning_rate:g} ===", flush=True)
    seed_everything(options.seed, verbose=False)
    monitors = make_monitors(data)  # (2)
    trainer = Trainer(
        callbacks=[*monitors],  # (3) a copy: Lightning adds its own to the list
        max_epochs=options.epochs,
        logger=TensorBoardLogger(options.output, name=name, version=""),
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(
        PatchClassifier(len(CLASS_NAMES), learning_rate),
        DataLoader(data.training, batch_size=64, shuffle=True, drop_last=True),
        DataLoader(data.validation, batch_size=250),
    )
    accuracy = float(trainer.callback_metrics["val_accuracy"])
    print(f"{name}: validation accuracy {accuracy:.1%} (chance {1 / len(CLASS_NAMES):.1%})")
    alerts = [alert for monitor in monitors for alert in monitor.alerts]
    for alert in alerts:
        print(f"{name}: [{alert.severity}] step {alert.step}: {alert.message} {alert.remedy}")
    if not alerts:
        print(f"{name}: no alert")


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--output", type=Path, default=Path("demo_runs"))
    parser.add_argument(
        "--learning-rate", type=float, help="train one run at this rate instead of the two"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Trains the runs and says how to look at them."""
    options = parse_options(arguments)
    rates = LEARNING_RATES
    if options.learning_rate is not None:
        rates = {f"learning_rate_{options.learning_rate:g}": options.learning_rate}
    data = load_data()
    for name, learning_rate in rates.items():
        train(name, learning_rate, data, options)
    print(f"\nNow look at them:\n\n    tensorboard --logdir {options.output}\n")


if __name__ == "__main__":
    # The patches are sliced from memory: more worker processes would only slow them down.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    main()
