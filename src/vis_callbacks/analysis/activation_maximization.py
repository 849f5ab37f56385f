"""Activation maximization: inputs that a class or a unit answers to most strongly.

Gradient ascent on the unnormalised score of each row of a batch, under regularisers that keep
the result near to what a network sees. The network enters as a differentiable function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

import torch
from torch import Tensor

from vis_callbacks.analysis.occlusion import blurred

# Inputs (rows, channels, height, width) -> scores (rows,): that of row i depends on input i alone.
Score = Callable[[Tensor], Tensor]

# A first step moves the values by half of what real images deviate, unless the optimum of the
# penalised linear score is nearer, and by no more than a start deviates itself, lest a faint
# image be lost at once; one that is hardly there at all has nothing to lose.
_FIRST_MOVE, _LEAST_FIRST_MOVE = 0.5, 0.1
# A searched step is as long as the last two gradients say, within these multiples of the last
# one: after a step that helped, and after one that was refused.
_AFTER_HELP, _AFTER_REFUSAL = (0.5, 4.0), (0.25, 0.5)
# With shifts no value can be compared with the one before. There a step grows while the
# gradient keeps to its side and shrinks when it turns back.
_LONGER, _SHORTER, _LONGEST_MOVE = 1.2, 0.7, 1.0


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How an input is kept in bounds while its score rises.

    Everything is relative to real inputs, so that one preset serves inputs of any size and
    normalisation. z = (input - centre) / scale is the input as the regularisers see it, where
    the scale is the root mean square of real inputs' deviation from the centre. Scores should
    be relative as well, see `score_spread`: a unit's are 1, a class's 50.

    Attributes:
        l2: Penalty on the mean of z^2: what an input that deviates as much as real ones costs,
            in units of the score (Simonyan et al. 2014).
        total_variation: Penalty on the mean absolute difference of neighbours in z, in units of
            the score.
        decay: Share of z taken off after each step (Yosinski et al. 2015, theta_decay).
        blur_sigma: Standard deviation in pixels of a Gaussian blur (theta_b_width).
        blur_every: Blur after each so many steps; 0 for never (theta_b_every).
        norm_percentile: Percentage of the pixels, those of smallest norm over the channels,
            that are set to 0 after each step (theta_n_pct).
        contribution_percentile: The same for those that contribute least to the score,
            |sum over channels of z times gradient| (theta_c_pct).
        jitter: Before each gradient the input is shifted by up to so many pixels, circularly.
        step_size: What a step moves, root mean square in z; 0 lets each row find its own,
            longer while successive gradients agree, shorter where they turn back. It matters
            only where the step is not searched for: with jitter, decay, blur or a percentile.
    """

    l2: float = 0.0
    total_variation: float = 0.0
    decay: float = 0.0
    blur_sigma: float = 0.0
    blur_every: int = 0
    norm_percentile: float = 0.0
    contribution_percentile: float = 0.0
    jitter: int = 0
    step_size: float = 0.1

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{entry.name}={value!r} is no number. Use one of at least 0.")
            if value < 0:
                raise ValueError(f"{entry.name}={value} is negative. Use a number of at least 0.")
        for name in ("norm_percentile", "contribution_percentile"):
            if getattr(self, name) >= 100:
                raise ValueError(f"{name}={getattr(self, name)} leaves nothing. Use 0 to 99.")
        if self.decay >= 1:
            raise ValueError(f"decay={self.decay} leaves nothing. Use less than 1.")

    @property
    def is_ascent(self) -> bool:
        """Whether the objective alone decides, so that no step need ever lower it."""
        return not (
            self.jitter
            or self.decay
            or (self.blur_sigma and self.blur_every)
            or self.norm_percentile
            or self.contribution_percentile
        )

    def penalty(self, z: Tensor) -> Tensor:
        """Returns what is taken off each row's score, (rows,)."""
        penalty = self.l2 * z.flatten(1).square().mean(1)
        if self.total_variation:
            down, right = z.diff(dim=-2), z.diff(dim=-1)
            variation = down.abs().flatten(1).sum(1) + right.abs().flatten(1).sum(1)
            penalty = penalty + self.total_variation * variation / (2 * z[0].numel())
        return penalty


PRESETS = MappingProxyType(
    {
        "simonyan": Preset(l2=1.0),
        "smooth": Preset(
            l2=1.0, total_variation=1.0, blur_sigma=0.5, blur_every=4, jitter=2, step_size=0
        ),
        "yosinski_norm": Preset(blur_sigma=0.5, blur_every=4, norm_percentile=50),
        "yosinski_decay": Preset(decay=0.3, norm_percentile=20),
        "yosinski_blur": Preset(decay=1e-4, blur_sigma=1.0, blur_every=4),
        "yosinski_contribution": Preset(blur_sigma=0.5, blur_every=4, contribution_percentile=90),
    }
)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What is zero and what is one in the space of z.

    Attributes:
        centre: The mean input, broadcastable to one row.
        scale: Root mean square of the real inputs' deviation from it, one number.
    """

    centre: Tensor
    scale: Tensor

    @classmethod
    def of(cls, real: Tensor) -> Frame:
        """Returns the frame of real inputs: the mean of each channel, and how far they deviate.

        Args:
            real: (samples, channels, height, width) floating point.
        """
        centre = real.double().mean((0, 2, 3), keepdim=True)
        scale = (real - centre).square().mean().sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return cls(centre=centre.to(real.dtype), scale=scale.to(real.dtype))

    def inputs(self, z: Tensor) -> Tensor:
        """Returns the inputs of z."""
        return self.centre + self.scale * z

    def z(self, inputs: Tensor) -> Tensor:
        """Returns the z of inputs."""
        return (inputs - self.centre) / self.scale


@dataclass(frozen=True, kw_only=True)
class Maximized:
    """Inputs that were made to score high.

    Attributes:
        z: (rows, channels, height, width), see `Preset`; `Frame.inputs` makes inputs of it.
        scores: (rows,), of the inputs as they are: without penalty and jitter.
        objectives: (steps + 1, rows), score less penalty at the start and after each step.
    """

    z: Tensor
    scores: Tensor
    objectives: Tensor


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where an ascent begins.

    Attributes:
        z: (rows, channels, height, width).
        is_warm: (rows,) It goes on from the last result.
        is_real: (rows,) It begins at a real input, since nowhere else there was a gradient.
        is_silent: (rows,) The score has no gradient at any of the starts: a dead unit, or one
            that none of them reaches. Such a row is not ascended.
    """

    z: Tensor
    is_warm: Tensor
    is_real: Tensor
    is_silent: Tensor


def score_spread(real_scores: Tensor) -> Tensor:
    """Returns how far each target's best real score lies above their mean, (rows,).

    Divided by it, scores of all classes and units weigh alike against a penalty: with ``l2=1``
    an input that deviates as much as real ones costs what the best of them gains. It is 1
    where all are alike.

    Args:
        real_scores: (samples, rows), of each real input for each target.
    """
    spread = real_scores.amax(0) - real_scores.mean(0)
    return torch.where(spread.isfinite() & (spread > 0), spread, torch.ones_like(spread))


def choose_start(
    score: Score, real: Tensor, last: Tensor | None, preset: Preset, frame: Frame
) -> Start:
    """Returns for each row where to begin: the mean input, or the last result if it is better.

    It is better where the score has risen by more than the penalty on differences takes, on
    the way from the mean input to it. How far it lies out is left to the ascent: since scores
    are relative to those of real inputs, a norm that suited a network which told them hardly
    apart costs far too much soon after, while what the image shows is still worth having.

    Only a row that has a gradient at neither begins at its real input.

    Args:
        score: Of each row.
        real: (rows, channels, height, width) z of the real input that scores highest.
        last: (rows, channels, height, width) z of the last result, for a warm start.
        preset: Its penalty on differences takes part in the comparison.
        frame: Of z.
    """
    cold = torch.zeros_like(real)
    any_norm = replace(preset, l2=0.0)
    best, has_slope = _value_and_slope(score, cold, any_norm, frame)
    z, is_warm = cold, torch.zeros_like(has_slope)
    if last is not None:
        value, slope = _value_and_slope(score, last, any_norm, frame)
        is_warm = slope & ((value > best) | ~has_slope)
        z, has_slope = _where(is_warm, last, z), has_slope | slope
    _, slope = _value_and_slope(score, real, any_norm, frame)
    is_real = slope & ~has_slope
    return Start(
        z=_where(is_real, real, z),
        is_warm=is_warm,
        is_real=is_real,
        is_silent=~(has_slope | slope),
    )


def maximize(
    score: Score,
    start: Tensor,
    preset: Preset,
    frame: Frame,
    *,
    num_steps: int,
    seed: int = 0,
) -> Maximized:
    """Returns inputs whose score, less the preset's penalty, gradient ascent has raised.

    Without jitter, decay, blur or percentiles a step that would lower the objective of a row is
    refused and tried again shorter: the objective never falls. Otherwise each step moves the
    input along the gradient, see `Preset.step_size`, and what is returned is where the last one
    led.

    It runs without a synchronisation with the device, whatever the rows do.

    Args:
        score: Unnormalised: the probability also rises when all other classes fall.
        start: (rows, channels, height, width) z to begin from, such as that of `choose_start`.
        preset: The regularisers.
        frame: Of z.
        num_steps: Forward and backward passes of all rows, one more for the last score.
        seed: Of the jitter's own generator.

    Raises:
        ValueError: The score does not depend on the inputs by a gradient.

    References:
        Simonyan et al. 2014, "Deep inside convolutional networks: visualising image
        classification models and saliency maps", section 2; Yosinski et al. 2015,
        "Understanding neural networks through deep visualization", section 3.
    """
    if preset.is_ascent:
        return _searched(score, start, preset, frame, num_steps)
    return _regularised(score, start, preset, frame, num_steps, seed)


def _searched(
    score: Score, start: Tensor, preset: Preset, frame: Frame, num_steps: int
) -> Maximized:
    """Ascends with steps of each row's own length, which are kept only where they help."""
    z = start.detach()
    scores, value, gradient = _evaluate(score, z, preset, frame)
    length = _shortened(_first_move(z) / _root_mean_square(gradient), z, preset)
    objectives = [value]
    for _ in range(num_steps):
        step = _per_row(length, z) * gradient
        tried_scores, tried_value, tried_gradient = _evaluate(score, z + step, preset, frame)
        helps = tried_value >= value  # never where it is not finite
        length = _next_length(length, helps, step, gradient - tried_gradient)
        z, gradient = _where(helps, z + step, z), _where(helps, tried_gradient, gradient)
        scores = torch.where(helps, tried_scores, scores)
        value = torch.where(helps, tried_value, value)
        objectives.append(value)
    return Maximized(z=z, scores=scores, objectives=torch.stack(objectives))


def _next_length(length: Tensor, helps: Tensor, step: Tensor, fall: Tensor) -> Tensor:
    """Returns how long to make the next step, (rows,).

    Args:
        length: Of this step, as a multiple of the gradient.
        helps: (rows,) The step is kept.
        step: What was added to z.
        fall: The gradient before the step less that after it.

    References:
        Barzilai and Borwein 1988, "Two-point step size gradient methods".
    """
    curvature = _dot(step, fall)
    # The top of a parabola with this curvature. Where the slope has not fallen there is none.
    top = _dot(step, step) / curvature
    low, high = (
        torch.where(helps, *pair) for pair in zip(_AFTER_HELP, _AFTER_REFUSAL, strict=True)
    )
    multiple = torch.where(curvature > 0, top / length, high)
    return length * torch.minimum(torch.maximum(multiple, low), high)


def _regularised(
    score: Score, start: Tensor, preset: Preset, frame: Frame, num_steps: int, seed: int
) -> Maximized:
    """Ascends without looking at the objective, the regularisers applied after each step."""
    z, move, last_gradient = start.detach(), _first_move(start), None
    objectives = []
    for index, (down, right) in enumerate(_shifts(preset.jitter, num_steps, seed)):
        shifted = torch.roll(z, (down, right), dims=(-2, -1)) if preset.jitter else z
        _, value, gradient = _evaluate(score, shifted, preset, frame)
        if preset.jitter:
            gradient = torch.roll(gradient, (-down, -right), dims=(-2, -1))
        objectives.append(value)
        size = _root_mean_square(gradient)
        if preset.step_size:
            length = preset.step_size / size
        else:
            if last_gradient is not None:
                agrees = _dot(gradient, last_gradient) > 0
                move = (move * torch.where(agrees, _LONGER, _SHORTER)).clamp(max=_LONGEST_MOVE)
            length, last_gradient = _shortened(move / size, z, preset), gradient
        z = _constrained(z + _per_row(length, z) * gradient, gradient, preset, index)
    with torch.no_grad():
        scores = score(frame.inputs(z))
    objectives.append(scores - preset.penalty(z))
    return Maximized(z=z, scores=scores, objectives=torch.stack(objectives))


def _first_move(start: Tensor) -> Tensor:
    """Returns what a first step may move, root mean square in z, (rows,)."""
    size = start.flatten(1).square().mean(1).sqrt()
    return torch.where(size > 0, size.clamp(_LEAST_FIRST_MOVE, _FIRST_MOVE), _FIRST_MOVE)


def _shortened(length: Tensor, z: Tensor, preset: Preset) -> Tensor:
    """Returns a step that leads no farther than to the optimum if the score is linear."""
    return length.clamp(max=z[0].numel() / (2 * preset.l2)) if preset.l2 else length


def _constrained(z: Tensor, gradient: Tensor, preset: Preset, index: int) -> Tensor:
    """Applies what Yosinski et al. do after a step."""
    z = z * (1 - preset.decay)
    if preset.blur_every and preset.blur_sigma and index % preset.blur_every == 0:
        z = blurred(z, preset.blur_sigma)
    if preset.norm_percentile:
        z = _without_smallest(z, z.square().sum(1), preset.norm_percentile)
    if preset.contribution_percentile:
        contribution = (z * gradient).sum(1).abs()
        z = _without_smallest(z, contribution, preset.contribution_percentile)
    return z


def _without_smallest(z: Tensor, sizes: Tensor, percentile: float) -> Tensor:
    """Returns z, 0 at the given percentage of each row's pixels of least ``sizes``."""
    flat = sizes.flatten(1)  # (rows, pixels)
    num_dropped = int(flat.shape[1] * percentile / 100)
    if not num_dropped:
        return z
    bound = flat.kthvalue(num_dropped, dim=1).values
    kept = (flat > bound[:, None]).view_as(sizes)
    return z * kept.unsqueeze(1)


def _shifts(jitter: int, num_steps: int, seed: int) -> list[list[int]]:
    """Returns (down, right) for each step."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[list[int]] = torch.randint(
        -jitter, jitter + 1, (num_steps, 2), generator=generator
    ).tolist()
    return drawn


def _evaluate(
    score: Score, z: Tensor, preset: Preset, frame: Frame
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns score, objective (rows,) and the objective's gradient at z."""
    z = z.detach().requires_grad_()
    scores = score(frame.inputs(z))
    value = scores - preset.penalty(z)
    (gradient,) = torch.autograd.grad(_checked(scores, value).sum(), z)
    return scores.detach(), value.detach(), gradient


def _value_and_slope(
    score: Score, z: Tensor, preset: Preset, frame: Frame
) -> tuple[Tensor, Tensor]:
    """Returns the objective (rows,), and whether the score alone has a finite gradient there."""
    z = z.detach().requires_grad_()
    scores = score(frame.inputs(z))
    (gradient,) = torch.autograd.grad(_checked(scores, scores).sum(), z)
    slope = gradient.flatten(1).abs().amax(1)
    value = (scores - preset.penalty(z)).detach()
    return value, slope.isfinite() & (slope > 0) & value.isfinite()


def _checked(scores: Tensor, value: Tensor) -> Tensor:
    if not scores.requires_grad:
        raise ValueError(
            "the score has no gradient: the model computes it under no_grad, or from something "
            "else than its inputs. Write forward_fn=lambda model, inputs: ... that "
            "differentiates."
        )
    return value


def _root_mean_square(gradient: Tensor) -> Tensor:
    """Returns (rows,), nowhere 0, so that it can be divided by."""
    size = gradient.flatten(1).square().mean(1).sqrt()
    return size.clamp(min=torch.finfo(size.dtype).tiny ** 0.5)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).flatten(1).sum(1)


def _per_row(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (yes.dim() - 1)), yes, no)
