"""Two ranks under monitors that run the network themselves: neither waits, one writes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.system.own_pass_ranks import MONITORS, NUM_STEPS, SCENARIOS, train_all
from tests.system.processes import RANKS, run_in_two_ranks
from tests.writers.reading import read

from vis_callbacks.cards import card_of

FAULTS = [name for name in SCENARIOS if " fails on " in name]
PICTURES = {"saliency/gradient", "saliency/over_time/gradient", "occlusion/views"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs all trainings, in two processes that are started once."""
    folder = tmp_path_factory.mktemp("own_pass_ranks")
    run_in_two_ranks(train_all, folder)
    return folder


def outcome(folder: Path, name: str, rank: int) -> Any:
    return SimpleNamespace(**json.loads((folder / f"{name}.{rank}.json").read_text()))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("name", ["watched", "logged"])
def test_a_rank_that_is_watched_trains_as_one_that_is_not(
    folder: Path, name: str, rank: int
) -> None:
    plain, watched = (outcome(folder, n, rank) for n in ("plain", name))
    assert watched.last_steps == [NUM_STEPS - 1] * len(MONITORS)
    assert watched.failures == [{}] * len(MONITORS)
    assert watched.state == plain.state


@pytest.mark.parametrize("rank", RANKS)
def test_ranks_find_room_for_a_look_at_the_same_steps(folder: Path, rank: int) -> None:
    run = outcome(folder, "in a budget", rank)
    assert run.failures == [{}]
    # Rank 0 by itself would find room at step 1, rank 1 at the last step alone.
    assert run.looks == [0, 2, 3]


def test_rank_0_alone_writes_pictures(folder: Path) -> None:
    first, second = (outcome(folder, "watched", rank) for rank in RANKS)
    assert set(first.pictures) >= PICTURES
    assert second.pictures == []


def test_tensorboard_has_one_picture_for_each_snapshot(folder: Path) -> None:
    log = folder / "logged" / "log"
    assert len(list(log.rglob("events.*"))) == 1
    events = read(log)
    assert set(events.Tags()["images"]) >= {tag for tag in PICTURES if card_of(tag).is_shown}
    for name in ("saliency/gradient", "occlusion/views"):
        assert [event.step for event in events.Images(name)] == list(range(NUM_STEPS))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_on_one_rank_keeps_no_rank_waiting(folder: Path, name: str, rank: int) -> None:
    plain, run = (outcome(folder, n, rank) for n in ("plain", name))
    assert (run.num_steps, run.state) == (NUM_STEPS, plain.state)


@pytest.mark.parametrize("name", FAULTS)
def test_the_failure_is_known_where_it_happened_and_nowhere_else(folder: Path, name: str) -> None:
    place = [cls.__name__ for cls in MONITORS].index(name.split()[0])
    failed, well = (outcome(folder, name, rank) for rank in (int(name[-1]), 1 - int(name[-1])))
    assert any("FaultError" in cause for cause in failed.failures[place])
    assert failed.last_steps[place] == 0
    assert failed.failures[1 - place] == {}
    assert failed.last_steps[1 - place] == NUM_STEPS - 1
    assert well.failures == [{}, {}]
    assert well.last_steps == [NUM_STEPS - 1] * 2
