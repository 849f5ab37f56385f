"""The Trainer that most benchmarks train with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer


def quiet_trainer(folder: str | Path, **options: Any) -> Trainer:
    """Returns a Trainer on the CPU that prints, logs and saves nothing; others may be asked for.

    Args:
        folder: Where what Lightning or a callback writes all the same goes.
        **options: Those of the Trainer.
    """
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
    }
    return Trainer(default_root_dir=folder, **quiet | options)
