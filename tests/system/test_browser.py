from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.tensorboard_page import (
    Card,
    HealthPage,
    TensorBoardPage,
    browser_page,
    chromium_or_skip,
    served,
)
from tests.writers.reading import images, read

import things
from vis_callbacks import ActivationMonitor, FilterMonitor

pytestmark = pytest.mark.browser

RUNS = ("healthy", "sick")
PICTURES = ("activations/unit_life", "activations/raster")
NUMBERS = ("train_loss", "val_accuracy", "alerts/active", "dead_fraction/total")
WORDS = "Units are dying"


@pytest.fixture(scope="module")
def chromium() -> str:
    return chromium_or_skip()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the demo after 30 steps of two of its runs; the sick one alerts."""
    folder = tmp_path_factory.mktemp("browser") / "demo_runs"
    options = things.parse_options(["--epochs", "1", "--output", str(folder)])
    data = things.load_data(30 * 64, 200)  # the sick run alerts at step 15
    with pytest.MonkeyPatch.context() as patch:
        # What the other monitors write is pictures, too, and takes far longer.
        patch.setattr(things, "make_monitors", lambda: [ActivationMonitor(), FilterMonitor()])
        for run in RUNS:
            things.train(run, things.RUNS[run], data, options)
    return folder


@pytest.fixture(scope="module")
def written(runs: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """By run and tag, the size of each picture that the demo wrote last."""
    sizes = {}
    for run in RUNS:
        for tag in read(runs / run).Tags()["images"]:
            height, width, _ = list(images(runs / run, tag).values())[-1].shape
            sizes[run, tag] = (width, height)
    return sizes


@pytest.fixture(scope="module", params=["--load_fast=auto", "--load_fast=false"])
def tensorboard(
    request: pytest.FixtureRequest, chromium: str, runs: Path
) -> Iterator[TensorBoardPage]:
    """The same folder through both of TensorBoard's data loaders."""
    with served(runs, request.param) as address, browser_page(chromium) as page:
        yield TensorBoardPage(page, address)


def test_time_series_shows_the_numbers_and_pictures_of_both_runs(
    tensorboard: TensorBoardPage,
    written: dict[tuple[str, str], tuple[int, int]],
    tmp_path: Path,
) -> None:
    cards = tensorboard.time_series()
    tensorboard.screenshot(tmp_path / "time_series.png")

    assert {*NUMBERS, *PICTURES} <= {card.tag for card in cards}
    assert sizes(cards) == written
    assert tensorboard.complaints == []


def test_images_tab_shows_every_picture_in_its_own_size(
    tensorboard: TensorBoardPage,
    written: dict[tuple[str, str], tuple[int, int]],
    tmp_path: Path,
) -> None:
    cards = tensorboard.images()
    tensorboard.screenshot(tmp_path / "images.png")

    assert {(run, tag) for run in RUNS for tag in PICTURES} <= written.keys()
    assert sizes(cards) == written
    assert tensorboard.complaints == []


def test_text_tab_shows_the_alert_of_the_sick_run_and_that_the_healthy_one_has_none(
    tensorboard: TensorBoardPage, tmp_path: Path
) -> None:
    cards = tensorboard.texts()
    tensorboard.screenshot(tmp_path / "text.png")

    texts = {card.run: card.text for card in cards}
    assert {card.tag.partition("/text_summary")[0] for card in cards} == {"alerts/text"}
    assert (len(cards), set(texts)) == (2, set(RUNS))
    assert WORDS in texts["sick"]
    assert WORDS not in texts["healthy"]
    assert "no alert" in texts["healthy"].lower()
    assert tensorboard.complaints == []


def test_health_tab_shows_the_alert_of_the_sick_run_and_the_healthy_one_beside_it(
    tensorboard: TensorBoardPage, tmp_path: Path
) -> None:
    tab = HealthPage(tensorboard.page, tensorboard.address)
    frame = tab.open_within_tensorboard()
    assert WORDS in frame.locator(".card").first.inner_text()
    frame.locator(".card button.layer").first.click()
    frame.locator(".player input").fill("1")
    tab.wait_until_loaded(frame.locator(".player img"))
    frame.get_by_label("show healthy beside").click()
    healthy = frame.get_by_label("run healthy", exact=True)
    tab.wait_until_loaded(healthy.locator(".player img"))
    tab.screenshot(tmp_path / "health.png")

    assert healthy.locator(".verdict").inner_text().startswith("No alert up to step")
    assert ", picture 2 of " in healthy.locator(".player .says").inner_text()
    assert tab.complaints == []


def sizes(cards: list[Card]) -> dict[tuple[str, str], tuple[int, int]]:
    return {(card.run, card.tag): (card.width, card.height) for card in cards if card.width}
