from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from vis_callbacks.pictures import plots
from vis_callbacks.pictures.colours import CLASS_COLOURS
from vis_callbacks.pictures.markers import NO_CLASS, Marks
from vis_callbacks.pictures.plots import line_plot, scatter_frames, scatter_plot

CORNERS = np.array([[-1.0, -1.0], [1.0, 1.0]])


def places(picture: np.ndarray, kind: int = 0) -> np.ndarray:
    """Returns the pixels of a class's colour, edges softened."""
    distance = np.abs(picture.astype(int) - CLASS_COLOURS[kind]).sum(axis=2)
    return np.argwhere(distance < 12)


def scatter(points: np.ndarray, labels: object = None, **options: object) -> np.ndarray:
    kinds = np.full(len(points), -1) if labels is None else np.asarray(labels)
    return scatter_plot(points, Marks(labels=kinds), **options)  # type: ignore[arg-type]


# -- curves


def curve_plot(curves: dict, caption: list[str] | None = None, **options: object) -> np.ndarray:
    inks = CLASS_COLOURS[: len(curves)]
    usual = {"y_label": "", "x_label": "step", "y_range": (0, 1), "colours": inks, "levels": {}}
    return line_plot(curves, caption or [], **(usual | options))


def test_a_rising_curve_rises() -> None:
    spots = places(curve_plot({"loss": ([0, 100], [0.0, 1.0])}))

    first, last = spots[spots[:, 1].argmin()], spots[spots[:, 1].argmax()]
    assert last[1] - first[1] > 300
    assert first[0] - last[0] > 130


def test_a_value_that_is_not_finite_leaves_a_gap() -> None:
    spots = places(curve_plot({"loss": (range(5), [1.0, 1.0, np.nan, 1.0, 1.0])}))

    assert 140 < np.diff(np.unique(spots[:, 1])).max() < 250


def test_a_single_value_is_a_marker() -> None:
    assert len(places(curve_plot({"loss": ([7], [0.5])}))) > 5


def test_several_curves_have_a_legend_and_differ() -> None:
    one = curve_plot({"a": ([0, 1], [0, 1])})
    two = curve_plot({"a": ([0, 1], [0, 1]), "b": ([0, 1], [1, 0])})

    assert two.shape[0] > one.shape[0]
    assert min(len(places(two, kind)) for kind in (0, 1)) > 50


@pytest.mark.parametrize("values", [[], [np.nan], [5e-324, 0], [0.5, 0.5], [np.inf, 1]])
def test_any_shares_are_drawn(values: list[float]) -> None:
    curves = {"\ud800": (range(len(values)), values)}
    assert curve_plot(curves, ["\x00"], y_label="\n$x", x_label="$").shape[1] == 400


@pytest.mark.parametrize("level", [0.25, 0.75])
def test_a_level_is_a_dashed_line_at_its_height(level: float) -> None:
    picture = curve_plot({"a": ([0, 1], [0.5, 0.5])}, y_range=(0, 1), levels={"": level})

    curve = np.median(places(picture)[:, 0])
    is_dark = (picture < 130).all(axis=2)[5:165, 60:380]
    row = is_dark.sum(axis=1).argmax()
    assert (row + 5 > curve) == (level < 0.5)
    assert 0.4 < is_dark[row].mean() < 0.8


def test_a_level_bears_its_name_and_one_that_is_not_known_is_left_out() -> None:
    curves = {"a": ([0, 1], [0.5, 0.5])}
    unnamed, named, unknown, none = (
        (curve_plot(curves, y_range=(0, 1), levels=levels) < 130).all(axis=2).sum()
        for levels in ({"": 0.2}, {"network": 0.2}, {"network": np.nan}, {})
    )

    assert named > unnamed > none
    assert unknown == none


@pytest.mark.parametrize(
    ("network", "names"),
    [
        (0.1, [(0.1, "network, guessing")]),
        (0.15, [(0.15, "network, guessing")]),
        (0.05, [(0.1, "guessing, network")]),
        (0.5, [(0.5, "network"), (0.1, "guessing")]),
        (np.nan, [(0.1, "guessing")]),
    ],
)
def test_names_of_levels_that_lie_near_stand_together(network: float, names: list) -> None:
    assert plots._names_of({"network": network, "guessing": 0.1}, apart=0.08) == names


# -- maps of points


def test_a_point_lies_where_its_coordinates_say() -> None:
    picture = scatter(CORNERS, [0, 1])[:400]  # above the legend

    low_left, high_right = (np.median(places(picture, kind), axis=0) for kind in (0, 1))
    # Up is larger, right is larger.
    assert low_left[0] > 350
    assert low_left[1] < 50
    assert high_right[0] < 50
    assert high_right[1] > 350


def test_both_axes_have_one_scale() -> None:
    picture = scatter(np.array([[0.0, 0.0], [100.0, 1.0]]), [0, 1])[:390]

    rows = [np.median(places(picture, kind)[:, 0]) for kind in (0, 1)]
    assert abs(rows[0] - rows[1]) < 6


@pytest.mark.parametrize("num_classes", [1, 10, 1_000])
def test_the_legend_grows_with_the_classes_but_not_without_end(num_classes: int) -> None:
    points = np.random.default_rng(0).normal(size=(num_classes, 2))

    picture = scatter(points, np.arange(num_classes))

    assert picture.shape[1] == 400
    assert picture.shape[0] < 1_000


def test_a_misclassified_sample_is_ringed_and_counted() -> None:
    def dark(wrong: bool) -> int:
        plot = scatter(np.zeros((1, 2)), [1], wrong=np.array([wrong]))[-300:-100, 100:300]
        return int((plot < 160).all(axis=2).sum())

    assert dark(False) == 0
    assert dark(True) > 10


def test_rings_hide_no_marker() -> None:
    points = np.concatenate([CORNERS, np.random.default_rng(0).normal(size=(200, 2)) / 10])

    def coloured(wrong: bool) -> list[int]:
        picture = scatter(points, np.arange(202) % 10, wrong=np.full(202, wrong))
        return [len(places(picture, kind)) for kind in range(10)]

    assert coloured(True) == coloured(False)


def test_a_trail_leads_to_the_place_before() -> None:
    plain = scatter(CORNERS, [0, 1])
    trailed = scatter(CORNERS, [0, 1], trails=CORNERS * (1, -1))

    left_edge = slice(-350, -150), slice(5, 20)
    assert (plain[left_edge] == 255).all()
    assert (trailed[left_edge] < 245).any(axis=(1, 2)).all()


def test_points_that_are_not_finite_are_left_out() -> None:
    picture = scatter(np.array([[0.0, 0.0], [np.nan, 1.0], [np.inf, 0.0]]), [0, 1, 2])

    assert len(places(picture, 0)) > 0
    assert len(places(picture, 1)) == 0


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.zeros((5, 2)), np.full((3, 2), np.nan)])
def test_maps_without_extent_are_drawn(points: np.ndarray) -> None:
    assert scatter(points, np.zeros(len(points))).shape[1] == 400


@pytest.mark.parametrize("largest", [1e308, 1e-300])
def test_the_ends_of_the_number_range_are_drawn(largest: float) -> None:
    assert len(places(scatter(CORNERS * largest, [0, 1])[:200], 1)) > 0


def test_labels_that_are_not_known_are_grey_dots() -> None:
    assert (scatter(CORNERS) == NO_CLASS).all(axis=2).any()


def test_frames_share_one_frame_of_reference() -> None:
    far, near = scatter_frames(
        [(CORNERS * scale, Marks(labels=np.array([0, 1]))) for scale in (1.0, 0.1)], side=200
    )
    spread = [np.ptp(np.concatenate([places(p, 0), places(p, 1)])[:, 0]) for p in (far, near)]
    assert far.shape == near.shape == (200, 200, 3)
    assert spread[0] > 4 * spread[1]


# -- global state

DRAW_ALL = """
import sys
import matplotlib
import numpy as np
matplotlib.rcParams["font.size"] = 33
before = matplotlib.rcParams.copy()  # a dict() of them would resolve the backend: pyplot
from vis_callbacks.pictures.markers import Marks
from vis_callbacks.pictures.plots import line_plot, scatter_plot
labels = {"y_label": "accuracy", "x_label": "layer"}
more = {"y_range": (0, 1), "colours": [(0, 0, 0)], "levels": {"guessing": 0.5}}
line_plot({"a": ([0, 1], [0, 1])}, **labels, **more)
scatter_plot(np.zeros((1, 2)), Marks(labels=np.zeros(1)))
assert matplotlib.rcParams.copy() == before, "rcParams changed"
print("matplotlib.pyplot" in sys.modules)
"""


def test_drawing_loads_no_pyplot_and_leaves_rc_params_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRAW_ALL], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"
