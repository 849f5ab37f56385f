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
from time import perf_counter
from typing import Any

from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from tests.identity import digest
from tests.system.processes import TIMEOUT_S
from tests.tiny import smallest, tiny_loader, tiny_module, tiny_trainer

from vis_callbacks import Monitor, OcclusionMonitor, Report, SaliencyMonitor, Snapshot, overhead
from vis_callbacks.engine.schedule import EveryNSteps

NUM_STEPS = 4  # two epochs of two batches on each rank
MONITORS: tuple[type[Monitor], ...] = (SaliencyMonitor, OcclusionMonitor)


class FaultError(RuntimeError):
    """What is injected."""


def rank() -> int:
    return int(os.environ["RANK"])


def fit(
    folder: Path,
    monitors: Sequence[Monitor] = (),
    others: Sequence[Callback] = (),
    **options: Any,
) -> dict[str, Any]:
    """Trains with a validation after each epoch; without a logger each rank has a folder."""
    module = tiny_module()
    timeout = timedelta(seconds=TIMEOUT_S)
    trainer = tiny_trainer(
        folder / str(rank()),
        [*others, *monitors],
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


class Passes(Callback):
    """Lets 200 seconds go by at each step."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def on_train_batch_start(self, *args: Any) -> None:
        self.clock[0] += 200.0


def in_a_budget(folder: Path) -> dict[str, Any]:
    """Has a monitor take 30 seconds a look on rank 0 and 230 on rank 1, within a budget."""
    clock, looks = [0.0], []
    overhead.perf_counter = lambda: clock[0]
    monitor = SaliencyMonitor(max_overhead=0.4, save_images=True, num_samples=2)
    monitor.schedule = EveryNSteps(1)
    original = monitor.observe

    def observe(snapshot: Snapshot) -> Report:
        looks.append(snapshot.step)
        clock[0] += (30.0, 230.0)[rank()]
        return original(snapshot)

    monitor.observe = observe
    try:
        return fit(folder, [monitor], [Passes(clock)]) | {"looks": looks}
    finally:
        overhead.perf_counter = perf_counter


SCENARIOS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "plain": fit,
    "watched": lambda folder: fit(folder, watching()),
    "logged": logged,
    "in a budget": in_a_budget,
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
