"""The Health tab in a real TensorBoard and a real browser, through both data loaders."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pytorch_lightning.loggers import TensorBoardLogger
from tests.runs.stand_ins import CRITICAL, NASTY, event_file, number, picture, record, table
from tests.system.tensorboard_page import HealthPage, browser_page, chromium_or_skip, served
from tests.tiny import fullest, tiny_fit

from vis_callbacks import ActivationMonitor
from vis_callbacks.alerts.log import append_alerts

SICK = replace(CRITICAL, step=40, since_step=20, layers=("fc.1", NASTY), message=f"Dying {NASTY}")
LAYERS = ["fc.0", "fc.1", NASTY]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real training, one that is sick, and one without monitors."""
    logs = tmp_path_factory.mktemp("logs")
    logger = TensorBoardLogger(logs, name="trained", version="")
    tiny_fit(logs, [fullest(ActivationMonitor)], logger=logger)
    for step in range(0, 100, 10):
        dead = [0.0, step / 100, 0.5]
        values = [table({"dead_fraction": dead, "sparsity": [0.5] * 3}, LAYERS)]
        values += [number("val_accuracy", 0.1), picture("maps/fc.1", shade=step)]
        event_file(logs / "sick", record(*values, step=step))
    append_alerts(logs / "sick" / "alerts.jsonl", SICK)
    event_file(logs / "plain", record(number("val_accuracy", 0.9), step=1))
    return logs


@pytest.fixture(scope="module", params=["--load_fast=true", "--load_fast=false"])
def tab(request: pytest.FixtureRequest, runs: Path) -> Iterator[HealthPage]:
    with (
        served(runs, request.param) as address,
        browser_page(chromium_or_skip()) as page,
    ):
        yield HealthPage(page, address)


@pytest.mark.browser
def test_the_page_begins_with_the_sick_run_and_names_every_run(tab: HealthPage) -> None:
    frame = tab.open_within_tensorboard()
    frame.get_by_text(f"Critical: dying_units in fc.1, {NASTY} since step 20").wait_for()
    assert frame.locator(".card").inner_text().count(SICK.remedy) == 1
    assert frame.locator("nav .run").all_inner_texts() == ["plain", "sick", "trained"]
    levels = frame.locator("nav .dot").evaluate_all("dots => dots.map(dot => dot.className)")
    assert levels == ["dot unknown", "dot critical", "dot quiet"]


@pytest.mark.browser
def test_a_click_on_the_heat_map_shows_curves_and_pictures_of_that_step(tab: HealthPage) -> None:
    frame = tab.open()
    canvas = frame.locator("canvas")
    width = canvas.bounding_box()["width"]  # type: ignore[index]
    fourth_step, second_layer = 0.35 * width, 30
    canvas.hover(position={"x": fourth_step, "y": second_layer})
    assert frame.locator(".heat .says").inner_text() == "fc.1, step 30: dead fraction 30 %"
    canvas.click(position={"x": fourth_step, "y": second_layer})
    frame.get_by_role("heading", name="Layer fc.1").wait_for()
    assert "dead fraction: 30 % at step 30" in frame.locator(".charts").inner_text()
    assert frame.locator(".thumb").inner_text() == "maps/fc.1, step 30"
    assert frame.locator(".player .says").inner_text() == "step 30, picture 4 of 10"


@pytest.mark.browser
def test_the_slider_goes_through_all_pictures_of_a_tag(tab: HealthPage) -> None:
    frame = tab.open()
    image = frame.locator(".player img")
    frame.locator(".player input").fill("2")
    assert frame.locator(".player .says").inner_text() == "step 20, picture 3 of 10"
    tab.wait_until_loaded(image)
    assert "step=20" in str(image.get_attribute("src"))
    frame.get_by_label("next picture").click()
    assert frame.locator(".player .says").inner_text() == "step 30, picture 4 of 10"


@pytest.mark.browser
def test_two_runs_stand_beside_each_other_and_share_the_step(tab: HealthPage) -> None:
    frame = tab.open()
    frame.get_by_label("show trained beside").click()
    second = frame.get_by_label("run trained", exact=True)
    second.get_by_text(re.compile(r"No alert up to step \d+")).wait_for()
    frame.locator(".player input").first.fill("0")
    tab.wait_until_loaded(second.locator(".player img"))
    assert second.locator(".player .says").inner_text().startswith("step 0, picture 1 of")
    frame.get_by_label("take trained away").click()
    assert frame.locator(".panel").count() == 1


@pytest.mark.browser
def test_names_from_a_run_are_shown_as_text(tab: HealthPage) -> None:
    frame = tab.open()
    assert frame.locator(".names button").nth(2).inner_text() == NASTY
    assert frame.locator(".card p").inner_text() == SICK.message
    assert frame.evaluate("window.broken") is None


@pytest.mark.browser
def test_the_heat_map_is_read_with_the_keyboard(tab: HealthPage) -> None:
    frame = tab.open()
    frame.locator("canvas").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight"):
        tab.page.keyboard.press(key)
    assert frame.locator(".heat .says").inner_text() == "fc.1, step 20: dead fraction 20 %"
    tab.page.keyboard.press("Enter")
    frame.get_by_role("heading", name="Layer fc.1").wait_for()


@pytest.mark.browser
def test_it_is_dark_where_tensorboard_is(tab: HealthPage) -> None:
    frame = tab.open_within_tensorboard()
    colour = "getComputedStyle(document.body).backgroundColor"
    assert frame.evaluate(colour) == "rgb(255, 255, 255)"
    tab.page.evaluate("document.body.classList.add('dark-mode')")
    frame.wait_for_function(f"{colour} === 'rgb(48, 48, 48)'")


@pytest.mark.browser
def test_a_run_without_monitors_says_what_to_add(tab: HealthPage) -> None:
    frame = tab.open()
    frame.locator("nav .run").first.click()
    frame.get_by_text("callbacks=vis_callbacks.default_monitors()").wait_for()


@pytest.mark.browser
def test_what_is_written_meanwhile_appears_by_itself(tab: HealthPage, runs: Path) -> None:
    frame = tab.open()
    frame.locator("nav .run").nth(2).click()
    frame.get_by_text("No alert up to step").wait_for()
    last = event_file(runs / "trained", name="events.out.tfevents.9999999999.host.1.0")
    step = 1000 + last.stat().st_size
    event_file(runs / "trained", record(number("loss", 0.5), step=step)[:-4], name=last.name)
    event_file(runs / "trained", record(number("loss", 0.5), step=step)[-4:], name=last.name)
    frame.get_by_text(f"No alert up to step {step}").wait_for()


@pytest.mark.browser
def test_the_browser_has_nothing_to_complain_about(tab: HealthPage) -> None:
    tab.open_within_tensorboard()
    assert tab.complaints == []


@pytest.mark.parametrize("loader", ["--load_fast=true", "--load_fast=false"])
def test_tensorboard_works_where_the_tab_cannot_be_imported(
    loader: str, runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['vis_callbacks.runs'] = 0")
    with served(runs, loader, paths=[tmp_path]) as address:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        listing = json.load(opener.open(f"{address}/data/plugins_listing"))
        assert listing["vis_callbacks"]["tab_name"] == "Health"
        assert set(json.load(opener.open(f"{address}/data/runs"))) >= {"plain", "sick", "trained"}
        script = opener.open(f"{address}/data/plugin/vis_callbacks/index.js").read().decode()
        assert re.search(r"cannot be shown: .*vis_callbacks\.runs", script)
