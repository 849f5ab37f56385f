from __future__ import annotations

import pytest

from vis_callbacks.callbacks import overhead as module
from vis_callbacks.callbacks.overhead import Overhead


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved: ``clock[0]`` is the time."""
    now = [100.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    return now


def spend(overhead: Overhead, clock: list[float], seconds: float) -> None:
    with overhead.measured():
        clock[0] += seconds


def test_the_share_is_that_of_the_measured_blocks(clock):
    overhead = Overhead(_started=clock[0])
    spend(overhead, clock, 1.0)
    clock[0] += 2.0
    spend(overhead, clock, 1.0)
    assert overhead.seconds == 2.0
    assert overhead.run_seconds == 4.0
    assert overhead.percent == 50.0


def test_a_block_that_fails_is_counted_too(clock):
    overhead = Overhead(_started=clock[0])
    with pytest.raises(ValueError, match="odd"), overhead.measured():  # noqa: PT012
        clock[0] += 3.0
        raise ValueError("odd")
    assert overhead.seconds == 3.0


def test_a_run_that_has_just_begun_divides_by_no_zero(clock):
    assert Overhead(_started=clock[0]).percent == 0.0


def test_pictures_are_given_up_before_statistics_become_rarer():
    overhead = Overhead(limit=0.1)
    assert overhead.keep_within_limit(11.0, 60.0) == "pictures"
    assert overhead.gives_up_pictures
    assert overhead.thinning == 1
    for thinning in (2, 4, 8):
        assert f"now {thinning} times rarer" in overhead.keep_within_limit(11.0, 60.0)
        assert overhead.thinning == thinning


@pytest.mark.parametrize(
    ("limit", "percent", "run_seconds"),
    [(None, 99.0, 60.0), (0.1, 10.0, 60.0), (0.1, 99.0, 4.9)],
    ids=["no limit", "within it", "hardly begun"],
)
def test_nothing_is_given_up_without_need(limit, percent, run_seconds):
    overhead = Overhead(limit=limit)
    assert overhead.keep_within_limit(percent, run_seconds) is None
    assert not overhead.gives_up_pictures
    assert overhead.thinning == 1
