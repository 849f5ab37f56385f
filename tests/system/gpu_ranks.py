"""A training with monitors and one without, in one of two processes, on GPUs or on the CPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from pytorch_lightning.strategies import DDPStrategy
from tests.identity import digest
from tests.system.processes import TIMEOUT_S
from tests.tiny import tiny_loader, tiny_module, tiny_trainer

from vis_callbacks import ActivationMonitor, FilterMonitor, Monitor


def weights_after(folder: Path, backend: str, monitors: Sequence[Monitor]) -> str:
    """Returns a digest of what a training leaves."""
    timeout = timedelta(seconds=TIMEOUT_S)
    trainer = tiny_trainer(
        folder,
        monitors,
        accelerator="cuda" if backend == "nccl" else "cpu",
        devices=2,
        strategy=DDPStrategy(process_group_backend=backend, timeout=timeout),
        deterministic=True,
    )
    module = tiny_module()
    trainer.fit(module, tiny_loader(16), tiny_loader(16))
    return digest([parameter.cpu() for parameter in module.parameters()])


def train_twice(backend: str, folder: Path) -> None:
    """Trains without monitors and with them, and leaves ``folder/seen.<rank>.pt``."""
    monitors = [ActivationMonitor(every_n_train_steps=1), FilterMonitor(every_n_train_steps=1)]
    seen = {
        "weights of a plain run": weights_after(folder, backend, []),
        "weights": weights_after(folder, backend, monitors),
        "units": digest(monitors[0].dead_units.state_dict()),  # merged over the ranks
        "num readings": len(monitors[0].history),
        "failures": {m.stem: dict(m.guard.counts) for m in monitors if m.guard.counts},
    }
    torch.save(seen, folder / f"seen.{os.environ['RANK']}.pt")
