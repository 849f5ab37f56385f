from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tests.runs.stand_ins import ALERT, NASTY, event_file, picture, record, table
from tests.system.tensorboard_page import browser_page, chromium_or_skip

from vis_callbacks import html_report as module
from vis_callbacks.alerts.log import append_alerts
from vis_callbacks.html_report import html_report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    numbers = table({"m": [0.5]}, [NASTY])
    event_file(tmp_path, record(numbers, picture("maps"), step=1), record(picture("maps"), step=9))
    evil = f"{NASTY}</script><!--<script>"
    append_alerts(tmp_path / "alerts.jsonl", replace(ALERT, message=evil, layers=(evil,)))
    return tmp_path


def data_of(page: str) -> dict[str, dict[str, dict[str, object]]]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)  # type: ignore[no-any-return]


def test_the_page_holds_the_run_and_its_latest_pictures(run: Path) -> None:
    data = data_of(html_report([("run", run)]))
    assert data["of"]["run"]["metrics"]["m"]["layers"] == [NASTY]  # type: ignore[index]
    assert data["of"]["run"]["pictures"]["maps"]["steps"] == [9]  # type: ignore[index]
    assert str(data["images"]["run"]["maps"]).startswith("data:image/png;base64,")


def test_names_from_the_run_are_text_only(run: Path) -> None:
    page = html_report([(NASTY, run)])
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 2


def test_nothing_is_loaded_from_elsewhere(run: Path) -> None:
    page = html_report([("run", run)])
    assert "content=\"default-src 'none'; img-src data:;" in page
    assert not re.search(r"^(?:import|export) |@import", page, re.MULTILINE)


@pytest.mark.browser
def test_a_browser_shows_all_of_it_without_a_server(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text(html_report([("run", run)]))
    complaints: list[str] = []
    with browser_page(chromium_or_skip()) as page:
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: complaints.append(request.url))
        page.goto(out.as_uri())
        page.locator(".card").get_by_text(f"{NASTY}</script><!--<script>").first.wait_for()
        page.locator(".names button").click()
        page.locator(".player img").evaluate("image => image.decode()")
        assert page.locator("canvas").count() == 1
        assert page.evaluate("window.broken") is None
    assert [each[:40] for each in complaints if not each.startswith("data:")] == [out.as_uri()[:40]]


def test_pictures_stop_where_the_page_would_grow_too_large(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PICTURE_BYTES", 10)
    of_run = data_of(html_report([("run", run)]))["of"]["run"]
    assert of_run["pictures"] == {}
    assert of_run["problems"] == ["1 pictures are left out of this report."]
