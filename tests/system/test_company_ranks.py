"""Two ranks that do not have the same monitors: no rank waits for one that does not come."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.system.company_ranks import LATE_S, SCENARIOS, train_all
from tests.system.processes import RANKS, run_in_two_ranks
from tests.system.two_ranks import NUM_STEPS, RANK_BATCH, TIMEOUT_S

SAMPLES = "they show only the samples of rank 0"
REST = "the monitors of this rank are off, since only rank 0 writes"
APART = ["rank 0 only", "rank 1 only", "more on rank 1", "another schedule", "another reaction"]
TOGETHER = ["equal", "equal after rank 0 only", "late rank"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs all trainings, in two processes that are started once."""
    folder = tmp_path_factory.mktemp("company_ranks")
    run_in_two_ranks(train_all, folder)
    return folder


def outcome(folder: Path, name: str, rank: int) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / f"{name}.{rank}.json").read_text())
    return values


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_rank_waits_for_one_that_does_not_come(folder: Path, name: str) -> None:
    plain = "plain with collectives" if "with" in name else "plain"
    for rank in RANKS:
        run = outcome(folder, name, rank)
        assert (run["raised"], run["seconds"] < TIMEOUT_S / 2) == (None, True)
        if "validation" not in name:
            assert run["num_steps"] == NUM_STEPS
            if "on rank 0" not in name:  # where the samples are others
                assert run["weights"] == outcome(folder, plain, rank)["weights"]


@pytest.mark.parametrize("name", APART)
def test_rank_0_goes_on_with_what_it_sees_alone(folder: Path, name: str) -> None:
    run = outcome(folder, name, 0)
    for steps, samples in zip(run["steps"], run["samples"], strict=True):
        assert steps
        assert {n for n in samples if not math.isnan(n)} <= {RANK_BATCH}
    assert name == "rank 1 only" or RANK_BATCH in run["samples"][0]
    assert run["failures"] == [{}] * len(run["steps"])


@pytest.mark.parametrize("name", APART)
def test_the_other_rank_rests(folder: Path, name: str) -> None:
    run = outcome(folder, name, 1)
    assert not any(run["steps"])
    assert run["failures"] == [{}] * len(run["steps"])


@pytest.mark.parametrize("name", APART)
def test_each_rank_with_monitors_says_so_once(folder: Path, name: str) -> None:
    for rank, effect in ((0, SAMPLES), (1, REST)):
        run = outcome(folder, name, rank)
        said = [m for m in run["messages"] if m.startswith("Monitors and ranks")]
        assert len(said) == bool(run["steps"])
        assert all(effect in message for message in said)


def test_the_words_tell_who_has_monitors_and_what_does_not_work(folder: Path) -> None:
    (alone,) = outcome(folder, "rank 0 only", 0)["messages"]
    assert "only rank 0 of 2 has monitors" in alone
    assert 'on_alert="stop" only warns' in alone
    assert "Give every rank the same monitors" in alone
    (resting,) = outcome(folder, "rank 1 only", 1)["messages"]
    assert "only rank 1 of 2 has monitors" in resting
    (differs, *_) = outcome(folder, "more on rank 1", 0)["messages"]
    assert "the monitors or their options differ" in differs
    assert "only warns" not in differs


@pytest.mark.parametrize("name", TOGETHER)
def test_ranks_with_the_same_monitors_are_merged_whatever_came_before(
    folder: Path, name: str
) -> None:
    for rank in RANKS:
        run = outcome(folder, name, rank)
        assert run["messages"] == []
        assert run["samples"][0] == [2 * RANK_BATCH] * NUM_STEPS
        assert run["steps"] == [list(range(NUM_STEPS))] * 2


def test_the_late_rank_was_later_than_the_wait(folder: Path) -> None:
    assert outcome(folder, "late rank", 0)["seconds"] > LATE_S


def test_an_evaluation_asks_as_well(folder: Path) -> None:
    assert outcome(folder, "validation of rank 0", 0)["steps"] == [[0]]
    for rank in RANKS:
        assert outcome(folder, "validation of both", rank)["steps"] == [[0]]
        assert outcome(folder, "validation of both", rank)["messages"] == []


def test_an_extra_pass_of_one_rank_joins_no_collective_of_the_model(folder: Path) -> None:
    run = outcome(folder, "rank 0 with collectives", 0)
    assert run["steps"] == [[]]
    (cause,) = run["of_passes"]
    assert "the forward pass waits for other ranks" in cause


@pytest.mark.parametrize("reaction", ["stop", "raise"])
def test_one_rank_alone_does_not_end_the_run(folder: Path, reaction: str) -> None:
    run = outcome(folder, f"{reaction} on rank 0", 0)
    assert run["alerts"] == ["non_finite"]
    assert run["num_steps"] == NUM_STEPS
