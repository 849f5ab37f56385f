"""TensorBoard's event files, one record after the other, as far as they are whole.

TensorBoard's own reader keeps ten pictures of a tag and sums checksums in Python; here the
pictures stay in their file, and it is remembered where.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event

from vis_callbacks.runs.growing_file import open_plain

MAX_RECORD = 64 << 20  # bytes; a longer one is passed over
_NO_RECORD = 1 << 40  # a length that only a damaged file can give
_HEADER, _CHECKSUM = 12, 4  # bytes: length with its checksum, checksum of the data


class EventFile:
    """The records of one file, each once, however often the file is looked at.

    Attributes:
        problem: Why reading has ended for good; empty while it has not.
        num_too_long: Records above 64 MiB, which are passed over.
        is_at_end: Whether the last reading reached the end of what is whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.problem = ""
        self.num_too_long = 0
        self.is_at_end = False

    def events(self, until: float = float("inf")) -> Iterator[tuple[int, Any]]:
        """Yields (offset, event) of the records that are new and whole.

        Args:
            until: The time, of `time.monotonic`, at which reading pauses.
        """
        self.is_at_end = True
        try:
            file = None if self.problem else open_plain(self.path)
        except OSError as error:
            self.problem = f"{self.path.name} cannot be read: {error.strerror}."
            return
        if file is None:
            return
        with file:
            size = file.seek(0, 2)
            file.seek(self.offset)
            while (record := self._next(file, size)) is not None:
                if record[1] is not None:
                    yield record
                if time.monotonic() > until:
                    self.is_at_end = False
                    return

    def _next(self, file: BinaryIO, size: int) -> tuple[int, Any] | None:
        """Returns offset and event, no event of a record that is too long, None at the end."""
        start = self.offset
        if start + _HEADER > size:
            return None
        (length,) = struct.unpack_from("<Q", file.read(_HEADER))
        end = start + _HEADER + length + _CHECKSUM
        if length > _NO_RECORD:
            self._end_here()
            return None
        if end > size:  # half a record, still being written
            return None
        if length > MAX_RECORD:
            self.num_too_long += 1
            event = None
        else:
            try:
                event = Event.FromString(file.read(length))
            except DecodeError:
                self._end_here()
                return None
        self.offset = file.seek(end)
        return start, event

    def event_at(self, offset: int) -> Any | None:
        """Returns one event again; None if its record is no longer there."""
        file = open_plain(self.path)
        if file is None:
            return None
        with file:
            file.seek(offset)
            header = file.read(_HEADER)
            if len(header) < _HEADER:
                return None
            (length,) = struct.unpack_from("<Q", header)
            try:
                return Event.FromString(file.read(length)) if length <= MAX_RECORD else None
            except DecodeError:
                return None

    def _end_here(self) -> None:
        self.problem = (
            f"{self.path.name} is damaged at byte {self.offset:,}; nothing behind it is read."
        )
