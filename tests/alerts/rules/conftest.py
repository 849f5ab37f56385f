from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vis_callbacks
from vis_callbacks import Monitor
from vis_callbacks.alerts.alert import Finding, Outcome
from vis_callbacks.alerts.history import History

PAGE = (Path(__file__).parents[3] / "docs/alerts.md").read_text()
MONITORS = [getattr(vis_callbacks, name) for name in vis_callbacks.__all__]
RULES = {
    type(rule)
    for kind in MONITORS
    if isinstance(kind, type) and issubclass(kind, Monitor)
    for rule in kind.rules
}


def explained_keys(kind: str) -> set[str]:
    """Returns the keys of the evidence that the entry of a kind names, or that of another kind."""
    of_all = PAGE.partition("## The kinds")[2].partition("### ")[0]
    entry = re.search(rf"^###+ `{kind}`\n.*?^- \*\*Evidence:\*\* (.*?)$", PAGE, re.M | re.S)
    assert entry is not None, kind
    keys = set(re.findall(r"`(\w+)`", of_all + entry[1]))
    other = re.match(r"As for `(\w+)`", entry[1])
    return keys | (explained_keys(other[1]) if other else set())


@pytest.fixture(autouse=True)
def _the_page_explains_the_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every finding of these tests compared with the page: each is an example of its rule."""

    def compared(kind: str, check: Callable[[Any, History], Outcome]) -> Any:
        def checked(self: Any, history: History) -> Outcome:
            outcome = check(self, history)
            if isinstance(outcome, Finding):
                keys = {key.partition("/")[0] for key in outcome.evidence}
                assert keys <= explained_keys(kind), f"docs/alerts.md does not explain all {keys}"
            return outcome

        return checked

    for rule in RULES:
        monkeypatch.setattr(rule, "check", compared(rule.kind, rule.check))
