"""Whether the monitors of this rank work together with those of the others, or alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Literal

from vis_callbacks._lightning import RunView
from vis_callbacks.engine.roll_call import RollCall
from vis_callbacks.guard import Catch, log
from vis_callbacks.observer import Observer
from vis_callbacks.on_alert import reactions_of, without_functions

# Ranks announce themselves in ``setup``, and Lightning has all of them wait for each other before
# a run begins: a rank that is missing then has no monitors.
WAIT_S = 5.0


def announce(run: RunView, monitors: Sequence[Observer]) -> RollCall | None:
    """Tells the other ranks which monitors this one has; None where that is not possible."""
    roll_call = None
    if run.world_size > 1:
        with Catch():  # without a roll call this rank works alone
            roll_call = RollCall.of_default_group(run.world_size)
            if roll_call is not None:
                roll_call.announce(_fingerprint(monitors))
    return roll_call


def company_of(
    run: RunView, monitors: Sequence[Observer], roll_call: RollCall | None
) -> Literal["all", "alone", "none"]:
    """Returns whether this rank works with all others, alone, or not at all.

    Only rank 0 writes, so another one has nothing to do alone; and one rank of a sharded
    model can run no forward pass.
    """
    if run.world_size == 1:
        return "alone"
    present: tuple[int, ...] = ()
    with Catch():
        if roll_call is not None:
            answer = roll_call.answer(WAIT_S)
            if answer.is_together:
                return "all"
            present = answer.present
    reactions = [one for monitor in monitors for one in reactions_of(monitor.options.on_alert)]
    log(_words(run, present, [end for end in ("raise", "stop") if end in reactions]))
    return "alone" if run.is_global_zero and not run.is_sharded else "none"


def _fingerprint(monitors: Sequence[Observer]) -> str:
    """Returns a digest of all that decides when which collectives are joined."""
    facts = []
    for monitor in monitors:
        options = monitor.options
        on_alert = without_functions(options.on_alert)
        schedule = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(monitor.schedule))
        kind = f"{type(monitor).__module__}.{type(monitor).__qualname__}"
        facts.append((kind, monitor.name, schedule, on_alert, options.max_overhead))
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def _words(run: RunView, present: Sequence[int], ends: Sequence[str]) -> str:
    if not present:
        why = f"the {run.world_size} processes of this run share no torch.distributed store"
    elif len(present) == run.world_size:
        why = "the monitors or their options differ between the ranks"
    elif len(present) == 1:
        why = f"only rank {present[0]} of {run.world_size} has monitors"
    else:
        why = f"only the ranks {', '.join(map(str, present))} of {run.world_size} have monitors"
    if not run.is_global_zero:
        effect = "the monitors of this rank are off, since only rank 0 writes"
    elif run.is_sharded:
        effect = "they are off, since one rank of a sharded model cannot run a forward pass alone"
    else:
        effect = "they show only the samples of rank 0"
        if ends:
            listed = " and ".join(f'"{end}"' for end in ends)
            effect += f", and on_alert={listed} only warns, since one rank cannot end the run"
    advice = "Give every rank the same monitors, without asking for the rank"
    return f"Monitors and ranks: {why}, so {effect}. {advice}."
