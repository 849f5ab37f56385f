from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.render.colours import CLASS_COLOURS, colours_in_order
from vis_callbacks.render.embedding_map import map_strip, no_map, probe_curve
from vis_callbacks.render.markers import Marks

GUESSING = {"guessing": 0.1}


def frame(scale: float = 1.0, num_samples: int = 30, **marks) -> tuple[np.ndarray, Marks]:
    points = np.random.default_rng(0).normal(size=(num_samples, 2))
    return scale * points, Marks(**{"labels": np.zeros(num_samples, dtype=np.int64), **marks})


def extent(picture: np.ndarray) -> int:
    """Returns the width of what has the first class's colour."""
    columns = (picture == CLASS_COLOURS[0]).all(axis=2).any(axis=0)
    return int(np.ptp(np.flatnonzero(columns)))


def test_all_frames_have_one_scale():
    strip = map_strip([frame(1.0), frame(0.1)], [0, 10])
    body = strip[20:-30]  # without the legend
    left, right = body[:, :400], body[:, 406:]
    assert extent(right) < 0.3 * extent(left)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_strip_of_any_length_fits(count: int):
    strip = map_strip([frame()] * count, list(range(count)))
    assert strip.shape[1] <= 1_600
    assert strip.dtype == np.uint8


def test_a_hundred_classes_are_listed_below_the_strip():
    labels = np.arange(300) % 100
    names = [f"a rather long name {i}" for i in range(100)]
    few = map_strip([frame(1.0, 300, labels=labels % 2, class_names=names)] * 8, list(range(8)))
    many = map_strip([frame(1.0, 300, labels=labels, class_names=names)] * 8, list(range(8)))
    assert many.shape[0] > few.shape[0] + 100


def test_points_that_are_not_finite_and_classes_that_are_not_known_do_no_harm():
    points, marks = frame(labels=np.full(30, -1))
    points[3] = np.nan
    assert map_strip([(points, marks)], [0]).std() > 5
    nowhere = (np.full((5, 2), np.nan), Marks(labels=np.zeros(5, dtype=int)))
    assert map_strip([nowhere], [0]).std() > 0


def test_values_have_one_scale_in_all_frames():
    def colours(*values: float) -> set[tuple[int, int, int]]:
        frames = [frame(values=np.full(30, value)) for value in values]
        strip = map_strip(frames, list(range(len(values))))[20:200]
        vivid = strip[np.ptp(strip, axis=2) > 80]
        return set(map(tuple, vivid.tolist()))

    low, high, both = colours(0.0, 0.0), colours(9.0, 9.0), colours(0.0, 9.0)
    assert low == high  # one value alone has one colour, whatever it is
    assert len(both) > len(low)


def test_a_strip_without_a_frame_is_refused():
    with pytest.raises(ValueError, match="got 0 frames"):
        map_strip([], [])


def test_a_probe_curve_lists_its_layers_below():
    short = probe_curve({"step 5": [0.2, 0.9]}, ["a", "b"], GUESSING)
    long = probe_curve({"step 5": [0.2] * 8}, [f"layer{i}.relu" for i in range(8)], GUESSING)
    assert short.shape[1] == long.shape[1] == 400
    assert long.shape[0] > short.shape[0] + 60


def test_a_probe_that_could_not_be_fitted_leaves_a_gap():
    assert probe_curve({"step 5": [0.2, np.nan, 0.5]}, ["a", "b", "c"], GUESSING).std() > 5
    assert probe_curve({"step 5": [np.nan]}, ["a"], GUESSING).std() > 5


def test_a_later_probe_curve_is_darker():
    curves = {f"step {step}": [0.3 + step / 10] * 3 for step in range(4)}
    picture = probe_curve(curves, ["a", "b", "c"], GUESSING)
    colours = colours_in_order(4)
    heights = [np.argwhere((picture == c).all(axis=2))[:, 0].min() for c in colours]
    assert heights == sorted(heights, reverse=True)  # higher on the plot, later, darker
    assert [sum(colour) for colour in colours] == sorted(map(sum, colours), reverse=True)


def test_why_there_is_no_map_stands_over_an_empty_one():
    picture = no_map(["no map: the features of all 500 samples are equal"])
    assert picture.shape[1] == 400
    assert (picture[:18] < 100).any()
