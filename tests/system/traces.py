"""Trainings with monitors and without, and all that must be the same of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
from tests.identity import digest
from tests.system.models import NUM_STEPS, CountingData, Run, train, vectors
from torch import Tensor, nn

from vis_callbacks.session import session_of


@dataclass(frozen=True)
class Scenario:
    make: Callable[[], nn.Module]
    make_data: Callable[[], CountingData] = vectors
    callbacks: Callable[[], Sequence[pl.Callback]] = tuple
    options: dict[str, Any] = field(default_factory=dict)
    num_steps: int = NUM_STEPS
    gradients: bool = True

    def run(self, folder: Any, monitors: Sequence[Any] = ()) -> Run:
        return train(
            self.make,
            folder,
            monitors,
            make_data=self.make_data,
            callbacks=self.callbacks,
            **self.options,
        )


@dataclass(frozen=True)
class Trace:
    """What a run left behind, read at its end: the random states and flags are of then."""

    facts: dict[str, Any]
    tags: list[str]
    curves: str


def trace(run: Run, tags: list[str] | None = None) -> Trace:
    facts, tags = run.facts, run.tags if tags is None else tags
    return Trace(facts, tags, digest(run.curves(tags)))


def assert_same_run(plain: Trace, watched: Run) -> None:
    """Fails, naming what differs; the second run may have more tags than the first.

    A training that is not reproducible fails as well.
    """
    assert plain.tags, "nothing was logged"
    found = trace(watched, plain.tags)
    both = {**plain.facts, **found.facts}
    odd = [name for name in both if plain.facts.get(name) != found.facts.get(name)]
    assert not odd, f"{len(odd)} facts differ: {odd[:12]}"
    assert found.curves == plain.curves


def assert_watched(run: Run, monitors: Sequence[Any], num_steps: int, caplog: Any) -> None:
    """Fails unless every monitor has taken all its snapshots, without a contained failure."""
    due = run.recorder.num_snapshots_due
    assert due == num_steps
    assert [len(monitor.history) for monitor in monitors[:2]] == [due, due]
    assert len(monitors[2].history) == len(run.recorder.epochs_validated)
    assert [monitor.guard.counts for monitor in monitors] == [{}] * len(monitors)
    assert not [record for record in caplog.records if getattr(record, "contained", None)]


class LiveReads(pl.Callback):
    """Notes at each step whether the engine reads the user's own pass."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        self.seen.append(session_of(trainer).run.engine.reads_live)
