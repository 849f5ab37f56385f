from __future__ import annotations

import pytest

from vis_callbacks.monitors.occlusion.plan import OcclusionPlan, plan_occlusion


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
    assert found.coarse == (list(range(13)), list(range(13)))
    assert (found.num_refined, found.num_forward_passes) == (0, 170)


def test_coarse_to_fine_measures_each_third_row_and_column_and_then_a_quarter():
    found = plan(coarse_to_fine=True)
    assert found.coarse == ([0, 3, 6, 9, 12],) * 2
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
    for most in range(25, wanted.num_forward_passes, 3):
        found = plan_occlusion((32, 24), 5, coarse_to_fine=coarse_to_fine, max_forward_passes=most)
        assert found.num_forward_passes <= most
        if found.num_images == 5:
            finer = plan((32, 24), num_images=5, window_size=6, stride=found.stride - 1,
                         coarse_to_fine=coarse_to_fine)  # fmt: skip
            assert finer.num_forward_passes > most
        else:
            assert found.stride == found.window_size
        num_bounds += 1
    assert num_bounds > 60


def test_every_pixel_is_hidden_by_some_position():
    for side in range(5, 40):
        for window in (1, 2, 3, 5):
            for stride in range(1, window + 1):
                plan = plan_occlusion((side, side), 1, window_size=window, stride=stride)
                hidden = {pixel for top in plan.offsets[0] for pixel in range(top, top + window)}
                assert hidden == set(range(side))


@pytest.mark.parametrize("side", [28, 32, 64, 150, 224])
def test_the_defaults_need_about_as_many_passes_for_any_size_of_image(side):
    plan = plan_occlusion((side, side), 1)
    assert plan.window_size == -(-side // 4)
    assert 12 <= len(plan.offsets[0]) <= 14


def test_the_stride_grows_to_keep_within_the_bound():
    wanted = plan_occlusion((32, 32), 8)
    plan = plan_occlusion((32, 32), 8, max_forward_passes=700)
    assert wanted.num_forward_passes == 1_360
    assert (plan.stride, plan.num_images) == (3, 8)
    assert plan.num_forward_passes <= 700
    assert plan.notes == ("stride 3 instead of 2 px, to keep within 700 forward passes",)


def test_images_are_left_out_where_the_largest_stride_is_not_enough():
    plan = plan_occlusion((32, 32), 8, max_forward_passes=60)
    assert (plan.stride, plan.num_images, plan.num_forward_passes) == (8, 3, 51)
    assert "3 of 8 images" in plan.notes[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_size": 40}, "window_size=40 does not fit images of 32 x 32 pixels. Use 1 to 32"),
        ({"window_size": 3, "stride": 4}, "stride=4 is larger than window_size=3"),
        ({"max_forward_passes": 5}, "max_forward_passes=5 is too small .* it takes 17"),
    ],
)
def test_a_plan_that_cannot_be_says_what_can(options, message):
    with pytest.raises(ValueError, match=message):
        plan_occlusion((32, 32), 8, **options)
