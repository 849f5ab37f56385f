from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vis_callbacks.render.captions import colour_bar, with_caption
from vis_callbacks.render.colours import Scale, colour_map
from vis_callbacks.render.images import blank

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=200)
RED = (255, 0, 0)


def is_ink(picture: np.ndarray) -> np.ndarray:
    return (picture < 200).all(axis=2)


@settings(deadline=None)
@given(st.lists(ANY_TEXT, max_size=3), st.integers(1, 500))
def test_no_caption_raises_or_changes_the_picture(lines: list[str], width: int) -> None:
    image = blank(5, width, RED)

    picture = with_caption(image, lines)

    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[-5:, :width], image)


def test_a_caption_is_wrapped_and_not_clipped() -> None:
    words = " ".join(["layer1.0.relu"] * 12)

    picture = with_caption(blank(5, 300, RED), [words])

    assert picture.shape[1] == 300
    assert not is_ink(picture)[:, -1].any()
    assert picture.shape[0] > with_caption(blank(5, 300, RED), ["one line"]).shape[0]


def test_a_caption_lies_above_or_below() -> None:
    above = with_caption(blank(5, 300, RED), ["step 5"])
    below = with_caption(blank(5, 300, RED), ["step 5"], above=False)

    assert (above[-5:] == RED).all()
    assert (below[:5] == RED).all()
    assert above.shape == below.shape


def test_a_narrow_picture_gets_room_for_its_caption() -> None:
    assert with_caption(blank(5, 10, RED), ["step 5"]).shape[1] >= 200


def test_empty_lines_take_no_room() -> None:
    image = blank(5, 300, RED)

    assert with_caption(image, ["a", "", "b"]).shape == with_caption(image, ["a", "b"]).shape
    np.testing.assert_array_equal(with_caption(image, ["", ""]), image)


def test_an_endless_name_does_not_bury_the_picture() -> None:
    assert with_caption(blank(5, 240, RED), ["x" * 100_000]).shape[0] < 200


@pytest.mark.parametrize("signed", [False, True])
def test_a_colour_bar_runs_from_the_first_colour_to_the_last(signed: bool) -> None:
    scale = Scale(low=-2, high=2, signed=signed)

    bar = colour_bar(scale, "activation")

    row = bar[3].tolist()
    first, last = colour_map(np.array([-2.0, 2.0]), scale=scale).tolist()
    assert row.index(first) < row.index(last)


def test_a_colour_bar_has_room_for_odd_units() -> None:
    assert colour_bar(Scale(low=0, high=1), "\ud800" * 50).shape[1] > 500


def test_a_clipped_end_is_written_otherwise() -> None:
    whole = colour_bar(Scale(low=0, high=1))

    assert colour_bar(Scale(low=0, high=1, is_clipped=True)).shape[1] > whole.shape[1]
