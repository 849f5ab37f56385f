"""What `EmbeddingMonitor(projector=True)` writes is what TensorBoard's projector shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tests.system.tensorboard_page import browser_page, chromium_or_skip, served
from tests.tiny import tiny_loader, tiny_module, tiny_trainer

from vis_callbacks import EmbeddingMonitor

NUM_SAMPLES = 40
NUM_FEATURES = 6
CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of two epochs, each of which writes for the projector."""
    folder = tmp_path_factory.mktemp("projector")
    monitor = EmbeddingMonitor(
        projector=True, perplexity=5.0, class_names=CLASSES, max_overhead=None
    )
    logger = TensorBoardLogger(folder, name="", version="")
    trainer = tiny_trainer(folder, [monitor], logger=logger)
    trainer.fit(tiny_module(), tiny_loader(), tiny_loader(NUM_SAMPLES, 8))
    assert monitor.guard.counts == {}
    return folder


def latest(run: Path, name: str) -> Path:
    return sorted(run.glob(f"*/*/{name}"))[-1]


def test_features_labels_and_sprite_belong_together(run: Path) -> None:
    features = np.loadtxt(latest(run, "tensors.tsv"))
    assert features.shape == (NUM_SAMPLES, NUM_FEATURES)
    labels = latest(run, "metadata.tsv").read_text().splitlines()
    assert [row.split(",")[0] for row in labels] == [CLASSES[i % 3] for i in range(NUM_SAMPLES)]
    with Image.open(latest(run, "sprite.png")) as sprite:
        assert sprite.size == (7 * 6, 7 * 6)  # 7 x 7 images of 6 pixels hold 40


def test_the_configuration_names_files_that_are_there(run: Path) -> None:
    text = (run / "projector_config.pbtxt").read_text()
    paths = re.findall(r'_path: "(.*)"', text)
    assert len(paths) == 2 * 3
    assert all((run / path).is_file() for path in paths)
    assert 'tensor_name: "embedding/projector/head:' in text


@pytest.mark.browser
def test_the_projector_shows_the_points_and_names_them(run: Path) -> None:
    with served(run) as address, browser_page(chromium_or_skip()) as page:
        with page.expect_event("framenavigated", lambda frame: "projector_binary" in frame.url):
            page.goto(f"{address}/#projector")
        projector = page.frame(url=re.compile("projector_binary"))
        for what, count in (("Points", NUM_SAMPLES), ("Dimension", NUM_FEATURES)):
            # At first there are none of them.
            projector.get_by_text(re.compile(rf"{what}:\s*{count}\b")).first.wait_for()
        chosen = projector.get_by_text(re.compile("embedding/projector/head")).first
        chosen.wait_for(state="attached")  # in a list that is folded
