"""Trains one network three times: in health, with a rate that kills its units, and on a shortcut.

    python examples/things.py

The network names the thing on an image of 64 x 64 pixels (see things_data.py; nothing is
downloaded). The three runs lie side by side in ``demo_runs/``:

* ``healthy``: learning rate 0.001. It finds the things; no alert.
* ``sick``: learning rate 0.05. Units die within the first steps, and it ends at chance. The first
  alert comes within 20 of 468 steps. A second one, on the loss, names the same remedy.
* ``shortcut``: learning rate 0.001, and a yellow square on every cat that it is trained on. The
  training looks perfect. Saliency and occlusion show that "cat" means "yellow square".

What is needed for your own training are the lines marked with (1) to (3).
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from things_data import CLASS_NAMES, MEAN, STD, Things, make_things
from vis_callbacks import (  # (1)
    ActivationMaximizationMonitor,
    Monitor,
    OcclusionMonitor,
    TopPatchesMonitor,
    default_monitors,
)


@dataclass(frozen=True)
class Run:
    """One training of the demo.

    Attributes:
        learning_rate: Of Adam.
        has_shortcut: Whether a yellow square lies on every cat of the training data, and on every
            third image of the validation, of any class.
        look_at: What its pictures show.
    """

    learning_rate: float
    look_at: str
    has_shortcut: bool = False


EPOCHS = 6

RUNS = {
    "healthy": Run(
        0.001, "saliency/gradient and occlusion/views: what counts lies on the thing itself."
    ),
    "sick": Run(
        0.05, "activations/unit_life: rows light up within the first epoch, as the alert says."
    ),
    "shortcut": Run(
        0.001,
        "saliency/gradient and occlusion/views: the yellow square decides, and not the cat.",
        has_shortcut=True,
    ),
}


class ThingClassifier(LightningModule):
    """A small convolutional network that asks how strong each feature is at its best place."""

    def __init__(self, learning_rate: float) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, kernel_size=7, stride=2, padding=3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 48, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(48, 48, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(48, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(64, len(CLASS_NAMES))

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
        """Returns Adam at the learning rate that the run was given."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


@dataclass(frozen=True)
class ThingData:
    """What one run is trained on and validated with."""

    training: Things
    validation: Things

    def with_shortcut(self) -> ThingData:
        """Returns the data with the yellow square on the cats, and on a third of the validation."""
        every_third = torch.arange(len(self.validation)) % 3 == 0
        return ThingData(
            self.training.with_square(self.training.labels == CLASS_NAMES.index("cat")),
            self.validation.with_square(every_third),
        )


def load_data(num_training: int = 5000, num_validation: int = 1000) -> ThingData:
    """Returns the data of the runs without a shortcut."""
    return ThingData(
        make_things(num_training, seed=0, is_training=True),
        make_things(num_validation, seed=1, is_training=False),
    )


def make_monitors() -> list[Monitor]:
    """Returns the four that may always be on, and the three that one adds to look closer."""
    # This training is short and there to be looked at: no picture waits for room in the budget.
    images = {"class_names": CLASS_NAMES, "mean": MEAN, "std": STD, "max_overhead": None}
    return [
        *default_monitors(**images),
        OcclusionMonitor(**images),
        TopPatchesMonitor(layers=["features.6", "features.9"], **images),
        ActivationMaximizationMonitor(**images),
    ]


def fit(trainer: Trainer, run: Run, data: ThingData) -> float:
    """Trains the network of a run, and returns the accuracy of its last validation."""
    data = data.with_shortcut() if run.has_shortcut else data
    trainer.fit(
        ThingClassifier(run.learning_rate),
        DataLoader(data.training, batch_size=64, shuffle=True, drop_last=True),
        DataLoader(data.validation, batch_size=250),
    )
    return float(trainer.callback_metrics["val_accuracy"])


def train(name: str, run: Run, data: ThingData, options: argparse.Namespace) -> None:
    """Trains one network into ``<output>/<name>`` and prints what came of it."""
    if (options.output / name).exists():
        raise SystemExit(
            f"{options.output / name} exists already, and TensorBoard would mix two runs: "
            "remove it, or give another --output."
        )
    print(f"\n=== {name}: learning rate {run.learning_rate:g} ===", flush=True)
    seed_everything(options.seed, verbose=False)
    monitors = make_monitors()  # (2)
    trainer = Trainer(
        callbacks=[*monitors],  # (3) a copy: Lightning adds its own to the list
        max_epochs=options.epochs,
        logger=TensorBoardLogger(options.output, name=name, version=""),
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    accuracy = fit(trainer, run, data)
    print(f"{name}: validation accuracy {accuracy:.1%} (chance {1 / len(CLASS_NAMES):.1%})")
    alerts = [alert for monitor in monitors for alert in monitor.alerts]
    alerts.sort(key=lambda alert: alert.step)
    for alert in alerts:
        print(f"{name}: [{alert.severity}] step {alert.step}: {alert.message} {alert.remedy}")
    if not alerts:
        print(f"{name}: no alert")
    print(f"{name}: look at {run.look_at}")


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=[*RUNS], help="which to train")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--output", type=Path, default=Path("demo_runs"))
    parser.add_argument("--learning-rate", type=float, help="instead of that of each run")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Trains the runs and says how to look at them."""
    options = parse_options(arguments)
    data = load_data()
    for name in options.runs:
        run = RUNS[name]
        if options.learning_rate is not None:
            run = replace(run, learning_rate=options.learning_rate)
        train(name, run, data, options)
    print(f"\nNow look at them:\n\n    tensorboard --logdir {options.output}\n")


if __name__ == "__main__":
    # The images are in memory: more worker processes would only slow them down.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    main()
