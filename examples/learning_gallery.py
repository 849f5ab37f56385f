"""Draws the picture of `LearningMonitor`: one network as it should be, and with one mistake.

``python examples/learning_gallery.py`` trains both on scikit-learn's digits, in some ten seconds.
The mistake is a softmax before ``cross_entropy``, which brings its own, after hidden sigmoids.
"""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vis_callbacks import LearningMonitor, Picture
from vis_callbacks.pictures.canvas import side_by_side, stacked

IMAGES = Path(__file__).parent.parent / "docs/images"
CARDS = ("learning/loss", "learning/gradients", "learning/updates", "learning/outputs")


class Classifier(pl.LightningModule):
    """Four layers on 64 pixels."""

    def __init__(self, make: type[nn.Module], last: nn.Module) -> None:
        super().__init__()
        layers = [nn.Linear(64, 64), make(), nn.Linear(64, 64), make(), nn.Linear(64, 64), make()]
        self.network = nn.Sequential(*layers, nn.Linear(64, 10), last)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)


def run(make: type[nn.Module], last: nn.Module) -> LearningMonitor:
    """Returns the monitor of one training."""
    pl.seed_everything(0, verbose=False)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data / 16).float(), torch.tensor(digits.target))
    monitor = LearningMonitor(every_n_train_steps=20)
    monitor.picture_schedule = None
    trainer = pl.Trainer(
        max_steps=400, max_epochs=-1, accelerator="cpu", callbacks=[monitor], logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Classifier(make, last), DataLoader(data, 32, shuffle=True))
    return monitor


def main() -> None:
    """Writes the picture."""
    columns = []
    for monitor in (run(nn.ReLU, nn.Identity()), run(nn.Sigmoid, nn.Softmax(1))):
        drawn = {p.tag: p.draw(**p.arrays) for p in monitor.last_report.of(Picture)}
        columns.append(stacked([drawn[tag] for tag in CARDS]))
        for alert in monitor.alerts:
            print(f"step {alert.step}: {alert.message} {alert.remedy}")
    Image.fromarray(side_by_side(columns, 24)).save(IMAGES / "learning.png", optimize=True)


if __name__ == "__main__":
    main()
