from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("openTSNE")
from benchmarks.tsne import Line, quality_lines, some_digits, speed_lines

from benchmarks import tsne as module


def random_map(features: np.ndarray, last: np.ndarray | None) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(features), 2)).astype(np.float32)


def kept(lines: list[Line]) -> list[bool | None]:
    return [line.is_kept for line in lines]


def test_a_map_that_is_worse_than_both_others_misses_the_limit(monkeypatch) -> None:
    features = some_digits(100)
    monkeypatch.setattr(module, "PEERS", {"a peer": module.ours})
    assert kept(list(quality_lines("digits", features))) == [True, True]
    monkeypatch.setattr(module, "ours", random_map)
    assert kept(list(quality_lines("digits", features))) == [False, False]


def test_seconds_are_judged_at_the_smallest_number_of_points_alone(monkeypatch) -> None:
    monkeypatch.setattr(module, "PEERS", {"scikit-learn": module.ours})
    monkeypatch.setattr(module, "ours", random_map)
    monkeypatch.setattr(module, "NUM_POINTS", (60, 70))
    assert kept(list(speed_lines(60, 1))) == [None, True, None, True]
    assert kept(list(speed_lines(70, 1))) == [None] * 4


def test_there_are_as_many_different_digits_as_asked_for() -> None:
    assert len(np.unique(some_digits(2_000), axis=0)) == 2_000
