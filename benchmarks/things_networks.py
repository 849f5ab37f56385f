"""The networks of the demo's healthy and shortcut runs, trained without any monitor.

What monitors watch is bit-identical to what they do not, so these are the networks whose pictures
the documentation shows.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pytorch_lightning import seed_everything
from torch import nn

from benchmarks.trainers import quiet_trainer

if TYPE_CHECKING:
    from things import ThingData


@cache
def demo_data() -> ThingData:
    """Returns the data of the runs without a shortcut."""
    from things import load_data

    return load_data()


def demo_network(name: str, folder: Path) -> nn.Module:
    """Returns the network of a run after its last epoch.

    It is trained once, about a minute, and kept as ``<folder>/<name>.pt``.
    """
    from things import EPOCHS, RUNS, ThingClassifier, fit

    run, path = RUNS[name], folder / f"{name}.pt"
    if not path.exists():
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        seed_everything(0, verbose=False)
        folder.mkdir(parents=True, exist_ok=True)
        trainer = quiet_trainer(folder, max_epochs=EPOCHS)
        fit(trainer, run, demo_data())
        torch.save(trainer.lightning_module.state_dict(), path)
    network = ThingClassifier(run.learning_rate)
    network.load_state_dict(torch.load(path))
    return network.eval()
