"""Trainings in one of two processes, one after the other, in one process group.

Each leaves ``<name>.<rank>.json``; a rank that waits for the other in vain ends after the
time-out of the process group.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from tests.identity import digest
from tests.system.models import CountingData, Net, sgd, trainer_of, vectors
from tests.system.processes import TIMEOUT_S
from tests.tiny import Threes
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from vis_callbacks._lightning import trainer_of as trainer_of_module
from vis_callbacks.alerts.alert import Alert, Finding
from vis_callbacks.engine.probe import Probe
from vis_callbacks.engine.schedule import EveryNSteps
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.activations.monitor import ActivationMonitor
from vis_callbacks.monitors.learning.monitor import LearningMonitor
from vis_callbacks.reactions import AlertRaisedError
from vis_callbacks.report import Report, RuleMetrics
from vis_callbacks.session import session_of
from vis_callbacks.writers.writer import Writer

RANK_BATCH = 8
NUM_STEPS = 12
FAULT_STEP = 4


class FaultError(RuntimeError):
    """What is injected."""


# -- what is trained


def half_dead() -> nn.Module:
    """Returns a network of which some units never fire."""
    network = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
                            nn.Linear(16, 4))  # fmt: skip
    with torch.no_grad():
        network[0].bias[:5] = -50.0
    return network


class Routed(nn.Module):
    """Sends samples through an expert on rank 1 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.expert = half_dead(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.expert(self.net(x)) if this_rank() == 1 else self.net(x)


def data(*, nan_from: int | None = None) -> CountingData:
    """Returns samples for all steps; from one step on those of rank 1 hold a NaN, if wanted."""
    samples = vectors(2 * RANK_BATCH * NUM_STEPS)
    if nan_from is not None:
        samples.inputs[2 * RANK_BATCH * nan_from + 1 :: 2] = float("nan")
    return samples


@dataclass(frozen=True)
class Outcome:
    """What a training left behind on one rank."""

    weights: str
    num_steps: int
    histories: Sequence[Mapping[str, Any]]
    alerts: Sequence[str]
    failures: Sequence[Mapping[str, int]]
    shared_failures: Mapping[str, int]
    raised: str | None
    called: int


def fit(
    folder: Path,
    monitors: Sequence[Monitor] = (),
    *,
    nan_from: int | None = None,
    batch_size: int = RANK_BATCH,
    make: Callable[[], nn.Module] = half_dead,
    also: Sequence[pl.Callback] = (),
    called: Sequence[Any] = (),
    **options: Any,
) -> Outcome:
    """Trains without shuffling: two ranks see in a step what one process sees of twice the size."""
    pl.seed_everything(5, verbose=False)
    module = Net(make(), sgd)
    samples = data(nan_from=nan_from)
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    sampler = DistributedSampler(samples, num_ranks, this_rank(), shuffle=False)
    loader = DataLoader(samples, batch_size=batch_size, sampler=sampler)
    options = {"max_epochs": 1, "precision": "64-true", "num_sanity_val_steps": 0, **options}
    if num_ranks > 1:
        timeout = timedelta(seconds=TIMEOUT_S)
        strategy = DDPStrategy(process_group_backend="gloo", timeout=timeout)
        options |= {"strategy": strategy, "devices": num_ranks}
    trainer = trainer_of(folder, [*monitors, *also], **options)
    raised = None
    try:
        trainer.fit(module, loader)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        raised = type(error).__name__
    return Outcome(
        weights=digest(list(module.parameters())),
        num_steps=trainer.global_step,
        histories=[monitor.history.state_dict() for monitor in monitors],
        alerts=[f"{a.kind} {a.step}" for monitor in monitors for a in monitor.alerts],
        failures=[dict(monitor.guard.counts) for monitor in monitors],
        shared_failures=dict(session_of(trainer).guard.counts),
        raised=raised,
        called=len(called),
    )


# -- monitors that fail on one rank only


def this_rank() -> int:
    return int(os.environ.get("RANK", "0"))


class Summing(Monitor):
    """A healthy monitor beside the one that fails: it must go on."""

    default_schedule = EveryNSteps(1)

    def probes(self) -> Sequence[Probe]:
        return [Probe(name="sums", reduce=_total, merge={"total": "sum"})]

    def observe(self, snapshot: Snapshot) -> Report:
        totals = {name: v["total"] for name, v in snapshot.values["sums"].items()}
        values = torch.stack(list(totals.values()))
        return Report(
            step=snapshot.step,
            items=(RuleMetrics(metrics=("total",), layers=tuple(totals), values=values),),
        )


def _total(activation: Any, batch: Any) -> dict[str, Tensor]:
    return {"total": activation.values.sum()}


class FoundAt:
    """Finds something at one step alone."""

    kind, severity = "found", "warning"

    def __init__(self, step: int) -> None:
        self.step = step

    def check(self, history: Any) -> Finding | None:
        return Finding(message="Found.") if history.steps[-1] == self.step else None


class Failing(Summing):
    """Fails at one stage, on one rank, from one step on."""

    def __init__(self, stage: str, rank: int, **options: Any) -> None:
        super().__init__(input_fn=self.inputs_of, **options)
        self.stage, self.rank = stage, rank
        self.num_calls: dict[str, int] = {}

    def fail(self, stage: str) -> None:
        self.num_calls[stage] = self.num_calls.get(stage, 0) + 1
        is_late = self.num_calls[stage] > FAULT_STEP or stage == "probes"
        if stage == self.stage and this_rank() == self.rank and is_late:
            raise FaultError(stage)

    def inputs_of(self, batch: Any) -> Tensor:
        self.fail("input_fn")
        return batch[0]

    def reduced(self, activation: Any, batch: Any) -> dict[str, Tensor]:
        self.fail("reduce")
        return _total(activation, batch)

    def merged(self, old: Tensor, new: Tensor) -> Tensor:
        self.fail("merge")
        return old + new

    def probes(self) -> Sequence[Probe]:
        self.fail("probes")
        return [Probe(name="sums", reduce=self.reduced, merge={"total": self.merged})]

    def observe(self, snapshot: Snapshot) -> Report:
        self.fail("observe")
        return super().observe(snapshot)


STAGES = ("probes", "input_fn", "reduce", "merge", "observe")


def failing(stage: str, rank: int, folder: Path) -> Outcome:
    return fit(folder, [Failing(stage, rank), Summing(), watching()])


def writing_fails(rank: int, folder: Path) -> Outcome:
    """Breaks the writer under all monitors of a rank; only rank 0 has anything to write."""
    original = Writer.write

    def broken(writer: Writer, report: Report, **kwargs: Any) -> None:
        if this_rank() == rank and report.step >= FAULT_STEP:
            raise FaultError("writing")
        original(writer, report, **kwargs)

    Writer.write = broken
    try:
        return fit(folder, [Summing(), watching()])
    finally:
        Writer.write = original


def watching(**options: Any) -> ActivationMonitor:
    return ActivationMonitor(every_n_train_steps=1, **options)


def calling(folder: Path, *, how: str = "") -> Outcome:
    """Calls a function with the alert, which may stop or end the run."""
    called: list[Alert] = []

    def react(alert: Alert) -> None:
        called.append(alert)
        if how == "stops":
            trainer_of_module(monitor._model()).should_stop = True
        elif how == "raises":
            raise AlertRaisedError(alert)

    monitor = watching(on_alert=react)
    return fit(folder, [monitor], nan_from=FAULT_STEP, called=called)


class BlindOnOneRank(ActivationMonitor):
    """Sees nothing on rank 0, so that the alert comes up on rank 1 alone."""

    stem = "activations"

    def observe(self, snapshot: Snapshot) -> Report:
        if this_rank() == 0:
            raise FaultError("observe")
        return super().observe(snapshot)


def alone(on_alert: str, folder: Path) -> Outcome:
    monitor = BlindOnOneRank(every_n_train_steps=1, on_alert=on_alert)
    return fit(folder, [monitor], nan_from=1)


class EndsEarly(pl.Callback):
    """Ends the run two steps after the fault, before monitors look again."""

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.global_step == FAULT_STEP + 2


class LateBurst(Summing):
    """Finds something at step 3, and is amid a burst for the whole run."""

    default_schedule = type("Endless", (Threes,), {"ends_burst": lambda *_: False})(1)
    rules = (FoundAt(3),)


def by_kind(action: str, folder: Path) -> Outcome:
    """Ends the run by one kind of alert, while another monitor is amid a burst."""
    called: list[Alert] = []
    on_alert = {"non_finite": action, "default": called.append}
    monitors = [
        watching(on_alert=on_alert),
        LateBurst(on_alert={"found": called.append}),
    ]
    return fit(folder, monitors, nan_from=FAULT_STEP, called=called)


def in_bursts(*monitors: Monitor) -> Sequence[Monitor]:
    for monitor in monitors:
        monitor.schedule = Threes(1)
    return monitors


SCENARIOS: dict[str, Callable[[Path], Outcome]] = {
    "plain": fit,
    "watched": lambda folder: fit(folder, [watching(), Summing()]),
    "learning": lambda folder: fit(folder, [LearningMonitor(every_n_train_steps=1)]),
    "ends early": lambda folder: fit(
        folder,
        [LearningMonitor(every_n_train_steps=10)],
        nan_from=FAULT_STEP,
        also=[EndsEarly()],
    ),
    "routed": lambda folder: fit(folder, [watching(), Summing()], make=Routed),
    "in bursts": lambda folder: fit(folder, in_bursts(watching(), Summing())),
    "stop in bursts": lambda folder: fit(
        folder, in_bursts(watching(on_alert="stop")), nan_from=FAULT_STEP
    ),
    "observe of bursts fails on 0": lambda folder: fit(
        folder, in_bursts(Failing("observe", 0), Summing(), watching())
    ),
    "accumulated": lambda folder: fit(folder, [watching()], accumulate_grad_batches=2),
    "alert": lambda folder: fit(folder, [watching()], nan_from=FAULT_STEP),
    "stop": lambda folder: fit(folder, [watching(on_alert="stop")], nan_from=FAULT_STEP),
    "called": calling,
    "called and stops": partial(calling, how="stops"),
    "called and raises": partial(calling, how="raises"),
    "stop on one rank": partial(alone, "stop"),
    **{
        f"{stage} fails on {rank}": partial(failing, stage, rank)
        for stage in STAGES
        for rank in (0, 1)
    },
    **{f"writing fails on {rank}": partial(writing_fails, rank) for rank in (0, 1)},
    "raise on one rank": partial(alone, "raise"),
    **{f"{action} by kind, amid a burst": partial(by_kind, action) for action in ("stop", "raise")},
    "raise": lambda folder: fit(folder, [watching(on_alert="raise")], nan_from=FAULT_STEP),
}


def train_all(folder: Path) -> None:
    for name, run in SCENARIOS.items():
        outcome = run(folder / name)
        path = folder / f"{name}.{this_rank()}.json"
        path.write_text(json.dumps(vars(outcome)))
