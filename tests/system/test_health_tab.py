"""The Health tab in a real TensorBoard and a real browser, through both data loaders."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from tests.runs.stand_ins import ALERT, NASTY, event_file, number, picture, record, table
from tests.system.tensorboard_page import HealthPage, browser_page, chromium_or_skip, served

from things import RUNS, Run, ThingData, fit, load_data
from things_data import CLASS_NAMES, MEAN, STD
from vis_callbacks import ActivationMonitor, LearningMonitor, SaliencyMonitor
from vis_callbacks.alerts.log import append_alerts
from vis_callbacks.writers import writer
from vis_callbacks.writers.budget import TimeBudget

if TYPE_CHECKING:
    from playwright.sync_api import Frame

BY_HAND = replace(ALERT, step=40, layers=("fc.1", NASTY), message=f"Dying {NASTY}")
LAYERS = ["fc.0", "fc.1", NASTY]
CLASSES = [name.replace("cat", NASTY) for name in CLASS_NAMES]
NUM_STEPS = 24  # in two epochs


class LogsAClass(Callback):
    """Logs a number of one class under its name, as users do."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log(f"accuracy/{NASTY}", 0.5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's three runs, cut short; one without monitors; one that is written by hand."""
    logs = tmp_path_factory.mktemp("logs")
    data = load_data(64 * NUM_STEPS // 2, 20)
    with pytest.MonkeyPatch.context() as patch:  # a busy machine is to leave nothing out
        patch.setattr(TimeBudget, "remaining", 60.0)
        patch.setattr(writer, "_PATIENCE", 60.0)
        for name, run in RUNS.items():
            train(logs, name, run, data)
    for step in range(0, 100, 10):
        dead = [0.0, step / 100, 0.5]
        values = [table({"dead_fraction": dead, "sparsity": [0.5] * 3}, LAYERS)]
        values += [number("val_accuracy", 0.1), picture("maps/fc.1", shade=step)]
        event_file(logs / "written", record(*values, step=step))
    append_alerts(logs / "written" / "alerts.jsonl", BY_HAND)
    event_file(logs / "plain", record(number("val_accuracy", 0.9), step=1))
    return logs


def train(logs: Path, name: str, run: Run, data: ThingData) -> None:
    seed_everything(0, verbose=False)
    images = {"class_names": CLASSES, "mean": MEAN, "std": STD, "max_overhead": None}
    trainer = Trainer(
        callbacks=[
            ActivationMonitor(**images),
            LearningMonitor(**images),
            SaliencyMonitor(num_samples=4, **images),
            LogsAClass(),
        ],
        max_epochs=2,
        accelerator="cpu",
        logger=TensorBoardLogger(logs, name=name, version=""),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    fit(trainer, run, data)


@pytest.fixture(scope="module", params=["--load_fast=true", "--load_fast=false"])
def tab(request: pytest.FixtureRequest, runs: Path) -> Iterator[HealthPage]:
    with (
        served(runs, request.param) as address,
        browser_page(chromium_or_skip()) as page,
    ):
        yield HealthPage(page, address)


def choose(frame: Frame, run: str) -> None:
    frame.locator("nav .run", has_text=run).click()
    frame.get_by_label(f"run {run}", exact=True).locator(".verdict").wait_for()


@pytest.mark.browser
def test_the_page_begins_with_the_sick_run_and_names_every_run(tab: HealthPage) -> None:
    frame = tab.open_within_tensorboard()
    verdict = frame.locator(".verdict").inner_text()
    assert re.match(r"(Warning|Critical): dying_units in features\.\d.* since step \d+", verdict)
    rate = RUNS["sick"].learning_rate
    remedy = f"Restart with learning rate {rate / 10:g} (a tenth of {rate:g})"
    assert frame.get_by_text(remedy).count() == 1
    names = ["healthy", "plain", "shortcut", "sick", "written"]
    assert frame.locator("nav .run").all_inner_texts() == names
    levels = frame.locator("nav .dot").evaluate_all("dots => dots.map(dot => dot.className)")
    assert levels[:3] == ["dot quiet", "dot unknown", "dot quiet"]
    assert levels[4] == "dot warning"


@pytest.mark.browser
def test_the_sick_runs_alert_leads_to_its_layer_and_the_pictures_of_that_step(
    tab: HealthPage,
) -> None:
    frame = tab.open()
    layer = frame.locator(".card button.layer").first
    name = layer.inner_text()
    layer.click()
    frame.get_by_role("heading", name=f"Layer {name}").wait_for()
    assert re.search(
        r"dead fraction: ([4-9]\d|100) % at step 20", frame.locator(".charts").inner_text()
    )
    thumbs = frame.locator(".thumb").all_inner_texts()
    assert "activations/unit_life, step 20" in thumbs
    slider = frame.locator(".player input")
    assert frame.locator(".player .says").inner_text().startswith("step 20, picture 2 of")
    slider.fill("0")
    assert frame.locator(".player .says").inner_text().startswith("step 0, picture 1 of")
    tab.wait_until_loaded(frame.locator(".player img"))


@pytest.mark.browser
def test_the_healthy_run_and_the_shortcut_are_compared(tab: HealthPage) -> None:
    frame = tab.open()
    choose(frame, "healthy")
    frame.get_by_label("show shortcut beside").click()
    panels = [frame.get_by_label(f"run {name}", exact=True) for name in ("healthy", "shortcut")]
    for panel in panels:
        panel.get_by_text(re.compile(r"^No alert up to step \d+")).wait_for()
    panels[0].get_by_label("tag").first.select_option("saliency/gradient")
    panels[0].get_by_label("number").select_option("gradient_norm")
    panels[1].locator(".names button", has_text="features.0.weight").click()
    for panel in panels:
        assert panel.locator(".player .says").inner_text().startswith(f"step {NUM_STEPS - 1},")
    shown = [panel.locator(".player img").evaluate("image => image.src") for panel in panels]
    assert [re.findall("run=([a-z]+)", source) for source in shown] == [["healthy"], ["shortcut"]]
    for part in (".legend", ".charts", ".curves"):  # both have the same scales
        ends = [panel.locator(part).locator("text").all_inner_texts() for panel in panels]
        assert ends[0] == ends[1], part
    assert "gradient norm" in panels[0].locator(".charts").inner_text()
    frame.get_by_label("take shortcut away").click()
    assert frame.locator(".panel").count() == 1


@pytest.mark.browser
def test_the_name_of_a_class_is_shown_as_text(tab: HealthPage) -> None:
    frame = tab.open()
    curves = frame.locator(".curves")
    curves.get_by_label("tag").select_option(f"accuracy/{NASTY}")
    assert f"accuracy/{NASTY}: 0.5" in curves.locator("figcaption").inner_text()
    assert frame.evaluate("window.broken") is None


@pytest.mark.browser
def test_a_click_on_the_heat_map_shows_curves_and_pictures_of_that_step(tab: HealthPage) -> None:
    frame = tab.open()
    choose(frame, "written")
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
    choose(frame, "written")
    image = frame.locator(".player img")
    frame.locator(".player input").fill("2")
    assert frame.locator(".player .says").inner_text() == "step 20, picture 3 of 10"
    tab.wait_until_loaded(image)
    assert "step=20" in str(image.get_attribute("src"))
    frame.get_by_label("next picture").click()
    assert frame.locator(".player .says").inner_text() == "step 30, picture 4 of 10"


@pytest.mark.browser
def test_names_from_a_run_are_shown_as_text(tab: HealthPage) -> None:
    frame = tab.open()
    choose(frame, "written")
    assert frame.locator(".names button").nth(2).inner_text() == NASTY
    assert frame.locator(".card p").inner_text() == BY_HAND.message
    assert frame.evaluate("window.broken") is None


@pytest.mark.browser
def test_the_heat_map_is_read_with_the_keyboard(tab: HealthPage) -> None:
    frame = tab.open()
    choose(frame, "written")
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
    choose(frame, "plain")
    frame.get_by_text("callbacks=vis_callbacks.default_monitors()").wait_for()


@pytest.mark.browser
def test_what_is_written_meanwhile_appears_by_itself(tab: HealthPage, runs: Path) -> None:
    frame = tab.open()
    choose(frame, "shortcut")
    last = event_file(runs / "shortcut", name="events.out.tfevents.9999999999.host.1.0")
    step = 1000 + last.stat().st_size
    event_file(runs / "shortcut", record(number("loss", 0.5), step=step)[:-4], name=last.name)
    event_file(runs / "shortcut", record(number("loss", 0.5), step=step)[-4:], name=last.name)
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
        assert set(json.load(opener.open(f"{address}/data/runs"))) >= {"plain", "sick", "written"}
        script = opener.open(f"{address}/data/plugin/vis_callbacks/index.js").read().decode()
        assert re.search(r"cannot be shown: .*vis_callbacks\.runs", script)
