"""Runs a program of somebody else's, with every monitor and without."""

from __future__ import annotations

import logging
import re
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from tests.contracts.every_monitor import SHIPPED
from tests.identity import digest, fingerprint
from tests.system.program import Entry, Program
from tests.tiny import smallest
from tests.writers.reading import read
from torch import Tensor, nn

import vis_callbacks
from vis_callbacks import Monitor
from vis_callbacks.alerts.alert import Alert
from vis_callbacks.guard import Guard

OUR_FILES = Path(vis_callbacks.__file__).parent
NUM_EPOCHS = 2
_SUMMARY = " contained failures in "  # of the line at the end of a run
EVERY_N_STEPS = 4
# A square that covers more is hidden at fewer positions; by default it is fitted to the input.
_FEWER: dict[str, dict[str, Any]] = {
    "OcclusionMonitor": {"window_size": None, "stride": None},
}


class Lines(logging.Handler):
    """Keeps what the package says at level warning, and how many failures it contained."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.warnings: list[str] = []
        self.summaries: list[str] = []
        self.num_contained = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.num_contained += hasattr(record, "contained")
        if _SUMMARY in record.getMessage():
            self.summaries.append(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())


class Losses(pl.Callback):
    """Keeps a digest of what each training step returned."""

    def __init__(self) -> None:
        self.digests: list[str] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *args: Any) -> None:
        self.digests.append(digest(outputs))


@dataclass
class Outcome:
    """What a program left behind: its own results, and what the monitors said and showed."""

    facts: dict[str, str]
    python_warnings: list[str]  # raised in our files
    lines: Lines
    alerts: list[Alert] = field(default_factory=list)
    tags: dict[str, list[str]] = field(default_factory=dict)  # by monitor
    reasons: dict[str, str] = field(default_factory=dict)  # why there is nothing, by monitor


def run(entry: Entry, folder: Path, *, monitored: bool) -> Outcome:
    """Trains the program and returns what came out."""
    pl.seed_everything(0, verbose=False)
    program = entry.make()
    monitors = _monitors(program) if monitored else []
    lines, losses, reasons = Lines(), Losses(), dict[str, str]()
    logger = logging.getLogger("vis_callbacks")
    logger.addHandler(lines)
    with warnings.catch_warnings(record=True) as caught, _noted(reasons):
        warnings.simplefilter("always")
        try:
            trainer = _fit(program, folder, [losses, *monitors])
        finally:
            logger.removeHandler(lines)
    facts = fingerprint(trainer)
    facts |= {f"attribute {name}": digest(value) for name, value in _attributes(program.module)}
    facts |= {f"step {index}": value for index, value in enumerate(losses.digests)}
    facts["metrics"] = digest(trainer.callback_metrics)
    facts["steps"] = str((trainer.global_step, trainer.current_epoch))
    alerts = [alert for monitor in monitors for alert in monitor.alerts]
    said = [str(w.message) for w in caught if OUR_FILES in Path(w.filename).parents]
    return Outcome(facts, said, lines, alerts, _shown(monitors, folder), reasons)


@contextmanager
def _noted(reasons: dict[str, str]) -> Iterator[None]:
    """Keeps the first reason that each monitor has had for showing less than it can."""
    record = Guard.record

    def noted(guard: Guard, stage: str, error: Exception) -> None:
        reasons.setdefault(guard.owner, str(error))
        record(guard, stage, error)

    with patch.object(Guard, "record", noted):
        yield


def _fit(program: Program, folder: Path, ours: list[pl.Callback]) -> pl.Trainer:
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": NUM_EPOCHS,
        "logger": TensorBoardLogger(folder, name=None, version=""),
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 1,
        "log_every_n_steps": 1,
        **program.trainer,
    }
    options["callbacks"] = [*options.get("callbacks", ()), *ours]
    trainer = pl.Trainer(**options)
    if isinstance(program.data, pl.LightningDataModule):
        trainer.fit(program.module, datamodule=program.data)
    else:
        trainer.fit(program.module, program.data, program.val)
    return trainer


def _monitors(program: Program) -> list[Monitor]:
    every = {"every_n_train_steps": EVERY_N_STEPS}
    return [
        smallest(cls, **every | _FEWER.get(cls.__name__, {}) | program.options) for cls in SHIPPED
    ]


def _attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """Returns the plain values that the user's modules hold beside parameters and buffers."""
    return [
        (f"{place}.{name}", list(value) if isinstance(value, deque) else value)
        for place, child in module.named_modules()
        for name, value in vars(child).items()
        if not name.startswith("_") and _is_plain(value)
    ]


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple | deque):
        return all(map(_is_plain, value))
    return isinstance(value, Tensor | int | float | str | type(None))


def _shown(monitors: list[Monitor], folder: Path) -> dict[str, list[str]]:
    """Returns which of its documented tags each monitor wrote."""
    if not monitors:
        return {}
    tags = read(folder).Tags()
    written = [*tags["scalars"], *tags["images"], *tags["histograms"], *tags["tensors"]]
    return {
        type(monitor).__name__: [
            tag for tag in monitor.tags if any(map(_pattern(tag).fullmatch, written))
        ]
        for monitor in monitors
    }


def _pattern(tag: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"<\w+>", ".+", tag) + "(/text_summary)?")
