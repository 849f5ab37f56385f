"""The SummaryWriter of a logger, shared with the user and never broken by what we write.

A SummaryWriter writes in a background thread. When a record cannot be written the thread ends:
torch's raises its error from the *next* call, which is the user's ``self.log``, and kills the
run; tensorboardX's lets the queue fill up until the run hangs. So each record of ours is checked
beforehand (folder, room), handed over only once the user's own have reached the file, and waited
for. Where it ends the thread nevertheless, the user gets a fresh one, on a new file in the same
folder, before the next ``self.log``.

A writer of our own in the same folder would be simpler, but hides the user's curves:
TensorBoard's Python loader reads one file of a folder after the other and does not go back.

All that is private in the two packages is named in this file. What a later version of theirs
does not have under these names counts as healthy.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import time
from pathlib import Path
from typing import Any, Literal

from vis_callbacks.guard import Catch, LeftOutError
from vis_callbacks.writers.budget import KnownFolder, require_room, slow_disk

Package = Literal["torch", "tensorboardX"]

_SUMMARY_MODULES = {
    "torch": "torch.utils.tensorboard.summary",
    "tensorboardX": "tensorboardX.summary",
}
_RECORD_OVERHEAD = 16  # length, its checksum, the data's checksum
_LENGTH_BYTES = 8
_EVENT_OVERHEAD = 32  # wall time, step, field headers: at most


def package_of(experiment: object) -> Package | None:
    """Returns whose SummaryWriter it is (or a subclass of), None if it is none."""
    for kind in type(experiment).__mro__:
        package = kind.__module__.split(".")[0]
        if kind.__name__ == "SummaryWriter" and package in ("torch", "tensorboardX"):
            return "torch" if package == "torch" else "tensorboardX"
    return None


def summary_module(package: Package) -> Any:
    """Returns the module that makes the summaries that this package's writer accepts."""
    return importlib.import_module(_SUMMARY_MODULES[package])


class SharedWriter:
    """One SummaryWriter of the user's.

    Args:
        writer: The logger's ``experiment``.
        package: Whose it is.
    """

    def __init__(self, writer: Any, package: Package) -> None:
        self.writer = writer
        self.package = package
        self.folder = KnownFolder(Path(self._file_writer.get_logdir()))
        self._size_before: int | None = None  # of the file, while a record of ours is on its way

    @property
    def path(self) -> Path | None:
        """The current event file; None where it lies elsewhere than on this machine."""
        holder = "_ev_writer._file_name" if self.package == "tensorboardX" else "_file_name"
        name = _attribute(self._event_writer, holder)
        return Path(name) if isinstance(name, str) and "://" not in name else None

    @property
    def death(self) -> BaseException | None:
        """Why the background thread has ended, None while it is alive."""
        if self.package == "torch":
            error = _attribute(self._event_writer, "_async_writer._worker.exception")
            return error if isinstance(error, BaseException) else None
        thread = _attribute(self._event_writer, "_worker")
        if thread is None or thread.is_alive():
            return None
        return RuntimeError("its writing thread has ended")

    def require_ready(self, *, size: int, reserve: int, patience: float) -> None:
        """Checks that ``size`` bytes can be handed over without harm.

        Returns once the user's own records have reached the file.

        Raises:
            LeftOutError: The folder is another one, there is no room, or the disk is too slow.
            RuntimeError: The thread has ended, and not through us.
        """
        self._replace_if_ours_killed_it()
        if self.death is not None:
            raise RuntimeError("TensorBoard's writer has stopped working") from self.death
        path = self.path
        if path is not None:
            self.folder.require()
            require_room(path, size, reserve)
        if not self.wait(patience):
            raise slow_disk()
        self._size_before = None

    def add(self, summary: Any, *, step: int, reserve: int, patience: float) -> None:
        """Writes one summary and waits, for ``patience`` seconds at most, until it is in the file.

        Raises:
            LeftOutError: As `require_ready`; or the record could not be written, and the
                user's writer was replaced.
            RuntimeError: As `require_ready`.
        """
        size = summary.ByteSize() + _EVENT_OVERHEAD + _RECORD_OVERHEAD
        self.require_ready(size=size, reserve=reserve, patience=patience)
        if self.package == "tensorboardX":  # its file is buffered
            self.writer.flush()
        self._size_before = _size_of(self.path)
        with Catch() as caught:
            self._file_writer.add_summary(summary, step)
            self._wait_for_growth(summary.ByteSize() + _RECORD_OVERHEAD, patience)
        self._replace_if_ours_killed_it()
        if caught.error is not None:
            raise caught.error

    def wait(self, seconds: float) -> bool:
        """Returns whether all that was handed over has reached the file, within ``seconds``."""
        if self.package == "torch":
            queue = _attribute(self._event_writer, "_async_writer._byte_queue")
            done = _attribute(queue, "all_tasks_done")
            if done is None:
                return True
            with done:
                return bool(done.wait_for(lambda: not queue.unfinished_tasks, max(seconds, 0.0)))
        queue = _attribute(self._event_writer, "_event_queue")
        return queue is None or _until(lambda: _is_empty(queue), seconds)

    def flush(self, patience: float) -> None:
        """Flushes the file, unless its thread has ended or is ``patience`` seconds behind."""
        self._replace_if_ours_killed_it()
        if self.death is None and self.wait(patience):
            self.writer.flush()

    @property
    def _file_writer(self) -> Any:
        return self.writer._get_file_writer()

    @property
    def _event_writer(self) -> Any:
        return _attribute(self._file_writer, "event_writer")

    def _wait_for_growth(self, size: int, patience: float) -> None:
        """Waits until the file has grown by our record, or its thread has ended."""
        before = self._size_before

        def has_landed() -> bool:
            # Not the queue alone: torch's is told "done" a moment before the error is stored.
            grown = _size_of(self.path)
            return before is None or grown is None or grown >= before + size

        deadline = time.monotonic() + patience
        while self.wait(deadline - time.monotonic()) and self.death is None:
            if self.package == "tensorboardX":
                self.writer.flush()
            if has_landed():
                self._size_before = None
                return
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)

    def _replace_if_ours_killed_it(self) -> None:
        """Gives the user a fresh thread and file, if the last record handed over was ours."""
        death, size = self.death, self._size_before
        if death is None or size is None:
            return
        self._size_before = None
        self._renew(size)
        raise LeftOutError(
            "replaced",
            f"a record could not be written ({type(death).__name__}: {death}); the logger goes "
            f"on in a new event file, {self.path}",
        )

    def _renew(self, size: int) -> None:
        """Closes the dead file writer, its half record cut off, and opens another."""
        dead, path = self._file_writer, self.path
        others = {key: value for key, value in self.writer.all_writers.items() if value is not dead}
        if path is not None and self.package == "torch" and path.exists():
            # torch's stub opens the file anew for each record, so nobody holds it. tensorboardX
            # does, and would fill the gap.
            _cut_half_record(path, size)
        if path is not None:
            _await_another_name(path)
        self.writer.file_writer = None
        fresh = self.writer._get_file_writer()
        self.writer.all_writers = {**others, fresh.get_logdir(): fresh}
        self.folder = KnownFolder(self.folder.path)
        _let_go(dead.event_writer)


def _let_go(event_writer: Any) -> None:
    """Keeps a dead event writer from holding up the end of the process."""
    queue = _attribute(event_writer, "_event_queue")
    if queue is None:  # torch: its close joins a thread that has ended
        with contextlib.suppress(OSError):
            event_writer.close()
        return
    event_writer._closed = True
    queue.cancel_join_thread()


def _cut_half_record(path: Path, start: int) -> None:
    """Gives back the room of a record that ends the file and was not written to its end.

    On a full disk the next record of the user's would else have no room. Nothing that can be
    read is lost: every whole record stays, also one that another thread of the user's wrote
    while ours was on its way, and nobody completes a record once its thread has ended.

    Args:
        path: The event file.
        start: Where a record begins: the file's size before the one that failed.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = start
        while end < size:
            start = end
            file.seek(start)
            head = file.read(_LENGTH_BYTES)
            end = start + _RECORD_OVERHEAD + int.from_bytes(head, "little")
            if len(head) < _LENGTH_BYTES or end > size:
                file.truncate(start)
                return


def _await_another_name(path: Path) -> None:
    """Waits until a new event file gets another name, and one that sorts after ``path``.

    Names hold the second; tensorboardX would overwrite the old file within the same one.
    """
    second = re.search(r"tfevents\.(\d{10})", path.name)
    if second:
        time.sleep(max(0.0, min(1.0, int(second[1]) + 1.001 - time.time())))


def _attribute(value: Any, names: str) -> Any:
    """The attribute of an attribute of ``value``, None where one is missing."""
    for name in names.split("."):
        value = getattr(value, name, None)
    return value


def _size_of(path: Path | None) -> int | None:
    if path is None:
        return None
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return None


def _is_empty(queue: Any) -> bool:
    try:
        return bool(queue.qsize() == 0)
    except NotImplementedError:  # macOS
        return bool(queue.empty())


def _until(condition: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True
