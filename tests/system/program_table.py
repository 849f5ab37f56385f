"""The page of the documentation that says what each monitor shows of each program."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tests.contracts.every_monitor import SHIPPED
from tests.system.program import Entry
from tests.system.program_runs import Outcome

_HEAD = """# Programs of other kinds

Not every training is images in, class scores out. The tests train {num} small programs of other
kinds, written as their authors would write them, with all seven monitors and without. In each of
them the run with monitors is, bit for bit, the run without; no monitor fails{but}; and no
alert of level warning or critical is raised, for these trainings are healthy.

The table is made by `tests/system/test_programs.py` (`make programs` writes it anew). "Shown"
means that the monitor has written curves or pictures. A number leads to why it has not.
"""

_NOTHING = "has nothing to show: "


def page(outcomes: Iterable[tuple[Entry, Outcome]]) -> str:
    """Returns the page, in Markdown."""
    outcomes, reasons, rows = list(outcomes), [], []
    for entry, outcome in outcomes:
        cells = [_cell(cls.__name__, outcome, reasons) for cls in SHIPPED]
        rows.append(f"| {entry.title} | {' | '.join(cells)} |")
    names = [cls.__name__.removesuffix("Monitor") for cls in SHIPPED]
    num_failing = sum(entry.failures > 0 for entry, _ in outcomes)
    but = f" but in the {num_failing} that are listed below" if num_failing else ""
    lines = [
        _HEAD.format(num=len(outcomes), but=but),
        f"| Program | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
        *rows,
        "",
        *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)),
        *_said(outcomes),
    ]
    return "\n".join(lines) + "\n"


def _cell(name: str, outcome: Outcome, reasons: list[str]) -> str:
    if outcome.tags[name]:
        return "shown"
    said = [*outcome.lines.remarks, *outcome.lines.warnings]
    why = next((line for line in said if line.startswith((name, f"{name}:"))), None)
    why = why or next((line for line in outcome.lines.warnings if name in line), "")
    reason = _one_line(why.partition(_NOTHING)[2] or why)
    if not reason:
        return "nothing"
    if reason not in reasons:
        reasons.append(reason)
    return str(reasons.index(reason) + 1)


def _said(outcomes: Iterable[tuple[Entry, Outcome]]) -> list[str]:
    """Returns the section of what is said once, at level warning."""
    said = [
        f"- {entry.title}: {_one_line(line)}"
        for entry, outcome in outcomes
        for line in outcome.lines.warnings
    ]
    return ["", "## What is said once", "", *said] if said else []


def _one_line(text: str) -> str:
    """Returns the text as Markdown that fits into one line of a list."""
    return re.sub(r"([<>*_|])", r"\\\1", " ".join(text.split()))
