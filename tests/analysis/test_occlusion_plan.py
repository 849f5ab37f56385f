from __future__ import annotations

import pytest

from vis_callbacks.analysis.occlusion_plan import OcclusionPlan, every, plan_occlusion


def plan(size: tuple[int, int] = (32, 32), **options) -> OcclusionPlan:
    known = {"image_size": size, "num_images": 1, "window_size": 8, "stride": 2}
    return OcclusionPlan(**known | options)


@pytest.mark.parametrize(
    ("length", "window_size", "stride", "expected"),
    [
        (10, 4, 3, (0, 3, 6)),
        (11, 4, 3, (0, 3, 6, 7)),  # the last step is shorter
        (8, 8, 8, (0,)),
        (4, 1, 1, (0, 1, 2, 3)),
    ],
)
def test_the_square_moves_by_the_stride_and_ends_at_the_border(
    length, window_size, stride, expected
):
    found = plan((length, 40), window_size=window_size, stride=stride)
    assert found.offsets[0] == expected


def test_rows_and_columns_of_an_oblong_image_are_each_their_own():
    found = plan_occlusion((32, 64), 1)
    assert (found.window_size, found.stride) == (8, 2)  # by the shorter side
    assert (len(found.offsets[0]), len(found.offsets[1])) == (13, 29)
    assert found.num_positions == 13 * 29


def test_a_window_of_one_pixel_moves_by_one():
    assert plan_occlusion((3, 3), 1).stride == 1


def test_without_refinement_all_positions_are_coarse():
    found = plan()
    assert len(found.coarse_places) == found.num_positions == 169
    assert (found.num_refined, found.num_forward_passes) == (0, 170)


def test_coarse_to_fine_measures_each_third_row_and_column_and_then_a_quarter():
    found = plan(coarse_to_fine=True)
    assert found.coarse_places == tuple(
        (row, c) for row in (0, 3, 6, 9, 12) for c in range(0, 13, 3)
    )
    assert found.num_refined == 43  # of 169
    assert found.num_measured == 25 + 43


def test_no_more_positions_are_refined_than_are_left():
    found = plan((10, 8), coarse_to_fine=True)  # 2 x 1 positions, both of them coarse
    assert (found.num_positions, found.num_refined, found.num_measured) == (2, 0, 2)


def test_a_bound_that_is_just_met_changes_nothing():
    wanted = plan_occlusion((32, 32), 2)
    at_bound = plan_occlusion((32, 32), 2, max_forward_passes=wanted.num_forward_passes)
    below = plan_occlusion((32, 32), 2, max_forward_passes=wanted.num_forward_passes - 1)
    assert at_bound == wanted
    assert below.notes


@pytest.mark.parametrize("coarse_to_fine", [False, True])
def test_every_bound_is_kept_by_the_smallest_stride_that_keeps_it(coarse_to_fine):
    wanted = plan_occlusion((32, 24), 5, coarse_to_fine=coarse_to_fine)
    num_bounds = 0
    for most in range(25, wanted.num_forward_passes):
        found = plan_occlusion((32, 24), 5, coarse_to_fine=coarse_to_fine, max_forward_passes=most)
        assert found.num_forward_passes <= most
        if found.num_images == 5:
            finer = plan((32, 24), num_images=5, window_size=6, stride=found.stride - 1,
                         coarse_to_fine=coarse_to_fine)  # fmt: skip
            assert finer.num_forward_passes > most
        else:
            assert found.stride == found.window_size
        num_bounds += 1
    assert num_bounds > 200


@pytest.mark.parametrize(
    ("length", "expected"), [(1, [0]), (3, [0, 2]), (7, [0, 3, 6]), (8, [0, 3, 6, 7])]
)
def test_each_third_index_and_the_last_are_taken_once(length, expected):
    assert every(length, 3) == expected
