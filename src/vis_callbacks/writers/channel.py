"""A way out that may fail: contained, counted, said once per cause, rested when it is broken."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from vis_callbacks.guard import Catch


class LeftOutError(Exception):
    """Something was rightly not written now (no room, a slow disk): no failure of the channel.

    Attributes:
        cause: What it is counted under, and said once for.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


@dataclass
class Channel:
    """One way out, such as the pictures of one logger.

    Args:
        name: In the words of the warnings.
        warn: Takes each warning, one per cause.
        max_failures: After so many failures in a row it rests until the next epoch, in which
            it is tried once (a file descriptor, say, may be free again). None: never rests.
    """

    name: str
    warn: Callable[[str], None]
    max_failures: int | None = 3
    failures: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    _in_a_row: int = 0
    _resting_epoch: int | None = None

    def is_resting(self, epoch: int) -> bool:
        """Whether it has failed too often in a row to be tried in this epoch again."""
        return self._resting_epoch == epoch

    def attempt(self, action: Callable[[], object], *, epoch: int) -> bool:
        """Calls ``action`` unless the channel rests; returns whether it succeeded."""
        if self.is_resting(epoch):
            self.left_out["resting"] += 1
            return False
        with Catch() as caught:
            action()
        if caught.error is None:
            self._in_a_row, self._resting_epoch = 0, None
            return True
        if isinstance(caught.error, LeftOutError):
            self.leave_out(caught.error.cause, str(caught.error))
        else:
            self._note(caught.error, epoch)
        return False

    def leave_out(self, cause: str, message: str) -> None:
        """Counts what was not written, and says so when the cause is new."""
        self.left_out[cause] += 1
        if self.left_out[cause] == 1:
            self.warn(f"{self.name}: {message}. Training goes on.")

    def _note(self, error: Exception, epoch: int) -> None:
        """Counts a failure, says a new cause, and rests after too many."""
        # Unlike str(error), this stands an exception whose __str__ raises.
        cause = traceback.format_exception_only(error)[-1].strip()[:500]
        # Its frames would keep arrays and the model alive; a frozen dataclass refuses to be set.
        error.with_traceback(None)
        self.failures[cause] += 1
        self._in_a_row += 1
        rests = self.max_failures is not None and self._in_a_row >= self.max_failures
        if rests:
            self._resting_epoch = epoch
        if self.failures[cause] == 1:
            self.warn(f"{self.name} could not be written: {cause}. Training goes on without.")
        if rests and self._in_a_row == self.max_failures:
            self.warn(
                f"{self.name} failed {self._in_a_row} times in a row and is tried once an epoch "
                "from now on."
            )
