"""Which ranks come to our collectives, found out without one.

A rank that has no monitors joins none of our collectives, and the others would wait for it until
the process group's time-out ends the run. So before the first collective of a run the ranks
tell each other in the process group's key-value store that they will come, and with what.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, Self

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store  # no public way to share it

_POLL_S = 0.02
_TOGETHER, _APART = "together", "apart"


@dataclass(frozen=True)
class Answer:
    """What a roll call has found out."""

    is_together: bool  # all ranks will come, with the same; every rank has the same answer
    present: tuple[int, ...] = ()  # the ranks that had announced themselves


class RollCall:
    """The roll call of one run; `announce` early, `answer` before the first collective.

    Run after run uses keys of its own. A call is closed once, by the first rank that either
    sees all others or has waited for long enough, and what that one says holds for all: so no
    rank can take the ranks for complete while another has given up waiting.
    """

    def __init__(self, store: Any, rank: int, num_ranks: int) -> None:
        self._store: Any = dist.PrefixStore("vis_callbacks", store)  # type: ignore[attr-defined]
        self._rank = rank
        self._num_ranks = num_ranks
        self._number = 0
        self._mine = ""
        self._answer: Answer | None = None

    @classmethod
    def of_default_group(cls, num_ranks: int) -> Self | None:
        """Returns the roll call of the default process group; None where it has other ranks."""
        has_group = dist.is_available() and dist.is_initialized()
        if not has_group or dist.get_world_size() != num_ranks:
            return None
        return cls(_get_default_store(), dist.get_rank(), num_ranks)

    def announce(self, what: str) -> None:
        """Says that this rank will come, and with what."""
        while True:
            if not self._has("answer"):
                if not self._has(str(self._rank)):
                    break
                self._close(_APART)  # a run that was announced and never began
            self._number += 1
        self._mine = what
        self._store.set(self._key(str(self._rank)), what)

    def answer(self, wait_s: float) -> Answer:
        """Returns who comes; waits for ranks that have not announced themselves, but not longer."""
        if self._answer is None:
            until, said = monotonic() + wait_s, _APART
            try:
                while not self._has("answer"):
                    present = self._present()
                    if len(present) == self._num_ranks:
                        theirs = {self._store.get(self._key(str(rank))) for rank in present}
                        said = _TOGETHER if theirs == {self._mine.encode()} else _APART
                        break
                    if monotonic() >= until:
                        break
                    sleep(_POLL_S)
            finally:
                said = self._close(said)
            self._answer = Answer(said == _TOGETHER, self._present())
        return self._answer

    def _close(self, said: str) -> str:
        """Returns the answer of this call: ``said``, unless another rank was first."""
        closed: bytes = self._store.compare_set(self._key("answer"), "", said)
        return closed.decode()

    def _present(self) -> tuple[int, ...]:
        return tuple(rank for rank in range(self._num_ranks) if self._has(str(rank)))

    def _has(self, name: str) -> bool:
        return bool(self._store.check([self._key(name)]))

    def _key(self, name: str) -> str:
        return f"{self._number}/{name}"
