from __future__ import annotations

import numpy as np
import pytest
from benchmarks.ratio import paired_ratio


def test_a_drift_that_slows_both_sides_leaves_the_ratio_exact() -> None:
    plain = np.linspace(1.0, 5.0, 50)

    ratio = paired_ratio(list(1.25 * plain), list(plain))

    # 1.25 is exact in binary, so each ratio is.
    assert (ratio.low, ratio.median, ratio.high) == (1.25, 1.25, 1.25)
    assert ratio.num_pairs == 50


def test_a_few_hiccups_do_not_move_the_median() -> None:
    plain = [1.0] * 101
    watched = [1.5] * 96 + [100.0] * 5

    assert paired_ratio(watched, plain).median == 1.5


def test_interval_covers_the_true_ratio_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        watched = 1.1 * np.exp(0.1 * generator.standard_normal(60))
        ratio = paired_ratio(list(watched), [1.0] * 60, num_resamples=300, seed=seed)
        covered += ratio.low <= 1.1 <= ratio.high

    # Binomial(200, .95) lies within 180-199 with probability .998.
    assert 180 <= covered <= 199


@pytest.mark.parametrize(("watched", "plain"), [([], []), ([1.0], [1.0, 2.0])])
def test_timings_that_are_no_pairs_are_refused(watched: list[float], plain: list[float]) -> None:
    with pytest.raises(ValueError, match=r"Got \d timings with and \d without"):
        paired_ratio(watched, plain)
