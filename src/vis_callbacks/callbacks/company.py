"""Whether the monitors of this rank work together with those of the others."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from vis_callbacks._lightning import RunView
from vis_callbacks.engine.roll_call import RollCall
from vis_callbacks.guard import Attempt, say

if TYPE_CHECKING:
    from vis_callbacks.callbacks.monitor import Monitor

# Ranks announce themselves in ``setup``, and Lightning has all of them wait for each other before
# a run begins: who is missing then has no monitors.
WAIT_S = 5.0


class Company:
    """Finds out, run by run, with whom the monitors of a Trainer work."""

    def __init__(self) -> None:
        self._roll_call: RollCall | None = None

    def announce(self, run: RunView, monitors: Sequence[Monitor]) -> None:
        """Tells the other ranks which monitors this one has."""
        self._roll_call = None
        if run.world_size > 1:
            with Attempt():  # without a roll call this rank works alone
                roll_call = RollCall.of_default_group(run.world_size)
                if roll_call is not None:
                    roll_call.announce(_fingerprint(monitors))
                self._roll_call = roll_call

    def found(self, run: RunView, monitors: Sequence[Monitor]) -> Literal["all", "alone", "none"]:
        """Returns whether this rank works with all others, alone, or not at all.

        Only rank 0 writes, so another one has nothing to do alone; and one rank of a sharded
        model can run no forward pass.
        """
        if run.world_size == 1:
            return "alone"
        present: tuple[int, ...] = ()
        with Attempt():
            if self._roll_call is not None:
                answer = self._roll_call.answer(WAIT_S)
                if answer.is_together:
                    return "all"
                present = answer.present
        ends = sorted({m.options.on_alert for m in monitors} & {"stop", "raise"}, key=str)
        say(_words(run, present, [str(end) for end in ends]))
        return "alone" if run.is_global_zero and not run.is_sharded else "none"


def _fingerprint(monitors: Sequence[Monitor]) -> str:
    """Returns a digest of all that decides when which collectives are joined."""
    facts = []
    for monitor in monitors:
        options = monitor.options
        on_alert = "a function" if callable(options.on_alert) else options.on_alert
        schedule = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(monitor.schedule))
        kind = f"{type(monitor).__module__}.{type(monitor).__qualname__}"
        facts.append((kind, monitor.name, schedule, on_alert, options.max_overhead))
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def _words(run: RunView, present: Sequence[int], ends: Sequence[str]) -> str:
    missing = [rank for rank in range(run.world_size) if rank not in present]
    if not present:
        why = f"the {run.world_size} processes of this run share no torch.distributed store"
    elif missing:
        why = f"rank {', '.join(map(str, present))} of {run.world_size} has monitors"
        why = f"only {why}" if len(present) == 1 else why.replace("rank", "only the ranks", 1)
    else:
        why = "the monitors or their options differ between the ranks"
    if not run.is_global_zero:
        effect = "the monitors of this rank rest, for only rank 0 writes"
    elif run.is_sharded:
        effect = "they rest, for one rank of a sharded model can make no forward pass"
    else:
        effect = "what they show is of the samples of rank 0 alone"
        if ends:
            listed = " and ".join(f'"{end}"' for end in ends)
            effect += f", and on_alert={listed} only warns, for one rank cannot end the run"
    advice = "Give every rank the same monitors, without asking for the rank"
    return f"Monitors and ranks: {why}, so {effect}. {advice}."
