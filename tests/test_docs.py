from __future__ import annotations

import re
from pathlib import Path

import pytest

from vis_callbacks import ActivationMonitor

ROOT = Path(__file__).parent.parent


def cells(page: str, column: int) -> list[str]:
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    return [row.split("|")[column].strip() for row in rows]


def test_the_table_of_alerts_names_every_rule_and_no_other():
    named = re.findall(r"`(\w+)`", " ".join(cells((ROOT / "docs/alerts.md").read_text(), 1)))
    assert set(named) == {rule.kind for rule in ActivationMonitor.rules}


def test_the_table_of_alerts_has_the_severities_of_the_rules():
    page = (ROOT / "docs/alerts.md").read_text()
    said: dict[str, set[str]] = {}
    for kinds, severities in zip(cells(page, 1), cells(page, 2), strict=True):
        for kind in re.findall(r"`(\w+)`", kinds):
            said.setdefault(kind, set()).update(severities.split(", "))
    for rule in ActivationMonitor.rules:
        assert rule.severity in said[rule.kind], rule.kind


def test_the_readme_names_the_tags_that_are_written():
    named = re.findall(r"`([\w<>/]+)`", " ".join(cells((ROOT / "README.md").read_text(), 1)))
    ours = {"alerts/active", "alerts/text", "overhead/activations_percent"}
    assert set(named) <= ours | set(ActivationMonitor.tags)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *map(str, (ROOT / "docs").rglob("*.md"))]
)
def test_links_lead_to_files_that_are_there(page):
    path = ROOT / page
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text())
    missing = [link for link in links if not (path.parent / link).exists()]
    assert missing == []
