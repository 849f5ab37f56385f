"""From what was read to what is written, the same for every monitor.

Merged over ranks -> kept until its burst ends -> each monitor's ``observe`` -> one transfer to
the host -> rules and tracker -> drawing and writing -> reactions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from vis_callbacks._lightning import RunView
from vis_callbacks.alerts.alert import Alert, Outcome, Rule
from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.snapshot import Snapshot, Weights
from vis_callbacks.guard import Catch, log
from vis_callbacks.overhead import Budget
from vis_callbacks.reactions import Told, act, tell
from vis_callbacks.report import Report, RuleMetrics, Scalar, transfer
from vis_callbacks.run_state import Reading, RunState, StepContext
from vis_callbacks.step_facts import GroupTable
from vis_callbacks.writers.writer import Writer

_BUDGET = "budget"  # the name of its numbers, among what ranks add up
# A fixed schedule is told of where it takes more than three times the budget that is on by
# default, after so many seconds: the first snapshots of a run come close together.
_DEAR, _HARDLY_BEGUN = 0.09, 60.0


class _Observed(NamedTuple):
    """The report of one monitor at one step."""

    state: RunState
    context: StepContext
    report: Report


_Judged = tuple[Rule, Outcome]


class Pipeline:
    """Takes the monitors of one run from what was read to what is written.

    The snapshots of a burst are kept on the device and looked at, one after the other, at its
    end: training waits for the device once a burst, and the code and the tables that three or
    more snapshots go through are fetched into the caches once. ``states`` are those of all
    monitors, due or not, for every rank decides the same.
    """

    def __init__(
        self, engine: Engine, writer: Writer, states: Sequence[RunState], *, has_ranks: bool
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._states = states
        self._has_ranks = has_ranks
        self._groups = GroupTable(engine.model)
        self.budget = Budget([state.overhead for state in states])

    def take(self, context: StepContext, run: RunView) -> None:
        """Merges what was read over the ranks, and takes what is whole through all that follows."""
        self._engine.check_names(context.read)
        numbers: Sequence[float] = self.budget.numbers()
        if self._has_ranks:
            shared = {**context.sums.totals, _BUDGET: torch.tensor(numbers, dtype=torch.float64)}
            context.sums.totals = self._engine.collect(context.read, shared)
            numbers = context.sums.totals.get(_BUDGET, torch.empty(0)).tolist()
        if numbers:
            self.budget.learn(numbers)
        norms = context.updates.norms() if context.updates else None
        optimizers = run.optimizers if context.stage == "fit" else ()
        context.groups, context.updates = self._groups.now(optimizers, norms), None
        for state in context.due:
            state.keep(context)
        if context.whole:
            self._look_in_time(context, run)
            self.react(run)

    def catch_up(self, run: RunView) -> None:
        """Looks at what a burst that is not over has kept. Nothing is acted upon yet."""
        waiting = [state for state in self._states if state.kept]
        if waiting:
            self._look(waiting, run)

    def finish(self, run: RunView) -> None:
        """Looks at what is left at the end of a run, and flushes what was written."""
        self.catch_up(run)
        self.react(run)
        self._writer.flush()

    def break_off(self, run: RunView) -> None:
        """Looks at what is left when an exception ends the run, and tells what it may come of."""
        # Another rank may have died, and this one's device would wait for it for ever.
        if not self._has_ranks:
            self.catch_up(run)
        self._tell(run)
        self._writer.flush()

    @property
    def has_drawn(self) -> bool:
        """Whether a picture is drawn and not written yet."""
        return self._writer.has_drawn

    def write_drawn(self) -> None:
        """Writes pictures that were drawn while training went on."""
        self._writer.write_drawn()

    def close(self) -> None:
        """Lets nothing go on. Harmless when done twice."""
        self._writer.end_drawing()

    def react(self, run: RunView) -> None:
        """Tells of alerts and acts on the run, on all ranks together.

        Raises:
            IntendedError: An alert is to end the run; all that is known was told of before.
        """
        told = self._tell(run)
        if not self._has_ranks and run.world_size > 1:
            return  # a rank by itself may not leave the others
        error = act(told, run, has_ranks=self._has_ranks)
        if error is not None:
            self.catch_up(run)  # other monitors may be amid a burst; here all ranks still live
            self._tell(run)
            raise error

    def _tell(self, run: RunView) -> list[Told]:
        monitors = [state.monitor for state in self._states]
        return [tell(m.tracker, m.options.on_alert, run, m.guard) for m in monitors]

    # -- what it costs

    def _look_in_time(self, context: StepContext, run: RunView) -> None:
        """Looks at what ends a burst, but has those wait that can where there is no room."""
        for state in context.whole:
            can_wait = state.can_wait and not state.collects and not context.draws_in_any_case
            state.waits = can_wait and not self.budget.claim(state.overhead)
            if state.waits:
                state.kept = []
        looking = [state for state in context.whole if not state.waits]
        in_any_case = context.draws_in_any_case
        with self.budget.drawing_in_any_case() if in_any_case else nullcontext():
            self._look(looking, run)
        if self.budget.exceeds(_DEAR, after=_HARDLY_BEGUN):
            self._tell_of_costs()

    def _tell_of_costs(self) -> None:
        """Says once that a schedule that the user has fixed is dear."""
        for state in self._states:
            options = state.monitor.options
            if options.max_overhead == "auto" and options.overhead_limit is None:
                percent = sum(one.overhead.percent for one in self._states)
                state.guard.log_once(
                    f"the monitors have taken {percent:.0f} % of the training time so far, "
                    f"and cannot wait, because every_n_train_steps={options.every_n_train_steps} "
                    "fixes when they run. Use a larger number, or max_overhead=0.03."
                )
                return

    # -- from what was read to reports

    def _look(self, states: Sequence[RunState], run: RunView) -> None:
        """Takes all that was kept for these monitors to what is written."""
        seen: list[_Observed] = []
        before = [state.overhead.seconds for state in states]
        for state in states:
            kept, state.kept = state.kept, []
            made: dict[str, Any] = {}
            for reading in kept:
                report = self._observe(state, reading, run, made)
                if report is not None:
                    seen.append(_Observed(state, reading.context, report))
        checked = [(one, self._check(one)) for one in _transferred(seen)]
        trackers = [state.monitor.tracker for state in self._states]
        causes = [alert for tracker in trackers for alert in tracker.active]
        self._writer.story.note_watched({one.context.step for one in seen}, causes)
        causes += [cause for one, found in checked for cause in _certain(one, found)]
        judged = [(one, self._judge(one, found, causes)) for one, found in checked]
        active = sum(len(tracker.active) for tracker in trackers)
        # Of a healthy run too, that there are none; with an alert this number is written anyway.
        is_told = any(tracker.untold for tracker in trackers)
        also = {} if is_told else {"alerts/active": float(active)}
        for one, changes in judged:
            # Within a burst there are numbers for the rules alone, and nothing to be looked at.
            if not all(isinstance(item, RuleMetrics) for item in one.report.items):
                self._write(one, also)
                also = {}
            self._write_alerts(one, changes, active)
            if one.state.monitor.options.verbose and run.is_global_zero:
                words = f"{one.state.monitor.name}: snapshot at step {one.context.step}"
                log(words, level=logging.INFO)
        if seen:
            latest = seen[-1].state
            with latest.overhead.measured(), latest.guard.catch("writing alerts"):
                self._writer.tell_that_all_is_well()
        for state, seconds in zip(states, before, strict=True):
            if state.has_drawn:
                state.has_drawn, state.overhead.drawing = False, state.overhead.seconds - seconds

    def _observe(
        self, state: RunState, reading: Reading, run: RunView, made: dict[str, Any]
    ) -> Report | None:
        """Lets a monitor look at what was read for it; None where it cannot."""
        report = None
        with state.overhead.measured(), state.guard.catch("observe"), ExitStack() as stack:
            snapshot = self._snapshot(state, reading, run, stack, made)
            returned: object = state.monitor.observe(snapshot)
            if not isinstance(returned, Report):
                raise TypeError(f"observe returned a {type(returned).__name__}. Return a Report.")
            report = returned
            if snapshot.wants_pictures:
                state.draw_again_after(reading.context)
        return report

    def _snapshot(
        self,
        state: RunState,
        reading: Reading,
        run: RunView,
        stack: ExitStack,
        made: dict[str, Any],
    ) -> Snapshot:
        engine, monitor, context = self._engine, state.monitor, reading.context
        forward = None
        if "forward" in monitor.needs:
            forward = stack.enter_context(engine.isolated_forward(state.forward))
        return Snapshot(
            step=context.step,
            planned_steps=context.facts.planned_steps,
            epoch=context.epoch,
            stage=context.stage,
            trace=engine.trace,
            weighted=engine.weights,
            values=reading.values,
            num_samples=reading.num_samples,
            weights=Weights(engine.model),
            loss=context.sums.mean_loss(),
            metrics=run.metrics,
            input_stats=context.sums.input_stats(),
            optimizer=context.groups,
            references=monitor.references,
            forward=forward,
            read_layers=partial(engine.read_layers, forward=state.forward),
            wants_pictures=state in context.whole
            and context.step >= state.next_picture
            and (context.draws_in_any_case or state.can_wait or self.budget.claim(state.overhead)),
            is_reference=context.step == 0 and context.stage == "fit",
            made=made,
        )

    # -- from reports to what is written

    def _check(self, one: _Observed) -> list[_Judged] | None:
        """Returns what the rules make of a report; None where they are not asked, or it failed."""
        monitor, context = one.state.monitor, one.context
        history, guard = monitor.history, monitor.guard
        monitor.last_report = one.report
        judged: list[_Judged] | None = None
        with one.state.overhead.measured(), guard.catch("rules"):
            if context.stage != "fit" and max(history.steps, default=0) > one.report.step:
                # Another Trainer's evaluation says nothing of the training before it.
                return None
            history.append(one.report.step, one.report.rule_metrics())
            judged = []
            for rule in monitor.active_rules:
                with Catch() as caught:  # cheaper than guard.catch, and there are many
                    judged.append((rule, rule.check(history)))
                if caught.error is not None:
                    guard.record(f"the rule {rule.kind}", caught.error)
        return judged

    def _judge(
        self, one: _Observed, found: list[_Judged] | None, causes: Sequence[Alert]
    ) -> Sequence[Alert]:
        """Returns what the tracker makes of what the rules have found."""
        monitor, context = one.state.monitor, one.context
        changes: list[Alert] = []
        with one.state.overhead.measured(), monitor.guard.catch("rules"):
            if found is not None:
                changes += monitor.tracker.update(
                    found,
                    step=one.report.step,
                    epoch=context.epoch,
                    stage=context.stage,
                    causes=causes,
                )
        return changes

    def _write(self, one: _Observed, also: Mapping[str, float]) -> None:
        state, context = one.state, one.context
        name, options = state.monitor.name, state.monitor.options
        prefix = options.tag_prefix
        with state.overhead.measured(), state.guard.catch("writing"):
            spent = Scalar(tag=f"overhead/{name}_percent", value=state.overhead.percent)
            report = replace(one.report, items=(*one.report.items, spent))
            self._writer.write(
                report.with_all_cards() if options.all_cards else report,
                log_step=context.step,
                epoch=context.epoch,
                prefix=prefix if context.stage == "fit" else f"{context.stage}/{prefix}",
                also=also,
                spend=partial(
                    self.budget.spend_drawing, state.overhead, in_any_case=context.draws_in_any_case
                ),
            )

    def _write_alerts(self, one: _Observed, changes: Sequence[Alert], active: int) -> None:
        step, epoch = one.context.step, one.context.epoch
        with one.state.overhead.measured(), one.state.guard.catch("writing alerts"):
            self._writer.write_alerts(changes, active=active, log_step=step, epoch=epoch)


def _certain(one: _Observed, found: list[_Judged] | None) -> list[Alert]:
    """Returns the alerts of a monitor that may explain those of others."""
    certain: list[Alert] = []
    with one.state.guard.catch("rules"):
        certain += one.state.monitor.tracker.certain(found or (), one.report.step)
    return certain


def _transferred(seen: Sequence[_Observed]) -> list[_Observed]:
    """Moves all reports in one transfer; where that fails, each in its own, to spare the others."""
    with Catch() as caught:
        moved = transfer([one.report for one in seen])
    if caught.error is None:
        return [one._replace(report=report) for one, report in zip(seen, moved, strict=True)]
    spared = []
    for one in seen:
        with one.state.guard.catch("transfer"):
            spared.append(one._replace(report=transfer([one.report])[0]))
    return spared
