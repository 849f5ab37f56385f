from __future__ import annotations

import numpy as np
import pytest
from matplotlib import colormaps

from vis_callbacks.pictures.colours import NOT_FINITE, Scale, colour_map, missing_note, scale_of


def ends(name: str) -> list[list[int]]:
    return [list(colormaps[name](end, bytes=True)[:3]) for end in (0.0, 1.0)]


def coloured(values: object, *, signed: bool = False) -> np.ndarray:
    """Returns the colours on the scale that covers the values."""
    array = np.asarray(values)
    return colour_map(array, scale_of(array, signed=signed))


def test_amounts_run_through_viridis_from_zero() -> None:
    colours = coloured([0.0, 5.0])

    assert colours.dtype == np.uint8
    assert colours.tolist() == ends("viridis")


def test_amounts_above_zero_are_still_measured_from_zero() -> None:
    assert scale_of(np.array([4.0, 5.0])) == Scale(low=0.0, high=5.0)


def test_zero_has_the_middle_colour_of_a_signed_map() -> None:
    colours = coloured([-1.0, 0.0, 4.0], signed=True)

    assert colours[1].tolist() == list(colormaps["RdBu_r"](0.5, bytes=True)[:3])
    assert colours[2].tolist() == ends("RdBu_r")[1]


def test_a_hair_from_zero_has_its_colour_on_both_sides() -> None:
    below, zero, above = colour_map(
        np.array([-1e-9, 0, 1e-9]), scale=Scale(low=-1, high=1, signed=True)
    )

    assert below.tolist() == zero.tolist() == above.tolist()


def test_opposite_values_lie_equally_far_from_the_middle() -> None:
    scale = scale_of(np.array([-1.0, 4.0]), signed=True)

    assert (scale.low, scale.high) == (-4.0, 4.0)


def test_values_beyond_the_scale_get_its_last_colour() -> None:
    colours = colour_map(np.array([-9.0, 9.0]), scale=Scale(low=0, high=1))

    assert colours.tolist() == ends("viridis")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_marked_and_does_not_move_the_scale(value: float) -> None:
    colours = coloured([0.0, value, 2.0])

    assert tuple(colours[1].tolist()) == NOT_FINITE
    assert colours[[0, 2]].tolist() == ends("viridis")


def test_what_is_not_finite_is_counted_in_words() -> None:
    assert missing_note(np.array([1.0, np.nan, np.inf])) == "magenta: not finite (2 of 3 values)"


def test_nothing_missing_needs_no_words() -> None:
    assert missing_note(np.zeros(3)) == ""


@pytest.mark.parametrize("signed", [False, True])
def test_equal_values_of_zero_get_the_colour_of_zero(signed: bool) -> None:
    colours = coloured(np.zeros((2, 2)), signed=signed)

    expected = coloured([0.0, 1.0], signed=signed)[0]
    assert (colours == expected).all()


@pytest.mark.parametrize("largest", [np.finfo(np.float32).max, 1e308, 1e-300])
def test_the_ends_of_the_number_range_are_drawn(largest: float) -> None:
    colours = coloured([-largest, 0.0, largest], signed=True)

    assert colours[[0, 2]].tolist() == ends("RdBu_r")


def test_a_quantile_leaves_an_outlier_out_and_says_so() -> None:
    values = np.append(np.linspace(0, 1, 999), 1_000.0)

    scale = scale_of(values, quantile=0.99)

    assert scale.high < 1.01
    assert scale.is_clipped


def test_a_quantile_of_zero_does_not_hide_the_few_that_are_not() -> None:
    values = np.zeros(10_000)
    values[0] = 3.0

    assert scale_of(values, quantile=0.99).high == 3.0
    assert scale_of(values, signed=True, quantile=0.99).high == 3.0


def test_a_scale_of_nothing_finite_is_zero() -> None:
    assert scale_of(np.full(3, np.nan)) == Scale(low=0.0, high=0.0)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float16])
def test_any_real_type_is_drawn(dtype: type) -> None:
    assert coloured(np.array([0, 1], dtype=dtype)).tolist() == ends("viridis")
