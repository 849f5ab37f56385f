"""Trainings in one of two processes whose ranks do not have the same monitors.

See ``two_ranks``. A rank that joins a collective of ours to which the other does not come ends
by the time-out of the process group.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from tests.identity import digest
from tests.system.models import EvaluationMonitor, ForwardMonitor, Net, sgd, trainer_of
from tests.system.two_ranks import RANK_BATCH, TIMEOUT_S, Summing, data, half_dead, this_rank
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

from vis_callbacks import rank_agreement
from vis_callbacks.engine import engine
from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.activations.monitor import ActivationMonitor
from vis_callbacks.session import session_of

WAIT_S = 1.0
LATE_S = 2.0


def watching(**options: Any) -> ActivationMonitor:
    return ActivationMonitor(every_n_train_steps=1, **options)


def on_rank(rank: int, *monitors: Monitor) -> Sequence[Monitor]:
    return monitors if this_rank() == rank else []


class LateNet(Net):
    """Is slow on rank 1, before a training begins."""

    def on_fit_start(self) -> None:
        sleep(LATE_S * this_rank())


class SyncedOnCpu(nn.BatchNorm1d):
    """What a SyncBatchNorm does, which refuses the CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            mean = x.detach().mean(0)
            torch.distributed.all_reduce(mean)
            x = x - mean / 2
        return super().forward(x)


def with_collectives() -> nn.Module:
    """Returns a network whose forward pass waits for the other ranks, in training."""
    network = half_dead()
    return nn.Sequential(network[0], SyncedOnCpu(16), *network[1:])


def fit(
    folder: Path,
    monitors: Sequence[Monitor] = (),
    *,
    kind: type[Net] = Net,
    make: Callable[[], nn.Module] = half_dead,
    nan_from: int | None = None,
    validates: bool = False,
) -> dict[str, Any]:
    messages: list[str] = []

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Heard()
    logging.getLogger("vis_callbacks").addHandler(handler)
    pl.seed_everything(5, verbose=False)
    module = kind(make(), sgd)
    samples = data(nan_from=nan_from)
    loader = DataLoader(
        samples, batch_size=RANK_BATCH, sampler=DistributedSampler(samples, shuffle=False,
                                                                   num_replicas=2, rank=this_rank())
    )  # fmt: skip
    strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=TIMEOUT_S))
    trainer = trainer_of(
        folder, list(monitors), strategy=strategy, devices=2, max_epochs=1, num_sanity_val_steps=1
    )
    began, raised = perf_counter(), None
    try:
        if validates:
            trainer.validate(module, loader, verbose=False)
        else:
            trainer.fit(module, loader, loader)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        raised = type(error).__name__
    logging.getLogger("vis_callbacks").removeHandler(handler)
    return {
        "weights": digest(list(module.parameters())),
        "num_steps": trainer.global_step,
        "seconds": perf_counter() - began,
        "messages": messages,
        "raised": raised,
        "samples": [m.history.series("num_samples", "") for m in monitors],
        "steps": [list(m.history.steps) for m in monitors],
        "failures": [dict(m.guard.counts) for m in monitors],
        "of_passes": dict(session_of(trainer).engine_guards.of_passes.counts),
        "alerts": [a.kind for m in monitors for a in m.alerts],
    }


def by_extra_passes(folder: Path, monitors: Sequence[Monitor]) -> dict[str, Any]:
    """Reads each step by an extra pass, as in a compiled run."""
    was_compiled = engine._was_compiled
    engine._was_compiled = lambda: True
    try:
        return fit(folder, monitors, make=with_collectives)
    finally:
        engine._was_compiled = was_compiled


SCENARIOS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "plain": fit,
    "rank 0 only": lambda folder: fit(
        folder,
        on_rank(0, watching(on_alert="stop"), Summing(), ForwardMonitor(), EvaluationMonitor()),
    ),
    "equal after rank 0 only": lambda folder: fit(folder, [watching(), Summing()]),
    "rank 1 only": lambda folder: fit(folder, on_rank(1, watching(), Summing())),
    "more on rank 1": lambda folder: fit(folder, [watching(), *on_rank(1, Summing())]),
    "another schedule": lambda folder: fit(
        folder, [ActivationMonitor(every_n_train_steps=1 + this_rank())]
    ),
    "another reaction": lambda folder: fit(
        folder, [watching(on_alert="stop" if this_rank() else "warn")]
    ),
    "equal": lambda folder: fit(folder, [watching(), Summing()]),
    "late rank": lambda folder: fit(folder, [watching(), Summing()], kind=LateNet),
    "validation of rank 0": lambda folder: fit(
        folder, on_rank(0, EvaluationMonitor()), validates=True
    ),
    "validation of both": lambda folder: fit(folder, [EvaluationMonitor()], validates=True),
    "plain with collectives": lambda folder: fit(folder, make=with_collectives),
    "rank 0 with collectives": lambda folder: by_extra_passes(folder, on_rank(0, watching())),
    "stop on rank 0": lambda folder: fit(folder, on_rank(0, watching(on_alert="stop")), nan_from=4),
    "raise on rank 0": lambda folder: fit(
        folder, on_rank(0, watching(on_alert="raise")), nan_from=4
    ),
}


def train_all(folder: Path) -> None:
    rank_agreement.WAIT_S = WAIT_S
    for name, run in SCENARIOS.items():
        path = folder / f"{name}.{this_rank()}.json"
        path.write_text(json.dumps(run(folder / name)))
