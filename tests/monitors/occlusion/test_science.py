from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vis_callbacks.monitors.occlusion.plan import plan_occlusion
from vis_callbacks.monitors.occlusion.science import baseline_images, occlude


def images(seed: int = 1, size: tuple[int, ...] = (9, 12), dtype=torch.float64) -> Tensor:
    return torch.randn(3, 2, *size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("size", [(40,), (1, 40), (9, 12), (5, 6, 7)])
@pytest.mark.parametrize("baseline", ["mean", "blur", -1.5])
def test_windows_squares_and_cubes_are_exact_on_linear_models_of_each_image(size, baseline):
    x, weight = images(size=size), images(seed=2, size=size)
    plan = plan_occlusion(size, 3, window_size=3, stride=2)

    def measure(inputs: Tensor, owners: Tensor) -> Tensor:
        return (inputs * weight[owners]).flatten(1).sum(1)[:, None]

    maps = occlude(measure, x, plan, baseline, batch_size=7)
    assert maps.values.shape == (3, *plan.num_along, 1)
    assert maps.is_measured.all()
    effect = weight * (baseline_images(x, baseline, 3) - x)  # of hiding each pixel
    for index in maps.is_measured[0].nonzero().tolist():
        place = [
            slice(starts[i], starts[i] + side)
            for starts, i, side in zip(plan.offsets, index, plan.window, strict=True)
        ]
        expected = maps.whole[:, 0] + effect[(..., *place)].flatten(1).sum(1)
        # Sums of up to 420 products of numbers of about 1, in float64.
        found = maps.values[(slice(None), *index, 0)]
        torch.testing.assert_close(found, expected, atol=1e-11, rtol=0.0)


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
    assert torch.equal(refined.values[refined.is_measured], whole.values[refined.is_measured])
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


def test_what_is_not_measured_is_the_nearest_coarse_position():
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    plan = plan_occlusion((32, 32), 1, coarse_to_fine=True)
    maps = occlude(lambda inputs, _: inputs[:, 0, 20:28, 8:16].sum((1, 2))[:, None], x, plan, 0.0)
    values, is_measured = maps.values[0, :, :, 0], maps.is_measured[0]
    for row, column in (~is_measured).nonzero().tolist():
        nearest = values[3 * round(row / 3 - 1e-6), 3 * round(column / 3 - 1e-6)]
        assert values[row, column] == nearest


def test_the_mean_is_of_each_channel_over_all_images():
    x = images()
    hidden = baseline_images(x, "mean", 3)
    assert hidden.shape == (1, 2, 1, 1)
    torch.testing.assert_close(hidden.flatten(), x.mean((0, 2, 3)))


def test_nothing_is_recorded_for_a_gradient():
    layer = nn.Conv2d(2, 1, 3)
    x = images(dtype=torch.float32).requires_grad_()
    maps = occlude(lambda i, _: layer(i).mean((2, 3)), x, plan_occlusion((9, 12), 3))
    assert not maps.values.requires_grad
