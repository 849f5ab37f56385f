"""One run of a Trainer: its engine, its pipeline, and which of its monitors are due."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from vis_callbacks._lightning import RunView
from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.engine_guards import EngineGuards
from vis_callbacks.engine.loss_log import LossLog
from vis_callbacks.engine.ranks import RanksError, RefusedCollectives, any_rank, gather
from vis_callbacks.engine.schedule import RunFacts
from vis_callbacks.engine.subscription import Subscription
from vis_callbacks.guard import Catch, Guard
from vis_callbacks.observer import Observer
from vis_callbacks.pipeline import Pipeline
from vis_callbacks.run_state import RunState, StepContext, settle_references, subscriptions_of
from vis_callbacks.writers.writer import Writer, alert_folder


@dataclass(eq=False)
class WatchedRun:
    """What is open from the start of a run to its end."""

    engine: Engine
    pipeline: Pipeline
    states: list[RunState]  # of the monitors that take part
    facts: RunFacts
    has_ranks: bool  # whether they work together with those of other ranks
    next_due: float = -1.0  # when one of them may be due; below 0: they are to be asked
    is_first: bool = True  # no step was read yet
    losses: LossLog | None = None  # of all steps, where a monitor asks for them
    has_passed_by: bool = False  # an evaluation that a monitor has no room for

    def read_beside(self, context: StepContext) -> None:
        """Has what is no activation read, once the step's update is made."""
        if context.parameters is not None:
            self.engine.read_beside("parameters", context.parameters)
        if self.losses is not None and _ask_for_losses(context.read):
            self.engine.read_beside("losses", self.losses.take())

    def last_looks(self, run: RunView) -> Iterator[StepContext]:
        """Yields who looks once more where the run has ended before its last planned step.

        These are those who wait for room in the budget, and those who ask for all losses, if one
        was not finite since they looked, on any rank.
        """
        waiting = [state for state in self.states if state.waits]
        if waiting:
            yield self._last_look(run, waiting, [])
        told = [state for state in self.states if _ask_for_losses(state.subscriptions)]
        if self.losses is None or not told:
            return
        is_bad = False
        with told[0].guard.catch("the losses"):  # a rank that fails must still join the others
            is_bad = self.losses.has_bad()
        if any_rank(is_bad) if self.has_ranks else is_bad:
            read = subscriptions_of(told)
            self.engine.read_beside("losses", self.losses.take(), read)
            yield self._last_look(run, told, read)

    def _last_look(
        self, run: RunView, due: list[RunState], read: list[Subscription]
    ) -> StepContext:
        context = StepContext(run, self.facts, max(run.step - 1, 0), due, due, read)
        context.draws_in_any_case = True
        return context

    def read_by_extra_pass(self, step: StepContext) -> bool:
        """Reads the batch by an extra pass where the user's own could not be read."""
        if step.is_live and self.engine.gave_way():
            step.is_live = step.was_read = False
        if step.was_read:
            return False
        step.was_read = True
        self.engine.read_isolated(training=True)
        return True

    def look_ahead(self, step: int) -> None:
        """Works out when monitors are due, from this step on."""
        for state in self.states:
            state.look_ahead(step, self.facts)
        self.next_due = min((state.ask_at for state in self.states), default=math.inf)

    def due_at(self, step: int) -> list[RunState]:
        """Returns the monitors that are due at a training step."""
        has_failed = any(not state.due_steps and not state.collects for state in self.states)
        if self.next_due < step or has_failed:
            self.look_ahead(step)
        due = [s for s in self.states if step in s.due_steps and self._takes_part(s)]
        return due + [s for s in self.states if due and s.waits and s not in due]

    def due_in_evaluation(self, run: RunView) -> list[RunState]:
        """Returns the monitors that read the evaluation which begins."""
        if not self.has_ranks:  # else they know what was so at the last snapshot
            self.pipeline.budget.learn(self.pipeline.budget.numbers())
        return [
            state
            for state in self.states
            if state.collects
            and self._takes_part(state)
            and self._evaluation_is_due(state, run)
            and self._has_room(state, run)
        ]

    def _has_room(self, state: RunState, run: RunView) -> bool:
        """Whether the budget has room for an evaluation that no alert rests on."""
        is_last = self.facts.is_last(self._epoch_end(run))
        in_any_case = not state.can_wait or run.stage != "fit" or is_last
        has_room = in_any_case or self.pipeline.budget.claim(state.overhead)
        self.has_passed_by |= not has_room
        return has_room

    def _epoch_end(self, run: RunView) -> int:
        per_epoch = self.facts.steps_per_epoch
        return run.step if per_epoch is None else (run.epoch + 1) * per_epoch - 1

    def _takes_part(self, state: RunState) -> bool:
        # With several ranks a resting monitor still takes part, as failed: it may not rest on
        # the others, and all must come to the same collectives.
        return self.has_ranks or not state.guard.is_resting

    def _evaluation_is_due(self, state: RunState, run: RunView) -> bool:
        """Whether this validation's epoch is due: one of the steps since the last one is."""
        if run.stage != "fit" or state.last_evaluation < 0:  # step 0, always due, lies before it
            return True
        next_due: int | None = None
        with state.guard.catch("the schedule"):
            next_due = state.schedule.next_due(state.last_evaluation, self.facts)
        return next_due is not None and next_due <= self._epoch_end(run)

    def learn_batch_size(self, read: Sequence[Subscription]) -> None:
        """Learns how many samples a snapshot has, from merged counts: the same on all ranks."""
        size = max((s.num_samples for s in read), default=0)
        if self.facts.batch_size is None and size:
            self.facts = replace(self.facts, batch_size=size)
            self.next_due = -1.0


def open_run(
    run: RunView,
    monitors: Sequence[Observer],
    guard: Guard,
    engine_guards: EngineGuards,
    *,
    has_ranks: bool,
) -> WatchedRun:
    """Opens engine and writer, and begins the run of each monitor.

    ``guard`` takes the failures of finding a batch's parts, ``engine_guards`` those of passes.
    """
    states: list[RunState] = []
    with Catch() as caught:
        for one in engine_guards:
            one.begin_run()
        context = run.forward_context
        engine = Engine(
            run.model,
            forward_context=_alone_in(context) if run.world_size > 1 and not has_ranks else context,
            wrapped_root=run.is_wrapped,
            guards=engine_guards,
        )
        writer = _writer_of(run, monitors)
        is_fit = run.stage == "fit"
        facts = RunFacts(
            planned_steps=run.planned_steps if is_fit else None,
            steps_per_epoch=run.steps_per_epoch if is_fit else None,
        )
        settle_references(monitors, run.device)
        for number, monitor in enumerate(monitors):
            with monitor.guard.catch("starting"):
                if is_fit:
                    monitor.begin_run(run.step)
                states.append(RunState.begin(number, monitor, engine, states, guard))
    if has_ranks:  # all of them come here, also where this one has failed
        _keep_agreed(states, len(monitors))
    if caught.error is not None:
        raise caught.error
    pipeline = Pipeline(engine, writer, states, has_ranks=has_ranks)
    losses = LossLog() if _ask_for_losses(subscriptions_of(states)) else None
    return WatchedRun(engine, pipeline, states, facts, has_ranks, losses=losses)


def _ask_for_losses(subscriptions: Iterable[Subscription]) -> bool:
    return any(subscription.probe.site == "losses" for subscription in subscriptions)


def _writer_of(run: RunView, monitors: Sequence[Observer]) -> Writer:
    loggers = () if run.is_silent else run.loggers
    return Writer(
        loggers=loggers,
        alert_folder=None if run.is_silent else alert_folder(loggers, run.default_root_dir),
        is_global_zero=run.is_global_zero,
        save_images=any(m.options.save_images for m in monitors),
        is_silent=run.is_silent,
        draws_aside=run.stage == "fit",  # beside an evaluation there is nothing to wait for
    )


def _keep_agreed(states: list[RunState], num_monitors: int) -> None:
    """Lets go of monitors that could not begin on some rank: all ranks must do alike."""
    begun = {state.number for state in states}
    flags = torch.tensor([number in begun for number in range(num_monitors)])
    parts = [part["begun"] for part in gather({"begun": flags})]
    agreed = torch.stack(parts).all(0).tolist()
    for state in list(states):
        if not agreed[state.number]:
            state.guard.record("starting", RanksError("it failed on another rank"))
            states.remove(state)


def _alone_in(
    forward_context: Callable[[], AbstractContextManager[Any]],
) -> Callable[[], AbstractContextManager[Any]]:
    """Makes the context of forward passes that the other ranks do not make."""

    @contextmanager
    def context() -> Iterator[None]:
        with forward_context(), RefusedCollectives():  # type: ignore[no-untyped-call]
            yield

    return context
