"""Where an occluding square stands, and how many forward passes that takes.

The square is a window of a signal and a cube in a volume: it has a side along each axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

# With a stride of a quarter of the window, a window of a quarter of the side gives 12 or 13
# positions a side, on a square image of any size.
_WINDOWS_A_SIDE = 4
_WINDOWS_A_SIGNAL = 16  # a signal has one axis, so a finer look costs no more: 61 positions
_STRIDES_A_WINDOW = 4
# Coarse to fine: each third row and column first, then a quarter of all positions.
_COARSE_STEP = 3
_REFINED_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class OcclusionPlan:
    """Where the square stands, how often the network runs, and what had to be given up for it.

    The stride is that from one position to the next; the last step of a row may be shorter, so
    that the square reaches the border. ``notes`` say what differs from what was asked for.
    """

    image_size: tuple[int, ...]  # (height, width) in pixels, or the lengths of any axes
    num_images: int
    window_size: int
    stride: int
    coarse_to_fine: bool = False
    notes: tuple[str, ...] = ()

    @property
    def window(self) -> tuple[int, ...]:
        """The square's side along each axis: all of an axis that is shorter."""
        return tuple(min(self.window_size, length) for length in self.image_size)

    @property
    def offsets(self) -> tuple[tuple[int, ...], ...]:
        """Where the square begins along each axis."""
        lasts = [length - side for length, side in zip(self.image_size, self.window, strict=True)]
        return tuple(tuple(_every(last + 1, self.stride)) for last in lasts)

    @property
    def centres(self) -> tuple[list[float], ...]:
        """Where the square's centre lies along each axis, in pixels."""
        both = zip(self.offsets, self.window, strict=True)
        return tuple([start + side / 2 for start in starts] for starts, side in both)

    @property
    def num_along(self) -> tuple[int, ...]:
        """Positions of the square along each axis."""
        return tuple(len(offsets) for offsets in self.offsets)

    @property
    def num_positions(self) -> int:
        """Positions of the square on one image."""
        return math.prod(self.num_along)

    @property
    def coarse(self) -> tuple[list[int], ...]:
        """Along each axis, which positions are measured first; without refinement all of them."""
        step = _COARSE_STEP if self.coarse_to_fine else 1
        return tuple(_every(number, step) for number in self.num_along)

    @property
    def num_refined(self) -> int:
        """Positions on one image that are measured after the coarse ones."""
        wanted = math.ceil(_REFINED_SHARE * self.num_positions)
        return min(wanted, self.num_positions - math.prod(map(len, self.coarse)))

    @property
    def num_measured(self) -> int:
        """Positions on one image that the network is asked about."""
        return math.prod(map(len, self.coarse)) + self.num_refined

    @property
    def num_forward_passes(self) -> int:
        """Samples that go through the network, the whole images among them."""
        return self.num_images * (self.num_measured + 1)


def plan_occlusion(
    image_size: tuple[int, ...],
    num_images: int,
    *,
    window_size: int | None = None,
    stride: int | None = None,
    coarse_to_fine: bool = False,
    max_forward_passes: int | None = None,
) -> OcclusionPlan:
    """Returns where the square stands, within a bound of forward passes (None: no bound).

    Where the bound is exceeded the stride grows, up to the window, so that every pixel is still
    hidden once. After that images are left out. An axis of length 1 has no part in the defaults:
    a window of a quarter of the shortest side, rounded up (of a signal a sixteenth), and a stride
    of a quarter of that, which makes about 13 x 13 positions.

    Raises:
        ValueError: The square is larger than the image, the stride leaves gaps, or not even one
            image fits into the bound.
    """
    sides = [length for length in image_size if length > 1] or [1]
    windows_a_side = _WINDOWS_A_SIDE if len(sides) > 1 else _WINDOWS_A_SIGNAL
    window = -(-min(sides) // windows_a_side) if window_size is None else window_size
    if window > min(sides):
        raise ValueError(
            f"window_size={window} does not fit images of {_size_in_words(image_size)} "
            f"pixels. Use 1 to {min(sides)}, or None for the default."
        )
    step = max(1, round(window / _STRIDES_A_WINDOW)) if stride is None else stride
    check_stride(step, window)
    wanted = OcclusionPlan(
        image_size=image_size,
        num_images=num_images,
        window_size=window,
        stride=step,
        coarse_to_fine=coarse_to_fine,
    )
    return wanted if max_forward_passes is None else _within(max_forward_passes, wanted)


def check_stride(stride: int, window_size: int) -> None:
    """Raises ValueError for a stride that leaves gaps between the positions of the square."""
    if stride > window_size:
        raise ValueError(
            f"stride={stride} is larger than window_size={window_size}: the pixels in between "
            f"would never be hidden. Use 1 to {window_size}."
        )


def _within(most: int, wanted: OcclusionPlan) -> OcclusionPlan:
    """Returns the nearest plan that keeps to the bound, and says what it gives up."""
    plan, wider, bound = wanted, "", f"to keep within {most:,} forward passes"
    while plan.num_forward_passes > most and plan.stride < plan.window_size:
        plan = replace(plan, stride=plan.stride + 1)
        wider = f"stride {plan.stride} instead of {wanted.stride} px"
    if plan.num_forward_passes <= most:
        return replace(plan, notes=(f"{wider}, {bound}",) if wider else ())
    passes_an_image = plan.num_measured + 1
    num_images = most // passes_an_image
    if not num_images:
        raise ValueError(
            f"max_forward_passes={most} is too small for one image of "
            f"{_size_in_words(plan.image_size)} pixels with window_size={plan.window_size}: "
            f"it takes {passes_an_image:,} without an overlap. Use a larger window_size or more "
            "passes."
        )
    left_out = f"{num_images} of {wanted.num_images} images, {bound}"
    return replace(plan, num_images=num_images, notes=tuple(filter(None, (wider, left_out))))


def _size_in_words(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def _every(length: int, step: int) -> list[int]:
    """Returns each ``step``-th index, and the last."""
    return sorted({*range(0, length, step), length - 1})
