from __future__ import annotations

import pytest

from vis_callbacks.analysis.axis_field import PIXELS, AxisField


def test_windows_in_a_row_give_the_size_and_stride_of_the_closed_form():
    # size = 1 + sum (kernel - 1) * product of the strides before, stride = product of all
    field = PIXELS.window(7, 2, 3).window(3, 2, 1).window(3, 1, 1).window(5, 1, 2, dilation=2)
    assert (field.size, field.stride) == (1 + 6 * 1 + 2 * 2 + 2 * 4 + 2 * 4 * 4, 4)
    assert field.offset == -3 - 1 * 2 - 1 * 4 - 2 * 4
    assert field.period == 1


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [(2, 2, 0, 1), (4, 2, 1, 1), (3, 2, 1, 1), (3, 3, 0, 2), (5, 3, 2, 1), (2, 4, 0, 1)],
)
def test_a_transposed_convolution_reads_the_inputs_that_write_to_an_output(
    kernel, stride, padding, dilation
):
    field = PIXELS.window(3, 2, 1)
    found = field.transposed(kernel, stride, padding, dilation)
    for output in range(30):
        writers = [
            i
            for i in range(-20, 40)
            for tap in range(kernel)
            if i * stride - padding + tap * dilation == output
        ]
        if writers:
            low, high = field.at(min(writers))[0], field.at(max(writers))[1]
            assert found.at(output) == (low, high)
    assert found.stride == 2 / stride


def test_a_field_is_written_with_its_shortest_period():
    doubled = AxisField((0, 2, 4, 6), (3, 5, 7, 9), 8)
    assert doubled.window(1, 1, 0) == AxisField((0,), (3,), 2)


def test_an_enlargement_that_is_made_smaller_again_is_what_it_was():
    field = PIXELS.window(3, 2, 1)
    enlarged = field.resampled([[i // 2] for i in range(16)], 8)
    assert enlarged.period == 2
    assert enlarged.window(2, 2, 0) == field


def test_joined_fields_see_what_either_sees():
    joined = PIXELS.window(3, 1, 1).joined(PIXELS.window(2, 1, 3))
    assert joined is not None
    assert joined.at(0) == (-3, 2)


def test_fields_of_different_strides_are_not_joined():
    assert PIXELS.window(3, 2, 1).joined(PIXELS) is None


def test_positions_in_the_padding_continue_the_pattern():
    field = PIXELS.transposed(4, 2, 1)
    assert field.at(-2) == tuple(pixel - 1 for pixel in field.at(0))
