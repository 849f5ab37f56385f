"""A validation that is sharded over two ranks gives the map of one process."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.system.embedding_ranks import BATCH, NUM_SAMPLES, fit, train_all, watching
from tests.system.models import LIGHTNING_CHATTER
from tests.system.processes import RANKS, run_in_two_ranks

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs both trainings, in two processes."""
    folder = tmp_path_factory.mktemp("embedding_ranks")
    run_in_two_ranks(train_all, folder)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same training in this process, with batches that hold the samples of both ranks."""
    folder = tmp_path_factory.mktemp("alone")
    return SimpleNamespace(**fit(folder, watching(), batch_size=2 * BATCH))


def outcome(folder: Path, name: str, rank: int) -> Any:
    return SimpleNamespace(**json.loads((folder / f"{name}.{rank}.json").read_text()))


@pytest.mark.parametrize("rank", RANKS)
def test_weights_and_metrics_are_those_of_a_run_that_is_not_watched(
    folder: Path, rank: int
) -> None:
    plain, watched = (outcome(folder, name, rank) for name in ("plain", "watched"))
    assert (watched.weights, watched.metrics) == (plain.weights, plain.metrics)
    assert watched.failures == [{}]


def test_the_samples_of_both_ranks_are_put_in_the_order_of_one_process(
    folder: Path, alone: Any
) -> None:
    (expected,) = alone.maps
    for rank in RANKS:
        (found,) = outcome(folder, "watched", rank).maps
        assert found["fingerprints"] == expected["fingerprints"]
        assert found["labels"] == expected["labels"]
        assert len(found["labels"]) == NUM_SAMPLES


def test_both_ranks_have_the_same_map_and_history(folder: Path) -> None:
    first, second = (outcome(folder, "watched", rank) for rank in RANKS)
    assert first.maps == second.maps
    assert first.maps[0]["num_frames"] == 2
    assert json.dumps(first.histories) == json.dumps(second.histories)


def test_the_numbers_are_those_of_one_process(folder: Path, alone: Any) -> None:
    found = outcome(folder, "watched", 0).histories[0]
    expected = {(m, layer): values for m, layer, values in alone.histories[0]["columns"]}
    assert len(expected) >= 5
    for metric, layer, values in found["columns"]:
        # Two ranks sum gradients in another order; features are kept in float32.
        assert values == pytest.approx(expected[metric, layer], rel=1e-5), metric
