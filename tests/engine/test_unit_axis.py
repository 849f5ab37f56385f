from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from vis_callbacks.engine.capture import Capture
from vis_callbacks.engine.unit_axis import samples_units_positions


def axes_of(model: nn.Module, x: Tensor) -> dict[str, tuple[int | None, tuple[int, ...]]]:
    """Returns by module the axis of its units, None where it is not known, and its shape."""
    found = {}

    def note(seen) -> None:
        axis = seen.unit_axis if seen.is_axis_known else None
        found[seen.name] = axis, tuple(seen.values.shape)

    names = [name for name, _ in model.named_modules() if name]
    with torch.no_grad(), Capture(model.eval(), note, watched={"output": names}):
        model(x)
    return found


def num_units(model: nn.Module, x: Tensor, name: str) -> int:
    axis, shape = axes_of(model, x)[name]
    return shape[axis]


def test_a_swin_transformer_has_its_channels_last_until_they_are_put_second():
    model = models.SwinTransformer([4, 4], 12, [2, 2], [2, 2], [4, 4], num_classes=3)
    axes = axes_of(model, torch.randn(2, 3, 32, 32))
    assert axes["features.0.0"] == (1, (2, 12, 8, 8))
    assert axes["features.0"] == (-1, (2, 8, 8, 12))
    assert axes["features.1.0"] == (-1, (2, 8, 8, 12))
    assert axes["features.2"] == (-1, (2, 4, 4, 24))
    assert axes["features"] == (-1, (2, 4, 4, 24))
    assert axes["norm"] == (-1, (2, 4, 4, 24))
    assert axes["permute"] == (1, (2, 24, 4, 4))


def test_convnext_has_its_channels_last_inside_and_second_outside():
    setting = [models.convnext.CNBlockConfig(12, None, 2)]
    axes = axes_of(models.ConvNeXt(setting, num_classes=3), torch.randn(2, 3, 32, 32))
    assert axes["features.1.0.block.2"] == (-1, (2, 8, 8, 12))
    assert axes["features.1.0.block.3"] == (-1, (2, 8, 8, 48))
    assert axes["features.1.0.block.0"] == (1, (2, 12, 8, 8))
    assert axes["features.1.1"] == (1, (2, 12, 8, 8))


class Branches(nn.Module):
    """Puts convolutions side by side; each has as many channels as the image has columns."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x), self.second(x)], 1)


def test_only_convolutions_leave_the_channels_second():
    assert num_units(nn.Sequential(Branches()), torch.randn(2, 3, 8, 8), "0") == 16


@pytest.mark.parametrize("size", [10, 12])  # of 12 channels: as many columns as channels
def test_a_series_of_convolutions_and_pooling_is_read_by_channel(size):
    model = nn.Sequential(nn.Conv1d(2, 12, 1), nn.BatchNorm1d(12), nn.AvgPool1d(1), nn.Dropout())
    axes = axes_of(model, torch.randn(2, 2, size))
    assert axes["0"][0] == axes["1"][0] == axes["2"][0] == 1
    assert axes["3"][0] == (1 if size == 10 else None)


def test_tokens_of_a_transformer_have_their_features_last():
    model = models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=5)  # 17 tokens of 16
    axes = axes_of(model, torch.randn(2, 3, 32, 32))
    assert axes["conv_proj"][0] == 1
    assert all(axis == -1 for axis, shape in axes.values() if shape == (2, 17, 16))


def test_a_linear_layer_across_the_tokens_does_not_make_them_units():
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.channels = nn.Linear(4, 4), nn.Linear(6, 6)
            self.drop = nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            mixed = self.tokens(self.channels(x).transpose(1, 2)).transpose(1, 2)
            return self.drop(mixed)

    assert num_units(nn.Sequential(Mixer()), torch.randn(2, 4, 6), "0") == 6
    assert num_units(nn.Sequential(Mixer()), torch.randn(2, 4, 6), "0.drop") == 6


def test_what_no_weight_was_met_before_is_read_as_an_image_or_as_tokens():
    for shape, count in (((2, 3, 4, 5), 3), ((2, 3, 4), 4), ((2, 3), 3)):
        assert num_units(nn.Sequential(nn.Identity()), torch.randn(shape), "0") == count


@pytest.mark.parametrize(
    ("shape", "axis", "samples", "expected"),
    [
        ((8, 5), 1, 8, (8, 5, 1)),
        ((8, 5, 3, 4), 1, 8, (8, 5, 12)),
        ((8, 7, 5), -1, 8, (8, 5, 7)),
        ((7, 8, 5), -1, 8, (8, 5, 7)),  # tokens before samples
        ((32, 5, 3, 3), 1, 8, (8, 5, 36)),  # four windows of each sample
        ((9, 5), 1, 8, (9, 5, 1)),
        ((0, 5, 3, 3), 1, 0, (0, 5, 1)),
    ],
)
def test_an_activation_is_laid_out_as_samples_units_positions(shape, axis, samples, expected):
    values = torch.randn(shape)
    out = samples_units_positions(values, axis, samples)
    assert out.shape == expected
    assert out.sum() == pytest.approx(values.sum().item(), abs=1e-4)


def test_a_contiguous_activation_is_viewed_and_not_copied():
    for shape, axis in (((8, 5, 3, 4), 1), ((8, 7, 5), -1), ((8, 3, 4, 5), -1)):
        values = torch.randn(shape)
        assert samples_units_positions(values, axis, 8).data_ptr() == values.data_ptr()
