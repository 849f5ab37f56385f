"""One session a Trainer: it has what is due read for all its monitors."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

from vis_callbacks._lightning import RunView, step_of
from vis_callbacks.engine.engine_guards import EngineGuards
from vis_callbacks.engine.roll_call import RollCall
from vis_callbacks.given_functions import try_given_functions
from vis_callbacks.guard import Guard, log_summary
from vis_callbacks.observer import Observer, check_names
from vis_callbacks.overhead import Overhead, divided
from vis_callbacks.rank_agreement import announce, company_of
from vis_callbacks.run_state import (
    RunState,
    StepContext,
    keep_references,
    leave_out_resting,
    subscriptions_of,
)
from vis_callbacks.step_facts import UpdateWatch, loss_of
from vis_callbacks.watched_run import WatchedRun, open_run

Hook = TypeVar("Hook", bound=Callable[..., None])

# What is shared by the monitors of one Trainer hangs on the Trainer, weakly.
_SESSIONS: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()


def session_of(trainer: Any) -> Session:
    """Returns the session that all monitors of a Trainer share."""
    if trainer not in _SESSIONS:
        _SESSIONS[trainer] = Session()
    return _SESSIONS[trainer]


def _timed(hook: Hook) -> Hook:
    """Counts all of a hook's time."""

    @wraps(hook)
    def timed(self: Session, *args: Any) -> None:
        with self._divided():
            hook(self, *args)

    return cast("Hook", timed)


class Session:
    """Takes the monitors of one Trainer through their snapshots.

    The first monitor in the Trainer's list is the driver: by its hooks the session acts for all,
    in the methods that are named after them.

    Attributes:
        driver: The monitor whose hooks drive the session.
        has_work: Whether there is anything to do between the start of a training batch and
            the next: where not, the hooks of a step return at once.
        run: What is open between the start of a run and its end.
    """

    def __init__(self) -> None:
        self.driver: Observer | None = None
        self.has_work = True
        self.run: WatchedRun | None = None
        self._monitors: list[Observer] = []
        self._step: StepContext | None = None
        self._collecting: list[RunState] = []
        self._has_tried_functions = False
        self._roll_call: RollCall | None = None
        # Of what is shared and can be done without: no monitor is charged, and it never rests.
        self.guard = Guard("reading batches", max_failures=sys.maxsize)
        self.engine_guards = EngineGuards()
        for guard in self.engine_guards:
            guard.share_causes(self.guard)

    # -- who takes part

    def join(self, monitor: Observer) -> None:
        """Takes a monitor in. Joining twice is harmless."""
        if monitor not in self._monitors:
            self._monitors.append(monitor)
            monitor.guard.share_causes(self.guard)
        self.driver = self._monitors[0]

    def announce(self, trainer: Any) -> None:
        """Tells the other ranks of all monitors of the Trainer, before any of them begins.

        Raises:
            SameNameError: Two of them would write the same tags; the message says what to write.
        """
        monitors = [one for one in trainer.callbacks if isinstance(one, Observer)]
        check_names(monitors)
        self._roll_call = announce(RunView(trainer), monitors)

    def leave(self, monitor: Observer) -> None:
        """Lets a monitor go and takes everything off the model."""
        self.close()
        self._has_tried_functions = False
        if monitor in self._monitors:
            self._monitors.remove(monitor)
        self.driver = self._monitors[0] if self._monitors else None

    def close(self) -> None:
        """Takes everything off the model and lets go of it. Harmless when done twice."""
        if self.run is not None:
            self.run.engine.close()
            self.run.pipeline.close()
        self.run = self._step = None
        self._collecting = []

    # -- the beginning and the end

    def on_train_start(self, trainer: Any) -> None:
        """Opens engine and writer for a run."""
        view = RunView(trainer)
        self.close()
        self.has_work = True
        company = company_of(view, self._monitors, self._roll_call)
        if company == "none":
            return
        self.run = open_run(
            view, self._monitors, self.guard, self.engine_guards, has_ranks=company == "all"
        )
        if view.stage == "fit":
            self.run.pipeline.react(view)  # what a checkpoint has left to be done

    @_timed
    def catch_up(self, trainer: Any) -> None:
        """Looks at what a burst that is not over has read so far."""
        if self.run is not None:
            self.run.pipeline.catch_up(RunView(trainer))

    def break_off(self, trainer: Any) -> None:
        """Looks at what is left when an exception ends the run."""
        if self.run is not None:
            self.run.pipeline.break_off(RunView(trainer))

    @_timed
    def on_train_end(self, trainer: Any) -> None:
        """Looks at what is left, and flushes what was written."""
        run, view = self.run, RunView(trainer)
        if run is not None:
            with self.guard.catch("looking at the end of the run"):
                for context in run.last_looks(view):
                    self._take(run, context, view)
            run.pipeline.finish(view)
        log_summary([self.guard, *self.engine_guards, *(m.guard for m in self._monitors)])

    # -- a training step

    def on_train_batch_start(self, trainer: Any, batch: Any) -> None:
        """Opens a capture over the user's step where a snapshot is due."""
        step, run = step_of(trainer), self.run
        if run is not None and run.pipeline.has_drawn:
            self._write_drawn(run)
        if run is None or (self._step is None and step < run.next_due):
            return  # most steps end here
        with self._divided():
            view = RunView(trainer)
            if self._step is not None and step != self._step.step:
                self._drop_step(run)
            if self._step is None:
                self._begin_step(run, view, step, batch)
            if self._step is not None:
                run.engine.start_batch(batch)
                self._step.was_read = self._step.is_live and run.engine.reads_live
                with self.guard.catch("reading statistics of the inputs"):
                    self._step.sums.add_inputs(run.engine.inputs, view.device)

    @_timed
    def _write_drawn(self, run: WatchedRun) -> None:
        run.pipeline.write_drawn()

    def _begin_step(self, run: WatchedRun, view: RunView, step: int, batch: Any) -> None:
        due = run.due_at(step)
        read = [s for state in due for s in state.due_at(step, run.facts)]
        run.look_ahead(step + 1)
        if not due:
            return
        self._try_given_functions(view, batch, "the first training batch")
        # A burst fails, or does not, as a whole.
        self._begin_snapshot([state for state in due if not state.kept])
        keep_references([state.monitor for state in due], batch, "the first training batch")
        if run.is_first:
            run.is_first = False
            read += [state.tracer for state in run.states if state.tracer]
        self.has_work = True
        whole = [state for state in due if state.is_whole(step, run.facts)]
        context = self._step = StepContext(view, run.facts, step, due, whole, read)
        context.is_live = run.engine.can_read_live
        run.engine.begin(read, live=context.is_live, in_burst=context.is_lean)
        leave_out_resting(due)
        with self.guard.catch("watching the weights"):
            context.watch_parameters(view)
        if not context.is_lean:
            run.engine.forget_names()
        if not all(state.is_lean(read) for state in whole):
            with self.guard.catch("watching the update"):
                context.updates = UpdateWatch(view.optimizers)

    @_timed
    def on_before_backward(self, trainer: Any) -> None:
        """Reads by an extra pass, before the update, where the user's pass must be let alone."""
        step, run = self._step, self.run
        if step is None or run is None:
            return
        if not run.read_by_extra_pass(step) and RunView(trainer).is_automatic:
            run.engine.pause()  # but a manual loop may run further forward passes

    @_timed
    def on_before_optimizer_step(self, trainer: Any, optimizer: Any) -> None:
        """Reads weights and gradients before an update."""
        if self._step is not None and self._step.parameters is not None:
            with self.guard.catch("reading gradients"):
                self._step.parameters.before_step(getattr(optimizer, "optimizer", optimizer))

    def note_loss(self, trainer: Any, outputs: Any) -> None:
        """Keeps the loss of one batch where a monitor asks for those of all steps."""
        if (run := self.run) is not None and run.losses is not None:
            run.losses.note(step_of(trainer), loss_of(outputs))

    @_timed
    def on_train_batch_end(self, trainer: Any, outputs: Any) -> None:
        """Takes the snapshot once the step's last micro-batch has passed."""
        step, run, view = self._step, self.run, RunView(trainer)
        if step is None or run is None:
            self.has_work = False
            return
        is_over = True
        try:
            self._count(step, run, view, outputs)
            is_over = view.is_last_micro_batch
            if is_over:
                run.read_beside(step)
                run.engine.end_capture()
                self._take(run, step, view)
        finally:
            if is_over:
                self._drop_step(run)
                self.has_work = False

    def _count(self, step: StepContext, run: WatchedRun, view: RunView, outputs: Any) -> None:
        """Adds one micro-batch: its samples and its loss."""
        why = "the compiler began after the backward pass of a manual loop"
        if not run.engine.miss_what_was_interrupted(why):
            run.read_by_extra_pass(step)  # a manual loop may have no backward we are told of
        run.engine.count_batch()
        with self.guard.catch("reading the loss"):
            loss = loss_of(outputs)
            if loss is not None:
                step.sums.add_loss(loss, view.accumulated_batches if view.is_automatic else 1)

    @_timed
    def on_train_epoch_end(self, trainer: Any) -> None:
        """Takes the snapshot of the epoch's last validation."""
        run, view = self.run, RunView(trainer)
        if run is None:
            return
        self._drop_step(run)  # a step that the user's hook skipped has no end
        run.next_due, self.has_work = -1.0, True  # and begins again, in the next epoch
        # Where an evaluation has passed by, the ranks tell each other of their budgets at least.
        if self._collecting or run.has_passed_by:
            due, self._collecting = self._collecting, []
            run.has_passed_by = False
            step = max(view.step - 1, 0)
            for state in due:
                state.last_evaluation = step
            read = subscriptions_of(due)
            context = StepContext(view, run.facts, step, due, due, read)
            # An early stop after this validation; Lightning has made the ranks agree on it.
            context.draws_in_any_case |= view.is_stopping
            self._take(run, context, view)

    def _drop_step(self, run: WatchedRun) -> None:
        self._step = None
        run.engine.end()

    # -- an evaluation

    @_timed
    def on_validation_start(self, trainer: Any) -> None:
        """Begins to collect where an evaluation is due."""
        view = RunView(trainer)
        if view.is_sanity_checking:
            return
        if view.stage != "fit":
            self.on_train_start(trainer)
        if (run := self.run) is None:
            return
        if self._step is not None:
            run.engine.end_capture()  # of a step of which more micro-batches follow
        self._collecting = run.due_in_evaluation(view)
        if self._collecting:
            self._begin_snapshot(self._collecting)
            run.engine.begin(subscriptions_of(self._collecting), live=False)
            leave_out_resting(self._collecting)

    @_timed
    def on_validation_batch_start(
        self, trainer: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Opens a capture over one batch; the sanity check's first one gives the references."""
        view = RunView(trainer)
        if view.is_sanity_checking or view.stage != "fit":
            source = "the first validation batch" if view.stage == "fit" else "the first batch"
            if view.stage == "fit":
                self._try_given_functions(view, batch, source)
            keep_references(self._monitors, batch, source)
        if self._collecting and dataloader_idx == 0 and self.run is not None:
            self.run.engine.start_batch(batch)
            self.run.engine.open_over_evaluation()

    @_timed
    def on_validation_batch_end(
        self, trainer: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Closes the capture over one batch, or reads the batch by an extra pass."""
        if self._collecting and dataloader_idx == 0 and self.run is not None:
            engine = self.run.engine
            why = "the compiler began in the midst of the evaluation"
            if not engine.miss_what_was_interrupted(why) and not engine.reads_live:
                engine.read_isolated(training=False)
            engine.end_capture()
            engine.count_batch()

    @_timed
    def on_validation_end(self, trainer: Any) -> None:
        """Takes the snapshot of a ``validate`` or ``test``; in ``fit`` the epoch's end does."""
        view, run, step = RunView(trainer), self.run, self._step
        if view.is_sanity_checking or run is None:
            return
        run.engine.end()
        if step is not None:  # of which more micro-batches follow
            run.engine.resume(step.read, live=step.is_live, in_burst=step.is_lean)
        if view.stage != "fit":
            others = [s for s in run.states if not s.collects and "forward" in s.monitor.needs]
            read = subscriptions_of(self._collecting)
            due, self._collecting = [*self._collecting, *others], []
            self._take(run, StepContext(view, run.facts, view.step, due, due, read), view)

    # -- what all of them need

    def _begin_snapshot(self, states: Sequence[RunState]) -> None:
        for guard in (*self.engine_guards, *(state.guard for state in states)):
            guard.begin_snapshot()

    def _try_given_functions(self, view: RunView, batch: Any, source: str) -> None:
        has_tried, self._has_tried_functions = self._has_tried_functions, True
        if not has_tried:
            try_given_functions(self._monitors, batch, source, view)

    def _take(self, run: WatchedRun, context: StepContext, view: RunView) -> None:
        """Takes what was read at a step through all that follows."""
        try:
            run.pipeline.take(context, view)
            if context is self._step:
                run.learn_batch_size(context.read)
        finally:
            for subscription in context.read:
                subscription.reset()  # of a validation it is megabytes

    @contextmanager
    def _divided(self) -> Iterator[None]:
        """Counts the time of a hook; what serves several monitors is divided among them."""

        def asking() -> list[Overhead]:
            states = self._step.due if self._step is not None else self._collecting
            return [state.overhead for state in states]

        def everyone() -> list[Overhead]:
            return [state.overhead for state in self.run.states] if self.run is not None else []

        # What was read inside the user's own pass, before this hook.
        sharing, seconds = asking(), self._take_hook_seconds()
        for overhead in sharing:
            overhead.spend(seconds / len(sharing))
        with divided(everyone, asking):
            yield
        self._take_hook_seconds()  # of functions that are called in here: they are counted

    def _take_hook_seconds(self) -> float:
        return self.run.engine.take_hook_seconds() if self.run is not None else 0.0
