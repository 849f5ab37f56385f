from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from tests.tiny import tiny_loader, tiny_module

import vis_callbacks
from vis_callbacks import Monitor

ROOT = Path(__file__).parent.parent


PUBLIC = [getattr(vis_callbacks, name) for name in vis_callbacks.__all__]
MONITORS = [
    kind
    for kind in PUBLIC
    if isinstance(kind, type) and issubclass(kind, Monitor) and kind is not Monitor
]
RULES = [rule for kind in MONITORS for rule in kind.rules]


def cells(page: str, column: int) -> list[str]:
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    return [row.split("|")[column].strip() for row in rows]


def test_the_table_of_alerts_names_every_rule_and_no_other():
    named = re.findall(r"`(\w+)`", " ".join(cells((ROOT / "docs/alerts.md").read_text(), 1)))
    assert set(named) == {rule.kind for rule in RULES}


def test_the_table_of_alerts_has_the_severities_of_the_rules():
    page = (ROOT / "docs/alerts.md").read_text()
    said: dict[str, set[str]] = {}
    for kinds, severities in zip(cells(page, 1), cells(page, 2), strict=True):
        for kind in re.findall(r"`(\w+)`", kinds):
            said.setdefault(kind, set()).update(severities.split(", "))
    for rule in RULES:
        assert rule.severity in said[rule.kind], rule.kind


PARTS = ("What else it could be", "What to do", "How often it was right", "Evidence")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_every_kind_of_alert_has_an_entry_with_all_its_parts(rule):
    page = (ROOT / "docs/alerts.md").read_text()
    entries = re.findall(rf"^###+ `{rule.kind}`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    assert len(entries) == 1
    meaning, *_ = entries[0].strip().split("\n\n")
    assert re.match(r"\w.*\.$", meaning)
    for part in PARTS:
        assert re.search(rf"^- \*\*{part}:\*\* \S.*$", entries[0], re.MULTILINE), part
    listed = re.search(rf"^\| `{rule.kind}` \| ([a-z, ]+) \|", page, re.MULTILINE)
    if listed[1] != "info":  # that of a real case, with what is seen on it
        ((caption, path),) = re.findall(r"^!\[(.+)\]\((\S+)\)$", entries[0], re.MULTILINE)
        assert f"*{caption}*" in entries[0]
        assert (ROOT / "docs" / path).exists()


def test_the_table_of_cards_names_every_tag_that_is_written_and_no_other():
    named = re.findall(r"`([^`]+)`", " ".join(cells((ROOT / "docs/cards.md").read_text(), 1)))
    ours = {"alerts/active", "alerts/text", "overhead/<monitor>_percent"}
    assert set(named) == ours.union(*(kind.tags for kind in MONITORS))
    assert len(named) == len(set(named))


@pytest.mark.parametrize("kind", MONITORS, ids=lambda kind: kind.__name__)
def test_every_monitor_has_its_page_and_a_picture_in_the_readme(kind):
    readme = (ROOT / "README.md").read_text()
    section = readme.partition(f"### `{kind.__name__}`")[2].partition("\n##")[0]
    assert f"docs/monitors/{kind.stem}.md" in section
    assert "](docs/images/" in section


def test_the_readmes_lines_of_code_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    loader = tiny_loader()
    names = {"model": tiny_module(), "train_loader": loader, "val_loader": loader}
    code = code.replace("default_monitors())", "default_monitors(), max_epochs=2)")
    exec(code, names)
    assert len(names["trainer"].callbacks) > 4
    assert list(tmp_path.rglob("events.out.tfevents.*"))


PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_places_that_are_there(page):
    missing = []
    for link in re.findall(r"\]\(([^): ]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []


def anchors(page: Path) -> set[str]:
    """Returns the places of a page that a link can lead to, as GitHub and mkdocs name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in words}


def test_the_reference_has_every_public_name():
    described = re.findall(r"^::: vis_callbacks\.(\w+)$", page("reference"), re.MULTILINE)
    assert sorted(described) == vis_callbacks.__all__


def page(name: str) -> str:
    return (ROOT / f"docs/{name}.md").read_text()


def test_the_messages_that_troubleshooting_explains_are_those_of_the_package():
    sources = " ".join(
        str(node.value)
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
    )
    tables = page("troubleshooting").split("| message |")[1:]
    quoted = [part for table in tables for part in re.findall(r"`([^`]+)`", cells_of(table))]
    assert len(quoted) > 20
    assert [part for part in quoted if part not in sources] == []


def cells_of(table: str) -> str:
    """Returns what stands in the first column of the table that a text begins with."""
    rows = [line for line in table.split("\n\n")[0].splitlines() if line.startswith("| ")]
    return " ".join(row.split("|")[1] for row in rows)


def test_the_version_is_the_same_wherever_it_is_written():
    written = re.findall(r"^version[:=\s]+\"?([\d.]+)", (ROOT / "CITATION.cff").read_text(), re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [*written, project["version"]] == [vis_callbacks.__version__] * 2
