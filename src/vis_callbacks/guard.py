"""Guards: a failure of ours is caught, counted and logged, and the user's run goes on.

`Catch` is the only place of the training side that stops an `Exception`.
``KeyboardInterrupt`` and ``SystemExit`` are none and pass through unchanged.
"""

from __future__ import annotations

import contextlib
import logging
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from vis_callbacks.terminal import beside_bars

_logger = logging.getLogger("vis_callbacks")

_MAX_WORDS = 1500  # with the advice that some errors carry
_NUMBERS = re.compile(r"\d+")


class IntendedError(Exception):
    """An error that is meant to reach the user's run, such as that of ``on_alert="raise"``."""


class NothingToShow(Exception):  # noqa: N818 - it is no error
    """Says why a monitor has nothing to show for this model or batch; raised in ``observe``.

    It is no failure: it is logged once, at level info, and does not make the monitor rest.
    """


class LeftOutError(Exception):
    """Something was rightly not done now (no room, a slow disk), which is no failure.

    Attributes:
        cause: What it is counted under, and logged once for.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Catch:
    """Runs a block and keeps its exception as ``error`` instead of letting it out."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception) or isinstance(error, IntendedError):
            return False
        self.error = error
        return True


Fail = Callable[[Exception], object]


class Contained:
    """A function of ours that PyTorch calls: what fails in it never reaches the user.

    Args:
        function: Is called with what PyTorch gives. It returns nothing that PyTorch would use.
        fail: Takes the exceptions.
    """

    __slots__ = ("fail", "function")

    def __init__(self, function: Callable[..., object], fail: Fail) -> None:
        self.function = function
        self.fail = fail

    def __call__(self, *args: Any) -> Any:
        """Returns what the function returns, None where it failed."""
        with Catch() as caught:
            return self.function(*args)
        if caught.error is not None:
            self.fail(caught.error)
        return None


@dataclass
class Guard:
    """Catches, counts and logs the failures of one monitor or writer, once per cause.

    Messages go through logging, not ``warnings``: under ``-W error`` a warning would become
    the very exception that must not reach the run.

    Args:
        owner: Who failed, in the words of the messages.
        max_failures: After so many failing occasions in a row the owner rests: what fails
            three times running fails for a reason that the next time will not cure.
        is_silent: Counts, but logs nothing, for a trial run.
        until: When a resting owner is tried again, for the message: " until the next epoch".

    Attributes:
        counts: How often each failure came.
        left_out: How often something was left out that was no failure.
    """

    owner: str
    max_failures: int = 3
    is_silent: bool = False
    until: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    in_a_row: int = 0
    _count_before: int = 0
    _has_said_it_rests: bool = False
    _causes: dict[tuple[str, ...], str] = field(default_factory=dict)

    @property
    def is_resting(self) -> bool:
        """Whether the owner has failed too often in a row to be asked again."""
        return self.in_a_row >= self.max_failures

    @contextlib.contextmanager
    def catch(self, stage: str) -> Iterator[None]:
        """Lets no failure of the block out: it is recorded."""
        with Catch() as caught:
            yield
        if caught.error is not None:
            self.record(stage, caught.error)

    @contextlib.contextmanager
    def optional(self, what: str, remedy: str = "") -> Iterator[None]:
        """Leaves ``what`` out where the block fails, which is no failure of the owner.

        ``remedy`` is a sentence: the option that mends it.
        """
        with Catch() as caught:
            yield
        if caught.error is not None:
            drop_frames(caught.error)
            cause = "".join(traceback.format_exception_only(caught.error)).strip().rstrip(".")
            words = f"{self.owner} leaves out {what} and goes on: {cause}. {remedy}"
            self.leave_out(what, words.rstrip(), level=logging.INFO)

    def attempt(self, stage: str, action: Callable[[], object]) -> bool:
        """Calls ``action`` unless the owner rests; returns whether it succeeded.

        Each call is an occasion of its own, and a success ends the row of failures.
        """
        if self.is_resting:
            self.left_out["resting"] += 1
            return False
        with Catch() as caught:
            action()
        if caught.error is None:
            self.in_a_row = 0
            return True
        self._count_before = self.counts.total()
        self.record(stage, caught.error)
        return False

    def record(self, stage: str, error: Exception) -> None:
        """Counts a failure and logs its cause when it is new. It never fails itself."""
        with Catch():
            if isinstance(error, NothingToShow):
                self.log_once(_words_of(error), before=" has nothing to show: ")
            elif isinstance(error, LeftOutError):
                words = f"{self.owner}: {_words_of(error)}. Training goes on."
                self.leave_out(error.cause, words)
            else:
                self._record(stage, error)

    def _record(self, stage: str, error: Exception) -> None:
        kind, words, where = type(error).__name__, _words_of(error), _place_of(error)
        cause = f"{stage}: {kind}: {words}"
        # One function of the user's may fail at several stages, or with a new number each time.
        keys = ((kind, _NUMBERS.sub("#", words) or where), (stage, kind, where or words))
        known = next((self._causes[key] for key in keys if key in self._causes), None)
        if known is None:
            self._causes |= dict.fromkeys(keys, cause)
        cause = known or cause
        # Several failures at one occasion are one in the row.
        self.in_a_row += self.counts.total() == self._count_before
        self.counts[cause] += 1
        drop_frames(error)
        self._log(
            f"{self.owner} failed in {cause.rstrip('.')}{where}. Training goes on; what failed "
            "is left out, and the same failure is not reported again.",
            level=logging.WARNING if known is None else logging.DEBUG,
            contained=error,
        )
        if self.is_resting and not self._has_said_it_rests:
            self._has_said_it_rests = True
            self._log(
                f"{self.owner} is paused: it failed {self.max_failures} times in a row. "
                f"Training goes on without it{self.until}.",
                level=logging.INFO,  # of its cause there is a line already
            )

    def leave_out(self, cause: str, message: str, *, level: int = logging.WARNING) -> None:
        """Counts what was not done, and logs the message when the cause is new."""
        self.left_out[cause] += 1
        if self.left_out[cause] == 1:
            self._log(message, level=level)

    def log_once(self, words: str, before: str = ": ") -> None:
        """Logs, once for all monitors, something good to know that is no failure."""
        if (key := ("info", _NUMBERS.sub("#", words))) not in self._causes:
            self._causes[key] = words
            self._log(f"{self.owner}{before}{words}", level=logging.INFO)

    def _log(self, message: str, *, level: int, contained: Exception | None = None) -> None:
        if not self.is_silent:
            log(message, level=level, contained=contained)

    def begin_run(self) -> None:
        """Lets a resting owner try again: another run may not have what it failed for."""
        self.in_a_row, self._has_said_it_rests = 0, False
        self._count_before = self.counts.total()

    def begin_snapshot(self) -> None:
        """Ends a row of failures where the snapshot before had none."""
        if self._count_before == self.counts.total() and not self.is_resting:
            self.in_a_row = 0
        self._count_before = self.counts.total()

    def wake(self) -> None:
        """Lets a resting owner be tried once; if it fails again, it rests on."""
        self.in_a_row = min(self.in_a_row, self.max_failures - 1)

    def share_causes(self, other: Guard) -> None:
        """Logs no cause that the other has logged, and the other way round."""
        other._causes |= self._causes
        self._causes = other._causes


def log_summary(guards: Sequence[Guard]) -> None:
    """Logs once, at the end of a run, how often what failed, in one line for all guards."""
    counts: Counter[str] = Counter()
    for guard in guards:
        counts.update(guard.counts)
    if counts:
        causes = "; ".join(f"{count} x {cause}" for cause, count in counts.items())
        failed = ", ".join(guard.owner for guard in guards if guard.counts)
        log(f"{counts.total()} contained failures in {failed} ({causes}).")


def log(message: str, *, level: int = logging.WARNING, contained: Exception | None = None) -> None:
    """Logs a message; a log handler that fails itself changes nothing."""
    if not _logger.isEnabledFor(level):
        return
    # The stored error lets a test's handler fail on failures that nobody asked for.
    with contextlib.suppress(Exception), beside_bars(_logger):
        _logger.log(level, message, extra={"contained": contained} if contained else None)


def drop_frames(error: Exception) -> None:
    """Lets go of an exception's frames, and of the exceptions before it: they hold the model.

    Those before it may be the user's and keep their own frames.
    """
    for name in ("__traceback__", "__cause__", "__context__"):
        object.__setattr__(error, name, None)  # a frozen dataclass refuses the plain assignment


def _words_of(error: Exception) -> str:
    """Returns the error's message, even where its ``__str__`` fails."""
    text = "(its message cannot be shown)"
    with Catch():
        text = str(error)
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}..."


def _place_of(error: Exception) -> str:
    """Returns the innermost place of the failure as `` (module.py:12)``."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    if not frames:
        return ""
    return f" ({frames[0].filename.rsplit('/', 1)[-1]}:{frames[0].lineno})"
