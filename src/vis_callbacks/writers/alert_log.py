"""alerts.jsonl: where it lies, and no alert lost while its disk is full."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.alerts.log import FILE_NAME, append_alerts
from vis_callbacks.guard import Catch
from vis_callbacks.writers.budget import KnownFolder

_MAX_WAITING = 1000


def alert_folder(loggers: Sequence[object], default_root_dir: str | os.PathLike[str]) -> Path:
    """Returns where the alerts of a run go.

    The log directory of the first TensorBoard logger, else of the first logger that has one,
    else ``default_root_dir/vis_callbacks``. It asks no rank but its own and makes nothing;
    ``trainer.log_dir`` broadcasts, and hangs where one rank asks alone.
    """
    is_tensorboard = [
        any("TensorBoard" in kind.__name__ for kind in type(logger).__mro__) for logger in loggers
    ]
    ordered = [logger for logger, first in zip(loggers, is_tensorboard, strict=True) if first]
    ordered += [logger for logger, first in zip(loggers, is_tensorboard, strict=True) if not first]
    for logger in ordered:
        with Catch():  # a logger that cannot say where it writes is passed over
            folder = _log_dir_of(logger)
            if folder is not None:
                return folder
    return Path(default_root_dir) / "vis_callbacks"


def _log_dir_of(logger: Any) -> Path | None:
    """``log_dir``, else ``save_dir/name/version``, where they are paths on this machine."""
    log_dir = getattr(logger, "log_dir", None)
    if _is_local(log_dir):
        return Path(log_dir)
    save_dir = getattr(logger, "save_dir", None)
    if not _is_local(save_dir):
        return None
    version = getattr(logger, "version", None)
    if isinstance(version, int):
        version = f"version_{version}"
    parts = [part for part in (getattr(logger, "name", None), version) if isinstance(part, str)]
    return Path(save_dir, *parts)


def _is_local(path: object) -> TypeGuard[str | os.PathLike[str]]:
    # A DummyLogger answers every attribute with a function.
    return isinstance(path, str | os.PathLike) and bool(str(path)) and "://" not in str(path)


class AlertLog:
    """The alerts.jsonl of a run; nothing is made before the first alert.

    What could not be written waits and is written with the next opportunity.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._folder: KnownFolder | None = None
        self._waiting: deque[Alert] = deque(maxlen=_MAX_WAITING)

    @property
    def num_waiting(self) -> int:
        """How many alerts could not be written so far."""
        return len(self._waiting)

    def add(self, alerts: Sequence[Alert]) -> list[Alert]:
        """Takes alerts to be written by `write`; returns them with the time stamped on."""
        stamped = [
            alert if alert.time is not None else replace(alert, time=time.time())
            for alert in alerts
        ]
        self._waiting.extend(stamped)
        return stamped

    def write(self) -> None:
        """Appends what waits, one line each.

        Raises:
            OSError: The disk is full or the file cannot be written; the rest waits on.
            LeftOutError: The folder was removed or replaced during the run. Making it anew
                would hide from the user's own logger that it is gone.
        """
        if self._folder is not None:
            self._folder.require()
        while self._waiting:
            append_alerts(self.path, self._waiting[0])
            self._waiting.popleft()
            if self._folder is None:
                self._folder = KnownFolder(self.path.parent)
