"""Small programs of other people's kinds, each with all eight monitors and without.

The table of the documentation, ``docs/programs.md``, is made here and compared. Run
``make programs`` to write it anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.identity import assert_identical
from tests.system.program_runs import Outcome, run
from tests.system.program_table import page
from tests.system.programs import PROGRAMS

PAGE = Path(__file__).parents[2] / "docs" / "programs.md"
SEVERE = ("warning", "critical")

# Lightning and torch have much to say of such programs; of ours nothing is let pass.
pytestmark = [pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """What each program that was run with all monitors left behind."""
    return {}


@pytest.mark.contained
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_left_as_it_is_and_told_only_what_is_right(
    name: str, tmp_path: Path, outcomes: dict[str, Outcome]
) -> None:
    entry = PROGRAMS[name]
    plain, again = (run(entry, tmp_path / place, monitored=False) for place in ("a", "b"))
    assert_identical(plain.facts, again.facts)
    watched = outcomes[name] = run(entry, tmp_path / "c", monitored=True)
    assert_identical(plain.facts, watched.facts)
    assert [w for w in watched.python_warnings if not _is_any(w, entry.says)] == []
    assert [a.message for a in watched.alerts if a.severity in SEVERE] == []
    unexpected = list(watched.lines.warnings)
    for cause in entry.says:
        if told := next((line for line in unexpected if re.search(cause, line)), None):
            unexpected.remove(told)
    assert unexpected == []
    has_failed = any(" failed in " in line for line in watched.lines.warnings)
    assert (watched.lines.num_contained > 0) == has_failed
    assert len(watched.lines.summaries) == has_failed


def _is_any(words: str, causes: Sequence[str]) -> bool:
    return any(re.search(cause, words) for cause in causes)


def test_the_table_in_the_documentation_is_what_the_monitors_show(
    outcomes: dict[str, Outcome],
) -> None:
    if set(outcomes) != set(PROGRAMS):
        pytest.skip("the table needs all programs")
    made = page([(PROGRAMS[name], outcomes[name]) for name in PROGRAMS])
    if os.environ.get("VIS_CALLBACKS_WRITE_PROGRAMS"):
        PAGE.write_text(made)
    assert PAGE.read_text() == made
