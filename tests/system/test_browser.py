from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.system.tensorboard_page import Card, TensorBoardPage, browser_page, served
from torch.utils.tensorboard import SummaryWriter

pytestmark = pytest.mark.browser

SCALARS = ("train_loss", "alerts/active", "dead_fraction/worst")
PICTURES = {"activations/unit_life": (380, 120), "activations/maps": (1600, 400)}
TEXT = "alerts/log"
TEXT_AS_SHOWN = f"{TEXT}/text_summary"  # SummaryWriter.add_text appends it
WORDS = "units are dying"


@pytest.fixture(scope="module")
def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        reason = "there is no chromium on the PATH"
        if os.environ.get("VIS_CALLBACKS_REQUIRE_BROWSER"):
            pytest.fail(f"{reason}, but VIS_CALLBACKS_REQUIRE_BROWSER is set")
        pytest.skip(reason)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    generator = np.random.default_rng(0)
    for run in ("healthy", "sick"):
        with SummaryWriter(str(folder / run)) as writer:
            for step in (0, 10, 20):
                for tag in SCALARS:
                    writer.add_scalar(tag, 1 / (step + 1), step)
                for tag, (width, height) in PICTURES.items():
                    picture = generator.integers(256, size=(height, width, 3), dtype=np.uint8)
                    writer.add_image(tag, picture, step, dataformats="HWC")
                writer.add_text(TEXT, f"**step {step}**: {WORDS}", step)
    return folder


@pytest.fixture(scope="module", params=["--load_fast=auto", "--load_fast=false"])
def tensorboard(
    request: pytest.FixtureRequest, chromium: str, runs: Path
) -> Iterator[TensorBoardPage]:
    """The same folder through both of TensorBoard's data loaders."""
    with served(runs, request.param) as address, browser_page(chromium) as page:
        yield TensorBoardPage(page, address)


def test_time_series_shows_scalars_and_pictures_of_both_runs(
    tensorboard: TensorBoardPage, tmp_path: Path
) -> None:
    cards = tensorboard.time_series()
    tensorboard.screenshot(tmp_path / "time_series.png")

    assert {card.tag for card in cards} == {*SCALARS, *PICTURES}
    assert sizes(cards) == {
        (run, tag): size for run in ("healthy", "sick") for tag, size in PICTURES.items()
    }


def test_images_tab_shows_every_picture_in_its_own_size(
    tensorboard: TensorBoardPage, tmp_path: Path
) -> None:
    cards = tensorboard.images()
    tensorboard.screenshot(tmp_path / "images.png")

    assert sizes(cards) == {
        (run, tag): size for run in ("healthy", "sick") for tag, size in PICTURES.items()
    }


def test_text_tab_shows_the_words_of_the_alerts(
    tensorboard: TensorBoardPage, tmp_path: Path
) -> None:
    cards = tensorboard.texts()
    tensorboard.screenshot(tmp_path / "text.png")

    assert {(card.run, card.tag) for card in cards} == {
        ("healthy", TEXT_AS_SHOWN),
        ("sick", TEXT_AS_SHOWN),
    }
    assert all(WORDS in card.text for card in cards)


def test_browser_has_nothing_to_complain_about(tensorboard: TensorBoardPage) -> None:
    tensorboard.time_series()

    assert tensorboard.complaints == []


def sizes(cards: list[Card]) -> dict[tuple[str, str], tuple[int, int]]:
    return {(card.run, card.tag): (card.width, card.height) for card in cards if card.width}
