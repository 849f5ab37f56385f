"""One writer for all monitors of a Trainer: a Report goes to the loggers that can take it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.cards import card_of
from vis_callbacks.guard import Guard
from vis_callbacks.report import Markdown, Report, RuleMetrics, Scalar, number_of
from vis_callbacks.writers.alert_log import AlertLog, alert_folder
from vis_callbacks.writers.alert_text import AlertStory
from vis_callbacks.writers.budget import ByteBudget, TimeBudget
from vis_callbacks.writers.drawing import Drawing, Drawn, Order, may_be_drawn_aside
from vis_callbacks.writers.media_items import (
    Media,
    Number,
    card_for,
    num_bytes,
    prepare,
    within,
    word_for,
)
from vis_callbacks.writers.media_writers import (
    ImageFolder,
    MediaWriter,
    TensorBoardMedia,
    media_writer_of,
    names_of,
)
from vis_callbacks.writers.wandb_alert import has_wandb, send_by_wandb

__all__ = ["Writer", "alert_folder"]

_NUMBERS = (Scalar, RuleMetrics)
# A safety net, four times what the default monitors are meant to write: a run of one epoch may
# draw all of its pictures in it.
MAX_BYTES_PER_EPOCH = 4_000_000
# How long one item may be waited for, and the alerts, which are rare and must not be lost.
_PATIENCE = 0.25
# Numbers are waited for so long even without time left: a disk that keeps up needs less.
_LEAST_PATIENCE = 0.005
_PATIENCE_FOR_ALERTS = 5.0
# A run waits for its last pictures; drawing what four monitors show takes a second at most.
_PATIENCE_FOR_PICTURES = 10.0


class Writer:
    """Draws and writes the reports of all monitors of one Trainer, and harms nobody.

    Only the rank that is global zero writes. Nothing is raised: what fails is counted by its
    guard and logged once per cause.

    Attributes:
        story: Of the run's alerts, for the Text tab.

    Args:
        loggers: Those of the Trainer. Numbers go to all of them; media to every one whose
            ``experiment`` is a SummaryWriter (torch's or tensorboardX's) or that has
            ``log_image``.
        alert_folder: Where alerts.jsonl goes; None writes no file (``fast_dev_run``).
        is_global_zero: Whether this rank writes.
        save_images: Where no logger takes pictures, write PNG files into ``alert_folder``.
        is_silent: Log nothing, for a trial run.
        draws_aside: Draw in a thread while training goes on. A picture is then written by
            `write_drawn`, and `flush` must be called at the end.
        max_bytes_per_epoch: Media beyond it are dropped, the largest first.
        time_budget: How long training may wait for the disk.
    """

    def __init__(
        self,
        *,
        loggers: Sequence[object],
        alert_folder: Path | None,
        is_global_zero: bool,
        save_images: bool,
        is_silent: bool = False,
        draws_aside: bool = False,
        max_bytes_per_epoch: int = MAX_BYTES_PER_EPOCH,
        time_budget: TimeBudget | None = None,
    ) -> None:
        self._loggers = tuple(loggers)
        self._names = names_of(self._loggers)
        self._folder = alert_folder
        self._is_global_zero = is_global_zero
        self._save_images = save_images
        self._is_silent = is_silent
        self._bytes = ByteBudget(max_bytes_per_epoch)
        self._time = time_budget or TimeBudget()
        self._log = AlertLog(alert_folder) if alert_folder is not None else None
        self.story = AlertStory()
        self._guards: dict[str, Guard] = {}
        self._media_writers: dict[str, MediaWriter | None] = {}  # of loggers and "PNG files"
        self._epoch = 0
        self._drawing = Drawing() if draws_aside else None

    @property
    def has_drawn(self) -> bool:
        """Whether pictures are finished that `write_drawn` has not written yet."""
        return self._drawing is not None and bool(self._drawing.finished)

    @property
    def left_out(self) -> Counter[str]:
        """What was not written, counted by cause: room, slow disk, bytes, ..."""
        return sum((guard.left_out for guard in self._guards.values()), Counter())

    @property
    def failures(self) -> Counter[str]:
        """What failed, counted by cause."""
        return sum((guard.counts for guard in self._guards.values()), Counter())

    def write(
        self,
        report: Report,
        *,
        log_step: int,
        epoch: int,
        prefix: str = "",
        also: Mapping[str, float] | None = None,
        spend: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        """Draws and writes one report, whose tensors are on the host.

        Args:
            report: See `vis_callbacks.report.transfer`.
            log_step: The x-axis, as the user's own ``self.log`` has it.
            epoch: Byte budgets and resting guards start afresh with each.
            prefix: Of all tags: the stage outside ``fit``, or the user's ``tag_prefix``.
            also: Numbers that go with it and belong to no monitor; without the prefix.
            spend: Is told the seconds that a picture took of a core, where a thread drew it.
        """
        if not self._is_global_zero:
            return
        self._begin(epoch)
        self._write_drawn()
        prefix = _as_folder(prefix)
        self._write_numbers(report.of(Scalar), log_step, prefix, also or {})
        items = [item for item in report.items if not isinstance(item, _NUMBERS)]
        if items and self._can_take_media():
            orders = [Order(item, prefix, log_step, spend) for item in items]
            self._write_media(self._prepared(orders), log_step)

    def write_drawn(self) -> None:
        """Writes the pictures that the thread has finished."""
        if self.has_drawn:
            self._begin(self._epoch)
            self._write_drawn()

    def write_alerts(
        self,
        transitions: Sequence[Alert],
        active: int,
        *,
        log_step: int,
        epoch: int,
        prefix: str = "",
    ) -> None:
        """Writes alerts that began firing, changed or were resolved; on disk when it returns.

        Remarks (``info``) go to alerts.jsonl only. wandb sends the others on where it logs.

        Args:
            transitions: Alerts as they are now.
            active: How many warnings and critical alerts are firing.
            log_step: See `write`.
            epoch: See `write`.
            prefix: See `write`.
        """
        if not self._is_global_zero or not transitions:
            return
        self._begin(epoch, transitions)
        shown = [alert for alert in transitions if alert.severity != "info"]
        if not shown:
            return
        self.story.add(shown)
        prefix = _as_folder(prefix)
        self._write_numbers([Scalar(tag="alerts/active", value=active)], log_step, prefix, {})
        self._write_alert_text(log_step, prefix, has_news=True)
        for name, logger in zip(self._names, self._loggers, strict=True):
            for alert in shown if has_wandb(logger) else ():
                self._try(f"{name}'s alerts", send_by_wandb, logger, alert)

    def tell_that_all_is_well(self) -> None:
        """Writes now and then how far it was watched, if nothing has happened."""
        if self._is_global_zero and self.story.is_due:
            self._write_alert_text(self.story.latest)

    def flush(self) -> None:
        """Writes what has waited, and flushes the event files. Harmless when done twice."""
        if not self._is_global_zero:
            return
        self._begin(self._epoch)
        self.end_drawing()
        self._write_drawn()
        if self.story.is_stale:
            self._write_alert_text(self.story.latest, has_news=True)
        for name, to in self._media_writers.items():
            if isinstance(to, TensorBoardMedia):
                self._try(f"{name}'s flush", partial(to.flush, patience=_PATIENCE_FOR_ALERTS))

    def end_drawing(self) -> None:
        """Waits until the thread has drawn all pictures, but not for long."""
        for order in self._drawing.end(_PATIENCE_FOR_PICTURES) if self._drawing else ():
            why = f"it was not drawn {_PATIENCE_FOR_PICTURES:g} seconds after the end of the run"
            self._leave_out_undrawn(order, why)

    def _begin(self, epoch: int, alerts: Sequence[Alert] = ()) -> None:
        """Starts an epoch's budgets, and writes the alerts and those that wait."""
        if epoch != self._epoch:
            for guard in self._guards.values():
                guard.wake()
        self._epoch = epoch
        self._bytes.begin(epoch)
        if self._log is not None:
            self._log.add(alerts)
            if self._log.num_waiting:
                self._try("alerts.jsonl", self._log.write, max_failures=sys.maxsize)

    def _guard(self, name: str, max_failures: int = 3) -> Guard:
        if name not in self._guards:
            self._guards[name] = Guard(
                name, max_failures, is_silent=self._is_silent, until=" until the next epoch"
            )
        return self._guards[name]

    def _try(
        self, name: str, action: Callable[..., object], *args: Any, max_failures: int = 3
    ) -> bool:
        """Calls the action under the guard of this name; returns whether it succeeded."""
        return self._guard(name, max_failures).attempt("writing", partial(action, *args))

    # -- numbers

    def _write_numbers(
        self, scalars: Sequence[Scalar], step: int, prefix: str, also: Mapping[str, float]
    ) -> None:
        numbers = {tag: Number(value, card_of(tag)) for tag, value in also.items()}
        for scalar in scalars:
            tag = prefix + scalar.tag
            self._try(f'the number "{scalar.tag}"', _take_number, numbers, tag, scalar)
        if numbers:
            self._log_to_all(numbers, step)

    def _log_to_all(self, numbers: Mapping[str, Number], step: int) -> None:
        for name, logger in zip(self._names, self._loggers, strict=True):
            to = self._media_writer_of(name, logger)
            self._try(f"{name}'s numbers", self._log_to, logger, to, numbers, step)

    def _log_to(
        self, logger: Any, to: MediaWriter | None, numbers: Mapping[str, Number], step: int
    ) -> None:
        if not isinstance(to, TensorBoardMedia):
            logger.log_metrics({tag: number.value for tag, number in numbers.items()}, step=step)
            return
        patience = min(_PATIENCE, max(self._time.remaining, _LEAST_PATIENCE))
        with self._time.spending():
            to.write_numbers(numbers, step=step, patience=patience)

    # -- pictures, texts, histograms, embeddings

    def _media_writer_of(self, name: str, logger: Any) -> MediaWriter | None:
        """What takes the logger's media, None if nothing does; asked until it has answered."""
        if name not in self._media_writers:
            self._try(f"{name}'s experiment", self._ask_for_media_writer, name, logger)
        return self._media_writers.get(name)

    def _ask_for_media_writer(self, name: str, logger: Any) -> None:
        self._media_writers[name] = media_writer_of(logger)

    def _all_media_writers(self) -> list[tuple[str, MediaWriter]]:
        pairs = [
            (name, self._media_writer_of(name, logger))
            for name, logger in zip(self._names, self._loggers, strict=True)
        ]
        media_writers = [(name, to) for name, to in pairs if to is not None]
        if not media_writers and self._save_images and self._folder is not None:
            folder = self._media_writers.setdefault("PNG files", ImageFolder(self._folder))
            if folder is not None:
                media_writers = [("PNG files", folder)]
        return media_writers

    def _can_take_media(self) -> bool:
        """Whether drawing is worth the time; says what to add where nothing takes pictures."""
        if self._all_media_writers():
            return self._try("pictures", self._time.require)
        have_answered = all(name in self._media_writers for name in self._names)
        if self._folder is not None and have_answered:
            loggers = ", ".join(self._names) or "no logger"
            self._guard("pictures").leave_out(
                "no logger",
                f"pictures: no logger takes them ({loggers}); add Trainer(logger=TensorBoardLogger("
                "...)), or save_images=True for PNG files. Training goes on.",
            )
        return False

    def _prepared(self, orders: Sequence[Order]) -> list[Media]:
        """What is drawn and checked here and now; what fails is left out, each on its own."""
        prepared: list[Media] = []
        for order in orders:
            name = f'"{order.item.tag}"'
            if self._drawing is None or not may_be_drawn_aside(order.item):
                self._try(name, _take_media, prepared, order)
            elif self._guard(name).is_resting:
                self._guard(name).left_out["resting"] += 1
            else:  # whether it succeeds is only known when it is drawn
                self._try("drawing in a thread", self._draw_aside, self._drawing, order)
        return prepared

    def _draw_aside(self, drawing: Drawing, order: Order) -> None:
        dropped = drawing.put(order)
        if dropped is not None:
            self._leave_out_undrawn(
                dropped, "training asks for pictures faster than they are drawn"
            )

    def _leave_out_undrawn(self, order: Order, why: str) -> None:
        words = f'pictures: "{order.tag}" of step {order.step} is left out, because {why}.'
        self._guard("pictures").leave_out("drawing", f"{words} Training goes on.")

    def _write_drawn(self) -> None:
        drawn = self._drawing.take() if self._drawing is not None else []
        for step, of_step in groupby(drawn, key=lambda one: one.order.step):
            media: list[Media] = []
            for one in of_step:
                one.order.spend(one.seconds)
                self._try(f'"{one.order.item.tag}"', _take_drawn, media, one)
            self._write_media(media, step)

    def _write_media(self, media: Sequence[Media], step: int) -> None:
        kept, dropped = within(media, self._bytes.remaining)
        for item in dropped:
            self._guard("pictures").leave_out(
                "bytes",
                f'pictures: "{item.tag}" ({num_bytes(item):,} bytes) is left out at step {step}, '
                "because the pictures of an epoch would exceed "
                f"{self._bytes.max_bytes_per_epoch:,} bytes; the largest are dropped first. "
                "Training goes on.",
            )
        for item in kept:
            written = [
                self._try(f"{name}'s {word_for(item)}", self._write_one, to, item, step)
                for name, to in self._all_media_writers()
                if isinstance(item, to.takes)
            ]
            if any(written):
                self._bytes.spend(num_bytes(item))

    def _write_one(self, to: MediaWriter, media: Media, step: int) -> None:
        self._time.require()
        with self._time.spending():
            to.write(media, step=step, patience=min(_PATIENCE, self._time.remaining))

    def _write_alert_text(self, step: int, prefix: str = "", *, has_news: bool = False) -> None:
        """Writes all alerts so far, or that there is none; news is waited for and flushed."""
        item = prepare(Markdown(tag="alerts/text", text=self.story.tell()), prefix)
        write = self._write_news if has_news else self._write_one
        for name, to in self._all_media_writers():
            if isinstance(to, TensorBoardMedia):
                self._try(f"{name}'s alerts", write, to, item, step)

    def _write_news(self, to: TensorBoardMedia, text: Media, step: int) -> None:
        with self._time.spending():
            to.write_alerts(text, step=step, patience=_PATIENCE_FOR_ALERTS)
            to.flush(patience=_PATIENCE_FOR_ALERTS)


def _take_number(numbers: dict[str, Number], tag: str, scalar: Scalar) -> None:
    numbers[tag] = Number(number_of(scalar), card_for(scalar))


def _take_media(media: list[Media], order: Order) -> None:
    media.append(prepare(order.item, order.prefix))


def _take_drawn(media: list[Media], drawn: Drawn) -> None:
    media.append(drawn.result())


def _as_folder(prefix: str) -> str:
    return f"{prefix.rstrip('/')}/" if prefix else ""
