"""What a session keeps for one monitor, and for the step a snapshot is being taken of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vis_callbacks.callbacks.options import CheckedOptions
from vis_callbacks.callbacks.overhead import Overhead
from vis_callbacks.callbacks.steps import StepSums, UpdateWatch
from vis_callbacks.engine.batch_parts import guessed_size
from vis_callbacks.engine.probe import Batch, Values
from vis_callbacks.engine.references import References, take_references
from vis_callbacks.engine.schedule import RunFacts, Schedule
from vis_callbacks.engine.snapshot import Group
from vis_callbacks.engine.subscription import Subscription
from vis_callbacks.engine.user_functions import harmless
from vis_callbacks.guard import Attempt, Guard, NothingToShow, drop_frames

if TYPE_CHECKING:
    from vis_callbacks.callbacks.monitor import Monitor


_MAX_KEPT = 32  # a user's own schedule may have bursts that never end


@dataclass(frozen=True)
class Moment:
    """What all monitors of one snapshot look at; it holds nothing of the Trainer."""

    step: int
    epoch: int
    stage: str
    facts: RunFacts
    sums: Callable[[], Mapping[str, Tensor]]  # of loss and inputs, merged over the ranks
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Kept:
    """What was read for one monitor at one moment, and has not been looked at yet.

    ``is_whole``: it ends a burst, or stands for itself.
    """

    moment: Moment
    values: Mapping[str, Values]
    num_samples: Mapping[str, int]
    is_whole: bool


@dataclass(eq=False)
class Seat:
    """What the session keeps for one monitor during a run."""

    number: int
    monitor: Monitor
    subscriptions: tuple[Subscription, ...]  # of its probes
    batch_of: Callable[[Any], Batch]
    forward: Callable[[nn.Module, Any], Any]
    overhead: Overhead
    tracer: Subscription | None = None  # where it has no probe: for the layers alone
    next_picture: float = 0
    last_evaluation: int = -1
    kept: list[Kept] = field(default_factory=list)
    due_steps: tuple[float, ...] = ()  # of each subscription; of the monitor where it has none
    ask_at: float = 0  # the next step at which it may be due

    @property
    def guard(self) -> Guard:
        """The guard that contains this monitor's failures."""
        return self.monitor.guard

    @property
    def schedule(self) -> Schedule:
        """The monitor's schedule, as thin as its overhead asks for."""
        return self.monitor.schedule.thinned(self.overhead.thinning)

    def look_ahead(self, step: int, facts: RunFacts) -> None:
        """Works out at which step, from this one on, each of its probes is due."""
        self.due_steps, self.ask_at = (), step + 1  # if the schedule fails
        with self.guard.contain("the schedule"):
            if self.collects:
                self.ask_at = math.inf
                return
            schedules = [self.schedule_of(s) for s in self.subscriptions] or [self.schedule]
            self.due_steps = tuple(_first_due(schedule, step, facts) for schedule in schedules)
            self.ask_at = min(self.due_steps)

    def due_at(self, step: int) -> list[Subscription]:
        """Returns the subscriptions that are due at this step, once it was looked ahead."""
        planned = zip(self.subscriptions, self.due_steps, strict=False)
        return [subscription for subscription, due_step in planned if due_step == step]

    def is_whole(self, step: int, facts: RunFacts) -> bool:
        """Whether what is read at this due step is looked at now, and not at its burst's end.

        The first snapshot is what all others are seen by, and an extra forward pass cannot be
        made up for later.
        """
        if step == 0 or "forward" in self.monitor.needs or len(self.kept) >= _MAX_KEPT:
            return True
        ends = [True]  # if the schedule fails
        with self.guard.contain("the schedule"):
            ends = [self.schedule.ends_burst(step, facts)]
        return any(ends)

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
    whole: list[Seat]  # of these
    read: list[Subscription]
    live: bool
    updates: UpdateWatch | None = None
    was_read: bool = False
    sums: StepSums = field(default_factory=StepSums)


def _first_due(schedule: Schedule, step: int, facts: RunFacts) -> float:
    """Returns the first due step that is not before this one."""
    following = 0 if step == 0 else schedule.next_due(step - 1, facts)
    return math.inf if following is None else following


def find_parts(batch: Any, options: CheckedOptions, guard: Guard) -> Batch:
    """Returns inputs and labels of a batch, None for what is not found.

    Who needs none of them, as activations of the user's own pass do, can go on without.
    """
    inputs = labels = None
    with Attempt() as of_inputs:
        inputs = options.of_inputs(batch)
    with Attempt() as of_labels:
        labels = options.of_labels(batch)
    for function, attempt in ((options.input_fn, of_inputs), (options.label_fn, of_labels)):
        if attempt.error is not None:
            if function is not None:
                guard.note("finding inputs and labels", attempt.error)
            drop_frames(attempt.error)  # they hold the batch, and the error
    num_samples = guessed_size(batch) if inputs is None else len(inputs)
    return Batch(inputs=inputs, labels=labels, num_samples=num_samples)


def settle_references(monitors: Iterable[Monitor], device: torch.device) -> None:
    """Moves reference samples to the device of the run, and shares those that are equal.

    A checkpoint gives each monitor a copy of its own, on the CPU.
    """
    settled: list[References] = []
    for monitor in _most_samples_first(monitors):
        if monitor.references is not None:
            with monitor.guard.contain("moving reference samples"):
                monitor.references = monitor.references.to(device).shared_with(settled)
                settled.append(monitor.references)


def keep_references(monitors: Iterable[Monitor], batch: Any, source: str) -> None:
    """Copies reference samples once; they are never exchanged afterwards.

    Monitors that ask for the same share one copy: at 224 pixels eight images are 5 MB.
    """
    taken: dict[tuple[object, ...], References] = {}
    for monitor in _most_samples_first(monitors):
        if "references" not in monitor.needs or monitor.references is not None:
            continue
        options = monitor.options
        asked = (options.input_fn, options.label_fn, monitor.mask_fn, options.num_samples)
        with Attempt() as attempt:
            if asked not in taken:
                taken[asked] = take_references(
                    batch,
                    options.num_samples,
                    source=source,
                    mask_fn=harmless(monitor.mask_fn),
                    reader=options.reader,
                )
                if choice := taken[asked].choice:
                    monitor.guard.remark(choice)
            others = [known for key, known in taken.items() if key[:-1] == asked[:-1]]
            monitor.references = taken[asked].shared_with(others)
        error = attempt.error
        if error is not None:
            is_asked_for = any((options.input_fn, options.label_fn, monitor.mask_fn))
            why = error if is_asked_for else NothingToShow(str(error))
            monitor.guard.note("keeping reference samples", why)


def _most_samples_first(monitors: Iterable[Monitor]) -> list[Monitor]:
    return sorted(monitors, key=lambda monitor: -monitor.options.num_samples)
