"""One session a Trainer: takes all its monitors through a snapshot, in a straight line.

Due? -> one capture (or an extra pass) -> merged over ranks -> each monitor's ``observe`` ->
one transfer to the host -> rules and ledger -> drawing and writing -> reactions.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vis_callbacks._lightning import RunView
from vis_callbacks.alerts.alert import Alert, Outcome, Rule
from vis_callbacks.alerts.ledger import judge
from vis_callbacks.callbacks.overhead import Overhead
from vis_callbacks.callbacks.reactions import act, begun, tell
from vis_callbacks.callbacks.steps import (
    UpdateWatch,
    groups_of,
    input_stats,
    input_sums,
    loss_of,
)
from vis_callbacks.engine.engine import Engine, Subscription
from vis_callbacks.engine.isolation import call_resolved
from vis_callbacks.engine.probe import Activation, Batch, Probe
from vis_callbacks.engine.ranks import RanksError, gather
from vis_callbacks.engine.references import require_tensor, take_references
from vis_callbacks.engine.schedule import RunFacts, Schedule
from vis_callbacks.engine.snapshot import Snapshot, Weights
from vis_callbacks.guard import Attempt, Guard, say
from vis_callbacks.report import Report, Scalar, transfer
from vis_callbacks.writers.writer import Writer, alert_folder

if TYPE_CHECKING:
    from vis_callbacks.callbacks.monitor import Monitor


# What is shared by the monitors of one Trainer hangs on the Trainer, weakly.
_SESSIONS: weakref.WeakKeyDictionary[Any, Session] = weakref.WeakKeyDictionary()


def session_of(trainer: Any) -> Session:
    """Returns the session that all monitors of a Trainer share."""
    if trainer not in _SESSIONS:
        _SESSIONS[trainer] = Session()
    return _SESSIONS[trainer]


@dataclass(eq=False)
class Seat:
    """What the session keeps for one monitor during a run."""

    monitor: Monitor
    subscriptions: tuple[Subscription, ...]  # of its probes
    batch_of: Callable[[Any], Batch]
    forward: Callable[[nn.Module, Any], Any]
    overhead: Overhead
    tracer: Subscription | None = None  # where it has no probe: for the layers alone
    next_picture: int = 0
    last_evaluation: int = -1

    @property
    def guard(self) -> Guard:
        """The guard that contains this monitor's failures."""
        return self.monitor.guard

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


class Session:
    """Takes the monitors of one Trainer through their snapshots.

    The first monitor in the Trainer's list is the lead: its hooks drive the session for all.
    """

    def __init__(self) -> None:
        self._monitors: list[Monitor] = []
        self._seats: list[Seat] = []
        self._engine: Engine | None = None
        self._writer: Writer | None = None
        self._facts = RunFacts()
        self._step: Step | None = None
        self._last_step = -1
        self._is_first = True
        self._next_due = 0.0
        self._collecting: list[Seat] = []
        self._has_ranks = False

    # -- who takes part

    @property
    def lead(self) -> Monitor | None:
        """The monitor whose hooks drive the session."""
        return self._monitors[0] if self._monitors else None

    def join(self, monitor: Monitor) -> None:
        """Takes a monitor in. Joining twice is harmless."""
        if monitor not in self._monitors:
            self._monitors.append(monitor)

    def leave(self, monitor: Monitor) -> None:
        """Lets a monitor go and takes everything off the model."""
        self.close()
        if monitor in self._monitors:
            self._monitors.remove(monitor)

    def close(self) -> None:
        """Takes everything off the model and lets go of it. Harmless when done twice."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None
        self._writer = None
        self._step = None
        self._seats = []
        self._collecting = []

    # -- the beginning and the end

    def start(self, trainer: Any) -> None:
        """Opens engine and writer for a run."""
        run = RunView(trainer)
        self.close()
        self._last_step, self._is_first, self._next_due = -1, True, 0.0
        self._has_ranks = run.world_size > 1
        with Attempt() as attempt:
            self._open(run)
        self._keep_agreed_seats()
        if attempt.error is not None:
            raise attempt.error

    def _open(self, run: RunView) -> None:
        self._engine = Engine(
            run.model,
            forward_context=run.forward_context,
            devices=(run.device,) if run.device.type != "cpu" else (),
            wrapped_root=run.is_wrapped,
        )
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
        for monitor in self._monitors:
            with monitor.guard.contain("starting"):
                if run.stage == "fit":
                    monitor.begin_run(run.step)
                self._seats.append(self._seat(monitor, self._engine))

    def _keep_agreed_seats(self) -> None:
        """Lets go of monitors that could not begin on some rank: all ranks must do alike."""
        seated = {id(seat.monitor) for seat in self._seats}
        flags = torch.tensor([id(monitor) in seated for monitor in self._monitors])
        parts = [part["seated"] for part in gather(None, {"seated": flags}).values]
        everywhere = torch.stack(parts).all(0).tolist()
        agreed = {
            id(m) for m, is_agreed in zip(self._monitors, everywhere, strict=True) if is_agreed
        }
        for seat in self._seats:
            if id(seat.monitor) not in agreed:
                seat.guard.note("starting", RanksError("it failed on another rank"))
        self._seats = [seat for seat in self._seats if id(seat.monitor) in agreed]

    def finish(self) -> None:
        """Flushes what was written."""
        if self._writer is not None:
            self._writer.flush()

    def _seat(self, monitor: Monitor, engine: Engine) -> Seat:
        options = monitor.options
        of_inputs, of_labels = options.of_inputs, options.of_labels

        def batch_of(batch: Any) -> Batch:
            inputs = require_tensor(of_inputs(batch), batch)
            return Batch(inputs=inputs, labels=of_labels(batch), num_samples=len(inputs))

        twin = self._twin_of(monitor)
        seat = Seat(
            monitor=monitor,
            subscriptions=(),
            batch_of=twin.batch_of if twin else batch_of,
            forward=options.forward_fn or call_resolved,
            overhead=Overhead(limit=options.max_overhead),
        )
        subscribe = partial(
            engine.subscribe, guard=monitor.guard, batch_of=seat.batch_of, forward=seat.forward
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

    # -- a training step

    def train_batch_start(self, trainer: Any, batch: Any) -> None:
        """Opens a capture over the user's step where a snapshot is due."""
        if self._engine is None:
            return
        run = RunView(trainer)
        if run.step != self._last_step:
            self._last_step = run.step
            self._begin_step(run, batch)
        if self._step is not None:
            self._step.was_read = self._step.live
            self._engine.start_batch(batch)

    def before_backward(self, loss: Tensor) -> None:
        """Reads by an extra pass, before the update, where the user's pass must be let alone."""
        if self._step is not None and not self._step.was_read and self._engine is not None:
            self._step.was_read = True
            self._engine.read_isolated(training=True)

    def train_batch_end(self, trainer: Any, outputs: Any) -> None:
        """Takes the snapshot once the step's last micro-batch has passed."""
        if self._engine is None:
            return
        if self._step is None:
            self._engine.plain_step_passed()
            return
        step, run = self._step, RunView(trainer)
        try:
            if not step.was_read:  # a manual loop may have no backward that we are told of
                self._engine.read_isolated(training=True)
            self._count(step, run, outputs)
        except BaseException:
            self._drop_step()
            raise
        if not run.is_last_micro_batch:
            return
        try:
            self._engine.end_capture()
            self._take(step.due, run, step=step.step, training=step)
        finally:
            self._drop_step()
            if self._engine is not None and not step.live:
                self._engine.plain_step_passed()

    def train_epoch_end(self, trainer: Any) -> None:
        """Takes the snapshot of the epoch's last validation."""
        self._drop_step()  # a step that the user's hook skipped has no end
        # and begins again, under the same number, in the next epoch
        self._last_step, self._next_due = -1, 0.0
        if self._collecting:
            run = RunView(trainer)
            due, self._collecting = self._collecting, []
            step = max(run.step - 1, 0)
            for seat in due:
                seat.last_evaluation = step
            self._take(due, run, step=step)

    def _begin_step(self, run: RunView, batch: Any) -> None:
        self._drop_step()
        if run.step < self._next_due:
            return
        due = [seat for seat in self._seats if self._is_due(seat, run.step)]
        self._next_due = min((self._due_after(s, run.step) for s in self._seats), default=math.inf)
        if not due or self._engine is None:
            return
        for seat in due:
            seat.guard.begin_snapshot()
            _keep_references(seat.monitor, batch, "the first training batch")
        is_first, self._is_first = self._is_first, False
        self._step = step = Step(
            step=run.step, due=due, live=not is_first and self._engine.can_read_live
        )
        subscriptions = [
            s
            for seat in due
            for s in seat.subscriptions
            if s.probe.occasion == "train_step" and self._probe_due(seat, s, run.step)
        ]
        if is_first:
            subscriptions += [seat.tracer for seat in self._seats if seat.tracer]
        self._engine.begin(subscriptions, live=step.live)
        self._leave_out_resting(due)
        if any(self._schedule(seat).ends_burst(run.step, self._facts) for seat in due):
            step.updates = UpdateWatch(run.optimizers)

    def _leave_out_resting(self, due: Sequence[Seat]) -> None:
        for seat in due:
            for subscription in seat.subscriptions if seat.guard.is_resting else ():
                subscription.failure = "the monitor rests"

    def _count(self, step: Step, run: RunView, outputs: Any) -> None:
        """Adds one micro-batch: its samples, its loss, what its inputs are like."""
        if self._engine is None:
            return
        batch = self._engine.count_batch()
        with self._seats[0].guard.contain("reading loss and inputs"):
            loss = loss_of(outputs, run.accumulated_batches if run.is_automatic else 1)
            if loss is not None:
                step.loss = loss if step.loss is None else step.loss + loss
                step.num_batches += 1
            if batch is not None and batch.inputs is not None:
                sums = input_sums(batch.inputs)
                known = step.sums or {}
                step.sums = {name: value + known.get(name, 0) for name, value in sums.items()}

    def _drop_step(self) -> None:
        self._step = None
        if self._engine is not None:
            self._engine.end()

    # -- an evaluation

    def evaluation_start(self, trainer: Any) -> None:
        """Begins to collect where an evaluation is due."""
        run = RunView(trainer)
        if run.is_sanity_checking:
            return
        if run.stage != "fit":
            self.start(trainer)
        self._collecting = [
            seat
            for seat in self._seats
            if seat.collects
            and (self._has_ranks or not seat.guard.is_resting)
            and self._evaluation_due(seat, run)
        ]
        if self._engine is not None and self._collecting:
            for seat in self._collecting:
                seat.guard.begin_snapshot()
            due = [s for seat in self._collecting for s in seat.subscriptions]
            self._engine.begin(due, live=False)
            self._leave_out_resting(self._collecting)

    def evaluation_batch_start(self, trainer: Any, batch: Any, dataloader_idx: int) -> None:
        """Opens a capture over one batch; the sanity check's first one gives the references."""
        run = RunView(trainer)
        if run.is_sanity_checking or run.stage != "fit":
            source = "the first validation batch" if run.stage == "fit" else "the first batch"
            for monitor in self._monitors:
                _keep_references(monitor, batch, source)
        if self._collecting and dataloader_idx == 0 and self._engine is not None:
            self._engine.start_batch(batch)
            self._engine.open_over_evaluation()

    def evaluation_batch_end(self, dataloader_idx: int) -> None:
        """Closes the capture over one batch, or reads the batch by an extra pass."""
        if self._collecting and dataloader_idx == 0 and self._engine is not None:
            if not self._engine.reads_live:
                self._engine.read_isolated(training=False)
            self._engine.end_capture()
            self._engine.count_batch()

    def evaluation_end(self, trainer: Any) -> None:
        """Takes the snapshot of a ``validate`` or ``test``; in ``fit`` the epoch's end does."""
        run = RunView(trainer)
        if run.is_sanity_checking or self._engine is None:
            return
        self._engine.end()
        if run.stage != "fit":
            others = [s for s in self._seats if not s.collects and "forward" in s.monitor.needs]
            due, self._collecting = [*self._collecting, *others], []
            self._take(due, run, step=run.step)

    # -- what is due

    def _schedule(self, seat: Seat) -> Schedule:
        return seat.monitor.schedule.thinned(seat.overhead.thinning)

    def _is_due(self, seat: Seat, step: int) -> bool:
        # With several ranks a resting monitor still takes part, as failed: it may not rest on
        # the others, and all must come to the same collectives.
        if seat.collects or (seat.guard.is_resting and not self._has_ranks):
            return False
        is_due = [False]  # unless the schedule fails
        with seat.guard.contain("the schedule"):
            if seat.subscriptions:
                is_due = [self._probe_due(seat, s, step) for s in seat.subscriptions]
            else:
                is_due = [self._schedule(seat).due(step, self._facts)]
        return any(is_due)

    def _due_after(self, seat: Seat, step: int) -> float:
        """Returns a step before which the monitor need not be asked again."""
        following: list[int | None] = [step + 1]  # if the schedule fails
        with seat.guard.contain("the schedule"):
            following = [
                self._probe_schedule(seat, s).next_due(step, self._facts)
                for s in seat.subscriptions
            ] or [self._schedule(seat).next_due(step, self._facts)]
        return min((s for s in following if s is not None), default=math.inf)

    def _probe_due(self, seat: Seat, subscription: Subscription, step: int) -> bool:
        return self._probe_schedule(seat, subscription).due(step, self._facts)

    def _probe_schedule(self, seat: Seat, subscription: Subscription) -> Schedule:
        schedule = subscription.probe.schedule
        return schedule.thinned(seat.overhead.thinning) if schedule else self._schedule(seat)

    def _evaluation_due(self, seat: Seat, run: RunView) -> bool:
        """Whether this validation's epoch is due: one of the steps since the last one is."""
        if run.stage != "fit" or seat.last_evaluation < 0:  # step 0, always due, lies before it
            return True
        next_due: int | None = None
        with seat.guard.contain("the schedule"):
            next_due = self._schedule(seat).next_due(seat.last_evaluation, self._facts)
        return next_due is not None and next_due <= self._epoch_end(run)

    def _epoch_end(self, run: RunView) -> int:
        per_epoch = self._facts.steps_per_epoch
        return run.step if per_epoch is None else (run.epoch + 1) * per_epoch - 1

    def _learn_batch_size(self, engine: Engine) -> None:
        """Learns how many samples a snapshot has, from merged counts: the same on all ranks."""
        size = max((s.num_samples for s in engine.due), default=0)
        if self._facts.batch_size is None and size:
            self._facts = replace(self._facts, batch_size=size)

    # -- the straight line

    def _take(
        self, due: Sequence[Seat], run: RunView, *, step: int, training: Step | None = None
    ) -> None:
        """Merges what was read over the ranks and takes it through all that follows."""
        engine, writer = self._engine, self._writer
        if engine is None or writer is None:
            return
        engine.check_names()
        percents = {
            f"overhead/{i}": torch.tensor(
                [seat.overhead.percent, seat.overhead.run_seconds, 1.0], dtype=torch.float64
            )
            for i, seat in enumerate(self._seats)
            if seat.overhead.limit is not None
        }
        shared = engine.collect({**(training.shared() if training else {}), **percents})
        if training is not None:
            self._learn_batch_size(engine)
        looks = _Look(run=run, step=step, engine=engine, training=training, shared=shared)
        reports: list[tuple[Seat, Report]] = []
        for seat in due:
            report = self._observe(seat, looks)
            if report is not None:
                reports.append((seat, report))
        fired = {
            seat: begun(self._conclude(seat, report, looks, writer))
            for seat, report in _transferred(reports)
        }
        self._write_active(looks, writer, is_written=any(fired.values()))
        for seat, alerts in fired.items():
            tell(alerts, seat.monitor.options.on_alert, run, seat.guard)
        act([(s.monitor.options.on_alert, fired.get(s, ())) for s in self._seats], run)

    def _write_active(self, look: _Look, writer: Writer, *, is_written: bool) -> None:
        """Writes how many alerts are firing: of a healthy run, that there are none."""
        if not is_written:
            active = sum(len(seat.monitor.ledger.active) for seat in self._seats)
            number = Scalar(tag="alerts/active", value=float(active))
            report = Report(step=look.step, items=(number,))
            with self._seats[0].guard.contain("writing"):
                writer.write(report, log_step=look.step, epoch=look.run.epoch)

    def _observe(self, seat: Seat, look: _Look) -> Report | None:
        """Lets a monitor look at what was read for it; None where it cannot."""
        if any(s.failure for s in seat.subscriptions if s in look.engine.due):
            return None
        report: Report | None = None
        with seat.overhead.measured(), seat.guard.contain("observe"), ExitStack() as stack:
            snapshot = self._snapshot(seat, look, stack)
            report = _checked(seat.monitor.observe(snapshot))
            if snapshot.wants_pictures:
                seat.next_picture = look.step + max(_FIRST_PICTURES, look.step // 4)
        return report

    def _snapshot(self, seat: Seat, look: _Look, stack: ExitStack) -> Snapshot:
        engine, run, step, monitor = look.engine, look.run, look.step, seat.monitor
        read = {s.probe.name: s for s in seat.subscriptions if s in engine.due}
        forward = None
        if "forward" in monitor.needs:
            forward = stack.enter_context(engine.isolated_forward(seat.forward))
        return Snapshot(
            step=step,
            planned_steps=self._facts.planned_steps,
            epoch=run.epoch,
            stage=run.stage,
            trace=engine.trace,
            values={name: subscription.values for name, subscription in read.items()},
            num_samples={name: s.num_samples for name, s in read.items()},
            weights=Weights(engine.model),
            loss=_mean_loss(look.shared),
            metrics=run.metrics,
            input_stats=input_stats(look.shared) if "samples" in look.shared else {},
            optimizer=groups_of(
                engine.model,
                run.optimizers if run.stage == "fit" else (),
                look.training.updates.norms() if look.training and look.training.updates else None,
            ),
            references=monitor.references,
            forward=forward,
            read_layers=partial(engine.read_layers, forward=seat.forward),
            wants_pictures=step >= seat.next_picture and not seat.overhead.gives_up_pictures,
            ends_burst=self._schedule(seat).ends_burst(step, self._facts),
            is_reference=step == 0 and run.stage == "fit",
        )

    def _conclude(self, seat: Seat, report: Report, look: _Look, writer: Writer) -> list[Alert]:
        """Rules, ledger, drawing and writing of one monitor's report; returns what changed."""
        monitor, run = seat.monitor, look.run
        monitor.last_report = report
        changes: list[Alert] = []
        with seat.overhead.measured():
            with seat.guard.contain("rules"):
                changes = self._judge(seat, report, run)
            with seat.guard.contain("writing"):
                spent = Scalar(tag=f"overhead/{monitor.name}_percent", value=seat.overhead.percent)
                writer.write(
                    replace(report, items=(*report.items, spent)),
                    log_step=look.step,
                    epoch=run.epoch,
                    prefix=_prefix(monitor, run),
                )
            with seat.guard.contain("writing alerts"):
                active = sum(len(other.monitor.ledger.active) for other in self._seats)
                writer.write_alerts(changes, active=active, log_step=look.step, epoch=run.epoch)
        if monitor.options.verbose and run.is_global_zero:
            say(f"{monitor.name}: snapshot at step {look.step}", level=logging.INFO)
        self._keep_within_limit(seat, look)
        return changes

    def _judge(self, seat: Seat, report: Report, run: RunView) -> list[Alert]:
        monitor = seat.monitor
        if run.stage != "fit" and max(monitor.history.steps, default=0) > report.step:
            return []  # another Trainer's evaluation says nothing of the training before it
        monitor.history.append(report.step, report.readings())
        judged: list[tuple[Rule, Outcome]] = []
        for rule in monitor.active_rules:
            with seat.guard.contain(f"the rule {rule.kind}"):
                judged += judge((rule,), monitor.history)
        changes = monitor.ledger.update(judged, step=report.step, epoch=run.epoch, stage=run.stage)
        monitor.alerts.extend(
            alert for alert in changes if alert.state == "firing" and alert.severity != "info"
        )
        return list(changes)

    def _keep_within_limit(self, seat: Seat, look: _Look) -> None:
        sums = look.shared.get(f"overhead/{self._seats.index(seat)}")
        if sums is None:
            return
        # The mean of all ranks, so that all of them thin at the same step.
        percent, run_seconds = (sums[:2] / sums[2]).tolist()
        gave_up = seat.overhead.keep_within_limit(percent, run_seconds)
        if gave_up:
            say(
                f"{seat.monitor.name} took {seat.overhead.percent:.1f} % of the training time, "
                f"more than max_overhead={seat.overhead.limit}: it gives up {gave_up}."
            )


# Pictures at the steps 0, 20, 40, ..., 100, then each a quarter later than the one before:
# what must be compared over time is a film strip, and its frames are log-spaced anyway.
_FIRST_PICTURES = 20


@dataclass(frozen=True)
class _Look:
    """What all monitors of one snapshot look at."""

    run: RunView
    step: int
    engine: Engine
    training: Step | None
    shared: Mapping[str, Tensor]


def _keep_silent(message: str) -> None:
    """Says nothing: a run that asks for no files needs no advice on them."""


def _read_nothing(activation: Activation, batch: Batch) -> dict[str, Tensor]:
    """Reduces to nothing: only the layer is noted."""
    return {}


# Matches no name: the pass meets the layers in their order, and nothing is read of them.
_TRACE = Probe(name="trace", layers=(), reduce=_read_nothing, merge={})


def _checked(report: object) -> Report:
    """Returns what ``observe`` returned, if that is a report."""
    if not isinstance(report, Report):
        raise TypeError(f"observe returned a {type(report).__name__}. Return a Report.")
    return report


def _transferred(reports: Sequence[tuple[Seat, Report]]) -> list[tuple[Seat, Report]]:
    """Moves all reports in one transfer; where that fails, each in its own, to spare the others."""
    with Attempt() as attempt:
        moved = transfer([report for _, report in reports])
    if attempt.error is None:
        return [(seat, report) for (seat, _), report in zip(reports, moved, strict=True)]
    spared = []
    for seat, report in reports:
        with seat.guard.contain("transfer"):
            spared.append((seat, transfer([report])[0]))
    return spared


def _keep_references(monitor: Monitor, batch: Any, source: str) -> None:
    """Copies a monitor's reference samples once; they are never exchanged afterwards."""
    if "references" not in monitor.needs or monitor.references is not None:
        return
    with monitor.guard.contain("keeping reference samples"):
        options = monitor.options
        monitor.references = take_references(
            batch,
            options.num_samples,
            source=source,
            input_fn=options.input_fn,
            label_fn=options.label_fn,
        )


def _mean_loss(shared: Mapping[str, Tensor]) -> Tensor | None:
    if "loss_sum" not in shared:
        return None
    return shared["loss_sum"] / shared["loss_batches"]


def _prefix(monitor: Monitor, run: RunView) -> str:
    stage = "" if run.stage == "fit" else f"{run.stage}/"
    return f"{stage}{monitor.options.tag_prefix}"
