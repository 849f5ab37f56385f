"""Activation maximization: inputs that a class or a unit answers to most strongly.

Gradient ascent on the unnormalised score of each row of a batch, under regularisers that keep
the result near to what a network sees. The network enters as a differentiable function. An
input has any number of axes of places: one (a signal), two (an image), three (a volume).

Simonyan et al. 2014, "Deep inside convolutional networks: visualising image classification
models and saliency maps", section 2; Yosinski et al. 2015, "Understanding neural networks
through deep visualization", section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.adam import adam  # the function: hooks on optimizers must not see these steps

from vis_callbacks.engine.maps import blurred
from vis_callbacks.monitors.activation_maximization.basis import Basis
from vis_callbacks.monitors.activation_maximization.moves import moves
from vis_callbacks.options import check_flag

# Inputs (rows, channels, *places) -> scores (rows,): that of row i depends on input i alone.
Score = Callable[[Tensor], Tensor]

_FULL_SIDE = 32  # what is counted in pixels is meant for inputs of this side and more


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How an input is kept in bounds while its score rises.

    Everything is relative to real inputs, so that one preset serves inputs of any size and
    normalisation: the regularisers see z, see `Frame`. Scores should be relative as well, see
    `score_spread`. Blur, shifts and differences of neighbours are meant for inputs of 32 pixels
    a side and more, see `fitting`.

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
        jitter: Before a gradient the input is shifted by up to so many pixels, circularly.
        rotation: Before a gradient images are turned by up to so many degrees to either side.
        scaling: Before a gradient images are made larger or smaller by up to this share.
        has_natural_colours: Steps are taken along the principal colours of real inputs, and are
            as long as those vary (Olah et al. 2017), see `Basis`. Else along each channel.
        decay_power: Steps are taken along waves, and fall with this power of their frequency (Olah
            et al. 2017, where it is 1). 0: along each pixel.
        step_size: The learning rate of Adam: what a first step moves each value of z.
    """

    l2: float = 0.0
    total_variation: float = 0.0
    decay: float = 0.0
    blur_sigma: float = 0.0
    blur_every: int = 0
    norm_percentile: float = 0.0
    contribution_percentile: float = 0.0
    jitter: int = 0
    rotation: float = 0.0
    scaling: float = 0.0
    has_natural_colours: bool = False
    decay_power: float = 0.0
    step_size: float = 0.1

    def __post_init__(self) -> None:
        bounds = {"decay": 1, "norm_percentile": 100, "contribution_percentile": 100, "scaling": 1}
        for entry in fields(self):
            name, value = entry.name, getattr(self, entry.name)
            if isinstance(entry.default, bool):
                check_flag(name, value)
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}={value!r} is not a number. Use one of at least 0.")
            if value < 0:
                raise ValueError(f"{name}={value} is negative. Use a number of at least 0.")
            if name in bounds and value >= bounds[name]:
                raise ValueError(f"{name}={value} leaves nothing. Use less than {bounds[name]}.")
        if self.step_size == 0:
            raise ValueError("step_size=0 changes nothing. Use more than 0, such as 0.1.")

    def fitting(self, side: int) -> Preset:
        """Returns the preset for inputs of this shorter side, in pixels.

        Below 32 pixels blur, shifts and the penalty on differences shrink in proportion: two
        pixels are a quarter of a digit of 8 x 8.
        """
        share = min(1.0, side / _FULL_SIDE)
        return replace(
            self,
            total_variation=self.total_variation * share,
            blur_sigma=self.blur_sigma * share,
            jitter=int(self.jitter * share),
        )

    def penalty(self, z: Tensor) -> Tensor:
        """Returns what is taken off each row's score, (rows,)."""
        penalty = self.l2 * z.flatten(1).square().mean(1)
        if self.total_variation:
            axes = range(2, z.dim())
            sums = [z.diff(dim=axis).abs().flatten(1).sum(1) for axis in axes]
            variation = torch.stack(sums).sum(0) / (len(axes) * z[0].numel())
            penalty = penalty + self.total_variation * variation
        return penalty

    def constrained(self, z: Tensor, gradient: Tensor, index: int) -> Tensor:
        """Returns z after what Yosinski et al. do behind each step, the ``index``-th."""
        if self.decay:
            z = z * (1 - self.decay)
        if self.blur_every and self.blur_sigma and index % self.blur_every == 0:
            z = blurred(z, self.blur_sigma)
        if self.norm_percentile:
            z = _without_smallest(z, z.square().sum(1), self.norm_percentile)
        if self.contribution_percentile:
            contribution = (z * gradient).sum(1).abs()
            z = _without_smallest(z, contribution, self.contribution_percentile)
        return z


_SMOOTH = Preset(l2=1.0, total_variation=1.0, blur_sigma=0.5, blur_every=4, jitter=2, step_size=0.4)
_NATURAL = replace(
    _SMOOTH, blur_every=2, rotation=10, scaling=0.1, has_natural_colours=True, step_size=1.2
)
PRESETS = MappingProxyType(
    {
        "natural": _NATURAL,
        "olah": replace(_NATURAL, blur_every=4, decay_power=1.0, step_size=0.6),
        "smooth": _SMOOTH,
        "simonyan": Preset(l2=1.0, step_size=0.4),
        "yosinski_norm": Preset(blur_sigma=0.5, blur_every=4, norm_percentile=50),
        "yosinski_decay": Preset(decay=0.3, norm_percentile=20),
        "yosinski_blur": Preset(decay=1e-4, blur_sigma=1.0, blur_every=4),
        "yosinski_contribution": Preset(blur_sigma=0.5, blur_every=4, contribution_percentile=90),
    }
)


class Frame(NamedTuple):
    """The space of z = (input - centre) / scale, where real inputs are of the order of 1."""

    centre: Tensor  # the mean input, broadcastable to one row
    scale: Tensor  # root mean square of the real inputs' deviation from it, one number
    covariance: Tensor | None = None  # of the channels of real inputs' z; None: not known

    @classmethod
    def of(cls, real: Tensor) -> Frame:
        """Returns the frame of real inputs (samples, channels, *places), floating point."""
        axes = [0, *range(2, real.dim())]
        centre = real.double().mean(axes, keepdim=True)
        scale = (real - centre).square().mean().sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        known = cls(centre=centre.to(real.dtype), scale=scale.to(real.dtype))
        values = known.z(real).transpose(0, 1).flatten(1)
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        return known._replace(covariance=values @ values.T / values.shape[1])

    def inputs(self, z: Tensor) -> Tensor:
        """Returns the inputs of z."""
        return self.centre + self.scale * z

    def z(self, inputs: Tensor) -> Tensor:
        """Returns the z of inputs."""
        return (inputs - self.centre) / self.scale


class Maximized(NamedTuple):
    """Inputs that were made to score high.

    Attributes:
        z: (rows, channels, *places); `Frame.inputs` makes inputs of it.
        scores: (rows,), of the inputs as they are: without penalty and shift.
        is_real: (rows,) Made from the best real input, because what was made from the mean
            input or the last result scored lower than that.
        is_silent: (rows,) The score has no gradient at any of the starts: a dead unit, or one
            that none of them reaches. Such a row stays the mean input.
    """

    z: Tensor
    scores: Tensor
    is_real: Tensor
    is_silent: Tensor


def score_spread(real_scores: Tensor) -> Tensor:
    """Returns how far each target's best real score lies above their mean, (rows,).

    Divided by it, scores of all classes and units weigh alike against a penalty: with ``l2=1``
    an input that deviates as much as real ones costs what the best of them gains. It is 1
    where all of the scores (samples, rows) are equal.
    """
    spread = real_scores.amax(0) - real_scores.mean(0)
    return torch.where(spread.isfinite() & (spread > 0), spread, torch.ones_like(spread))


def maximize(
    score: Score,
    real: Tensor,
    last: Tensor | None,
    preset: Preset,
    frame: Frame,
    *,
    num_steps: int,
    seed: int = 0,
) -> Maximized:
    """Returns inputs whose score gradient ascent has raised.

    Each row begins at its last result, or at the mean input where that is better. Where what
    comes of it scores lower than the real input, the ascent is tried from there as well, and
    the higher of the two is returned. It may still be lower than the real input: then the
    regularisers forbid what the real one has.

    Args:
        score: Unnormalised: the probability also rises when all other classes fall.
        real: (rows, channels, *places) z of the real input that scores highest.
        last: The same of the last result, for a warm start.
        preset: The regularisers, see `Preset.fitting`.
        frame: Of z.
        num_steps: Forward and backward passes of all rows; at most as many again.
        seed: Of the shifts' own generator.

    Raises:
        ValueError: The score does not depend on the inputs by a gradient.
    """
    sides = [length for length in real.shape[2:] if length > 1]
    preset = preset.fitting(min(sides, default=1))
    start, is_warm, has_slope = _start(score, torch.zeros_like(real), last, preset, frame)
    real_scores, has_slope_there = _look(score, real, frame)
    is_silent = ~(has_slope | has_slope_there)

    def highest_from(start: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        return _highest(ascent(score, start, preset, frame, num_steps=num_steps, seed=seed), counts)

    z, scores = highest_from(start, is_warm)
    is_real = torch.zeros_like(is_silent)
    is_below = ~(is_silent | (scores >= real_scores))
    if bool(is_below.any()):
        other, other_scores = highest_from(real, is_real)
        is_real = is_below & (other_scores > scores)
        z, scores = _where(is_real, other, z), torch.where(is_real, other_scores, scores)
    return Maximized(z, scores, is_real, is_silent)


def ascent(
    score: Score, start: Tensor, preset: Preset, frame: Frame, *, num_steps: int, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields z and its scores (rows,) at the start and as they rise, by Adam.

    Where inputs are moved that is at each fourth step and after the last one, else after each
    step. It waits for the device at its start at most.
    """
    z = start.detach()
    colours = frame.covariance if preset.has_natural_colours else None
    basis = Basis.of(z, colours, preset.decay_power)
    coordinates = basis.coordinates(z)
    means, squares, count = torch.zeros_like(z), torch.zeros_like(z), torch.zeros(())
    steps = moves(
        z, num_steps, seed,
        jitter=preset.jitter, rotation=preset.rotation, scaling=preset.scaling,
    )  # fmt: skip
    for index, move in enumerate(steps):
        scores, gradient = _evaluate(score, move.there(z), preset, frame)
        if move.is_none:
            yield z, scores
        gradient = move.back(gradient).nan_to_num(0, 0, 0)
        coordinates = coordinates.clone()
        adam(
            [coordinates], [basis.gradient(gradient)], [means], [squares], [], [count],
            foreach=False, amsgrad=False, beta1=0.9, beta2=0.999, lr=preset.step_size,
            weight_decay=0, eps=1e-8, maximize=True,
        )  # fmt: skip
        stepped = basis.z(coordinates)
        z = preset.constrained(stepped, gradient, index)
        if z is not stepped:
            coordinates = basis.coordinates(z)
    with torch.no_grad():
        yield z, score(frame.inputs(z))


def _start(
    score: Score, mean: Tensor, last: Tensor | None, preset: Preset, frame: Frame
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns where to begin, whether that is the last result, and whether there is a gradient.

    The last result is better where the score has risen by more than the penalty on differences
    takes. How far it lies out is left to the ascent: scores are relative to those of real
    inputs, so a norm that suited a network which told them hardly apart costs far too much soon
    after, while what the image shows is still worth having.
    """
    scores, has_slope = _look(score, mean, frame)
    if last is None:
        return mean, torch.zeros_like(has_slope), has_slope
    last_scores, last_slope = _look(score, last, frame)
    is_better = last_scores - replace(preset, l2=0.0).penalty(last) > scores
    is_warm = last_slope & (is_better | ~has_slope)
    return _where(is_warm, last, mean), is_warm, has_slope | last_slope


def _look(score: Score, z: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
    """Returns the scores (rows,), and where they are finite and have a finite gradient."""
    scores, gradient = _evaluate(score, z, Preset(), frame)
    slope = gradient.flatten(1).abs().amax(1)
    return scores, scores.isfinite() & slope.isfinite() & (slope > 0)


def _highest(iterates: Iterator[tuple[Tensor, Tensor]], counts: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each row's z of highest score, and that; the start only in rows where it counts."""
    z, scores = next(iterates)
    highest = torch.where(counts & scores.isfinite(), scores, -torch.inf)
    for tried, tried_scores in iterates:
        is_higher = tried_scores > highest  # never where it is not finite
        z, scores = _where(is_higher, tried, z), torch.where(is_higher, tried_scores, scores)
        highest = torch.where(is_higher, tried_scores, highest)
    return z, scores


def _evaluate(score: Score, z: Tensor, preset: Preset, frame: Frame) -> tuple[Tensor, Tensor]:
    """Returns the score (rows,), and the gradient of score less penalty, at z."""
    z = z.detach().requires_grad_()
    scores = score(frame.inputs(z))
    if not scores.requires_grad:
        raise ValueError(
            "the score has no gradient: the model computes it under no_grad, or from something "
            "else than its inputs. Write forward_fn=lambda model, inputs: ... that differentiates."
        )
    (gradient,) = torch.autograd.grad((scores - preset.penalty(z)).sum(), z)
    return scores.detach(), gradient


def _without_smallest(z: Tensor, sizes: Tensor, percentile: float) -> Tensor:
    """Returns z, 0 at the given percentage of each row's pixels of least ``sizes``."""
    flat = sizes.flatten(1)  # (rows, pixels)
    num_dropped = int(flat.shape[1] * percentile / 100)
    if not num_dropped:
        return z
    bound = flat.kthvalue(num_dropped, dim=1).values
    return z * (flat > bound[:, None]).view_as(sizes).unsqueeze(1)


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (yes.dim() - 1)), yes, no)
