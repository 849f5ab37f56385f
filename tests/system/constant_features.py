"""Trains a network whose last nonlinearity is dead, once with each way of laying out a map.

It is to run in a process of its own: scikit-learn's t-SNE, asked as one would ask it, ends the
whole process on such features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from tests.system.models import Net, pictures, trainer_of
from torch import nn
from torch.utils.data import DataLoader

from vis_callbacks import EmbeddingMonitor

WAYS: tuple[dict[str, Any], ...] = ({}, {"method": "pca"}, {"backend": "sklearn"})


def dead() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    )  # fmt: skip
    nn.init.constant_(network[1].bias, -50.0)
    return network


def train_all(folder: str) -> dict[str, Any]:
    """Returns what one run with a monitor for each way has come to."""
    torch.manual_seed(0)
    monitors = [EmbeddingMonitor(tag_prefix=f"{i}/", **way) for i, way in enumerate(WAYS)]
    loader = DataLoader(pictures(), batch_size=20)
    trainer = trainer_of(Path(folder), monitors)
    module: pl.LightningModule = Net(dead())
    trainer.fit(module, loader, loader)
    return {
        "steps": trainer.global_step,
        "failures": [dict(monitor.guard.counts) for monitor in monitors],
        "alerts": [[alert.kind, alert.severity] for m in monitors for alert in m.alerts],
    }
