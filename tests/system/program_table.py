"""The page of the documentation that says what each monitor shows of each program."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tests.contracts.every_monitor import SHIPPED
from tests.system.program import Entry
from tests.system.program_runs import Outcome

_HEAD = """# Programs of other kinds

Not every training takes images and returns scores of classes. The tests train {num} small
programs of other kinds, written as their authors would write them, with all eight monitors and
without. In each of them the run with monitors is the run without, bit for bit. These trainings are
healthy, so no alert of level warning or critical may be raised. Where a monitor cannot show
anything, it says why, once, and the training goes on.

The table is made by `tests/system/test_programs.py`, and `make programs` writes it anew. A number
leads to the reason why a monitor shows nothing.
"""


def page(outcomes: Iterable[tuple[Entry, Outcome]]) -> str:
    """Returns the page, in Markdown."""
    outcomes, reasons, rows = list(outcomes), list[str](), []
    for entry, outcome in outcomes:
        cells = [_cell(cls.__name__, outcome, reasons) for cls in SHIPPED]
        rows.append(f"| {entry.title} | {' | '.join(cells)} |")
    names = [cls.__name__.removesuffix("Monitor") for cls in SHIPPED]
    lines = [
        _HEAD.format(num=len(outcomes)),
        f"| Program | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
        *rows,
        "",
        *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)),
    ]
    return "\n".join(lines) + "\n"


def _cell(name: str, outcome: Outcome, reasons: list[str]) -> str:
    if outcome.tags[name]:
        return "shown"
    reason = _one_line(
        outcome.reasons.get(
            name, "It reads evaluations, and there was none, or it had nothing to report."
        )
    )
    if reason not in reasons:
        reasons.append(reason)
    return str(reasons.index(reason) + 1)


def _one_line(text: str) -> str:
    """Returns the text as Markdown that fits into one line of a list."""
    return re.sub(r"([<>*_|\[\]])", r"\\\1", " ".join(text.split()))
