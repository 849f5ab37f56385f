"""What may be spent on writing: room on the disk, bytes an epoch, a share of the time."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vis_callbacks.guard import LeftOutError

if sys.platform != "win32":
    import resource

# What stays free for the run's own logs: pictures stop first, our numbers next.
RESERVE_FOR_MEDIA = 1 << 20
RESERVE_FOR_NUMBERS = 64 << 10


def room_for(path: Path) -> int:
    """Returns how many bytes ``path`` can still grow: free space, and the file size limit.

    A quota is not seen. ``path`` need not exist, its folder must.
    """
    free = shutil.disk_usage(path.parent).free
    if sys.platform != "win32":
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        if limit != resource.RLIM_INFINITY:
            size = path.stat().st_size if path.exists() else 0
            free = min(free, limit - size)
    return max(free, 0)


def require_room(path: Path, size: int, reserve: int) -> None:
    """Raises LeftOutError if writing ``size`` bytes would leave less than ``reserve`` free."""
    room = room_for(path)
    if room < size + reserve:
        raise LeftOutError(
            "room",
            f"nothing is written while {path.parent} has room for {room:,} bytes only (disk or "
            f"file size limit); {size + reserve:,} are needed, of which {reserve:,} are kept "
            "for the run's own logs",
        )


class KnownFolder:
    """A folder that must stay the one it was: not removed, not replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity = self._current()

    def _current(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            if self.path.is_dir():
                status = self.path.stat()
                return status.st_dev, status.st_ino
        return None

    def require(self) -> None:
        """Raises LeftOutError if the folder is gone, or another one stands in its place."""
        current = self._current()
        if current is None or current != self._identity:
            what = "is gone" if current is None else "was replaced by another folder"
            raise LeftOutError("folder", f"nothing is written while {self.path} {what}")


class ByteBudget:
    """How many bytes of media an epoch may add to an event file."""

    def __init__(self, max_bytes_per_epoch: int) -> None:
        self.max_bytes_per_epoch = max_bytes_per_epoch
        self._epoch: int | None = None
        self._spent = 0

    def begin(self, epoch: int) -> None:
        """Starts afresh with a new epoch."""
        if epoch != self._epoch:
            self._epoch, self._spent = epoch, 0

    @property
    def remaining(self) -> int:
        """Bytes left in this epoch."""
        return self.max_bytes_per_epoch - self._spent

    def spend(self, size: int) -> None:
        """Takes ``size`` bytes off what is left."""
        self._spent += size


class TimeBudget:
    """How long training may wait for the disk: a share of the time that goes by, saved up.

    A disk that takes half a second a record would stall the run at every picture. What is
    written beyond the savings is a debt: nothing is written until time has paid it.

    Args:
        share: Of the time that goes by. 5 %: a healthy disk needs far less.
        savings: Seconds that may be saved up, also at hand at the start, when step 0 writes
            a picture of each kind.
        now: A clock in seconds.
    """

    def __init__(
        self,
        share: float = 0.05,
        savings: float = 1.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share, self._savings, self._now = share, savings, now
        self._balance, self._updated = savings, now()

    @property
    def remaining(self) -> float:
        """Seconds that writing may take now; not above 0 means: nothing is written."""
        now = self._now()
        self._balance = min(self._savings, self._balance + self._share * (now - self._updated))
        self._updated = now
        return self._balance

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """Takes the time that the block takes off what is left."""
        start = self._now()
        try:
            yield
        finally:
            self._balance -= self._now() - start

    def require(self) -> None:
        """Raises LeftOutError if nothing is left."""
        if self.remaining <= 0:
            raise slow_disk()


def slow_disk() -> LeftOutError:
    """Returns the error that says that the disk does not keep up."""
    return LeftOutError("slow disk", "left out while the disk does not keep up with writing")
