"""Trainings with a sharded validation, in one of two processes, or in one for both."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy
from tests.identity import digest
from tests.system.models import Net, pictures, trainer_of
from tests.system.processes import TIMEOUT_S
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from vis_callbacks import EmbeddingMonitor

BATCH = 8
NUM_SAMPLES = 50  # of 120: neither a multiple of the batches nor of both of them


class Validated(Net):
    """Logs what its validation gives on this rank and over all of them."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        scores = self(batch[0])
        self.log("val_mean", scores.mean(), sync_dist=True)
        self.log("val_here", scores.max())


def network() -> nn.Module:
    """Returns one without batch norm, which would see half of a batch on each rank."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    )


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def fit(folder: Path, monitors: Sequence[EmbeddingMonitor], *, batch_size: int = BATCH) -> Any:
    """Trains two epochs; two ranks see in a step what one process sees of twice the size."""
    pl.seed_everything(5, verbose=False)
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    data = pictures()
    sampler = DistributedSampler(data, num_ranks, rank(), shuffle=False)
    loaders = [DataLoader(data, batch_size=batch_size, sampler=sampler) for _ in range(2)]
    options: dict[str, Any] = {"max_epochs": 2, "precision": "64-true", "logger": False}
    if num_ranks > 1:
        timeout = timedelta(seconds=TIMEOUT_S)
        strategy = DDPStrategy(process_group_backend="gloo", timeout=timeout)
        options |= {"strategy": strategy, "devices": num_ranks}
    module = Validated(network())
    trainer = trainer_of(folder, monitors, **options)
    trainer.fit(module, *loaders)
    return {
        "weights": digest(list(module.parameters())),
        "metrics": digest(dict(trainer.callback_metrics)),
        "failures": [dict(monitor.guard.counts) for monitor in monitors],
        "maps": [_followed(monitor) for monitor in monitors],
        "histories": [monitor.history.state_dict() for monitor in monitors],
    }


def _followed(monitor: EmbeddingMonitor) -> dict[str, Any]:
    kept = monitor.state_dict()["monitor"]["maps"]["followed"]["network.4"]
    return {
        "fingerprints": kept["fingerprints"].tolist(),
        "points": digest(kept["points"]),
        "labels": kept["strip"]["frames"][-1]["labels"].tolist(),
        "num_frames": len(kept["strip"]["steps"]),
    }


def watching() -> list[EmbeddingMonitor]:
    return [EmbeddingMonitor(num_samples=NUM_SAMPLES, perplexity=10.0)]


def train_all(folder: Path) -> None:
    for name, monitors in (("plain", []), ("watched", watching())):
        outcome = fit(folder / name, monitors)
        (folder / f"{name}.{rank()}.json").write_text(json.dumps(outcome))
