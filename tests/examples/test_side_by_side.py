from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from tests.test_docs import MONITORS

import side_by_side
from side_by_side import (
    FIGURES,
    MAX_WIDTH,
    TITLE_COLOURS,
    TITLE_HEIGHT,
    Card,
    Figure,
    compose,
    cut,
)


def png(height: int, width: int, colour: tuple[int, int, int]) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pictures():
    tags = {card.tag for figure in FIGURES.values() for card in figure.cards}
    return {
        "healthy": {tag: png(40, 300, (0, 0, 200)) for tag in tags},
        "sick": {tag: png(60, 300, (200, 0, 0)) for tag in tags},
        "shortcut": {tag: png(60, 300, (0, 200, 0)) for tag in tags},
    }


def test_runs_lie_side_by_side_in_the_order_asked_for(pictures):
    pixels = compose(Figure((Card("embedding/probes"),), (*TITLE_COLOURS,)), pictures)
    assert tuple(pixels[2, 0]) == TITLE_COLOURS["healthy"]
    assert tuple(pixels[2, 330]) == TITLE_COLOURS["sick"]
    assert tuple(pixels[2, -1]) == TITLE_COLOURS["shortcut"]
    assert tuple(pixels[TITLE_HEIGHT + 20, 0]) == (0, 0, 200)
    assert tuple(pixels[TITLE_HEIGHT + 20, 330]) == (200, 0, 0)
    assert tuple(pixels[TITLE_HEIGHT + 20, -1]) == (0, 200, 0)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_picture_is_cut_where_nothing_is_cut_through(axis):
    lines = np.full((10, 4, 3), 255, np.uint8)
    lines[[0, 1, 2, 5, 6, 7, 8], 1] = 0
    pixels = np.moveaxis(lines, 0, axis)
    assert cut(pixels, 7, axis).shape[axis] == 4
    assert cut(pixels, 10, axis).shape[axis] == 10


@pytest.mark.parametrize("runs", [("healthy", "sick"), ("healthy", "sick", "shortcut")])
def test_wide_pictures_are_shrunk_until_all_fit(runs):
    wide = {run: {"a": png(100, 2 * MAX_WIDTH, (9, 9, 9))} for run in runs}
    assert MAX_WIDTH - 3 <= compose(Figure((Card("a"),), runs), wide).shape[1] <= MAX_WIDTH


def test_every_figure_is_written_and_small(pictures, tmp_path):
    paths = side_by_side.save_figures(pictures, tmp_path)
    assert sorted(path.stem for path in paths) == sorted(FIGURES)
    assert all(path.stat().st_size < 250_000 for path in paths)


def test_every_monitor_has_a_figure():
    # learning_gallery.py makes the pictures of LearningMonitor, of another pair of trainings.
    assert {kind.stem for kind in MONITORS} - {"learning"} <= set(FIGURES)
