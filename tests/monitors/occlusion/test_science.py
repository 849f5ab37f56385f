from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vis_callbacks.monitors.occlusion.plan import plan_occlusion
from vis_callbacks.monitors.occlusion.science import baseline_images, blurred, occlude


def images(num: int = 3, size: tuple[int, int] = (9, 12), dtype=torch.float64) -> Tensor:
    return torch.randn(num, 2, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def of_linear(weight: Tensor):
    return lambda inputs, owners: (inputs * weight).flatten(1).sum(1)[:, None]


@pytest.mark.parametrize("baseline", ["mean", "blur", 0.0, -1.5])
@pytest.mark.parametrize(("window_size", "stride"), [(3, 1), (4, 3), (9, 9)])
def test_it_is_exact_on_a_linear_model(baseline, window_size, stride):
    x = images()
    weight = torch.randn(2, 9, 12, dtype=torch.float64)
    plan = plan_occlusion((9, 12), 3, window_size=window_size, stride=stride)
    maps = occlude(of_linear(weight), x, plan, baseline, batch_size=7)
    hidden = baseline_images(x, baseline, window_size).expand_as(x)
    effect = (weight * (hidden - x)).sum(1)  # of hiding each pixel
    for row, top in enumerate(plan.offsets[0]):
        for column, left in enumerate(plan.offsets[1]):
            inside = effect[:, top : top + window_size, left : left + window_size].sum((1, 2))
            expected = maps.whole[:, 0] + inside
            # Sums of 108 products of numbers of about 1, in float64.
            torch.testing.assert_close(
                maps.values[:, row, column, 0], expected, atol=1e-11, rtol=0.0
            )


def test_the_plan_counts_the_passes_that_are_made():
    for options in ({}, {"coarse_to_fine": True}, {"window_size": 4, "stride": 3}):
        rows: list[int] = []

        def measure(inputs: Tensor, owners: Tensor) -> Tensor:
            rows.append(len(inputs))  # noqa: B023 - called within this turn of the loop
            return inputs.sum((1, 2, 3))[:, None]

        plan = plan_occlusion((9, 12), 3, **options)
        told: list[int] = []
        occlude(measure, images(), plan, batch_size=10, progress=told.append)
        assert sum(rows) == sum(told) == plan.num_forward_passes
        assert max(rows) == 10


def test_each_image_is_asked_about_with_its_own_question():
    x = images()
    weights = torch.randn(3, 2, 9, 12, dtype=torch.float64)

    def measure(inputs: Tensor, owners: Tensor) -> Tensor:
        return (inputs * weights[owners]).flatten(1).sum(1)[:, None]

    plan = plan_occlusion((9, 12), 3, window_size=3)
    together = occlude(measure, x, plan, 0.0, batch_size=11).values
    for index in range(3):
        alone = plan_occlusion((9, 12), 1, window_size=3)
        values = occlude(of_linear(weights[index]), x[index : index + 1], alone, 0.0).values
        torch.testing.assert_close(together[index], values[0], atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("size", [(40,), (1, 40), (9, 12), (5, 6, 7)])
def test_windows_squares_and_cubes_are_exact_on_a_linear_model(size):
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(2, 3, 2, *size, generator=generator, dtype=torch.float64)
    plan = plan_occlusion(size, 3, window_size=3, stride=2)
    maps = occlude(lambda i, owners: (i * weight[owners]).flatten(1).sum(1)[:, None], x, plan, 0.0)
    assert maps.values.shape == (3, *plan.num_along, 1)
    for index in maps.is_measured[0].nonzero().tolist():
        hidden = x.clone()
        place = [
            slice(starts[i], starts[i] + side)
            for starts, i, side in zip(plan.offsets, index, plan.window, strict=True)
        ]
        hidden[(..., *place)] = 0.0
        expected = (hidden * weight).flatten(1).sum(1)
        found = maps.values[(slice(None), *index, 0)]
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [(120,), (32, 32), (12, 13, 14)])
def test_coarse_to_fine_finds_falls_and_rises_along_any_number_of_axes(size, sign):
    place = tuple(slice(4, 7) for _ in size)

    def measure(inputs: Tensor, owners: Tensor) -> Tensor:
        return sign * inputs[(slice(None), 0, *place)].flatten(1).sum(1)[:, None]

    x = torch.ones(1, 1, *size)
    plan, fine = (
        plan_occlusion(size, 1, window_size=3, stride=1, coarse_to_fine=fine)
        for fine in (False, True)
    )
    whole, refined = occlude(measure, x, plan, 0.0), occlude(measure, x, fine, 0.0)
    assert refined.is_measured.sum() == fine.num_measured < 0.6 * plan.num_positions
    for maps in (whole, refined):
        changes = (maps.values[0, ..., 0] - maps.whole[0]).abs()
        assert torch.unravel_index(changes.argmax(), changes.shape) == tuple(
            [torch.tensor(4)] * len(size)
        )


def test_a_colour_has_a_number_for_each_channel():
    x = images()
    hidden = baseline_images(x, (0.5, -2.0), 3)
    assert hidden.flatten().tolist() == [0.5, -2.0]
    with pytest.raises(ValueError, match="has 3 numbers, but the inputs have 2 channels"):
        baseline_images(x, (0.5, 0.1, 0.2), 3)


def blob(inputs: Tensor, owners: Tensor) -> Tensor:
    """Sees one 8 x 8 place only, which a square hides whole from one fine position alone."""
    return inputs[:, 0, 20:28, 8:16].sum((1, 2))[:, None]


def test_coarse_to_fine_finds_the_place_that_all_positions_find():
    x = torch.ones(2, 1, 32, 32)
    whole = occlude(blob, x, plan_occlusion((32, 32), 2), 0.0)
    fine = occlude(blob, x, plan_occlusion((32, 32), 2, coarse_to_fine=True), 0.0)
    assert fine.is_measured.sum() < 0.45 * whole.is_measured.sum()
    lowest = whole.values[0, :, :, 0].min()
    assert fine.values[0, :, :, 0].min() == lowest
    assert torch.equal(fine.values[fine.is_measured][:, 0], whole.values[fine.is_measured][:, 0])
    assert not fine.is_measured.all()
    assert whole.is_measured.all()


def test_what_is_not_measured_is_the_nearest_coarse_position():
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = occlude(blob, x, plan_occlusion((32, 32), 1, coarse_to_fine=True), 0.0)
    values, is_measured = maps.values[0, :, :, 0], maps.is_measured[0]
    for row, column in (~is_measured).nonzero().tolist():
        nearest = values[3 * round(row / 3 - 1e-6), 3 * round(column / 3 - 1e-6)]
        assert values[row, column] == nearest


def test_the_mean_is_of_each_channel_over_all_images():
    x = images()
    hidden = baseline_images(x, "mean", 3)
    assert hidden.shape == (1, 2, 1, 1)
    torch.testing.assert_close(hidden.flatten(), x.mean((0, 2, 3)))


def test_a_blur_keeps_a_constant_and_the_mean_of_a_point():
    assert torch.allclose(blurred(torch.full((1, 3, 9, 9), 2.5), 2.0), torch.tensor(2.5))
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1.0
    smooth = blurred(point, 3.0)
    assert smooth.sum().item() == pytest.approx(1.0, abs=1e-12)
    places = torch.arange(41, dtype=torch.float64) - 20
    variance = (smooth[0, 0].sum(0) * places.square()).sum()
    assert variance.sqrt().item() == pytest.approx(3.0, abs=0.05)  # cut off at 3 sigma


def test_nothing_is_recorded_for_a_gradient():
    layer = nn.Conv2d(2, 1, 3)
    x = images(dtype=torch.float32).requires_grad_()
    maps = occlude(lambda i, _: layer(i).mean((2, 3)), x, plan_occlusion((9, 12), 3))
    assert not maps.values.requires_grad
