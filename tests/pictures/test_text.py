from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vis_callbacks.pictures.canvas import blank
from vis_callbacks.pictures.text import (
    class_name,
    line_height,
    number,
    printable,
    shortened,
    shortened_names,
    text_width,
    wrapped,
    write,
)

# Any code point, lone surrogates too: names come from the user's files.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)


@given(ANY_TEXT)
def test_any_string_becomes_one_printable_line(text: str) -> None:
    result = printable(text)

    assert result.isprintable()
    result.encode("utf-8")  # a lone surrogate would raise


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\nb", "a\\nb"), ("\x00", "\\x00"), ("\ud800", "\\ud800"), ("日", "\\u65e5"), ("é", "é")],
)
def test_what_cannot_be_drawn_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_names_that_the_font_cannot_draw_stay_different() -> None:
    assert printable("猫") != printable("犬")


def test_a_very_long_text_loses_its_middle() -> None:
    assert printable("a" * 5_000 + "b") == "a" * 500 + "…" + "a" * 499 + "b"


@given(ANY_TEXT, st.integers(30, 200))
def test_a_shortened_name_fits(text: str, width: int) -> None:
    assert text_width(shortened(text, width)) <= width


def test_a_name_that_fits_is_left_alone() -> None:
    assert shortened("conv1/relu", 200) == "conv1/relu"


def test_a_name_is_shortened_in_its_middle() -> None:
    result = shortened("model.backbone.layer1.0.conv1/relu", 100)

    assert result.startswith("mod")
    assert result.endswith("/relu")
    assert "…" in result


def test_shortened_names_stay_different_wherever_they_differ() -> None:
    long = "x" * 40
    names = [
        f"a{long}{long}",
        f"b{long}{long}",
        f"{long}m{long}",
        f"{long}n{long}",
        f"{long}{long}z",
    ]

    results = shortened_names(names, 90)

    assert len(set(results)) == len(names)
    assert all(text_width(result) <= 90 for result in results)


def test_names_whose_cut_moves_need_no_numbers() -> None:
    names = [f"layer.{'x' * 40}.{index}.relu" for index in range(3)]

    assert [name[-7:] for name in shortened_names(names, 90)] == [".0.relu", ".1.relu", ".2.relu"]


@given(ANY_TEXT, st.integers(40, 300))
def test_wrapped_lines_fit_and_lose_no_letter(text: str, width: int) -> None:
    lines = wrapped(text, width)

    assert all(text_width(line, 12) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == printable(text).replace(" ", "")


@pytest.mark.parametrize("text", ["most dead units (94 %) of all", "at step 5, 64 samples each"])
def test_a_number_stays_with_its_unit_at_any_width(text: str) -> None:
    for width in range(80, 250):
        for line in wrapped(text, width):
            assert not re.search(r"\d$", line) or line == wrapped(text, width)[-1], (width, line)


def test_a_number_leaves_its_unit_where_both_do_not_fit() -> None:
    assert wrapped("1,000 " + "W" * 4, text_width("W" * 4, 12) + 1) == ["1,000", "W" * 4]


def test_text_is_drawn_where_it_was_asked_for() -> None:
    canvas = blank(30, 100)

    write(canvas, "step", 100, 10, align="right")

    rows, columns = np.nonzero((canvas < 255).any(axis=2))
    assert rows.min() >= 10
    assert rows.max() < 10 + line_height()
    assert columns.min() >= 100 - text_width("step")


@pytest.mark.parametrize(("x", "y"), [(-500, 0), (0, -500), (500, 0), (0, 500)])
def test_text_outside_the_canvas_draws_nothing(x: int, y: int) -> None:
    canvas = blank(20, 20)

    write(canvas, "step", x, y)

    assert (canvas == 255).all()


def test_text_half_outside_is_drawn_half() -> None:
    whole, half = blank(20, 60), blank(20, 60)

    write(whole, "step", 10, 0)
    write(half, "step", -10, 0)

    np.testing.assert_array_equal(half[:, :30], whole[:, 20:50])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.25, "0.25"), (12345.6, "12,346"), (1.234e-7, "1.23e-07"), (3e38, "3e+38"), (np.nan, "nan")],
)
def test_numbers_have_three_digits(value: float, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("index", "names", "expected"),
    [
        (1, ("cat", "dog"), "dog"),
        (2, ("cat", "dog"), "class 2"),
        (-1, ("cat", "dog"), "class -1"),
        (0, None, "class 0"),
        (0, ("a\nb",), "a\\nb"),
    ],
)
def test_a_class_without_a_name_is_called_by_its_number(
    index: int, names: tuple[str, ...] | None, expected: str
) -> None:
    assert class_name(index, names) == expected


def test_text_has_the_same_shades_on_white_as_on_any_ground():
    colour = (200, 40, 90)
    on_white, beside_grey = blank(10, 80), blank(10, 80)
    beside_grey[-1, -1] = 128  # within the box of the text
    write(on_white, "a label that is cut off", 2, 2, colour=colour)
    write(beside_grey, "a label that is cut off", 2, 2, colour=colour)
    assert (on_white[:-1] == beside_grey[:-1]).all()
    assert (on_white[-1, -1] != beside_grey[-1, -1]).any()
    assert len(np.unique(on_white.reshape(-1, 3), axis=0)) > 20  # letters have soft edges
