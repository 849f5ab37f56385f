"""One session a Trainer: decides for all its monitors what is due, and has it read.

Due? -> one capture over the user's pass (or an extra pass) -> the straight line.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, cast

import torch
from torch import Tensor

from vis_callbacks._lightning import RunView, step_of
from vis_callbacks.callbacks.company import Company
from vis_callbacks.callbacks.given_functions import try_given_functions
from vis_callbacks.callbacks.overhead import Overhead, divided
from vis_callbacks.callbacks.seat import (
    Seat,
    Step,
    find_parts,
    keep_references,
    settle_references,
)
from vis_callbacks.callbacks.steps import UpdateWatch, loss_of
from vis_callbacks.callbacks.straight_line import StraightLine
from vis_callbacks.engine.engine import Engine, EngineGuards
from vis_callbacks.engine.isolation import call_resolved
from vis_callbacks.engine.probe import Activation, Batch, Probe
from vis_callbacks.engine.ranks import RanksError, RefusedCollectives, gather
from vis_callbacks.engine.schedule import RunFacts
from vis_callbacks.engine.subscription import Subscription
from vis_callbacks.guard import Attempt, Guard, say, summarise
from vis_callbacks.writers.writer import Writer, alert_folder

if TYPE_CHECKING:
    from vis_callbacks.callbacks.monitor import Monitor


P = ParamSpec("P")

# What is shared by the monitors of one Trainer hangs on the Trainer, weakly.
_SESSIONS: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()


def session_of(trainer: Any) -> Session:
    """Returns the session that all monitors of a Trainer share."""
    if trainer not in _SESSIONS:
        _SESSIONS[trainer] = Session()
    return _SESSIONS[trainer]


def _counted(
    hook: Callable[Concatenate[Session, P], None],
) -> Callable[Concatenate[Session, P], None]:
    """Counts all of a hook's time."""

    @wraps(hook)
    def counted(self: Session, *args: P.args, **kwargs: P.kwargs) -> None:
        with self._divided():
            hook(self, *args, **kwargs)

    return cast("Callable[Concatenate[Session, P], None]", counted)


class Session:
    """Takes the monitors of one Trainer through their snapshots.

    The first monitor in the Trainer's list is the lead: its hooks drive the session for all.

    Attributes:
        has_work: Whether there is anything to do between the start of a training batch and
            the next: where not, the hooks of a step return at once.
    """

    def __init__(self) -> None:
        self._monitors: list[Monitor] = []
        self._seats: list[Seat] = []
        self._engine: Engine | None = None
        self._writer: Writer | None = None
        self._line: StraightLine | None = None
        self._facts = RunFacts()
        self._step: Step | None = None
        self._is_first = True
        self._has_looked_ahead, self._next_due, self.has_work = False, 0.0, True
        self._collecting: list[Seat] = []
        self._company = Company()
        self._has_tried_functions = False
        self._has_ranks = False
        # Of what is shared and can be done without: it charges no monitor, and never rests.
        self.guard = Guard("reading batches", max_failures=sys.maxsize)
        self.engine_guards = EngineGuards()
        for guard in self.engine_guards:
            guard.share_causes(self.guard)

    # -- who takes part

    @property
    def lead(self) -> Monitor | None:
        """The monitor whose hooks drive the session."""
        return self._monitors[0] if self._monitors else None

    def join(self, monitor: Monitor) -> None:
        """Takes a monitor in. Joining twice is harmless."""
        if monitor not in self._monitors:
            self._monitors.append(monitor)
            monitor.guard.share_causes(self.guard)

    def announce(self, trainer: Any, monitors: Sequence[Monitor]) -> None:
        """Tells the other ranks of all monitors of the Trainer, before any of them begins."""
        self._company.announce(RunView(trainer), monitors)

    def leave(self, monitor: Monitor) -> None:
        """Lets a monitor go and takes everything off the model."""
        self.close()
        self._has_tried_functions = False
        if monitor in self._monitors:
            self._monitors.remove(monitor)

    def close(self) -> None:
        """Takes everything off the model and lets go of it. Harmless when done twice."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None
        self._writer = None
        self._line = None
        self._step = None
        self._seats = []
        self._collecting = []

    # -- the beginning and the end

    def start(self, trainer: Any) -> None:
        """Opens engine and writer for a run."""
        run = RunView(trainer)
        self.close()
        self._is_first = True
        self._ask_anew()
        company = self._company.found(run, self._monitors)
        if company == "none":
            return
        self._has_ranks = company == "all"
        with Attempt() as attempt:
            self._open(run)
        if self._has_ranks:
            self._keep_agreed_seats()
        if attempt.error is not None:
            raise attempt.error
        if self._engine is not None and self._writer is not None:
            self._line = StraightLine(
                self._engine, self._writer, self._seats, has_ranks=self._has_ranks
            )
            if run.stage == "fit":
                self._line.react(run)  # what a checkpoint has left to be done

    def _open(self, run: RunView) -> None:
        is_one_of_many = run.world_size > 1 and not self._has_ranks
        self._engine = Engine(
            run.model,
            forward_context=run.forward_context if not is_one_of_many else _alone_in(run),
            wrapped_root=run.is_wrapped,
            guards=self.engine_guards,
        )
        for guard in self.engine_guards:
            guard.begin_run()
        loggers = () if run.is_silent else run.loggers
        self._writer = Writer(
            loggers=loggers,
            alert_folder=None if run.is_silent else alert_folder(loggers, run.default_root_dir),
            is_global_zero=run.is_global_zero,
            save_images=any(m.options.save_images for m in self._monitors),
            warn=_keep_silent if run.is_silent else say,
        )
        self._facts = RunFacts(
            planned_steps=run.planned_steps if run.stage == "fit" else None,
            steps_per_epoch=run.steps_per_epoch if run.stage == "fit" else None,
        )
        settle_references(self._monitors, run.device)
        for monitor in self._monitors:
            with monitor.guard.contain("starting"):
                if run.stage == "fit":
                    monitor.begin_run(run.step)
                self._seats.append(self._seat(monitor, self._engine))

    def _keep_agreed_seats(self) -> None:
        """Lets go of monitors that could not begin on some rank: all ranks must do alike."""
        seated = {id(seat.monitor) for seat in self._seats}
        flags = torch.tensor([id(monitor) in seated for monitor in self._monitors])
        parts = [part["seated"] for part in gather({"seated": flags})]
        everywhere = torch.stack(parts).all(0).tolist()
        agreed = {
            id(m) for m, is_agreed in zip(self._monitors, everywhere, strict=True) if is_agreed
        }
        for seat in self._seats:
            if id(seat.monitor) not in agreed:
                seat.guard.note("starting", RanksError("it failed on another rank"))
        self._seats = [seat for seat in self._seats if id(seat.monitor) in agreed]

    @_counted
    def catch_up(self, trainer: Any) -> None:
        """Looks at what a burst that is not over has read so far."""
        if self._line is not None:
            self._line.catch_up(RunView(trainer))

    def break_off(self, trainer: Any) -> None:
        """Looks at what is left when an exception ends the run."""
        if self._line is not None:
            self._line.break_off(RunView(trainer))

    @_counted
    def finish(self, trainer: Any) -> None:
        """Looks at what is left, and flushes what was written."""
        if self._line is not None:
            self._line.finish(RunView(trainer))
        summarise([self.guard, *self.engine_guards, *(monitor.guard for monitor in self._monitors)])

    def _seat(self, monitor: Monitor, engine: Engine) -> Seat:
        options = monitor.options

        def batch_of(batch: Any) -> Batch:
            return find_parts(batch, options, self.guard)

        twin = self._twin_of(monitor)
        seat = Seat(
            number=self._monitors.index(monitor),
            monitor=monitor,
            subscriptions=(),
            batch_of=twin.batch_of if twin else batch_of,
            forward=options.forward_fn or call_resolved,
            overhead=Overhead(limit=options.max_overhead),
        )
        subscribe = partial(
            engine.subscribe,
            guard=monitor.guard,
            batch_of=seat.batch_of,
            forward=seat.forward,
            spend=seat.overhead.spend,
        )
        seat.subscriptions = tuple(map(subscribe, monitor.probes()))
        if not seat.subscriptions:
            seat.tracer = subscribe(_TRACE)
        return seat

    def _twin_of(self, monitor: Monitor) -> Seat | None:
        """Returns a seat that reads batches alike: one extra pass then serves both."""
        mine = monitor.options
        for seat in self._seats:
            theirs = seat.monitor.options
            if (mine.input_fn, mine.label_fn, mine.forward_fn) == (
                theirs.input_fn,
                theirs.label_fn,
                theirs.forward_fn,
            ):
                return seat
        return None

    # -- what it costs

    @contextmanager
    def _divided(self) -> Iterator[None]:
        """Counts the time of a hook; what serves several monitors is divided among them."""

        def asking() -> list[Overhead]:
            seats = self._step.due if self._step is not None else self._collecting
            return [seat.overhead for seat in seats]

        # What was read inside the user's own pass, before this hook.
        sharing, seconds = asking(), self._take_hook_seconds()
        for overhead in sharing:
            overhead.spend(seconds / len(sharing))
        with divided(lambda: [seat.overhead for seat in self._seats], asking):
            yield
        self._take_hook_seconds()  # of functions that are called in here: they are counted

    def _take_hook_seconds(self) -> float:
        return self._engine.take_hook_seconds() if self._engine is not None else 0.0

    # -- a training step

    def train_batch_start(self, trainer: Any, batch: Any) -> None:
        """Opens a capture over the user's step where a snapshot is due."""
        step = step_of(trainer)
        if self._step is None and step < self._next_due:
            return  # most steps end here
        with self._divided():
            self._start_batch(trainer, step, batch)

    def _start_batch(self, trainer: Any, step: int, batch: Any) -> None:
        if self._step is not None and step != self._step.step:
            self._drop_step()
        if self._engine is None:
            return
        if self._step is None and step >= self._next_due:
            self._begin_step(RunView(trainer), step, batch)
        if self._step is not None:
            self._engine.start_batch(batch)
            self._step.was_read = self._step.live and self._engine.reads_live
            with self.guard.contain("reading statistics of the inputs"):
                self._step.sums.add_inputs(self._engine.inputs, RunView(trainer).device)

    @_counted
    def before_backward(self, trainer: Any) -> None:
        """Reads by an extra pass, before the update, where the user's pass must be let alone."""
        step, engine = self._step, self._engine
        if step is None or engine is None:
            return
        if not self._read_by_extra_pass(step, engine) and RunView(trainer).is_automatic:
            engine.pause()  # but a manual loop may run further forward passes

    def _read_by_extra_pass(self, step: Step, engine: Engine) -> bool:
        """Reads the batch by an extra pass where the user's own could not be read."""
        if step.live and engine.gave_way():
            step.live = step.was_read = False
        if step.was_read:
            return False
        step.was_read = True
        engine.read_isolated(training=True)
        return True

    @_counted
    def train_batch_end(self, trainer: Any, outputs: Any) -> None:
        """Takes the snapshot once the step's last micro-batch has passed."""
        if self._engine is None:
            return
        if self._step is None:
            self.has_work = False
            return
        step, run = self._step, RunView(trainer)
        try:
            why = "the compiler began after the backward pass of a manual loop"
            if not self._engine.miss_what_was_interrupted(why):
                # A manual loop may have no backward that we are told of.
                self._read_by_extra_pass(step, self._engine)
            self._count(step, run, outputs)
        except BaseException:
            self._drop_step()
            raise
        if not run.is_last_micro_batch:
            return
        try:
            self._engine.end_capture()
            self._take(step.due, step.read, run, step=step.step, training=step)
        finally:
            self._drop_step()
            self.has_work = False

    @_counted
    def train_epoch_end(self, trainer: Any) -> None:
        """Takes the snapshot of the epoch's last validation."""
        self._drop_step()  # a step that the user's hook skipped has no end
        self._ask_anew()  # and begins again, under the same number, in the next epoch
        if self._collecting:
            run = RunView(trainer)
            due, self._collecting = self._collecting, []
            step = max(run.step - 1, 0)
            for seat in due:
                seat.last_evaluation = step
            self._take(due, _subscriptions(due), run, step=step)

    def _begin_step(self, run: RunView, step: int, batch: Any) -> None:
        due = self._due_at(step)
        subscriptions = [s for seat in due for s in seat.due_at(step)]
        self._look_ahead(step + 1)
        if not due or self._engine is None:
            return
        self._try_given_functions(run, batch, "the first training batch")
        self._begin_snapshot()
        for seat in due:
            if not seat.kept:  # a burst fails, or does not, as a whole
                seat.guard.begin_snapshot()
        keep_references([seat.monitor for seat in due], batch, "the first training batch")
        is_first, self._is_first = self._is_first, False
        if is_first:
            subscriptions += [seat.tracer for seat in self._seats if seat.tracer]
        self.has_work = True
        self._step = opened = Step(
            step=step,
            due=due,
            whole=[seat for seat in due if seat.is_whole(step, self._facts)],
            read=subscriptions,
            live=self._engine.can_read_live,
            was_read=self._engine.can_read_live,
        )
        self._engine.begin(subscriptions, live=opened.live, in_burst=not opened.whole)
        self._leave_out_resting(due)
        if opened.whole:
            self._engine.forget_names()
            with self.guard.contain("watching the update"):
                opened.updates = UpdateWatch(run.optimizers)

    def _begin_snapshot(self) -> None:
        for guard in self.engine_guards:
            guard.begin_snapshot()

    def _try_given_functions(self, run: RunView, batch: Any, source: str) -> None:
        has_tried, self._has_tried_functions = self._has_tried_functions, True
        if not has_tried:
            try_given_functions(self._monitors, batch, source, run)

    def _due_at(self, step: int) -> list[Seat]:
        has_failed = any(not seat.due_steps and not seat.collects for seat in self._seats)
        if not self._has_looked_ahead or self._next_due < step or has_failed:
            self._look_ahead(step)
        # With several ranks a resting monitor still takes part, as failed: it may not rest on
        # the others, and all must come to the same collectives.
        return [
            seat
            for seat in self._seats
            if step in seat.due_steps and (self._has_ranks or not seat.guard.is_resting)
        ]

    def _look_ahead(self, step: int) -> None:
        """Works out when monitors are due, from this step on."""
        for seat in self._seats:
            seat.look_ahead(step, self._facts)
        self._has_looked_ahead = True
        self._next_due = min((seat.ask_at for seat in self._seats), default=math.inf)

    def _ask_anew(self) -> None:
        """Has all monitors asked at the next step when they are due."""
        self._has_looked_ahead, self._next_due, self.has_work = False, 0.0, True

    def _leave_out_resting(self, due: Sequence[Seat]) -> None:
        for seat in due:
            for subscription in seat.subscriptions if seat.guard.is_resting else ():
                subscription.failure = "the monitor rests"

    def _count(self, step: Step, run: RunView, outputs: Any) -> None:
        """Adds one micro-batch: its samples and its loss."""
        if self._engine is None:
            return
        self._engine.count_batch()
        with self.guard.contain("reading the loss"):
            loss = loss_of(outputs)
            if loss is not None:
                step.sums.add_loss(loss, run.accumulated_batches if run.is_automatic else 1)

    def _drop_step(self) -> None:
        self._step = None
        if self._engine is not None:
            self._engine.end()

    # -- an evaluation

    @_counted
    def evaluation_start(self, trainer: Any) -> None:
        """Begins to collect where an evaluation is due."""
        run = RunView(trainer)
        if run.is_sanity_checking:
            return
        if run.stage != "fit":
            self.start(trainer)
        if self._step is not None and self._engine is not None:
            self._engine.end_capture()  # of a step of which more micro-batches follow
        self._collecting = [
            seat
            for seat in self._seats
            if seat.collects
            and (self._has_ranks or not seat.guard.is_resting)
            and self._evaluation_due(seat, run)
        ]
        if self._engine is not None and self._collecting:
            self._begin_snapshot()
            for seat in self._collecting:
                seat.guard.begin_snapshot()
            self._engine.begin(_subscriptions(self._collecting), live=False)
            self._leave_out_resting(self._collecting)

    @_counted
    def evaluation_batch_start(self, trainer: Any, batch: Any, dataloader_idx: int) -> None:
        """Opens a capture over one batch; the sanity check's first one gives the references."""
        run = RunView(trainer)
        if run.is_sanity_checking or run.stage != "fit":
            source = "the first validation batch" if run.stage == "fit" else "the first batch"
            if run.stage == "fit":
                self._try_given_functions(run, batch, source)
            keep_references(self._monitors, batch, source)
        if self._collecting and dataloader_idx == 0 and self._engine is not None:
            self._engine.start_batch(batch)
            self._engine.open_over_evaluation()

    @_counted
    def evaluation_batch_end(self, dataloader_idx: int) -> None:
        """Closes the capture over one batch, or reads the batch by an extra pass."""
        if self._collecting and dataloader_idx == 0 and self._engine is not None:
            why = "the compiler began in the midst of the evaluation"
            is_lost = self._engine.miss_what_was_interrupted(why)
            if not is_lost and not self._engine.reads_live:
                self._engine.read_isolated(training=False)
            self._engine.end_capture()
            self._engine.count_batch()

    @_counted
    def evaluation_end(self, trainer: Any) -> None:
        """Takes the snapshot of a ``validate`` or ``test``; in ``fit`` the epoch's end does."""
        run = RunView(trainer)
        if run.is_sanity_checking or self._engine is None:
            return
        self._engine.end()
        if self._step is not None:  # of which more micro-batches follow
            self._engine.resume(
                self._step.read, live=self._step.live, in_burst=not self._step.whole
            )
        if run.stage != "fit":
            others = [s for s in self._seats if not s.collects and "forward" in s.monitor.needs]
            read = _subscriptions(self._collecting)
            due, self._collecting = [*self._collecting, *others], []
            self._take(due, read, run, step=run.step)

    # -- what is due

    def _evaluation_due(self, seat: Seat, run: RunView) -> bool:
        """Whether this validation's epoch is due: one of the steps since the last one is."""
        if run.stage != "fit" or seat.last_evaluation < 0:  # step 0, always due, lies before it
            return True
        next_due: int | None = None
        with seat.guard.contain("the schedule"):
            next_due = seat.schedule.next_due(seat.last_evaluation, self._facts)
        return next_due is not None and next_due <= self._epoch_end(run)

    def _epoch_end(self, run: RunView) -> int:
        per_epoch = self._facts.steps_per_epoch
        return run.step if per_epoch is None else (run.epoch + 1) * per_epoch - 1

    def _learn_batch_size(self, read: Sequence[Subscription]) -> None:
        """Learns how many samples a snapshot has, from merged counts: the same on all ranks."""
        size = max((s.num_samples for s in read), default=0)
        if self._facts.batch_size is None and size:
            self._facts = replace(self._facts, batch_size=size)
            self._ask_anew()

    def _take(
        self,
        due: Sequence[Seat],
        read: Sequence[Subscription],
        run: RunView,
        *,
        step: int,
        training: Step | None = None,
    ) -> None:
        """Takes what was read for these monitors through all that follows."""
        if self._line is None:
            return
        thinning = [seat.overhead.thinning for seat in self._seats]
        try:
            self._line.take(due, read, run, self._facts, step=step, training=training)
            if thinning != [seat.overhead.thinning for seat in self._seats]:
                self._ask_anew()
            if training is not None:
                self._learn_batch_size(read)
        finally:
            for subscription in read:
                subscription.reset()  # of a validation it is megabytes


def _subscriptions(seats: Sequence[Seat]) -> list[Subscription]:
    return [subscription for seat in seats for subscription in seat.subscriptions]


def _alone_in(run: RunView) -> Callable[[], AbstractContextManager[Any]]:
    """Makes the context of forward passes that the other ranks do not make."""

    @contextmanager
    def context() -> Iterator[None]:
        with run.forward_context(), RefusedCollectives():  # type: ignore[no-untyped-call]
            yield

    return context


def _keep_silent(message: str) -> None:
    """Says nothing: a run that asks for no files needs no advice on them."""


def _read_nothing(activation: Activation, batch: Batch) -> dict[str, Tensor]:
    """Reduces to nothing: only the layer is noted."""
    return {}


# Matches no name: the pass meets the layers in their order, and nothing is read of them.
_TRACE = Probe(name="trace", layers=(), reduce=_read_nothing, merge={})
