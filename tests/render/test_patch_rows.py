from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.render.images import MAX_WIDTH
from vis_callbacks.render.patch_rows import Patch, PatchRow, patch_rows

RED = (200, 0, 0)
GREEN = np.array([10, 180, 20], dtype=np.uint8)


def picture(height: int = 8, width: int = 8) -> np.ndarray:
    return np.tile(GREEN, (height, width, 1))


def row_of(num_patches: int, **patch: object) -> PatchRow:
    patches = [Patch(picture=picture(), **patch) for _ in range(num_patches)]
    return PatchRow(title="unit 1", patches=patches, missing="dead")


def num_pixels(drawn: np.ndarray, colour: object) -> int:
    return int((drawn == np.array(colour, dtype=np.uint8)).all(2).sum())


def test_each_patch_is_enlarged_without_smoothing():
    drawn = patch_rows([row_of(3)], 3)
    assert num_pixels(drawn, GREEN) == 3 * 56 * 56


def test_a_patch_has_the_border_of_its_class():
    drawn = patch_rows([row_of(1, colour=RED)], 1)
    assert num_pixels(drawn, RED) == 60 * 60 - 56 * 56


def test_large_patches_are_averaged_down_to_one_tile():
    row = PatchRow(title="unit 1", patches=[Patch(picture=picture(300, 200))])
    assert num_pixels(patch_rows([row], 1), GREEN) == 96 * 64


def test_a_patch_at_a_border_keeps_the_scale_of_the_others():
    patches = [Patch(picture=picture(8, 8)), Patch(picture=picture(8, 3))]
    drawn = patch_rows([PatchRow(title="unit 1", patches=patches)], 2)
    assert num_pixels(drawn, GREEN) == 56 * 56 + 56 * 21


def test_a_box_is_drawn_within_the_picture():
    row = PatchRow(title="unit 1", patches=[Patch(picture=picture(), box=(2, 2, 6, 6))])
    drawn = patch_rows([row], 1)
    inner = 28 - 4  # of 4 x 7 pixels, two lines on each side
    assert num_pixels(drawn, GREEN) == 56 * 56 - 28 * 28 + inner * inner


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (7, 7, 8, 8), (0, 0, 8, 8), (3, 0, 4, 8)])
def test_a_box_may_lie_anywhere(box):
    row = PatchRow(title="unit 1", patches=[Patch(picture=picture(96, 96), box=box)])
    assert patch_rows([row], 1).dtype == np.uint8


def test_a_row_without_patches_is_low_and_says_why():
    dead, alive = patch_rows([row_of(0)], 4), patch_rows([row_of(4)], 4)
    assert dead.shape[1] > 176 + 4 * 62
    assert dead.shape[0] < alive.shape[0]
    silent = PatchRow(title="unit 1")
    assert num_pixels(dead, (246, 246, 246)) < num_pixels(patch_rows([silent], 4), (246, 246, 246))


def test_missing_patches_of_a_row_are_crossed():
    drawn = patch_rows([row_of(2)], 4)
    assert num_pixels(drawn, (225, 225, 225)) > 2 * 56
    assert num_pixels(drawn, (246, 246, 246)) > 50 * 50 * 2


def test_what_does_not_fit_is_left_out_and_said():
    drawn, fitting = patch_rows([row_of(40)], 40), patch_rows([row_of(20)], 20)
    assert drawn.shape[1] <= MAX_WIDTH
    assert drawn.shape[0] > fitting.shape[0]


def test_long_names_and_notes_do_not_reach_into_the_patches():
    notes = ["a note that is far too long for one line beside the patches" * 2]
    row = PatchRow(title="unit " + "x" * 200, notes=notes, patches=[Patch(picture=picture())])
    drawn = patch_rows([row], 1)
    assert num_pixels(drawn, GREEN) == 56 * 56


def test_no_rows_and_too_many_patches_are_refused():
    with pytest.raises(ValueError, match="got no rows; give one for each unit"):
        patch_rows([], 3)
    with pytest.raises(ValueError, match="more than num_columns=2 patches"):
        patch_rows([row_of(3)], 2)
