"""A folder of runs: which there are, and what is said of each."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from vis_callbacks.alerts.log import FILE_NAME
from vis_callbacks.runs import TAB_NAME
from vis_callbacks.runs.alert_cases import AlertCases
from vis_callbacks.runs.growing_file import open_plain
from vis_callbacks.runs.run import EVENT_FILES, Run

MAX_FOLDERS = 50_000  # that are looked into
_MAX_RUNS_KEPT = 16  # a run of 500 layers and 200 tags takes some 5 MB
_MAX_ALERTS_KEPT = 300
_MAX_FILES_LOOKED_INTO = 3  # of a run, each a resume
_START = 2 << 20  # bytes; the first pictures may lie before our numbers

Kept = TypeVar("Kept")


def find_runs(root: Path) -> Iterator[tuple[str, Path]]:
    """Yields name and folder of each run at or below ``root``, named as TensorBoard does.

    A run is a folder that holds an event file or an alerts.jsonl. Symbolic links are not
    followed, so that nothing outside of the log folder is read.
    """
    for count, (folder, subfolders, files) in enumerate(os.walk(root)):
        if count >= MAX_FOLDERS:
            return
        subfolders.sort()
        if any(name == FILE_NAME or "tfevents" in name for name in files):
            # A name that is no UTF-8 cannot be asked for by a browser.
            name = os.fsencode(os.path.relpath(folder, root)).decode("utf-8", "replace")
            yield name, Path(folder)


def is_watched(folder: Path) -> bool:
    """Returns whether a monitor has written into a run, by a look at the start of its files.

    At the end of their first burst the monitors write what this looks for.
    """
    if (folder / FILE_NAME).is_file():
        return True
    for path in sorted(folder.glob(EVENT_FILES))[:_MAX_FILES_LOOKED_INTO]:
        file = open_plain(path)
        if file is not None:
            with file:
                start = file.read(_START)
            if any(mark in start for mark in (TAB_NAME.encode(), b"overhead/")):
                return True
    return False


class LogFolder:
    """The runs below some folders, found anew every few seconds; the latest used are kept.

    Args:
        roots: Folders by the name that goes before those of their runs; mostly one, without.
    """

    def __init__(self, roots: Mapping[str, Path]) -> None:
        self.roots = dict(roots)
        self._lock = threading.Lock()
        self._folders: dict[str, Path] = {}
        self._look_again_at = 0.0
        self._watched: set[str] = set()
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._alerts: OrderedDict[str, AlertCases] = OrderedDict()

    def names(self) -> list[str]:
        """Returns the names of all runs, in order."""
        with self._lock:
            if time.monotonic() >= self._look_again_at:
                started = time.monotonic()
                self._folders = dict(self._found())
                took = time.monotonic() - started
                self._look_again_at = time.monotonic() + max(2.0, 20 * took)
            return list(self._folders)

    def run(self, name: str) -> Run | None:
        """Returns the run of this name, None if there is none; only names that were found count."""
        return self._kept(name, self._runs, Run, _MAX_RUNS_KEPT)

    def alerts(self, name: str) -> AlertCases | None:
        """Returns the alerts of a run without the rest, which is cheap; None if there is none."""
        return self._kept(name, self._alerts, AlertCases, _MAX_ALERTS_KEPT)

    def is_watched(self, name: str) -> bool:
        """Returns whether a monitor has written into the run of this name."""
        if name not in self._watched and name in self._folders and is_watched(self._folders[name]):
            self._watched.add(name)
        return name in self._watched

    def _found(self) -> Iterator[tuple[str, Path]]:
        for prefix, root in self.roots.items():
            for name, folder in find_runs(root):
                inside = "" if name == "." and prefix else name
                yield "/".join(part for part in (prefix, inside) if part), folder

    def _kept(
        self, name: str, kept: OrderedDict[str, Kept], make: Callable[[Path], Kept], limit: int
    ) -> Kept | None:
        if name not in self._folders:
            self.names()
        with self._lock:
            if name not in self._folders:
                return None
            if name not in kept:
                kept[name] = make(self._folders[name])
            kept.move_to_end(name)
            while len(kept) > limit:
                kept.popitem(last=False)
            return kept[name]
