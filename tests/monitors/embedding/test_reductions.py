from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vis_callbacks.monitors.embedding.reductions import (
    fingerprints,
    from_bytes,
    has_class_token,
    pooled,
    predicted_classes,
    projected,
    shrunk_inputs,
    to_bytes,
)


def test_positions_are_averaged_or_the_first_one_speaks_for_all():
    values = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(pooled(values), values.mean(2))
    assert torch.equal(pooled(values, class_token=True), values[:, :, 0])
    assert pooled(values.half()).dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "units", "axes", "expected"),
    [
        ((8, 197, 768), 768, 4, True),
        ((8, 5, 64), 64, 4, True),
        ((8, 196, 768), 768, 4, False),
        ((8, 17, 64), 64, 2, False),  # words, not patches
        ((8, 17, 50), 17, 4, False),  # channels come second
        ((8, 64), 64, 4, False),
        ((8, 1, 64), 64, 4, False),
        ((8, 2, 64), 64, 4, False),
    ],
)
def test_a_token_beside_the_patches_of_an_image_is_recognised(shape, units, axes, expected):
    assert has_class_token(shape, units, axes) is expected


def test_a_projection_keeps_inner_products_on_average():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 4_000, generator=generator) + 0.3
    found = projected(features, 512)
    assert found.shape == (200, 512)
    exact, kept = features @ features.T, found @ found.T
    errors = (kept - exact) / exact.diagonal().mean()
    assert abs(errors.mean()) < 0.02
    assert errors.std() < 0.07  # 1 / sqrt(512) is .044
    assert torch.equal(projected(features, 512), found)


def test_features_that_fit_are_not_projected_and_none_is_left_out():
    features = torch.randn(5, 512)
    assert projected(features, 512) is features
    odd = torch.eye(1_001)
    assert torch.equal((projected(odd, 512) ** 2).sum(1), torch.ones(1_001))
    assert projected(torch.empty(0, 1_001), 512).shape == (0, 512)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool]
)
def test_a_fingerprint_does_not_depend_on_the_batch(dtype):
    inputs = 40 * torch.randn(64, 3, 20, 20)
    inputs = inputs > 0 if dtype == torch.bool else inputs.to(dtype)
    labels = torch.arange(64) % 10
    whole = fingerprints(inputs, labels)
    assert len(whole.unique()) == 64
    order = torch.randperm(64)
    assert torch.equal(fingerprints(inputs[order], labels[order]), whole[order])
    assert torch.equal(fingerprints(inputs[3:4], labels[3:4]), whole[3:4])
    channels_last = inputs.contiguous(memory_format=torch.channels_last)
    assert torch.equal(fingerprints(channels_last, labels), whole)


def test_a_fingerprint_tells_the_smallest_change_and_the_label():
    inputs, labels = torch.zeros(3, 1, 28, 28), torch.tensor([0, 0, 1])
    inputs[1, 0, 27, 27] = torch.finfo(torch.float32).tiny
    assert len(fingerprints(inputs, labels).unique()) == 3


def test_many_fingerprints_do_not_collide():
    inputs = torch.zeros(20_000, 8)
    inputs[torch.arange(20_000), torch.arange(20_000) % 8] = torch.arange(20_000.0) // 8
    different = len(inputs.unique(dim=0))
    assert len(fingerprints(inputs, torch.zeros(20_000)).unique()) == different


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 3, 224, 224), (2, 3, 32, 32)),
        ((2, 3, 10, 64), (2, 3, 10, 32)),
        ((2, 4, 8, 8), (2, 1, 8, 8)),
        ((2, 28, 28), (2, 1, 28, 28)),
        ((2, 1, 5, 64, 64), (2, 1, 32, 32)),
        ((2, 40), (2, 1, 1, 40)),
        ((2, 5_000), (2, 1, 1, 1_024)),
    ],
)
def test_inputs_become_small_images(shape, expected):
    assert shrunk_inputs(torch.randn(shape)).shape == expected


def test_images_are_averaged_over_areas_and_volumes_cut_in_the_middle():
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(shrunk_inputs(images), F.avg_pool2d(images, 2))
    volume = torch.randn(2, 1, 5, 8, 8)
    assert torch.equal(shrunk_inputs(volume), volume[:, :, 2])
    several = torch.randn(2, 5, 8, 8)
    assert torch.equal(shrunk_inputs(several), several.mean(1, keepdim=True))


@pytest.mark.parametrize(
    "inputs", [torch.zeros(4, 7, dtype=torch.int64), torch.zeros(4), torch.zeros(4, 7) + 0j]
)
def test_inputs_without_pixels_give_none(inputs):
    assert shrunk_inputs(inputs) is None


def test_bytes_come_back_to_a_255th_of_each_samples_range():
    images = torch.randn(10, 3, 8, 8) * torch.logspace(-3, 3, 10).view(-1, 1, 1, 1)
    kept, ranges = to_bytes(images)
    assert kept.dtype == torch.uint8
    span = (images.amax((1, 2, 3)) - images.amin((1, 2, 3))).view(-1, 1, 1, 1)
    # Half a step of rounding, and float32's own.
    assert ((from_bytes(kept, ranges) - images).abs() / span).max() < 0.5 / 255 * 1.01


def test_bytes_of_a_sample_do_not_depend_on_the_others_and_bear_what_is_not_finite():
    images = torch.randn(3, 1, 4, 4)
    images[1, 0, 0, 0], images[2] = torch.nan, 7.0
    kept, ranges = to_bytes(images)
    alone, _ = to_bytes(images[:1])
    assert torch.equal(kept[:1], alone)
    assert ranges.isfinite().all()
    assert torch.equal(from_bytes(kept, ranges)[2], images[2])


def test_the_predicted_class_has_the_largest_score():
    scores = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])[:, :, None]
    assert predicted_classes(scores).tolist() == [1, 0]
    assert predicted_classes(torch.tensor([-1.0, 2.0])[:, None, None]).tolist() == [0, 1]
    assert predicted_classes(torch.zeros(2, 3, 5)).tolist() == [-1, -1]
