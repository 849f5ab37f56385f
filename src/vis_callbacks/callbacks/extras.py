"""What a monitor can do without: where it fails, it alone is left out."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from vis_callbacks.guard import Attempt, say


class Extras:
    """Contains the failures of a monitor's extras, and says once of each that it is left out.

    It is no failure of the monitor, and no strike towards its resting.

    Args:
        owner: The monitor, in the words of the message.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._said: set[str] = set()

    @contextmanager
    def contain(self, what: str, remedy: str = "") -> Iterator[None]:
        """Lets no failure of the block out.

        Args:
            what: Is left out then.
            remedy: A sentence: the option that mends it.
        """
        with Attempt() as attempt:
            yield
        error = attempt.error
        if error is None:
            return
        error.with_traceback(None)  # its frames hold the model, and itself
        if what in self._said:
            return
        self._said.add(what)
        cause = "".join(traceback.format_exception_only(error)).strip().rstrip(".")
        words = f"{self._owner} leaves out {what} and goes on without: {cause}. {remedy}"
        say(words.rstrip(), level=logging.INFO)
