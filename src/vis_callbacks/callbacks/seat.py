"""What a session keeps for one monitor, and for the step a snapshot is being taken of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vis_callbacks.callbacks.overhead import Overhead
from vis_callbacks.callbacks.steps import UpdateWatch
from vis_callbacks.engine.engine import Subscription
from vis_callbacks.engine.probe import Batch
from vis_callbacks.engine.references import References, take_references
from vis_callbacks.engine.schedule import Schedule
from vis_callbacks.guard import Guard

if TYPE_CHECKING:
    from vis_callbacks.callbacks.monitor import Monitor


@dataclass(eq=False)
class Seat:
    """What the session keeps for one monitor during a run."""

    monitor: Monitor
    subscriptions: tuple[Subscription, ...]  # of its probes
    batch_of: Callable[[Any], Batch]
    forward: Callable[[nn.Module, Any], Any]
    overhead: Overhead
    tracer: Subscription | None = None  # where it has no probe: for the layers alone
    next_picture: float = 0
    last_evaluation: int = -1

    @property
    def guard(self) -> Guard:
        """The guard that contains this monitor's failures."""
        return self.monitor.guard

    @property
    def schedule(self) -> Schedule:
        """The monitor's schedule, as thin as its overhead asks for."""
        return self.monitor.schedule.thinned(self.overhead.thinning)

    def schedule_of(self, subscription: Subscription) -> Schedule:
        """The schedule of one of its probes."""
        own = subscription.probe.schedule
        return own.thinned(self.overhead.thinning) if own else self.schedule

    @property
    def collects(self) -> bool:
        """Whether it reads an evaluation's batches as they pass by."""
        return any(s.probe.occasion == "evaluation" for s in self.subscriptions)


@dataclass
class Step:
    """The training step that a snapshot is being taken of."""

    step: int
    due: list[Seat]
    live: bool
    updates: UpdateWatch | None = None
    was_read: bool = False
    loss: Tensor | None = None
    num_batches: int = 0
    sums: dict[str, Tensor] | None = None

    def shared(self) -> dict[str, Tensor]:
        """Returns what belongs to no monitor: sums over the step's micro-batches."""
        values = dict(self.sums or {})
        if self.loss is not None:
            values["loss_sum"] = self.loss.double()
            values["loss_batches"] = torch.full_like(values["loss_sum"], self.num_batches)
        return values


def keep_references(monitors: Iterable[Monitor], batch: Any, source: str) -> None:
    """Copies reference samples once; they are never exchanged afterwards.

    Monitors that ask for the same share one copy: at 224 pixels eight images are 5 MB.
    """
    taken: dict[tuple[object, ...], References] = {}
    for monitor in monitors:
        if "references" not in monitor.needs or monitor.references is not None:
            continue
        with monitor.guard.contain("keeping reference samples"):
            options, mask_fn = monitor.options, getattr(monitor, "mask_fn", None)
            asked = (options.input_fn, options.label_fn, mask_fn, options.num_samples)
            if asked not in taken:
                taken[asked] = take_references(
                    batch,
                    options.num_samples,
                    source=source,
                    input_fn=options.input_fn,
                    label_fn=options.label_fn,
                    mask_fn=mask_fn,
                )
            monitor.references = taken[asked]
