from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vis_callbacks.analysis.activation_maximization import (
    PRESETS,
    Frame,
    Preset,
    choose_start,
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


@pytest.mark.parametrize("penalty", [0.01, 0.3, 7.0])
def test_a_linear_score_leads_to_w_over_two_lambda(penalty):
    weight = weights()
    preset = Preset(l2=penalty * NUM_VALUES)  # the mean of z^2: lambda times the sum
    result = maximize(linear_score(weight), zeros(), preset, UNIT, num_steps=30)
    expected = weight / (2 * penalty)
    error = (result.z - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert error.max() < 1e-3


def test_the_optimum_is_the_same_in_units_of_the_inputs():
    weight, penalty = weights(), 0.3
    frame = Frame(centre=torch.full((1, 2, 1, 1), 5.0).double(), scale=torch.tensor(0.2).double())
    preset = Preset(l2=penalty * NUM_VALUES * 0.2**2)
    result = maximize(linear_score(weight), zeros(), preset, frame, num_steps=30)
    deviation = frame.inputs(result.z) - 5.0
    torch.testing.assert_close(deviation, weight / (2 * penalty), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("net", ["linear", "small"])
@pytest.mark.parametrize("l2", [0.01, 0.1, 1.0, 10.0])
def test_the_objective_never_falls_under_simonyan(net, l2):
    score = linear_score(weights()) if net == "linear" else SmallNet().score
    preset = replace(PRESETS["simonyan"], l2=l2)
    objectives = maximize(score, zeros(), preset, UNIT, num_steps=60).objectives
    span = objectives.amax(0) - objectives.amin(0)
    assert (span > 0).all()
    assert (objectives.diff(dim=0).amin(0) >= -1e-3 * span).all()
    assert (objectives.diff(dim=0) >= 0).all()  # exactly, since a step that lowers it is refused


def test_a_fixed_step_would_lower_the_objective():
    fixed = replace(PRESETS["simonyan"], l2=1.0, decay=1e-12, step_size=1.0)
    objectives = maximize(SmallNet().score, zeros(), fixed, UNIT, num_steps=60).objectives
    assert (objectives.diff(dim=0) < 0).any()


def test_the_reported_score_is_that_of_the_input():
    net = SmallNet()
    for name, preset in PRESETS.items():
        result = maximize(net.score, zeros(), preset, UNIT, num_steps=9)
        torch.testing.assert_close(result.scores, net.score(UNIT.inputs(result.z)), msg=name)
        assert not result.scores.requires_grad
        assert not result.z.requires_grad


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_raises_the_score(name):
    net = SmallNet()
    spread = score_spread(net.layers(torch.randn(50, *SHAPE, dtype=torch.float64))).detach()
    start = 0.1 * torch.randn(3, *SHAPE, dtype=torch.float64)
    result = maximize(
        lambda inputs: net.score(inputs) / spread, start, PRESETS[name], UNIT, num_steps=40
    )
    assert (result.scores * spread > net.score(start)).all()


@pytest.mark.parametrize("name", PRESETS)
def test_rows_do_not_mix(name):
    def score(inputs: Tensor) -> Tensor:
        return (inputs * weight).flatten(1).sum(1).tanh()

    preset = PRESETS[name]
    weight = weights()
    together = maximize(score, zeros(), preset, UNIT, num_steps=10)
    for row in range(3):
        weight = weights()[row : row + 1]
        alone = maximize(score, zeros(1), preset, UNIT, num_steps=10)
        torch.testing.assert_close(together.z[row], alone.z[0])


def test_a_seed_gives_the_same_again_and_another_seed_does_not():
    net, preset = SmallNet(), PRESETS["smooth"]
    first, again, other = (
        maximize(net.score, zeros(), preset, UNIT, num_steps=10, seed=seed).z for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_jitter_uses_no_global_random_number():
    net = SmallNet()
    before = torch.get_rng_state()
    maximize(net.score, zeros(), PRESETS["smooth"], UNIT, num_steps=3)
    assert torch.equal(before, torch.get_rng_state())


def test_jitter_shifts_the_input_and_its_gradient_back():
    shape = (1, 1, 9, 9)
    seen: list[Tensor] = []

    def score(inputs: Tensor) -> Tensor:
        seen.append(inputs.detach())
        return -(inputs - 5.0).square().flatten(1).sum(1)  # steepest where it is far from 5

    start = torch.zeros(shape, dtype=torch.float64)
    start[..., 4, 4] = -50.0
    frame = Frame(centre=start.new_zeros(1, 1, 1, 1), scale=start.new_ones(()))
    z = maximize(score, start, Preset(jitter=3, step_size=9.0), frame, num_steps=1, seed=1).z
    assert not torch.equal(seen[0], start)  # it was shifted
    assert (z - start).flatten().argmax().item() == 4 * 9 + 4


def one_step(preset: Preset, weight: Tensor) -> Tensor:
    return maximize(linear_score(weight), zeros(len(weight)), preset, UNIT, num_steps=1).z


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
        maximize(SmallNet().score, zeros(), Preset(l2=1.0, total_variation=tv), UNIT, num_steps=60)
        for tv in (0.0, 0.3)
    ]
    rough, smooth = (r.z.diff(dim=-1).abs().sum() / r.z.square().sum().sqrt() for r in results)
    assert smooth < rough


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


def test_constant_inputs_have_a_scale_of_one():
    assert Frame.of(torch.full((3, 1, 4, 4), 7.0)).scale.item() == 1.0


def test_the_spread_is_how_far_the_best_lies_above_the_mean():
    scores = torch.tensor([[1.0, 5.0, 0.0], [3.0, 5.0, float("nan")]])
    assert score_spread(scores).tolist() == [1.0, 1.0, 1.0]
    assert score_spread(torch.tensor([[0.0], [0.0], [9.0]])).tolist() == [6.0]


def hinge(bias: list[float]):
    """Units that fire where the mean of the input exceeds a bias."""
    numbers = torch.tensor(bias, dtype=torch.float64)
    return lambda inputs: (inputs.flatten(1).mean(1) - numbers).relu()


def test_a_row_without_a_gradient_at_the_mean_begins_at_its_real_input():
    score = hinge([-1.0, 1.0, 50.0])
    real = zeros() + 2.0
    start = choose_start(score, real, None, Preset(l2=1.0), UNIT)
    assert start.is_real.tolist() == [False, True, False]
    assert start.is_silent.tolist() == [False, False, True]
    assert start.z.flatten(1)[:, 0].tolist() == [0.0, 2.0, 0.0]


def test_a_silent_row_stays_at_the_mean_image():
    score = hinge([-1.0, 1.0, 50.0])
    for name, preset in PRESETS.items():
        start = choose_start(score, zeros() + 2.0, None, preset, UNIT)
        result = maximize(score, start.z, preset, UNIT, num_steps=5)
        assert (result.z[2] == 0).all(), name
        assert result.z.isfinite().all()


def test_a_row_goes_on_from_the_last_result_only_where_it_is_better():
    score = hinge([-1.0, -1.0, 1.0])
    last = zeros()
    last[0] += 1.0  # better than the mean image
    last[1] -= 0.5  # worse
    last[2] += 3.0  # the mean image has no gradient there
    start = choose_start(score, zeros() + 2.0, last, Preset(l2=0.1), UNIT)
    assert start.is_warm.tolist() == [True, False, True]
    assert start.z.flatten(1)[:, 0].tolist() == [1.0, 0.0, 3.0]
    assert not start.is_real.any()


def test_a_last_result_that_lies_too_far_out_is_gone_on_with():
    weight = weights()
    preset, last = Preset(l2=NUM_VALUES), 50 * weight  # the optimum is half the weight
    start = choose_start(linear_score(weight), zeros(), last, preset, UNIT)
    assert start.is_warm.tolist() == [True, True, True]
    result = maximize(linear_score(weight), start.z, preset, UNIT, num_steps=30)
    assert (result.objectives[0] < 0).all()
    assert (result.objectives.diff(dim=0) >= 0).all()
    torch.testing.assert_close(result.z, weight / 2, rtol=1e-3, atol=1e-3)


def test_a_last_result_whose_differences_cost_more_than_it_scores_is_not_gone_on_with():
    score, last = linear_score(weights()), weights()
    chosen = [
        choose_start(score, zeros(), last, Preset(l2=1.0, total_variation=tv), UNIT).is_warm
        for tv in (0.0, 1e4)
    ]
    assert [is_warm.tolist() for is_warm in chosen] == [[True] * 3, [False] * 3]


@pytest.mark.parametrize("penalty", [0.1, 10.0])
def test_a_step_of_its_own_length_suits_an_optimum_near_and_far(penalty):
    weight = weights()
    l2 = penalty * NUM_VALUES  # the decay stands for all that forbids to search for the step
    own, fixed = (
        maximize(
            linear_score(weight),
            zeros(),
            Preset(l2=l2, decay=1e-9, step_size=step_size),
            UNIT,
            num_steps=12,
        ).z
        for step_size in (0, 0.1)
    )
    expected = weight / (2 * penalty)
    own_error, fixed_error = ((z - expected).norm() / expected.norm() for z in (own, fixed))
    assert own_error < 0.05
    assert own_error < 0.3 * fixed_error


@pytest.mark.parametrize("name", ["simonyan", "smooth"])
def test_a_first_step_moves_a_faint_image_by_no_more_than_itself(name):
    preset = replace(PRESETS[name], total_variation=0.0, blur_every=0)
    faint = 0.2 * weights() / weights().square().flatten(1).mean(1).sqrt().view(-1, 1, 1, 1)
    loud = linear_score(100 * weights())
    for start, expected in ((faint, 0.2), (5 * faint, 0.5), (zeros(), 0.5), (0.1 * faint, 0.1)):
        moved = maximize(loud, start, preset, UNIT, num_steps=1).z - start
        sizes = moved.square().flatten(1).mean(1).sqrt()
        torch.testing.assert_close(sizes, torch.full_like(sizes, expected), rtol=1e-6, atol=0)


def test_a_score_that_is_not_finite_is_silent_and_stops_no_other_row():
    def score(inputs: Tensor) -> Tensor:
        return inputs.flatten(1).sum(1) * torch.tensor([1.0, float("nan"), 1.0])

    start = choose_start(score, zeros() + 1.0, None, Preset(l2=1.0), UNIT)
    assert start.is_silent.tolist() == [False, True, False]
    result = maximize(score, start.z, Preset(l2=1.0), UNIT, num_steps=5)
    assert result.z.isfinite().all()
    assert (result.z[[0, 2]] != 0).all()


def test_a_score_without_a_gradient_says_what_to_write():
    with pytest.raises(ValueError, match=r"the score has no gradient.*forward_fn="):
        maximize(lambda i: i.detach().sum((1, 2, 3)), zeros(), Preset(l2=1.0), UNIT, num_steps=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l2": -1}, "l2=-1 is negative"),
        ({"l2": "much"}, "l2='much' is no number"),
        ({"decay": 1.0}, "decay=1.0 leaves nothing"),
        ({"norm_percentile": 100}, "norm_percentile=100 leaves nothing"),
    ],
)
def test_a_wrong_preset_says_what_to_write(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Preset(**options)
