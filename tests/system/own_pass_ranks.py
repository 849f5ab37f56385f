"""Trainings under monitors that run the network themselves, in one of two processes.

See ``two_ranks``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from tests.identity import digest
from tests.system.processes import TIMEOUT_S
from tests.tiny import smallest, tiny_loader, tiny_module, tiny_trainer

from vis_callbacks import Monitor, OcclusionMonitor, Report, SaliencyMonitor, Snapshot

NUM_STEPS = 4  # two epochs of two batches on each rank
MONITORS: tuple[type[Monitor], ...] = (SaliencyMonitor, OcclusionMonitor)


class FaultError(RuntimeError):
    """What is injected."""


def rank() -> int:
    return int(os.environ["RANK"])


def fit(folder: Path, monitors: Sequence[Monitor] = (), **options: Any) -> dict[str, Any]:
    """Trains with a validation after each epoch; without a logger each rank has a folder."""
    module = tiny_module()
    timeout = timedelta(seconds=TIMEOUT_S)
    trainer = tiny_trainer(
        folder / str(rank()),
        monitors,
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo", timeout=timeout),
        **options,
    )
    trainer.fit(module, tiny_loader(16), tiny_loader(16))
    return {
        "state": digest([module.state_dict(), module.losses, dict(trainer.callback_metrics)]),
        "num_steps": trainer.global_step,
        "failures": [dict(monitor.guard.counts) for monitor in monitors],
        "last_steps": [m.last_report.step if m.last_report else None for m in monitors],
        "pictures": sorted(
            f"{path.parent.relative_to(folder / str(rank()) / 'vis_callbacks/images')}"
            for path in (folder / str(rank())).rglob("*.png")
        ),
    }


def watching() -> list[Monitor]:
    return [smallest(cls, save_images=True) for cls in MONITORS]


def failing(place: int, failing_rank: int, folder: Path) -> dict[str, Any]:
    """Has one of the monitors fail on one rank alone, at all of its looks but the first."""
    monitors = watching()
    original, looks = monitors[place].observe, []

    def observe(snapshot: Snapshot) -> Report:
        looks.append(snapshot.step)
        if rank() == failing_rank and len(looks) > 1:
            raise FaultError("observe")  # before the passes that the other rank makes
        return original(snapshot)

    monitors[place].observe = observe
    return fit(folder, monitors)


def logged(folder: Path) -> dict[str, Any]:
    return fit(folder, watching(), logger=TensorBoardLogger(folder, name="", version="log"))


SCENARIOS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "plain": fit,
    "watched": lambda folder: fit(folder, watching()),
    "logged": logged,
    **{
        f"{cls.__name__} fails on {failing_rank}": partial(failing, place, failing_rank)
        for place, cls in enumerate(MONITORS)
        for failing_rank in (0, 1)
    },
}


def train_all(folder: Path) -> None:
    for name, run in SCENARIOS.items():
        outcome = run(folder / name)
        (folder / f"{name}.{rank()}.json").write_text(json.dumps(outcome))
