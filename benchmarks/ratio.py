"""Ratios of interleaved timings, with what they could have been by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """A median of paired ratios.

    Attributes:
        median: Of the ratios of all pairs.
        low: Lower end of the 95 % bootstrap interval of the median.
        high: Upper end.
        num_pairs: How many pairs it rests on.
    """

    median: float
    low: float
    high: float
    num_pairs: int

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def paired_ratio(
    watched: Sequence[float], plain: Sequence[float], *, num_resamples: int = 2000, seed: int = 0
) -> Ratio:
    """Returns the median of ``watched[i] / plain[i]`` and its bootstrap interval.

    The two timings of a pair must lie side by side in time: whatever else slows the machine
    then slows both. The median does not feel the few pairs that a hiccup of the machine
    falls into.

    Args:
        watched: Seconds with what is to be judged.
        plain: Seconds without it.
        num_resamples: Of the bootstrap, which draws whole pairs.
        seed: Of the bootstrap.

    Raises:
        ValueError: There are no pairs, or not as many on one side as on the other.
    """
    if len(watched) != len(plain) or not watched:
        raise ValueError(
            f"Got {len(watched)} timings with and {len(plain)} without. Give pairs, one at least."
        )
    ratios = np.asarray(watched) / np.asarray(plain)  # (pairs,)
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(ratios), size=(num_resamples, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))
