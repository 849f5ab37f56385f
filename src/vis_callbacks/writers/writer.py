"""One writer for all monitors of a Trainer: a Report goes to the loggers that can take it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.report import Item, Readings, ReadingsTable, Report, Scalar, Text
from vis_callbacks.writers.alert_log import AlertLog, alert_folder
from vis_callbacks.writers.alert_table import alert_table
from vis_callbacks.writers.budget import ByteBudget, TimeBudget
from vis_callbacks.writers.channel import Channel
from vis_callbacks.writers.image_folder import ImageFolderOutlet
from vis_callbacks.writers.log_image import LogImageOutlet
from vis_callbacks.writers.media import Media, Outlet, num_bytes, prepare, within
from vis_callbacks.writers.scalars import log_numbers, number_of
from vis_callbacks.writers.shared_writer import package_of
from vis_callbacks.writers.tensorboard import TensorBoardOutlet

__all__ = ["Writer", "alert_folder"]

_NUMBERS = (Scalar, Readings, ReadingsTable)
# A safety net, four times what the default monitors are meant to write: a run of one epoch may
# draw all of its pictures in it.
MAX_BYTES_PER_EPOCH = 4_000_000
# How long one item may be waited for, and the alerts, which are rare and must not be lost.
_PATIENCE = 0.25
# Numbers are waited for so long even without time left: a disk that keeps up needs less.
_LEAST_PATIENCE = 0.005
_PATIENCE_FOR_ALERTS = 5.0


class Writer:
    """Draws and writes the reports of all monitors of one Trainer, and harms nobody.

    Only the rank that is global zero writes. Nothing is raised: what fails is counted by its
    channel and said once per cause.

    Args:
        loggers: Those of the Trainer. Numbers go to all of them; media to every one whose
            ``experiment`` is a SummaryWriter (torch's or tensorboardX's) or that has
            ``log_image``.
        alert_folder: Where alerts.jsonl goes; None writes no file (``fast_dev_run``).
        is_global_zero: Whether this rank writes.
        save_images: Where no logger takes pictures, write PNG files into ``alert_folder``.
        warn: Takes each warning, one per cause.
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
        warn: Callable[[str], None],
        max_bytes_per_epoch: int = MAX_BYTES_PER_EPOCH,
        time_budget: TimeBudget | None = None,
    ) -> None:
        self._loggers = tuple(loggers)
        self._names = _names_of(self._loggers)
        self._folder = alert_folder
        self._is_global_zero = is_global_zero
        self._save_images = save_images
        self._warn = warn
        self._bytes = ByteBudget(max_bytes_per_epoch)
        self._time = time_budget or TimeBudget()
        self._log = AlertLog(alert_folder) if alert_folder is not None else None
        self._shown: list[Alert] = []
        self._channels: dict[str, Channel] = {}
        self._outlets: dict[str, Outlet | None] = {}  # by the name of the logger or "PNG files"
        self._epoch = 0

    @property
    def left_out(self) -> Counter[str]:
        """What was not written, counted by cause: room, slow disk, bytes, ..."""
        return sum((channel.left_out for channel in self._channels.values()), Counter())

    @property
    def failures(self) -> Counter[str]:
        """What failed, counted by cause."""
        return sum((channel.failures for channel in self._channels.values()), Counter())

    def write(
        self,
        report: Report,
        *,
        log_step: int,
        epoch: int,
        prefix: str = "",
        also: Mapping[str, float] | None = None,
    ) -> None:
        """Draws and writes one report, whose tensors are on the host.

        Args:
            report: See `vis_callbacks.report.transfer`.
            log_step: The x-axis, as the user's own ``self.log`` has it.
            epoch: Byte budgets and resting channels start afresh with each.
            prefix: Of all tags: the stage outside ``fit``, or the user's ``tag_prefix``.
            also: Numbers that go with it and belong to no monitor; without the prefix.
        """
        if not self._is_global_zero:
            return
        self._begin(epoch)
        prefix = _as_folder(prefix)
        self._write_numbers(report.of(Scalar), log_step, prefix, also or {})
        items = [item for item in report.items if not isinstance(item, _NUMBERS)]
        if items and self._can_take_media():
            self._write_media(self._prepared(items, prefix), log_step)

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

        Remarks (``info``) go to alerts.jsonl only.

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
        self._shown.extend(shown)
        prefix = _as_folder(prefix)
        self._log_to_all({f"{prefix}alerts/active": float(active)}, log_step)
        text = Text(tag=f"{prefix}alerts/text", text=alert_table(self._shown))
        for name, outlet in self._all_outlets():
            if isinstance(outlet, TensorBoardOutlet):
                self._write_alert_text(name, outlet, text, log_step)

    def flush(self) -> None:
        """Writes what has waited, and flushes the event files. Harmless when done twice."""
        if not self._is_global_zero:
            return
        self._begin(self._epoch)
        for name, outlet in self._outlets.items():
            if isinstance(outlet, TensorBoardOutlet):
                flush = partial(outlet.flush, patience=_PATIENCE_FOR_ALERTS)
                self._channel(f"{name}'s flush").attempt(flush, epoch=self._epoch)

    def _begin(self, epoch: int, alerts: Sequence[Alert] = ()) -> None:
        """Starts an epoch's budgets, and writes the alerts and those that wait."""
        self._epoch = epoch
        self._bytes.begin(epoch)
        if self._log is not None:
            self._log.add(alerts)
            if self._log.num_waiting:
                self._channel("alerts.jsonl", max_failures=None).attempt(
                    self._log.write, epoch=epoch
                )

    def _channel(self, name: str, max_failures: int | None = 3) -> Channel:
        if name not in self._channels:
            self._channels[name] = Channel(name, self._warn, max_failures)
        return self._channels[name]

    # -- numbers

    def _write_numbers(
        self, scalars: Sequence[Scalar], step: int, prefix: str, also: Mapping[str, float]
    ) -> None:
        numbers = dict(also)
        for scalar in scalars:
            self._channel(f'the number "{scalar.tag}"').attempt(
                partial(_take_number, numbers, prefix, scalar), epoch=self._epoch
            )
        if numbers:
            self._log_to_all(numbers, step)

    def _log_to_all(self, numbers: Mapping[str, float], step: int) -> None:
        for name, logger in zip(self._names, self._loggers, strict=True):
            outlet = self._outlet_of(name, logger)
            self._channel(f"{name}'s numbers").attempt(
                partial(self._log_to, logger, outlet, numbers, step), epoch=self._epoch
            )

    def _log_to(
        self, logger: object, outlet: Outlet | None, numbers: Mapping[str, float], step: int
    ) -> None:
        if not isinstance(outlet, TensorBoardOutlet):
            log_numbers(logger, numbers, step)
            return
        patience = min(_PATIENCE, max(self._time.remaining, _LEAST_PATIENCE))
        with self._time.spending():
            outlet.require_ready(len(numbers), patience=patience)
            log_numbers(logger, numbers, step)

    # -- pictures, texts, histograms, embeddings

    def _outlet_of(self, name: str, logger: Any) -> Outlet | None:
        """What takes the logger's media, None if nothing does; asked until it has answered."""
        if name not in self._outlets:
            self._channel(f"{name}'s experiment").attempt(
                lambda: self._outlets.update({name: _outlet_for(logger)}), epoch=self._epoch
            )
        return self._outlets.get(name)

    def _all_outlets(self) -> list[tuple[str, Outlet]]:
        pairs = [
            (name, self._outlet_of(name, logger))
            for name, logger in zip(self._names, self._loggers, strict=True)
        ]
        outlets = [(name, outlet) for name, outlet in pairs if outlet is not None]
        if not outlets and self._save_images and self._folder is not None:
            folder = self._outlets.setdefault("PNG files", ImageFolderOutlet(self._folder))
            if folder is not None:
                outlets = [("PNG files", folder)]
        return outlets

    def _can_take_media(self) -> bool:
        """Whether drawing is worth the time; says what to add where nothing takes pictures."""
        if self._all_outlets():
            return self._channel("pictures").attempt(self._time.require, epoch=self._epoch)
        have_answered = all(name in self._outlets for name in self._names)
        if self._folder is not None and have_answered:
            loggers = ", ".join(self._names) or "no logger"
            self._channel("pictures").leave_out(
                "no logger",
                f"nothing takes them ({loggers}); add Trainer(logger=TensorBoardLogger(...)), or "
                "save_images=True for PNG files",
            )
        return False

    def _prepared(self, items: Sequence[Any], prefix: str) -> list[Media]:
        """The items drawn and checked; those that fail are left out, each on its own."""
        prepared: list[Media] = []
        for item in items:
            self._channel(f'"{item.tag}"').attempt(
                partial(_take_media, prepared, prefix, item), epoch=self._epoch
            )
        return prepared

    def _write_media(self, media: Sequence[Media], step: int) -> None:
        kept, dropped = within(media, self._bytes.remaining)
        for item in dropped:
            self._channel("pictures").leave_out(
                "bytes",
                f'"{item.tag}" ({num_bytes(item):,} bytes) is left out at step {step}, because '
                f"the pictures of an epoch would exceed {self._bytes.max_bytes_per_epoch:,} "
                "bytes; the largest are dropped first",
            )
        for item in kept:
            written = [
                self._channel(f"{name}'s {type(item).__name__.lower()}s").attempt(
                    partial(self._write_one, outlet, item, step), epoch=self._epoch
                )
                for name, outlet in self._all_outlets()
                if isinstance(item, outlet.takes)
            ]
            if any(written):
                self._bytes.spend(num_bytes(item))

    def _write_one(self, outlet: Outlet, media: Media, step: int) -> None:
        self._time.require()
        with self._time.spending():
            outlet.write(media, step=step, patience=min(_PATIENCE, self._time.remaining))

    def _write_alert_text(
        self, name: str, outlet: TensorBoardOutlet, text: Text, step: int
    ) -> None:
        def write() -> None:
            with self._time.spending():
                outlet.write_alerts(text, step=step, patience=_PATIENCE_FOR_ALERTS)
                outlet.flush(patience=_PATIENCE_FOR_ALERTS)

        self._channel(f"{name}'s alerts").attempt(write, epoch=self._epoch)


def _outlet_for(logger: Any) -> Outlet | None:
    """What takes the media of a logger."""
    # Asked of the class: a DummyLogger answers every attribute with a function.
    if callable(getattr(type(logger), "log_image", None)):
        return LogImageOutlet(logger)
    experiment = getattr(logger, "experiment", None)
    return TensorBoardOutlet(logger) if package_of(experiment) else None


def _take_number(numbers: dict[str, float], prefix: str, scalar: Scalar) -> None:
    numbers[prefix + scalar.tag] = number_of(scalar)


def _take_media(media: list[Media], prefix: str, item: Item) -> None:
    media.append(prepare(item, prefix))


def _names_of(loggers: Sequence[object]) -> list[str]:
    """The class name of each logger, numbered where several share it."""
    kinds = [type(logger).__name__ for logger in loggers]
    return [
        kind if kinds.count(kind) == 1 else f"{kind} {kinds[: place + 1].count(kind)}"
        for place, kind in enumerate(kinds)
    ]


def _as_folder(prefix: str) -> str:
    return f"{prefix.rstrip('/')}/" if prefix else ""
