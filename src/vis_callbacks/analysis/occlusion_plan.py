"""Where an occluding square stands, and how many forward passes that takes.

The square is a window of a signal and a cube in a volume: it has a side along each axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

# With a stride of a quarter of the window, a window of a quarter of the side gives 12 or 13
# positions a side, whatever the size of a square image is.
_WINDOWS_A_SIDE = 4
_WINDOWS_A_SIGNAL = 16  # a signal has one axis, so a finer look costs no more: 61 positions
_STRIDES_A_WINDOW = 4
# Coarse to fine: each third row and column first, then a quarter of all positions.
COARSE_STEP = 3
_REFINED_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class OcclusionPlan:
    """Where the square stands, how often the network runs, and what had to be given up for it.

    Attributes:
        image_size: (height, width) in pixels, or the lengths of any number of axes.
        num_images: How many images are looked at.
        window_size: Side of the square in pixels.
        stride: Pixels from one position to the next; the last step of a row may be shorter, so
            that the square reaches the border.
        coarse_to_fine: Whether only the positions where most is likely to change are measured
            finely.
        notes: What differs from what was asked for, in words.
    """

    image_size: tuple[int, ...]
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
        return tuple(
            _offsets(length, window, self.stride)
            for length, window in zip(self.image_size, self.window, strict=True)
        )

    @property
    def num_along(self) -> tuple[int, ...]:
        """Positions of the square along each axis."""
        return tuple(len(offsets) for offsets in self.offsets)

    @property
    def num_positions(self) -> int:
        """Positions of the square on one image."""
        return math.prod(self.num_along)

    @property
    def num_refined(self) -> int:
        """Positions on one image that are measured after the coarse ones."""
        if not self.coarse_to_fine:
            return 0
        unmeasured = self.num_positions - len(self.coarse_places)
        return min(unmeasured, math.ceil(_REFINED_SHARE * self.num_positions))

    @property
    def coarse_places(self) -> tuple[tuple[int, ...], ...]:
        """Index along each axis of the positions measured first; without refinement, all."""
        step = COARSE_STEP if self.coarse_to_fine else 1
        return tuple(product(*(every(number, step) for number in self.num_along)))

    @property
    def num_measured(self) -> int:
        """Positions on one image that the network is asked about."""
        return len(self.coarse_places) + self.num_refined

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
    """Returns where the square stands, within a bound of forward passes.

    Where the bound is exceeded the stride grows, up to the window, so that every pixel is still
    hidden once; after that images are left out.

    Args:
        image_size: (height, width) in pixels, or the lengths of any number of axes; one of
            length 1 has no part in what follows.
        num_images: How many images there are.
        window_size: Side of the square. None: a quarter of the shortest side, rounded up; where
            there is one side only, a sixteenth.
        stride: None: a quarter of the window; with the default window that makes about 13 x 13
            positions on a square image.
        coarse_to_fine: Measure each third row and column first, then the quarter of all
            positions where the first quantity is likely to fall or rise most.
        max_forward_passes: Samples that may go through the network; None: no bound.

    Raises:
        ValueError: The square is larger than the image, the stride leaves gaps, or not even one
            image fits into the bound.
    """
    sides = [length for length in image_size if length > 1] or [1]
    windows_a_side = _WINDOWS_A_SIDE if len(sides) > 1 else _WINDOWS_A_SIGNAL
    window = -(-min(sides) // windows_a_side) if window_size is None else window_size
    if not 1 <= window <= min(sides):
        raise ValueError(
            f"window_size={window} does not fit images of {_size_in_words(image_size)} "
            f"pixels. Use 1 to {min(sides)}, or None for the default."
        )
    step = max(1, round(window / _STRIDES_A_WINDOW)) if stride is None else stride
    if not 1 <= step <= window:
        raise ValueError(
            f"stride={step} is larger than window_size={window}: pixels in between would never "
            f"be hidden. Use 1 to {window}."
        )

    def plan(images: int, stride: int, *notes: str) -> OcclusionPlan:
        """Returns the plan for so many images at this stride."""
        return OcclusionPlan(
            image_size=image_size,
            num_images=images,
            window_size=window,
            stride=stride,
            coarse_to_fine=coarse_to_fine,
            notes=notes,
        )

    wanted = plan(num_images, step)
    if max_forward_passes is None or wanted.num_forward_passes <= max_forward_passes:
        return wanted
    return _within(max_forward_passes, wanted, plan)


def _within(most: int, wanted: OcclusionPlan, plan: Callable[..., OcclusionPlan]) -> OcclusionPlan:
    """Returns the nearest plan that keeps to the bound, and says what it gives up."""
    num_images, window, stride = wanted.num_images, wanted.window_size, wanted.stride
    bound = f"to keep within {most:,} forward passes"
    for larger in range(stride + 1, window + 1):
        note = f"stride {larger} instead of {stride} px, {bound}"
        if plan(num_images, larger).num_forward_passes <= most:
            return plan(num_images, larger, note)
    fitting = most // plan(1, window).num_forward_passes
    if not fitting:
        raise ValueError(
            f"max_forward_passes={most} is too small for one image of "
            f"{_size_in_words(wanted.image_size)} pixels with window_size={window}: "
            f"it takes {plan(1, window).num_forward_passes:,} without an overlap. Use a larger "
            "window_size or more passes."
        )
    left_out = f"{fitting} of {num_images} images, {bound}"
    wider = f"stride {window} instead of {stride} px"
    return plan(fitting, window, *([wider] if window != stride else []), left_out)


def _size_in_words(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def _offsets(length: int, window: int, stride: int) -> tuple[int, ...]:
    last = length - window
    regular = tuple(range(0, last + 1, stride))
    return regular if regular[-1] == last else (*regular, last)


def every(length: int, step: int) -> list[int]:
    """Returns each ``step``-th index, and the last."""
    return sorted({*range(0, length, step), length - 1})
