"""The smallest runs: a model, loaders and a Trainer of a few milliseconds a step.

Everything random comes from generators of its own, so that two runs are equal.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vis_callbacks import Monitor
from vis_callbacks.engine.schedule import EveryNSteps, RunFacts

NUM_CLASSES = 3
NUM_STEPS = 4  # of a `tiny_trainer`: two epochs of two batches

# The smallest value of each option that costs time, by its name in a constructor.
_SMALLEST: dict[str, Any] = {
    "every_n_train_steps": 1,
    "num_samples": 2,
    "max_maps": 2,
    "max_filters": 2,
    "perplexity": 2,
    "top_k": 2,
    "num_steps": 2,
    "window_size": 2,
    "stride": 2,
}
_SHARED = ("every_n_train_steps", "num_samples")
# What fewer samples would leave nothing of: no map has less than four.
_SMALLEST_OF: dict[str, dict[str, Any]] = {"EmbeddingMonitor": {"num_samples": 8}}
# Options that have no default, and those that make a monitor write all that it can write.
_REQUIRED: dict[str, Any] = {"layers": ["*relu*"]}
_MOST: dict[str, Any] = {
    "layers": ["*relu*"],
    "histograms": True,
    "projector": True,
    "methods": ["gradient", "guided_backprop", "integrated_gradients", "grad_cam"],
    "mask_fn": lambda batch: (batch[0] > 0).any(1),
    "sanity_check": True,
}


class TinyModule(LightningModule):
    """Has batch statistics, random numbers, a module and a function that are nonlinearities."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.hidden = nn.Linear(4, 6)
        self.head = nn.Linear(6, NUM_CLASSES)
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        features = self.relu(self.norm(self.conv(x))).mean((2, 3))
        return self.head(torch.relu(self.hidden(self.drop(features))))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        inputs, labels = batch
        loss = nn.functional.cross_entropy(self(inputs), labels)
        self.log("loss", loss)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        inputs, labels = batch
        self.log("val_loss", nn.functional.cross_entropy(self(inputs), labels))

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Threes(EveryNSteps):
    """Bursts of three: the values of the first two wait for the third. Step 0 is by itself."""

    def ends_burst(self, step: int, facts: RunFacts) -> bool:
        return step % 3 == 0


def tiny_module() -> TinyModule:
    """Returns a module with the same weights at each call; the random streams begin with it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return TinyModule()


def tiny_loader(num_samples: int = 8, batch_size: int = 4) -> DataLoader[Any]:
    """Returns a loader of noise images (3, 6, 6) with labels."""
    images = torch.randn(num_samples, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(num_samples) % NUM_CLASSES
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def tiny_trainer(tmp_path: Path, callbacks: Iterable[Callback] = (), **kwargs: Any) -> Trainer:
    """Returns a Trainer of `NUM_STEPS` steps that prints and saves nothing."""
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 1,
        "log_every_n_steps": 1,
    }
    return Trainer(**options | {"default_root_dir": tmp_path} | kwargs, callbacks=list(callbacks))


def tiny_fit(
    tmp_path: Path, callbacks: Iterable[Callback] = (), ckpt_path: Path | None = None, **kwargs: Any
) -> Trainer:
    """Returns the Trainer after the fit of a `TinyModule` with validation."""
    trainer = tiny_trainer(tmp_path, callbacks, **kwargs)
    trainer.fit(tiny_module(), tiny_loader(), tiny_loader(), ckpt_path=ckpt_path)
    return trainer


def smallest(cls: type[Monitor], **options: Any) -> Monitor:
    """Returns the monitor that does all it does at the least cost, at every step."""
    return cls(**_chosen(cls, _SMALLEST) | _SMALLEST_OF.get(cls.__name__, {}) | options)


def fullest(cls: type[Monitor], **options: Any) -> Monitor:
    """Returns the monitor at the least cost that still writes all that it can write."""
    least = _SMALLEST_OF.get(cls.__name__, {})
    return cls(**_chosen(cls, _SMALLEST) | least | _chosen(cls, _MOST) | options)


def required(cls: type[Monitor]) -> dict[str, Any]:
    """Returns a value for each argument that has no default."""
    return {
        name: _REQUIRED[name]
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }


def _chosen(cls: type[Monitor], table: dict[str, Any]) -> dict[str, Any]:
    names = {*inspect.signature(cls).parameters, *_SHARED}
    return required(cls) | {name: value for name, value in table.items() if name in names}
