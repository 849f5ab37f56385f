"""From what was read to what is written: the same straight line for every monitor.

Merged over ranks -> kept until its burst ends -> each monitor's ``observe`` -> one transfer to
the host -> rules and ledger -> drawing and writing -> reactions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vis_callbacks._lightning import RunView
from vis_callbacks.alerts.alert import Alert, Outcome, Rule
from vis_callbacks.alerts.ledger import judge
from vis_callbacks.callbacks.reactions import Told, act, begun, tell
from vis_callbacks.callbacks.seat import Kept, Moment, Seat, Step
from vis_callbacks.callbacks.steps import GroupTable, input_stats
from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.schedule import RunFacts
from vis_callbacks.engine.snapshot import Snapshot, Weights
from vis_callbacks.engine.subscription import Subscription
from vis_callbacks.guard import Attempt, say
from vis_callbacks.report import Readings, ReadingsTable, Report, Scalar, transfer
from vis_callbacks.writers.writer import Writer

if TYPE_CHECKING:
    from vis_callbacks.callbacks.monitor import Monitor


@dataclass(frozen=True)
class _Observed:
    """The report of one monitor, and what its rules have made of it."""

    seat: Seat
    moment: Moment
    report: Report
    changes: Sequence[Alert] = ()


class StraightLine:
    """Takes the monitors of one run from merged values to written reports.

    The snapshots of a burst are kept on the device and looked at, one after the other, at its
    end: training waits for the device once a burst, and the code and the tables that three or
    more snapshots go through are fetched into the caches once.

    Args:
        engine: Has read.
        writer: Writes, on rank 0.
        seats: All monitors of the Trainer, due or not: every rank comes to the same decisions.
        has_ranks: Whether there are several.
    """

    def __init__(
        self, engine: Engine, writer: Writer, seats: Sequence[Seat], *, has_ranks: bool
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._seats = seats
        self._has_ranks = has_ranks
        self._groups = GroupTable(engine.model)

    def take(
        self,
        due: Sequence[Seat],
        read: Sequence[Subscription],
        run: RunView,
        facts: RunFacts,
        *,
        step: int,
        training: Step | None = None,
    ) -> None:
        """Merges what was read over the ranks, and takes what is whole through all that follows.

        Args:
            due: Whose snapshot it is.
            read: What was read for them.
            run: Is looked at, and stopped where an alert is to do so.
            facts: Of the run.
            step: Of the snapshot.
            training: The training step that was read; None for an evaluation.
        """
        self._engine.check_names(read)
        percents = self._percents()
        sums: Callable[[], Mapping[str, Tensor]] = dict
        if training is not None:
            sums = cache(training.sums.values)
        if self._has_ranks:
            merged = self._engine.collect(read, {**sums(), **percents})
            sums, percents = (lambda: merged), merged
        updates = training.updates.norms() if training and training.updates else None
        moment = Moment(
            step=step,
            epoch=run.epoch,
            stage=run.stage,
            facts=facts,
            sums=sums,
            groups=self._groups.now(run.optimizers if run.stage == "fit" else (), updates),
        )
        whole = due if training is None else training.whole
        for seat in due:
            self._keep(seat, read, moment, is_whole=seat in whole)
        if whole:
            self._look(whole, run)
            self.react(run)
            for seat in whole:
                self._keep_within_limit(seat, percents)

    def catch_up(self, run: RunView) -> None:
        """Looks at what a burst has kept that is not over: before a checkpoint, or at the end.

        Nothing is exchanged between ranks, and nothing acts on the run: that waits.
        """
        waiting = [seat for seat in self._seats if seat.kept]
        if waiting:
            self._look(waiting, run)

    def finish(self, run: RunView) -> None:
        """Looks at what is left at the end of a run, and flushes what was written."""
        self.catch_up(run)
        self.react(run)
        self._writer.flush()

    def break_off(self, run: RunView) -> None:
        """Looks at what is left when an exception ends the run, and tells what it may come of.

        Not with several ranks: another one may have died, and this one's device would wait for
        its collective for ever.
        """
        if not self._has_ranks:
            self.catch_up(run)
        self._tell(run)
        self._writer.flush()

    def react(self, run: RunView) -> None:
        """Tells of alerts and acts on the run, on all ranks together."""
        told = self._tell(run)
        if self._has_ranks or run.world_size == 1:  # a rank by itself may not leave the others
            act(told, run, has_ranks=self._has_ranks)

    # -- from values to a report

    def _percents(self) -> dict[str, Tensor]:
        return {
            _percent_name(seat): torch.tensor(
                [seat.overhead.percent, seat.overhead.run_seconds, 1.0], dtype=torch.float64
            )
            for seat in self._seats
            if seat.overhead.limit is not None
        }

    def _keep(
        self, seat: Seat, read: Sequence[Subscription], moment: Moment, *, is_whole: bool
    ) -> None:
        mine = [s for s in seat.subscriptions if s in read]
        if not any(s.failure for s in mine):
            values = {s.probe.name: s.values for s in mine}
            num_samples = {s.probe.name: s.num_samples for s in mine}
            seat.kept.append(Kept(moment, values, num_samples, is_whole))

    def _look(self, seats: Sequence[Seat], run: RunView) -> None:
        """Takes all that was kept for these monitors to what is written."""
        seen: list[_Observed] = []
        for seat in seats:
            kept, seat.kept = seat.kept, []
            made: dict[str, Any] = {}
            for read in kept:
                report = self._observe(seat, read, run, made)
                if report is not None:
                    seen.append(_Observed(seat, read.moment, report))
        seen = [self._judged(one, run) for one in _transferred(seen)]
        for one in seen:
            one.seat.monitor.ledger.untold += begun(one.changes)
        active = sum(len(seat.monitor.ledger.active) for seat in self._seats)
        # Of a healthy run too, that there are none; with an alert this number is written anyway.
        is_told = any(seat.monitor.ledger.untold for seat in self._seats)
        also = {} if is_told else {"alerts/active": float(active)}
        for one in seen:
            if _is_written(one.report):
                self._write(one, also)
                also = {}
            self._write_alerts(one, active)
            if one.seat.monitor.options.verbose and run.is_global_zero:
                name = one.seat.monitor.name
                say(f"{name}: snapshot at step {one.moment.step}", level=logging.INFO)

    def _observe(self, seat: Seat, kept: Kept, run: RunView, made: dict[str, Any]) -> Report | None:
        """Lets a monitor look at what was read for it; None where it cannot."""
        report: Report | None = None
        with seat.overhead.measured(), seat.guard.contain("observe"), ExitStack() as stack:
            snapshot = self._snapshot(seat, kept, run, stack, made)
            report = _checked(seat.monitor.observe(snapshot))
            if snapshot.wants_pictures:
                seat.next_picture = _next_picture(seat, kept.moment)
        return report

    def _snapshot(
        self, seat: Seat, kept: Kept, run: RunView, stack: ExitStack, made: dict[str, Any]
    ) -> Snapshot:
        engine, moment, monitor = self._engine, kept.moment, seat.monitor
        forward = None
        if "forward" in monitor.needs:
            forward = stack.enter_context(engine.isolated_forward(seat.forward))
        sums = moment.sums()
        return Snapshot(
            step=moment.step,
            planned_steps=moment.facts.planned_steps,
            epoch=moment.epoch,
            stage=moment.stage,
            trace=engine.trace,
            weighted=engine.weights,
            values=kept.values,
            num_samples=kept.num_samples,
            weights=Weights(engine.model),
            loss=_mean_loss(sums),
            metrics=run.metrics,
            input_stats=input_stats(sums) if "samples" in sums else {},
            optimizer=moment.groups,
            references=monitor.references,
            forward=forward,
            read_layers=partial(engine.read_layers, forward=seat.forward),
            wants_pictures=kept.is_whole
            and moment.step >= seat.next_picture
            and not seat.overhead.gives_up_pictures,
            is_reference=moment.step == 0 and moment.stage == "fit",
            made=made,
        )

    # -- from a report to what is written and done

    def _judged(self, seen: _Observed, run: RunView) -> _Observed:
        """Returns the report with what rules and ledger make of it."""
        seen.seat.monitor.last_report = seen.report
        changes: Sequence[Alert] = ()
        with seen.seat.overhead.measured(), seen.seat.guard.contain("rules"):
            changes = self._judge(seen.seat, seen.report, seen.moment)
        return replace(seen, changes=changes)

    def _judge(self, seat: Seat, report: Report, moment: Moment) -> Sequence[Alert]:
        monitor = seat.monitor
        if moment.stage != "fit" and max(monitor.history.steps, default=0) > report.step:
            return ()  # another Trainer's evaluation says nothing of the training before it
        monitor.history.append(report.step, report.readings())
        judged: list[tuple[Rule, Outcome]] = []
        for rule in monitor.active_rules:
            with seat.guard.contain(f"the rule {rule.kind}"):
                judged += judge((rule,), monitor.history)
        changes = monitor.ledger.update(
            judged, step=report.step, epoch=moment.epoch, stage=moment.stage
        )
        monitor.alerts.extend(
            alert for alert in changes if alert.state == "firing" and alert.severity != "info"
        )
        return changes

    def _write(self, seen: _Observed, also: Mapping[str, float]) -> None:
        seat, moment = seen.seat, seen.moment
        with seat.overhead.measured(), seat.guard.contain("writing"):
            percent = seat.overhead.percent
            spent = Scalar(tag=f"overhead/{seat.monitor.name}_percent", value=percent)
            self._writer.write(
                replace(seen.report, items=(*seen.report.items, spent)),
                log_step=moment.step,
                epoch=moment.epoch,
                prefix=_prefix(seat.monitor, moment),
                also=also,
            )

    def _write_alerts(self, seen: _Observed, active: int) -> None:
        seat, moment = seen.seat, seen.moment
        with seat.overhead.measured(), seat.guard.contain("writing alerts"):
            self._writer.write_alerts(
                seen.changes, active=active, log_step=moment.step, epoch=moment.epoch
            )

    def _tell(self, run: RunView) -> list[Told]:
        """Tells of the alerts that have begun, and returns them."""
        told = []
        for seat in self._seats:
            ledger, on_alert = seat.monitor.ledger, seat.monitor.options.on_alert
            alerts, ledger.untold = ledger.untold, []
            told.append(tell(alerts, on_alert, run, seat.guard))
        return told

    def _keep_within_limit(self, seat: Seat, percents: Mapping[str, Tensor]) -> None:
        sums = percents.get(_percent_name(seat))
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


def _checked(report: object) -> Report:
    """Returns what ``observe`` returned, if that is a report."""
    if not isinstance(report, Report):
        raise TypeError(f"observe returned a {type(report).__name__}. Return a Report.")
    return report


def _is_written(report: Report) -> bool:
    """Whether it holds anything to be looked at: within a burst only rules learn of it."""
    return not all(isinstance(item, Readings | ReadingsTable) for item in report.items)


def _transferred(seen: Sequence[_Observed]) -> list[_Observed]:
    """Moves all reports in one transfer; where that fails, each in its own, to spare the others."""
    with Attempt() as attempt:
        moved = transfer([one.report for one in seen])
    if attempt.error is None:
        return [replace(one, report=report) for one, report in zip(seen, moved, strict=True)]
    spared = []
    for one in seen:
        with one.seat.guard.contain("transfer"):
            spared.append(replace(one, report=transfer([one.report])[0]))
    return spared


def _mean_loss(sums: Mapping[str, Tensor]) -> Tensor | None:
    return sums["loss_sum"] / sums["loss_batches"] if "loss_sum" in sums else None


def _next_picture(seat: Seat, moment: Moment) -> float:
    """Returns the step from which on the monitor's next snapshot draws."""
    schedule = seat.monitor.picture_schedule
    if schedule is None:
        return 0
    following = schedule.next_due(moment.step, moment.facts)
    return math.inf if following is None else following


def _percent_name(seat: Seat) -> str:
    return f"overhead/{seat.number}"


def _prefix(monitor: Monitor, moment: Moment) -> str:
    stage = "" if moment.stage == "fit" else f"{moment.stage}/"
    return f"{stage}{monitor.options.tag_prefix}"
