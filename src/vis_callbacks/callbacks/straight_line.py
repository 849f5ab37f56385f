"""From what was read to what is written: the same straight line for every monitor.

Merged over ranks -> each monitor's ``observe`` -> one transfer to the host -> rules and ledger
-> drawing and writing -> reactions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vis_callbacks._lightning import RunView
from vis_callbacks.alerts.alert import Alert, Outcome, Rule
from vis_callbacks.alerts.ledger import judge
from vis_callbacks.callbacks.reactions import act, begun, tell
from vis_callbacks.callbacks.seat import Seat, Step
from vis_callbacks.callbacks.steps import groups_of, input_stats
from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.schedule import RunFacts
from vis_callbacks.engine.snapshot import Snapshot, Weights
from vis_callbacks.guard import Attempt, say
from vis_callbacks.report import Readings, ReadingsTable, Report, Scalar, transfer
from vis_callbacks.writers.writer import Writer

if TYPE_CHECKING:
    from vis_callbacks.callbacks.monitor import Monitor


@dataclass(frozen=True)
class _Look:
    """What all monitors of one snapshot look at."""

    run: RunView
    facts: RunFacts
    step: int
    engine: Engine
    training: Step | None
    shared: Mapping[str, Tensor]


class StraightLine:
    """Takes the monitors of one run from merged values to written reports.

    Args:
        engine: Has read.
        writer: Writes, on rank 0.
        seats: All monitors of the Trainer, due or not: every rank comes to the same decisions.
    """

    def __init__(self, engine: Engine, writer: Writer, seats: Sequence[Seat]) -> None:
        self._engine = engine
        self._writer = writer
        self._seats = seats

    def take(
        self,
        due: Sequence[Seat],
        run: RunView,
        facts: RunFacts,
        *,
        step: int,
        training: Step | None = None,
    ) -> None:
        """Merges what was read over the ranks and takes it through all that follows."""
        engine, writer = self._engine, self._writer
        engine.check_names()
        percents = {
            f"overhead/{i}": torch.tensor(
                [seat.overhead.percent, seat.overhead.run_seconds, 1.0], dtype=torch.float64
            )
            for i, seat in enumerate(self._seats)
            if seat.overhead.limit is not None
        }
        shared = engine.collect({**(training.shared() if training else {}), **percents})
        looks = _Look(
            run=run, facts=facts, step=step, engine=engine, training=training, shared=shared
        )
        reports: list[tuple[Seat, Report]] = []
        for seat in due:
            report = self._observe(seat, looks)
            if report is not None:
                reports.append((seat, report))
        fired = {
            seat: begun(self._conclude(seat, report, looks, writer))
            for seat, report in _transferred(reports)
        }
        if any(_is_written(report) for _, report in reports) and not any(fired.values()):
            self._write_active(looks, writer)
        for seat, alerts in fired.items():
            tell(alerts, seat.monitor.options.on_alert, run, seat.guard)
        act([(s.monitor.options.on_alert, fired.get(s, ())) for s in self._seats], run)

    def _write_active(self, look: _Look, writer: Writer) -> None:
        """Writes how many alerts are firing: of a healthy run, that there are none."""
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
                seat.next_picture = _next_picture(seat, look)
        return report

    def _snapshot(self, seat: Seat, look: _Look, stack: ExitStack) -> Snapshot:
        engine, run, step, monitor = look.engine, look.run, look.step, seat.monitor
        read = {s.probe.name: s for s in seat.subscriptions if s in engine.due}
        # An evaluation stands for itself, and the first snapshot is what all others are seen by.
        is_whole = look.training is None or step == 0
        is_whole = is_whole or seat.schedule.ends_burst(step, look.facts)
        forward = None
        if "forward" in monitor.needs:
            forward = stack.enter_context(engine.isolated_forward(seat.forward))
        return Snapshot(
            step=step,
            planned_steps=look.facts.planned_steps,
            epoch=run.epoch,
            stage=run.stage,
            trace=engine.trace,
            weighted=engine.weights,
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
            wants_pictures=is_whole
            and step >= seat.next_picture
            and not seat.overhead.gives_up_pictures,
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
            if _is_written(report):
                with seat.guard.contain("writing"):
                    self._write(seat, report, look, writer)
            with seat.guard.contain("writing alerts"):
                active = sum(len(other.monitor.ledger.active) for other in self._seats)
                writer.write_alerts(changes, active=active, log_step=look.step, epoch=run.epoch)
        if monitor.options.verbose and run.is_global_zero:
            say(f"{monitor.name}: snapshot at step {look.step}", level=logging.INFO)
        self._keep_within_limit(seat, look)
        return changes

    def _write(self, seat: Seat, report: Report, look: _Look, writer: Writer) -> None:
        percent = seat.overhead.percent
        spent = Scalar(tag=f"overhead/{seat.monitor.name}_percent", value=percent)
        writer.write(
            replace(report, items=(*report.items, spent)),
            log_step=look.step,
            epoch=look.run.epoch,
            prefix=_prefix(seat.monitor, look.run),
        )

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


def _checked(report: object) -> Report:
    """Returns what ``observe`` returned, if that is a report."""
    if not isinstance(report, Report):
        raise TypeError(f"observe returned a {type(report).__name__}. Return a Report.")
    return report


def _is_written(report: Report) -> bool:
    """Whether it holds anything to be looked at: within a burst only rules learn of it."""
    return not all(isinstance(item, Readings | ReadingsTable) for item in report.items)


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


def _mean_loss(shared: Mapping[str, Tensor]) -> Tensor | None:
    if "loss_sum" not in shared:
        return None
    return shared["loss_sum"] / shared["loss_batches"]


def _next_picture(seat: Seat, look: _Look) -> float:
    """Returns the step from which on the monitor's next snapshot draws."""
    schedule = seat.monitor.picture_schedule
    if schedule is None:
        return 0
    following = schedule.next_due(look.step, look.facts)
    return math.inf if following is None else following


def _prefix(monitor: Monitor, run: RunView) -> str:
    stage = "" if run.stage == "fit" else f"{run.stage}/"
    return f"{stage}{monitor.options.tag_prefix}"
