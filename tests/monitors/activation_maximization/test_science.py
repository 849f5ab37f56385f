from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from vis_callbacks.monitors.activation_maximization.science import (
    PRESETS,
    Frame,
    Maximized,
    Preset,
    Score,
    ascent,
    maximize,
    score_spread,
)

SHAPE = (2, 6, 7)
NUM_VALUES = 2 * 6 * 7
UNIT = Frame(centre=torch.zeros(1, 2, 1, 1).double(), scale=torch.tensor(1.0).double())


def weights(num_rows: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_rows, *SHAPE, generator=generator, dtype=torch.float64)


def linear_score(weight: Tensor):
    return lambda inputs: (weight * inputs).flatten(1).sum(1) + 0.3


def zeros(num_rows: int = 3) -> Tensor:
    return torch.zeros(num_rows, *SHAPE, dtype=torch.float64)


class SmallNet(nn.Module):
    """Piecewise linear, with max pooling: the objective is not concave."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12 * 9, 3),
        ).double()

    def score(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs).diagonal()


def ascended(score: Score, start: Tensor, preset: Preset, num_steps: int, frame=UNIT) -> Tensor:
    """Returns z after the last step."""
    *_, (z, _) = ascent(score, start, preset, frame, num_steps=num_steps)
    return z


def made(score: Score, preset: Preset, *, num_rows: int = 3, **options) -> Maximized:
    known = {"real": zeros(num_rows), "last": None, "num_steps": 8}
    return maximize(score, preset=preset, frame=UNIT, **known | options)


@pytest.mark.parametrize("penalty", [0.1, 7.0])
def test_a_linear_score_leads_to_w_over_two_lambda(penalty):
    weight = weights()
    # Adam's steps have a size of their own: a tenth of the way, on average.
    way = (weight / (2 * penalty)).abs().mean().item()
    preset = Preset(l2=penalty * NUM_VALUES, step_size=0.1 * way)  # the mean of z^2: lambda sum
    z = ascended(linear_score(weight), zeros(), preset, 300)
    expected = weight / (2 * penalty)
    error = (z - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert error.max() < 1e-3


def test_the_optimum_is_the_same_in_units_of_the_inputs():
    weight, penalty = weights(), 0.3
    frame = Frame(centre=torch.full((1, 2, 1, 1), 5.0).double(), scale=torch.tensor(0.2).double())
    preset = Preset(l2=penalty * NUM_VALUES * 0.2**2, step_size=0.5)
    z = ascended(linear_score(weight), zeros(), preset, 300, frame)
    deviation = frame.inputs(z) - 5.0
    torch.testing.assert_close(deviation, weight / (2 * penalty), rtol=1e-3, atol=1e-3)


def scores_on_the_way(preset: Preset, num_steps: int) -> Tensor:
    """Returns (looks, rows) after the start."""
    _, *looks = ascent(SmallNet().score, zeros(), preset, UNIT, num_steps=num_steps, seed=3)
    return torch.stack([scores for _, scores in looks])


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_returned_is_the_best_on_the_way(name):
    preset = replace(PRESETS[name], step_size=2.0, l2=3.0)  # too long a step: scores fall, too
    scores = scores_on_the_way(preset.fitting(6), 24)
    result = made(SmallNet().score, preset, num_steps=24, seed=3)
    assert (scores[-1] < scores.amax(0)).any()
    torch.testing.assert_close(result.scores, scores.amax(0))


def test_shifted_steps_are_looked_at_without_a_shift():
    looks = scores_on_the_way(Preset(l2=0.1, jitter=2), 40)
    assert 10 <= len(looks) < 20  # of 40 steps each fourth, and few whose drawn shift is 0
    assert len(scores_on_the_way(Preset(l2=0.1), 40)) == 40


def test_where_the_real_input_scores_higher_the_ascent_begins_there_as_well():
    # Two bumps: the mean input lies in the range of the lower one.
    def score(inputs: Tensor) -> Tensor:
        mean = inputs.flatten(1).mean(1)
        return torch.exp(-(mean - 1).square()) + 5 * torch.exp(-(mean - 6).square())

    result = made(score, Preset(l2=1e-4), real=zeros() + 5.0, num_steps=60)
    assert result.is_real.all()
    assert (result.scores > 4.9).all()
    near = made(score, Preset(l2=1e-4), real=zeros() + 0.9, num_steps=60)
    assert not near.is_real.any()
    assert (near.scores < 1.1).all()


def test_what_the_regularisers_forbid_may_score_lower_than_the_real_input():
    result = made(linear_score(weights()), Preset(l2=1e4), real=5 * weights())
    assert (result.scores < linear_score(weights())(5 * weights())).all()
    assert not result.is_silent.any()


def test_the_reported_score_is_that_of_the_input():
    net = SmallNet()
    for name, preset in PRESETS.items():
        result = made(net.score, preset, num_steps=9)
        torch.testing.assert_close(result.scores, net.score(UNIT.inputs(result.z)), msg=name)
        assert not result.scores.requires_grad
        assert not result.z.requires_grad


@pytest.mark.parametrize("name", PRESETS)
def test_rows_do_not_mix(name):
    def score(inputs: Tensor) -> Tensor:
        return (inputs * weight).flatten(1).sum(1).tanh()

    preset = PRESETS[name]
    weight = weights()
    together = made(score, preset, num_steps=5)
    for row in range(3):
        weight = weights()[row : row + 1]
        alone = made(score, preset, num_rows=1, num_steps=5)
        torch.testing.assert_close(together.z[row], alone.z[0])


def test_jitter_uses_no_global_random_number():
    net = SmallNet()
    before = torch.get_rng_state()
    ascended(net.score, zeros(), Preset(l2=1.0, jitter=2), 10)
    assert torch.equal(before, torch.get_rng_state())


def test_hooks_on_optimizers_do_not_see_its_steps():
    met = []
    handle = register_optimizer_step_pre_hook(lambda *_: met.append(1))
    try:
        made(SmallNet().score, PRESETS["smooth"])
    finally:
        handle.remove()
    assert met == []


def test_jitter_shifts_the_input_and_its_gradient_back():
    shape = (1, 1, 9, 9)
    seen: list[Tensor] = []

    def score(inputs: Tensor) -> Tensor:
        seen.append(inputs.detach())
        return -(inputs - 5.0).square().flatten(1).sum(1)  # steepest where it is far from 5

    start = torch.full(shape, 5.0, dtype=torch.float64)
    start[..., 4, 4] = -50.0
    preset = Preset(jitter=3, step_size=9.0)
    frame = Frame(centre=start.new_zeros(1, 1, 1, 1), scale=start.new_ones(()))
    *_, (z, _) = ascent(score, start, preset, frame, num_steps=4, seed=1)
    assert torch.equal(seen[0], start)
    places = [int((image - 5.0).abs().argmax()) for image in seen]
    assert len(set(places)) > 1  # it was shifted
    assert (z - start).flatten().argmax().item() == 4 * 9 + 4
    assert ((z - start).abs() > 1).sum() == 1


def one_step(preset: Preset, weight: Tensor) -> Tensor:
    return ascended(linear_score(weight), weight, preset, 1)


def test_pixels_of_small_norm_are_set_to_zero():
    z = one_step(Preset(norm_percentile=50), weights())
    is_zero = (z == 0).all(1).flatten(1)
    assert is_zero.sum(1).tolist() == [21, 21, 21]  # of 42 pixels
    norms = weights().square().sum(1).flatten(1)
    for row in range(3):
        assert norms[row][is_zero[row]].max() < norms[row][~is_zero[row]].min()


def test_pixels_that_contribute_little_are_set_to_zero():
    z = one_step(Preset(contribution_percentile=90), weights())
    assert ((z != 0).any(1).flatten(1).sum(1) == 42 - 37).all()


def test_decay_takes_a_share_off():
    plain, decayed = (one_step(Preset(jitter=0, decay=d), weights()) for d in (1e-9, 0.25))
    torch.testing.assert_close(decayed, 0.75 * plain, rtol=1e-6, atol=1e-9)


def test_a_penalty_on_differences_makes_a_smoother_image():
    results = [
        ascended(SmallNet().score, zeros(), Preset(l2=1.0, total_variation=tv), 60)
        for tv in (0.0, 0.3)
    ]
    rough, smooth = (z.diff(dim=-1).abs().sum() / z.square().sum().sqrt() for z in results)
    assert smooth < rough


def test_what_is_counted_in_pixels_shrinks_with_a_small_input():
    preset = Preset(jitter=2, blur_sigma=0.5, total_variation=1.0, l2=1.0)
    assert preset.fitting(32) == preset.fitting(224) == preset
    small = preset.fitting(8)
    assert (small.jitter, small.blur_sigma, small.total_variation, small.l2) == (0, 0.125, 0.25, 1)


@pytest.mark.parametrize("size", [(30,), (6, 7), (4, 5, 6)])
@pytest.mark.parametrize("name", PRESETS)
def test_signals_images_and_volumes_are_maximized(name, size):
    weight = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    frame = Frame.of(torch.randn(20, 3, *size))
    result = maximize(
        linear_score(weight), torch.zeros_like(weight), None, PRESETS[name], frame, num_steps=12
    )
    assert result.z.shape == weight.shape
    assert (result.scores > linear_score(weight)(frame.inputs(torch.zeros_like(weight)))).all()
    cosine = torch.cosine_similarity(result.z.flatten(1), weight.flatten(1))
    assert (cosine > 0.3).all()


def test_the_mean_image_has_no_penalty():
    preset = Preset(l2=3.0, total_variation=2.0)
    assert preset.penalty(zeros()).tolist() == [0, 0, 0]
    assert preset.penalty(zeros() + 2.0).tolist() == pytest.approx([12.0] * 3)


def test_the_frame_is_that_of_real_inputs():
    real = 3 + 2 * torch.randn(4000, 2, 3, 3, dtype=torch.float64)
    real[:, 1] += 10
    frame = Frame.of(real)
    torch.testing.assert_close(frame.centre.flatten(), real.mean((0, 2, 3)))
    assert frame.scale.item() == pytest.approx(2.0, rel=0.02)
    torch.testing.assert_close(frame.inputs(frame.z(real)), real)
    assert Frame.of(torch.full((3, 1, 4, 4), 7.0)).scale.item() == 1.0  # of constant inputs


def test_the_spread_is_how_far_the_best_lies_above_the_mean():
    scores = torch.tensor([[1.0, 5.0, 0.0], [3.0, 5.0, float("nan")]])
    assert score_spread(scores).tolist() == [1.0, 1.0, 1.0]
    assert score_spread(torch.tensor([[0.0], [0.0], [9.0]])).tolist() == [6.0]


def hinge(bias: list[float]):
    """Units that fire where the mean of the input exceeds a bias."""
    numbers = torch.tensor(bias, dtype=torch.float64)
    return lambda inputs: (inputs.flatten(1).mean(1) - numbers).relu()


def test_a_row_without_a_gradient_at_the_mean_begins_at_its_real_input():
    result = made(hinge([-1.0, 1.0, 50.0]), Preset(l2=0.01), real=zeros() + 2.0, num_steps=40)
    assert result.is_real.tolist() == [False, True, False]
    assert result.is_silent.tolist() == [False, False, True]
    assert (result.scores[:2] > 1.0).all()


def test_a_silent_row_stays_at_the_mean_image():
    for name, preset in PRESETS.items():
        result = made(hinge([-1.0, 1.0, 50.0]), preset, real=zeros() + 2.0)
        assert result.is_silent.tolist() == [False, False, True]
        assert (result.z[2] == 0).all(), name
        assert result.z.isfinite().all()


def beginnings(score: Score, last: Tensor, preset: Preset) -> Tensor:
    """Returns where each row begins."""
    seen: list[Tensor] = []

    def recorded(inputs: Tensor) -> Tensor:
        seen.append(inputs.detach())
        return score(inputs)

    maximize(recorded, zeros() - 9.0, last, preset, UNIT, num_steps=1)
    return seen[3]  # after a look at the mean input, the last result and the real input


def test_a_row_goes_on_from_the_last_result_only_where_it_is_better():
    last = zeros()
    last[0] += 1.0  # better than the mean image
    last[1] -= 0.5  # worse
    last[2] += 3.0  # the mean image has no gradient there
    found = beginnings(hinge([-1.0, -1.0, 1.0]), last, Preset(l2=0.1))
    assert found.flatten(1)[:, 0].tolist() == [1.0, 0.0, 3.0]


def test_what_goes_on_never_ends_with_a_lower_score_than_it_had():
    score = linear_score(weights())
    for name, preset in PRESETS.items():
        result = made(score, replace(preset, l2=50.0), last=weights(), num_steps=8)
        assert (result.scores >= score(weights())).all(), name


def test_a_last_result_that_lies_too_far_out_is_gone_on_with():
    last = 50 * weights()  # the optimum is half the weight
    found = beginnings(linear_score(weights()), last, Preset(l2=NUM_VALUES))
    assert torch.equal(found, last)


def test_a_last_result_whose_differences_cost_more_than_it_scores_is_not_gone_on_with():
    score, last = linear_score(weights()), weights()
    kept, dropped = (
        beginnings(score, last, Preset(l2=1.0, total_variation=tv)) for tv in (0.0, 1e5)
    )
    assert torch.equal(kept, last)
    assert not dropped.any()


def test_a_score_that_is_not_finite_is_silent_and_stops_no_other_row():
    def score(inputs: Tensor) -> Tensor:
        return inputs.flatten(1).sum(1) * torch.tensor([1.0, float("nan"), 1.0])

    result = made(score, Preset(l2=1.0), real=zeros() + 1.0)
    assert result.is_silent.tolist() == [False, True, False]
    assert result.z.isfinite().all()
    assert (result.z[[0, 2]] != 0).all()


def test_a_score_without_a_gradient_says_what_to_write():
    with pytest.raises(ValueError, match=r"the score has no gradient.*forward_fn="):
        made(lambda i: i.detach().sum((1, 2, 3)), Preset(l2=1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l2": -1}, "l2=-1 is negative"),
        ({"l2": "much"}, "l2='much' is not a number"),
        ({"step_size": 0}, "step_size=0 changes nothing"),
        ({"decay": 1.0}, "decay=1.0 leaves nothing"),
        ({"norm_percentile": 100}, "norm_percentile=100 leaves nothing"),
    ],
)
def test_a_wrong_preset_says_what_to_write(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Preset(**options)
