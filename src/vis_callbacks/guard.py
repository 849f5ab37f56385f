"""Containing failures: a monitor's error never reaches the user's run.

`Attempt` is the only place of the training side that stops an `Exception`.
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

log = logging.getLogger("vis_callbacks")

_MAX_WORDS = 1500  # with the advice that some errors carry
_NUMBERS = re.compile(r"\d+")


class IntendedError(Exception):
    """An error that is meant to reach the user's run, such as that of ``on_alert="raise"``."""


class NothingToShow(Exception):  # noqa: N818 - it is no error
    """Says why a monitor has nothing to show for this model or batch; raised in ``observe``.

    It is no failure: it is logged once, at level info, and is no strike towards resting.
    """


class Attempt:
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
    """A function of ours that PyTorch calls: what goes wrong in it never reaches the user.

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
        with Attempt() as attempt:
            return self.function(*args)
        if attempt.error is not None:
            self.fail(attempt.error)
        return None


@dataclass
class Guard:
    """Contains, counts and reports the failures of one monitor, once per cause.

    Messages go through logging, not ``warnings``: under ``-W error`` a warning would become
    the very exception that must not reach the run.

    Args:
        owner: Who failed, in the words of the report.
        max_failures: After so many failing snapshots in a row the owner rests: a monitor
            that fails three times running fails for a reason that the next will not cure.
    """

    owner: str
    max_failures: int = 3
    counts: Counter[str] = field(default_factory=Counter)
    in_a_row: int = 0
    _count_before: int = 0
    _has_said_it_rests: bool = False
    _causes: dict[tuple[str, ...], str] = field(default_factory=dict)

    @property
    def is_resting(self) -> bool:
        """Whether the owner has failed too often in a row to be asked again."""
        return self.in_a_row >= self.max_failures

    @contextlib.contextmanager
    def contain(self, stage: str, then: Callable[[], object] | None = None) -> Iterator[None]:
        """Lets no failure of the block out: it is counted, and reported once per cause.

        ``then`` is called after a failure, to give up what the block had begun.
        """
        with Attempt() as attempt:
            yield
        if attempt.error is not None:
            self.note(stage, attempt.error)
            if then is not None:
                then()

    def note(self, stage: str, error: Exception) -> None:
        """Counts a failure and reports its cause when it is new. It never fails itself."""
        with Attempt():
            self._note(stage, error)

    def _note(self, stage: str, error: Exception) -> None:
        if isinstance(error, NothingToShow):
            self.remark(_words_of(error), before=" has nothing to show: ")
            return
        kind, words, where = type(error).__name__, _words_of(error), _place_of(error)
        cause = f"{stage}: {kind}: {words}"
        # One function of the user's may fail at several stages, or with a new number each time.
        keys = ((kind, _NUMBERS.sub("#", words) or where), (stage, kind, where or words))
        known = next((self._causes[key] for key in keys if key in self._causes), None)
        if known is None:
            self._causes |= dict.fromkeys(keys, cause)
        cause = known or cause
        # Several failures at one snapshot are one in the row.
        self.in_a_row += self.counts.total() == self._count_before
        self.counts[cause] += 1
        drop_frames(error)
        say(
            f"{self.owner} failed in {cause.rstrip('.')}{where}. Training goes on; what failed "
            "is left out, and the same failure is not reported again.",
            level=logging.WARNING if known is None else logging.DEBUG,
            contained=error,
        )
        if self.in_a_row == self.max_failures and not self._has_said_it_rests:
            self._has_said_it_rests = True
            say(
                f"{self.owner} rests: it failed {self.max_failures} times in a row. "
                "Training goes on without it.",
                level=logging.INFO,  # of its cause there is a line already
            )

    def remark(self, words: str, before: str = ": ") -> None:
        """Says something once for all monitors that is good to know, and no failure."""
        if (key := ("remark", _NUMBERS.sub("#", words))) not in self._causes:
            self._causes[key] = words
            say(f"{self.owner}{before}{words}", level=logging.INFO)

    def begin_run(self) -> None:
        """Lets a resting owner try again: another run may not have what it failed for."""
        self.in_a_row, self._has_said_it_rests = 0, False
        self._count_before = self.counts.total()

    def begin_snapshot(self) -> None:
        """Ends a row of failures where the snapshot before had none."""
        if self._count_before == self.counts.total() and not self.is_resting:
            self.in_a_row = 0
        self._count_before = self.counts.total()

    def share_causes(self, other: Guard) -> None:
        """Reports no cause that the other has reported, and the other way round."""
        other._causes |= self._causes
        self._causes = other._causes


def summarise(guards: Sequence[Guard]) -> None:
    """Says once, at the end of a run, how often what was contained, in one line for all."""
    counts: Counter[str] = Counter()
    for guard in guards:
        counts.update(guard.counts)
    if counts:
        causes = "; ".join(f"{count} x {cause}" for cause, count in counts.items())
        failed = ", ".join(guard.owner for guard in guards if guard.counts)
        say(f"{counts.total()} contained failures in {failed} ({causes}).")


def say(message: str, *, level: int = logging.WARNING, contained: Exception | None = None) -> None:
    """Logs a message; a log handler that fails itself changes nothing."""
    # The stored error lets a test's handler fail on failures that nobody asked for.
    with contextlib.suppress(Exception):
        log.log(level, message, extra={"contained": contained} if contained else None)


def _words_of(error: Exception) -> str:
    """Returns the error's message, whatever its ``__str__`` does."""
    text = "(its message cannot be shown)"
    with Attempt():
        text = str(error)
    return text if len(text) <= _MAX_WORDS else f"{text[:_MAX_WORDS]}..."


def drop_frames(error: Exception) -> None:
    """Lets go of an exception's frames, and of the exceptions before it: they hold the model.

    Those before it may be the user's and keep their own frames.
    """
    for name in ("__traceback__", "__cause__", "__context__"):
        object.__setattr__(error, name, None)  # a frozen dataclass refuses the plain assignment


def _place_of(error: Exception) -> str:
    """Returns the innermost place of the failure as `` (module.py:12)``."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    if not frames:
        return ""
    frame = frames[-1]
    return f" ({frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})"
