"""What a session keeps: for one monitor during a run, and of one step that is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from vis_callbacks._lightning import RunView
from vis_callbacks.engine.batch_parts import guessed_size
from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.isolation import call_resolved
from vis_callbacks.engine.parameter_watch import ParameterWatch
from vis_callbacks.engine.probe import Batch, Probe, Values
from vis_callbacks.engine.references import References, take_references
from vis_callbacks.engine.schedule import NEVER_THINNED, RunFacts, Schedule
from vis_callbacks.engine.snapshot import Group
from vis_callbacks.engine.subscription import Subscription
from vis_callbacks.engine.user_functions import harmless
from vis_callbacks.guard import Catch, Guard, NothingToShow, drop_frames
from vis_callbacks.observer import Observer
from vis_callbacks.overhead import Overhead
from vis_callbacks.step_facts import StepSums, UpdateWatch

_MAX_KEPT = 32  # a user's own schedule may have bursts that never end


class StepContext:
    """One step that is read, and what all monitors see of it; it holds nothing of the Trainer."""

    def __init__(
        self,
        view: RunView,
        facts: RunFacts,
        step: int,
        due: Sequence[RunState],
        whole: Sequence[RunState],
        read: Sequence[Subscription],
    ) -> None:
        self.epoch, self.stage = view.epoch, view.stage
        self.facts = facts
        self.step = step  # on the x-axis of ``self.log``
        self.due = due  # the monitors whose snapshot it is
        self.whole = whole  # of these, those whose burst it ends, so that they look at it now
        self.read = read
        # Pictures of the first step, of the end and of an evaluation by itself do not wait.
        self.draws_in_any_case = view.stage != "fit" or step == 0 or facts.is_last(step)
        # Whether all that is read is numbers for rules, as within a burst.
        self.is_lean = all(state.is_lean(read) for state in whole if state.subscriptions)
        self.is_live = False  # whether the user's own pass is read
        self.was_read = False  # whether the current batch has been read
        self.updates: UpdateWatch | None = None
        self.parameters: ParameterWatch | None = None
        self.sums = StepSums()
        self.groups: tuple[Group, ...] = ()

    def watch_parameters(self, view: RunView) -> None:
        """Begins to watch the weights, where a monitor asks for it."""
        if any(subscription.probe.site == "parameters" for subscription in self.read):
            self.parameters = ParameterWatch(view.model, view.optimizers)


class Reading(NamedTuple):
    """What was read for one monitor at one step, and has not been looked at yet."""

    context: StepContext
    values: Mapping[str, Values]
    num_samples: Mapping[str, int]


@dataclass(eq=False)
class RunState:
    """What is kept for one monitor during a run."""

    number: int
    monitor: Observer
    batch_of: Callable[[Any], Batch]
    forward: Callable[[nn.Module, Any], Any]
    overhead: Overhead
    subscriptions: tuple[Subscription, ...] = ()  # of its probes
    tracer: Subscription | None = None  # where it has no probe: for the layers alone
    next_picture: float = 0
    has_drawn: bool = False  # in the look that is going on
    last_evaluation: int = -1
    kept: list[Reading] = field(default_factory=list)
    due_steps: tuple[float, ...] = ()  # of each subscription; of the monitor where it has none
    ask_at: float = 0  # the next step at which it may be due
    waits: bool = False  # for room in the budget, at a step that another monitor is due at

    @classmethod
    def begin(
        cls,
        number: int,
        monitor: Observer,
        engine: Engine,
        others: Iterable[RunState],
        guard: Guard,
    ) -> RunState:
        """Begins a run of a monitor; ``guard`` takes failures of finding a batch's parts."""
        # One extra pass serves those that find the parts of a batch in the same way.
        alike = (o.batch_of for o in others if o.monitor.functions == monitor.functions)
        state = cls(
            number=number,
            monitor=monitor,
            batch_of=next(alike, lambda batch: find_parts(batch, monitor, guard)),
            forward=monitor.options.forward_fn or call_resolved,
            overhead=Overhead(
                limit=monitor.options.overhead_limit, first_drawing=monitor.first_drawing_seconds
            ),
        )
        subscribe = partial(
            engine.subscribe,
            guard=monitor.guard,
            batch_of=state.batch_of,
            forward=state.forward,
            spend=state.overhead.spend,
        )
        state.subscriptions = tuple(map(subscribe, monitor.probes()))
        if not state.subscriptions:
            state.tracer = subscribe(_TRACE)
        return state

    @property
    def guard(self) -> Guard:
        """The guard that catches this monitor's failures."""
        return self.monitor.guard

    @property
    def schedule(self) -> Schedule:
        """The monitor's schedule."""
        return self.monitor.schedule

    @property
    def collects(self) -> bool:
        """Whether it reads an evaluation's batches as they pass by."""
        return any(s.probe.occasion == "evaluation" for s in self.subscriptions)

    def look_ahead(self, step: int, facts: RunFacts) -> None:
        """Works out at which step, from this one on, each of its probes is due."""
        self.due_steps, self.ask_at = (), step + 1  # if the schedule fails
        with self.guard.catch("the schedule"):
            if self.collects:
                self.ask_at = math.inf
                return
            own = [s.probe.schedule for s in self.subscriptions] or [None]
            self.due_steps = tuple(_first_due(one or self.schedule, step, facts) for one in own)
            self.ask_at = min(self.due_steps)

    @property
    def can_wait(self) -> bool:
        """Whether no alert rests on its snapshots, and they take passes or an evaluation."""
        return not self.monitor.active_rules and ("forward" in self.monitor.needs or self.collects)

    def due_at(self, step: int, facts: RunFacts) -> list[Subscription]:
        """Returns the subscriptions that are due at this step, once it was looked ahead.

        What a probe with a schedule of its own reads is only shown: it waits for room.
        """
        shows = self.overhead.may_show or step <= NEVER_THINNED or facts.is_last(step)
        planned = zip(self.subscriptions, self.due_steps, strict=False)
        return [s for s, due in planned if due == step and (shows or s.probe.schedule is None)]

    def is_lean(self, read: Sequence[Subscription]) -> bool:
        """Whether nothing is read now of what it shows at other times."""
        shown = [s for s in self.subscriptions if s.probe.schedule is not None]
        return bool(shown) and not any(s in read for s in shown)

    def is_whole(self, step: int, facts: RunFacts) -> bool:
        """Whether what is read at this due step is looked at now, and not at its burst's end.

        The first snapshot is what all others are seen by, and an extra forward pass cannot be
        made up for later.
        """
        if step == 0 or "forward" in self.monitor.needs or len(self.kept) >= _MAX_KEPT:
            return True
        ends: bool | None = None
        with self.guard.catch("the schedule"):
            ends = self.schedule.ends_burst(step, facts)
        return ends is not False  # if the schedule fails, it does

    def draw_again_after(self, context: StepContext) -> None:
        """Works out from which step on the next snapshot draws, after this one has."""
        self.has_drawn, schedule = True, self.monitor.picture_schedule
        if schedule is not None:
            following = schedule.next_due(context.step, context.facts)
            self.next_picture = math.inf if following is None else following

    def keep(self, context: StepContext) -> None:
        """Keeps what was read for it at a step, unless that has failed."""
        mine = [s for s in self.subscriptions if s in context.read]
        if not any(s.failure for s in mine):
            values = {s.probe.name: s.values for s in mine}
            num_samples = {s.probe.name: s.num_samples for s in mine}
            self.kept.append(Reading(context, values, num_samples))


# Matches no name: the pass meets the layers in their order, and nothing is read of them.
_TRACE = Probe(name="trace", layers=(), reduce=lambda activation, batch: {}, merge={})


def subscriptions_of(states: Iterable[RunState]) -> list[Subscription]:
    """Returns the subscriptions of all probes of these monitors."""
    return [subscription for state in states for subscription in state.subscriptions]


def leave_out_resting(states: Iterable[RunState]) -> None:
    """Reads nothing for monitors that rest after their failures."""
    for state in states:
        for subscription in state.subscriptions if state.guard.is_resting else ():
            subscription.failure = "the monitor rests"


def _first_due(schedule: Schedule, step: int, facts: RunFacts) -> float:
    """Returns the first due step that is not before this one."""
    following = 0 if step == 0 else schedule.next_due(step - 1, facts)
    return math.inf if following is None else following


def find_parts(batch: Any, monitor: Observer, guard: Guard) -> Batch:
    """Returns inputs and labels of a batch, None for what is not found.

    A monitor that needs none of them, such as one of activations, can go on without.
    """
    inputs = labels = None
    with Catch() as of_inputs:
        inputs = monitor.reader.inputs(batch)
    with Catch() as of_labels:
        labels = monitor.reader.labels(batch)
    for function, caught in zip(monitor.functions, (of_inputs, of_labels), strict=False):
        if caught.error is not None:
            if function is not None:
                guard.record("finding inputs and labels", caught.error)
            drop_frames(caught.error)  # they hold the batch, and the error
    num_samples = guessed_size(batch) if inputs is None else len(inputs)
    return Batch(inputs=inputs, labels=labels, num_samples=num_samples)


def settle_references(monitors: Iterable[Observer], device: torch.device) -> None:
    """Moves reference samples to the device of the run, and shares those that are equal.

    A checkpoint gives each monitor a copy of its own, on the CPU.
    """
    settled: list[References] = []
    for monitor in _most_samples_first(monitors):
        if monitor.references is not None:
            with monitor.guard.catch("moving reference samples"):
                monitor.references = monitor.references.to(device).shared_with(settled)
                settled.append(monitor.references)


def keep_references(monitors: Iterable[Observer], batch: Any, source: str) -> None:
    """Copies reference samples once; they are never exchanged afterwards.

    Monitors that ask for the same share one copy: at 224 pixels eight images are 5 MB.
    """
    taken: dict[tuple[object, ...], References] = {}
    for monitor in _most_samples_first(monitors):
        if "references" not in monitor.needs or monitor.references is not None:
            continue
        num_samples = monitor.options.num_samples
        functions = (*monitor.functions[:2], monitor.mask_fn)
        asked = (*functions, num_samples)
        with Catch() as caught:
            if asked not in taken:
                taken[asked] = take_references(
                    batch,
                    num_samples,
                    source=source,
                    mask_fn=harmless(monitor.mask_fn),
                    reader=monitor.reader,
                )
                if choice := taken[asked].choice:
                    monitor.guard.log_once(choice)
            others = [known for key, known in taken.items() if key[:-1] == functions]
            monitor.references = taken[asked].shared_with(others)
        if (error := caught.error) is not None:
            why = error if any(functions) else NothingToShow(str(error))
            monitor.guard.record("keeping reference samples", why)


def _most_samples_first(monitors: Iterable[Observer]) -> list[Observer]:
    return sorted(monitors, key=lambda monitor: -monitor.options.num_samples)
