"""Files that another process may be writing, read in bounded memory and time."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MAX_LINE = 1 << 20  # bytes; an alert that names 10,000 layers has 400 kB


def open_plain(path: Path) -> BinaryIO | None:
    """Returns a plain file opened for reading; None where there is none.

    A symbolic link is not followed, so nothing outside of the log folder is ever read, and a
    pipe is not waited for.

    Raises:
        OSError: The file is there and may not be read.
    """
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return None
        return os.fdopen(os.open(path, os.O_RDONLY | flags), "rb")
    except FileNotFoundError:
        return None


class GrowingFile:
    """The whole lines of a file, each once, however often the file is looked at.

    Attributes:
        num_too_long: Lines above 1 MiB, which are passed over.
        num_skipped_bytes: What was passed over at the start.
        is_at_end: Whether the last reading reached the end of the file.

    Args:
        path: A file that need not exist yet.
        tail: Begin at most so many bytes before the end; None begins at the start.
    """

    def __init__(self, path: Path, tail: int | None = None) -> None:
        self.path = path
        self.num_too_long = 0
        self.num_skipped_bytes = 0
        self.is_at_end = False
        self._tail = tail
        self._offset = 0
        self._is_within_line = False

    def lines(self, until: float = float("inf")) -> Iterator[bytes]:
        """Yields the lines that are new; one without its end waits for the next time.

        Args:
            until: The time, of `time.monotonic`, at which reading pauses.

        Raises:
            OSError: The file is there and may not be read.
        """
        file = open_plain(self.path)
        self.is_at_end = file is None
        if file is None:
            return
        with file:
            self._find_start(os.fstat(file.fileno()).st_size)
            file.seek(self._offset)
            while time.monotonic() < until:
                piece = file.readline(MAX_LINE)
                is_whole = piece.endswith(b"\n")
                if not is_whole and len(piece) < MAX_LINE:
                    self.is_at_end = True
                    return
                self._offset += len(piece)
                if is_whole and not self._is_within_line:
                    yield piece
                elif not is_whole and not self._is_within_line:
                    self.num_too_long += 1
                self._is_within_line = not is_whole

    def _find_start(self, size: int) -> None:
        if size < self._offset:  # the file was written anew
            self._offset, self._is_within_line = 0, False
        if self._offset == 0 and self._tail is not None and size > self._tail:
            self._offset = self.num_skipped_bytes = size - self._tail
            self._is_within_line = True
