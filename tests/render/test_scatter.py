from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.render.colours import CLASS_COLOURS
from vis_callbacks.render.markers import _SHAPES, NUM_SHAPES
from vis_callbacks.render.scatter import scatter

CORNERS = np.array([[-1.0, -1.0], [1.0, 1.0]])


def places(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.argwhere((picture == np.array(colour, dtype=np.uint8)).all(axis=2))


def test_a_point_lies_where_its_coordinates_say() -> None:
    picture = scatter(CORNERS, np.array([0, 1]))

    first, second = (places(picture, CLASS_COLOURS[kind]) for kind in (0, 1))
    plot = slice(0, 400)
    low_left, high_right = (
        np.median(spots[np.isin(spots[:, 0], np.r_[plot])], axis=0) for spots in (first, second)
    )
    # Up is larger, right is larger.
    assert low_left[0] > 350
    assert low_left[1] < 50
    assert high_right[0] < 50
    assert high_right[1] > 350


def test_both_axes_have_one_scale() -> None:
    picture = scatter(np.array([[0.0, 0.0], [100.0, 1.0]]), np.array([0, 1]))

    rows = [np.median(places(picture[:390], CLASS_COLOURS[kind])[:, 0]) for kind in (0, 1)]
    assert abs(rows[0] - rows[1]) < 6


def test_a_hundred_classes_differ_in_colour_or_shape() -> None:
    looks = {(kind % 10, (kind + kind // 10) % NUM_SHAPES) for kind in range(100)}

    assert len(set(_SHAPES)) == NUM_SHAPES == len(CLASS_COLOURS) == 10
    assert len(looks) == 100


def test_ten_classes_differ_in_colour_and_shape() -> None:
    heights = [
        scatter(np.zeros((1, 2)), np.array([kind]), [""] * 10)[150:250, 150:250] < 250
        for kind in range(10)
    ]

    shapes = {picture.any(axis=2).tobytes() for picture in heights}
    assert len(shapes) == 10


@pytest.mark.parametrize("num_classes", [1, 2, 10, 100, 1_000])
def test_the_legend_grows_with_the_classes_but_not_without_end(num_classes: int) -> None:
    labels = np.arange(num_classes)
    points = np.random.default_rng(0).normal(size=(num_classes, 2))

    picture = scatter(points, labels, [f"class number {kind}" for kind in labels])

    assert picture.shape[1] == 400
    assert picture.shape[0] < 1_000


def dark(points: np.ndarray, wrong: bool) -> int:
    labels = np.ones(len(points), dtype=int)
    plot = scatter(points, labels, wrong=np.full(len(points), wrong))[-300:-100, 100:300]
    return int((plot < 160).all(axis=2).sum())


def test_a_misclassified_sample_is_ringed() -> None:
    assert dark(np.zeros((1, 2)), False) == 0
    assert dark(np.zeros((1, 2)), True) > 10


def test_rings_hide_no_marker() -> None:
    crowd = np.random.default_rng(0).normal(size=(200, 2)) / 10
    points = np.concatenate([CORNERS, crowd])
    labels = np.arange(202) % 10

    def coloured(wrong: bool) -> list[int]:
        picture = scatter(points, labels, wrong=np.full(202, wrong))
        return [len(places(picture, colour)) for colour in CLASS_COLOURS]

    assert coloured(True) == coloured(False)


def test_a_trail_leads_to_the_place_before() -> None:
    plain = scatter(CORNERS, np.array([0, 1]))

    trailed = scatter(CORNERS, np.array([0, 1]), trails=CORNERS * (1, -1))

    left_edge = slice(100, 300), slice(5, 20)
    assert (plain[-440:][left_edge] == 255).all()
    assert (trailed[-440:][left_edge] < 245).any(axis=(1, 2)).all()


def test_points_that_are_not_finite_are_left_out() -> None:
    points = np.array([[0.0, 0.0], [np.nan, 1.0], [np.inf, 0.0]])

    picture = scatter(points, np.array([0, 1, 2]))

    assert len(places(picture, CLASS_COLOURS[0])) > 0
    assert len(places(picture, CLASS_COLOURS[1])) == 0


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.zeros((5, 2)), np.full((3, 2), np.nan)])
def test_maps_without_extent_are_drawn(points: np.ndarray) -> None:
    assert scatter(points, np.zeros(len(points))).shape[1] == 400


@pytest.mark.parametrize("largest", [1e308, 1e-300])
def test_the_ends_of_the_number_range_are_drawn(largest: float) -> None:
    picture = scatter(CORNERS * largest, np.array([0, 1]))

    assert len(places(picture[:200], CLASS_COLOURS[1])) > 0


def test_labels_that_are_not_known_are_grey_dots() -> None:
    assert len(places(scatter(CORNERS, np.array([-1, 0])), (150, 150, 150))) > 0
    assert len(places(scatter(CORNERS), (150, 150, 150))) > 0


@pytest.mark.parametrize("name", ["\ud800", "a\x00b\n", "日本" * 100])
def test_odd_class_names_are_drawn(name: str) -> None:
    assert scatter(CORNERS, np.array([0, 1]), [name, name]).shape[1] == 400


def test_points_must_have_two_coordinates() -> None:
    with pytest.raises(ValueError, match=r"give \(samples, 2\)"):
        scatter(np.zeros((3, 3)))


def test_arrays_must_be_as_long_as_the_points() -> None:
    with pytest.raises(ValueError, match="labels has 1 entries for 2 points"):
        scatter(CORNERS, np.array([0]))
