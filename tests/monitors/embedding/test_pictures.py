from __future__ import annotations

import math

import numpy as np
import pytest

from vis_callbacks.monitors.embedding import pictures as module
from vis_callbacks.monitors.embedding.pictures import (
    draw_map,
    draw_no_map,
    draw_probes,
    draw_strip,
    draw_thumbnails,
    grid_cells,
    shown_inputs,
)
from vis_callbacks.pictures.colours import CLASS_COLOURS, NOT_MEASURED, colours_in_order

N = 30
CAPTION = ("input of fc: t-SNE, 30 samples", "trustworthiness 0.99")
ZEROS = np.zeros(N, dtype=np.int64)


def places(num_samples: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_samples, 2))


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=2).any())


# -- the map


def test_a_map_is_drawn_by_class_or_by_target():
    by_class = draw_map(places(), ZEROS + 3, caption=CAPTION, class_names=["a", "b", "c", "d"])
    assert has_colour(by_class, CLASS_COLOURS[3])
    by_target = draw_map(places(), ZEROS - 1, targets=np.arange(N), caption=CAPTION)
    assert len(np.unique(by_target[np.ptp(by_target, axis=2) > 80], axis=0)) > N / 2


def test_why_there_is_no_map_stands_over_an_empty_one():
    picture = draw_no_map(caption=["no map: the features of all 500 samples are equal"])
    assert picture.shape[1] == 400
    assert (picture[:18] < 100).any()


# -- the strip


def strip(*frames: np.ndarray, labels: np.ndarray | None = None, **options) -> np.ndarray:
    """Returns the strip of these points (samples, 2)."""
    labels = np.zeros((len(frames), len(frames[0])), int) if labels is None else labels
    steps = list(range(len(frames)))
    return draw_strip(np.stack(frames), labels, steps=steps, caption=CAPTION, **options)


def extent(picture: np.ndarray) -> int:
    """Returns the width of what has the first class's colour."""
    columns = (picture == CLASS_COLOURS[0]).all(axis=2).any(axis=0)
    return int(np.ptp(np.flatnonzero(columns)))


def test_all_frames_have_one_scale():
    body = strip(places(), 0.1 * places())[:-30]  # without the legend
    assert extent(body[:, 404:]) < 0.3 * extent(body[:, :400])


@pytest.mark.parametrize("count", [1, 8])
def test_a_strip_of_any_length_fits(count):
    picture = strip(*[places()] * count)
    assert picture.shape[1] <= 1_600
    assert picture.dtype == np.uint8


def test_a_hundred_classes_are_listed_below_the_strip():
    labels = np.tile(np.arange(300) % 100, (2, 1))
    names = [f"a rather long name {i}" for i in range(100)]
    frames = [places(300)] * 2
    few = strip(*frames, labels=labels % 2, class_names=names)
    assert len(strip(*frames, labels=labels, class_names=names)) > len(few) + 100


def test_samples_that_are_not_there_and_classes_that_are_not_known_do_no_harm():
    points = places()
    points[3:] = np.nan
    assert strip(points, labels=np.full((1, N), -1)).std() > 5
    assert strip(np.full((5, 2), np.nan)).std() > 0


def test_values_have_one_scale_in_all_frames():
    def colours(*values: float) -> set[tuple[int, int, int]]:
        targets = np.tile(np.array(values)[:, None], N)
        picture = strip(*[places()] * len(values), targets=targets)[40:200]
        vivid = picture[np.ptp(picture, axis=2) > 80]
        return set(map(tuple, vivid.tolist()))

    low, high, both = colours(0.0, 0.0), colours(9.0, 9.0), colours(0.0, 9.0)
    assert low == high  # one value alone has one colour, whatever it is
    assert len(both) > len(low)


# -- thumbnails


def thumbnails(
    points: np.ndarray,
    labels: np.ndarray | None = None,
    value: int | np.ndarray = 90,
    **options,
) -> np.ndarray:
    """Returns samples of one grey each, in their places."""
    count = len(points)
    labels = np.full(count, -1) if labels is None else labels
    pixels = np.zeros((count, 1, 8, 8), np.uint8)
    ranges = np.repeat(np.broadcast_to(value, count)[:, None] / 255, 2, axis=1)
    ranges = ranges.astype(np.float32)
    return draw_thumbnails(points, labels, pixels, ranges, caption=CAPTION, **options)


@pytest.mark.parametrize("count", [1, 300])
def test_thumbnails_fit_however_many_samples_there_are(count):
    picture = thumbnails(places(count))
    assert picture.shape[1] <= 1_600
    assert picture.dtype == np.uint8


def test_no_two_samples_share_a_cell():
    cells = grid_cells(np.random.default_rng(0).random((50, 2)) ** 3, 8)
    assert len({tuple(cell) for cell in cells.tolist()}) == 50
    assert cells.min() >= 0
    assert (cells.max(axis=0) < (7, 8)).all()


def test_samples_on_a_grid_keep_their_cells():
    cells = np.stack(np.divmod(np.arange(30), 6), axis=1)
    assert grid_cells(cells[:, ::-1].astype(float), 6).tolist() == cells.tolist()


def test_what_lies_high_on_the_map_lies_high_in_the_picture():
    grey = np.array([10, 240])
    picture = thumbnails(np.array([[0.0, 1.0], [0.0, -1.0]]), value=grey)[:, :640]
    dark, bright = ((picture == value).all(axis=2).any(axis=1).nonzero()[0] for value in grey)
    assert dark.mean() < bright.mean()


def test_edges_have_the_colours_of_the_classes_and_the_legend_names_them():
    labels, names = np.array([0, 3, -1, 12]), [f"class {i}" for i in range(13)]
    picture = thumbnails(places(4), labels, class_names=names)
    for colour in (CLASS_COLOURS[0], CLASS_COLOURS[3], CLASS_COLOURS[2], NOT_MEASURED):
        assert has_colour(picture, colour)
    assert not has_colour(thumbnails(places(4)), CLASS_COLOURS[0])
    others = thumbnails(places(4), labels, class_names=["x" * 90] * 13)
    assert not np.array_equal(picture, others)


def test_points_in_one_place_are_shown():
    assert has_colour(thumbnails(np.zeros((6, 2)), value=50), (50, 50, 50))


def test_classes_that_share_a_colour_bear_their_shape():
    def thumbnail(label: int) -> np.ndarray:
        picture = thumbnails(np.zeros((1, 2)), np.array([label]))[:, 640:]  # the grid
        rows, columns = (picture == 90).all(axis=2).nonzero()
        return picture[rows.min() : rows.min() + 26, columns.min() : columns.min() + 26]

    assert not has_colour(thumbnail(0), (255, 255, 255))
    assert not has_colour(thumbnail(9), (255, 255, 255))
    assert has_colour(thumbnail(10), (255, 255, 255))
    assert has_colour(thumbnail(10), CLASS_COLOURS[0])


def test_what_rounding_to_bytes_put_beyond_0_and_1_is_cut_off():
    pixels = np.zeros((1, 1, 2, 2), np.uint8)
    pixels[..., 1] = 255

    def noted(low: float, high: float) -> str:
        return shown_inputs(pixels, np.float32([[low, high]]), [0.5], [0.25]).note

    assert noted(-2.01, 2.01) == ""
    assert "white is" in noted(-2.0, 3.0)


# -- probes


def probes(network: float = math.nan, accuracies=((0.2, 0.3), (0.4, 0.712)), num_classes: int = 2):
    accuracies = np.array(accuracies, dtype=np.float64)
    return draw_probes(
        accuracies,
        network=network,
        layers=[f"layer{i}.relu" for i in range(accuracies.shape[1])],
        steps=[5, 1_495, 2_000, 4_000][: len(accuracies)],
        num_samples=20,
        num_classes=num_classes,
        epoch=7,
        chance=0.084,
    )


@pytest.fixture
def drawn(monkeypatch) -> list[tuple]:
    """Collects the curves, the caption and the levels of each plot."""
    calls: list[tuple] = []

    def record(curves, caption, *, levels, **options):
        calls.append((curves, caption, levels))
        return np.zeros((1, 400, 3), np.uint8)

    monkeypatch.setattr(module, "line_plot", record)
    return calls


def test_probes_are_compared_with_guessing_and_with_the_network_itself(drawn):
    probes(0.76)
    ((curves, caption, levels),) = drawn
    assert list(curves) == ["step 5", "step 1,495"]
    assert levels == {"network itself": 0.76, "guessing": 0.084}
    assert caption[1].endswith("best at layer 2: 71.2 %, guessing 8.4 %")
    assert caption[-1] == "the network itself: 76.0 %"


def test_few_samples_a_class_are_said_to_be_few_and_nothing_of_a_network_that_is_not_known(drawn):
    probes(num_classes=4)
    ((_, caption, levels),) = drawn
    assert math.isnan(levels["network itself"])
    assert not any("network" in line for line in caption)
    assert caption[-1].startswith("5.0 samples per class: probes fitted to so few")


def test_a_probe_curve_lists_its_layers_below():
    short, long = probes(), probes(accuracies=[[0.2] * 8])
    assert short.shape[1] == long.shape[1] == 400
    assert len(long) > len(short) + 60


def test_a_probe_that_could_not_be_fitted_leaves_a_gap():
    assert probes(accuracies=[[0.2, np.nan, 0.5]]).std() > 5
    assert probes(accuracies=[[np.nan]]).std() > 5


def test_a_later_probe_curve_is_darker():
    picture = probes(accuracies=[[0.3 + step / 10] * 3 for step in range(4)])
    heights = [
        np.argwhere((picture == colour).all(axis=2))[:, 0].min() for colour in colours_in_order(4)
    ]
    assert heights == sorted(heights, reverse=True)  # higher on the plot, later, darker
