"""Two ranks: merged values, and no rank that waits for one that failed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.alerts.reading import read_alerts
from tests.system.models import LIGHTNING_CHATTER
from tests.system.processes import RANKS, run_in_two_ranks
from tests.system.two_ranks import (
    FAULT_STEP,
    NUM_STEPS,
    RANK_BATCH,
    SCENARIOS,
    STAGES,
    Summing,
    fit,
    train_all,
    watching,
)

from vis_callbacks.monitors.learning.monitor import LearningMonitor

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER]

FAULTS = [name for name in SCENARIOS if " fails on " in name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs all trainings, in two processes that are started once."""
    folder = tmp_path_factory.mktemp("two_ranks")
    run_in_two_ranks(train_all, folder)
    return folder


def outcome(folder: Path, name: str, rank: int) -> Any:
    values = json.loads((folder / f"{name}.{rank}.json").read_text())
    return SimpleNamespace(**values)


def history(outcome: Any, index: int = 0) -> dict[tuple[str, str], list[float]]:
    return {(m, layer): values for m, layer, values in outcome.histories[index]["columns"]}


def single(tmp_path: Path, monitors: list[Any], **options: Any) -> Any:
    """Trains in this process, with batches that hold the samples of both ranks."""
    return fit(tmp_path, monitors, batch_size=2 * RANK_BATCH, **options)


def test_two_ranks_count_what_one_process_counts_over_the_same_samples(
    folder: Path, tmp_path: Path
) -> None:
    expected = history(single(tmp_path, [watching(), Summing()]))
    for rank in RANKS:
        found = history(outcome(folder, "watched", rank))
        assert found.keys() == expected.keys()
        counted = ("dead_fraction", "sparsity", "num_samples", "window_samples")
        for key in [key for key in found if key[0] in counted]:
            assert found[key] == pytest.approx(expected[key], rel=1e-12, nan_ok=True), key
    dead = [values for (metric, _), values in found.items() if metric == "dead_fraction"]
    assert dead[0][-1] == 5 / 16  # the units that are made dead, and no others


def test_two_ranks_read_the_numbers_that_one_process_reads(folder: Path, tmp_path: Path) -> None:
    expected = single(tmp_path, [watching(), Summing()])
    # The loss is read in single precision, on each rank before it is merged: 2 * 2 ** -24.
    for index in (0, 1):
        found = history(outcome(folder, "watched", 0), index)
        for key, values in history(expected, index).items():
            assert found[key] == pytest.approx(values, rel=1.2e-7, abs=1e-12, nan_ok=True), key


def test_learning_is_judged_by_what_one_process_would_read(folder: Path, tmp_path: Path) -> None:
    expected = single(tmp_path, [LearningMonitor(every_n_train_steps=1)])
    for rank in RANKS:
        found = history(outcome(folder, "learning", rank))
        assert found.keys() == history(expected).keys()
        read = history(expected)
        highest = read.pop(("highest_loss", ""))  # of a batch, and a rank's is half as large
        assert all(a >= b for a, b in zip(found["highest_loss", ""], highest, strict=True))
        for key, values in read.items():
            # Of the mean of the ranks' gradients, as the optimizer has it, to single precision.
            assert found[key] == pytest.approx(values, rel=1e-6, abs=1e-12, nan_ok=True), key
    assert outcome(folder, "learning", 0).weights == outcome(folder, "plain", 0).weights


def test_bursts_of_two_ranks_give_the_history_of_single_snapshots(folder: Path) -> None:
    for rank in RANKS:
        for index in (0, 1):
            alone = history(outcome(folder, "watched", rank), index)
            found = history(outcome(folder, "in bursts", rank), index)
            assert found.keys() == alone.keys()
            # Maps are read at the end of a burst only, and the norms of weights are those of then.
            of_ends = ("sparsity", "dormant_fraction", "effective_area", "weight_norm")
            for key in [key for key in found if key[0] not in (*of_ends, "norm_at_death")]:
                assert found[key] == pytest.approx(alone[key], rel=1e-12, nan_ok=True), key
        weights = {outcome(folder, name, rank).weights for name in ("plain", "in bursts")}
        assert len(weights) == 1


def test_an_alert_within_a_burst_stops_both_ranks_at_its_end(folder: Path) -> None:
    stopped = [outcome(folder, "stop in bursts", rank) for rank in RANKS]
    assert [o.alerts for o in stopped] == [[f"non_finite {FAULT_STEP}"]] * 2
    assert {o.num_steps for o in stopped} == {-(-FAULT_STEP // 3) * 3 + 1}


def test_micro_batches_of_two_ranks_make_one_snapshot_a_step(folder: Path, tmp_path: Path) -> None:
    expected = history(single(tmp_path, [watching()], accumulate_grad_batches=2))
    found = history(outcome(folder, "accumulated", 1))
    samples = found["num_samples", ""]
    assert samples == [4 * RANK_BATCH] * (NUM_STEPS // 2)
    for key in [("loss", ""), *(key for key in found if key[0] == "sparsity")]:
        assert found[key] == pytest.approx(expected[key], rel=1.2e-7), key


def test_both_ranks_keep_the_same_history(folder: Path) -> None:
    first, second = (outcome(folder, "watched", rank) for rank in RANKS)
    assert json.dumps(first.histories) == json.dumps(second.histories)  # NaN equals NaN there


def test_the_weights_are_those_of_a_run_without_monitors(folder: Path) -> None:
    plain = [outcome(folder, "plain", rank).weights for rank in RANKS]
    watched = [outcome(folder, "watched", rank).weights for rank in RANKS]
    assert plain[0] == plain[1]
    assert watched == plain


@pytest.mark.parametrize("name", FAULTS)
def test_a_failure_on_one_rank_keeps_no_rank_waiting(folder: Path, name: str) -> None:
    plain = outcome(folder, "plain", 0)
    for rank in RANKS:
        run = outcome(folder, name, rank)
        assert (run.num_steps, run.weights, run.raised) == (NUM_STEPS, plain.weights, None)


@pytest.mark.parametrize("name", FAULTS)
def test_the_failure_is_known_on_the_rank_where_it_happened(folder: Path, name: str) -> None:
    run = outcome(folder, name, int(name[-1]))
    assert any(
        "FaultError" in cause for counts in (*run.failures, run.shared_failures) for cause in counts
    )


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("stage", STAGES)
def test_the_other_monitors_go_on_beside_one_that_fails_on_one_rank(
    folder: Path, stage: str, rank: int
) -> None:
    for other in RANKS:
        run = outcome(folder, f"{stage} fails on {rank}", other)
        assert [len(kept["steps"]) for kept in run.histories[1:]] == [NUM_STEPS, NUM_STEPS]
        assert run.failures[1:] == [{}, {}]


def test_a_layer_that_one_rank_alone_calls_is_left_out_and_nothing_else(folder: Path) -> None:
    for rank in RANKS:
        run = outcome(folder, "routed", rank)
        assert [len(kept["steps"]) for kept in run.histories] == [NUM_STEPS, NUM_STEPS]
        assert run.failures == [{}, {}]
        totals = {layer for metric, layer in history(run, 1) if metric == "total"}
        assert totals == {"network.net.1", "network.net.3"}


def test_one_alert_is_written_once_and_known_to_both_ranks(folder: Path) -> None:
    written = read_alerts(folder / "alert" / "alerts.jsonl")
    assert [(a.kind, a.state, a.step) for a in written.alerts] == [
        ("non_finite", "firing", FAULT_STEP)
    ]
    assert written.num_torn == 0
    for rank in RANKS:
        assert outcome(folder, "alert", rank).alerts == [f"non_finite {FAULT_STEP}"]


def test_a_number_of_one_rank_alone_is_seen_on_both(folder: Path) -> None:
    # Only rank 1 is given NaN; the losses are merged.
    for rank in RANKS:
        losses = history(outcome(folder, "alert", rank))["loss", ""]
        assert [math.isnan(loss) for loss in losses] == [i >= FAULT_STEP for i in range(NUM_STEPS)]


def test_stop_ends_both_ranks_after_the_same_step(folder: Path) -> None:
    assert [outcome(folder, "stop", rank).num_steps for rank in RANKS] == [FAULT_STEP + 1] * 2


def test_an_alert_of_one_rank_alone_stops_both(folder: Path) -> None:
    runs = [outcome(folder, "stop on one rank", rank) for rank in RANKS]
    assert [run.num_steps for run in runs] == [2, 2]
    assert [len(run.alerts) for run in runs] == [0, 1]


def test_a_nan_of_one_rank_that_ends_the_run_before_the_next_look_is_told(folder: Path) -> None:
    runs = [outcome(folder, "ends early", rank) for rank in RANKS]
    assert [run.num_steps for run in runs] == [FAULT_STEP + 2] * 2
    assert [list(run.alerts) for run in runs] == [[f"non_finite_loss {FAULT_STEP + 1}"]] * 2
    assert [run.failures for run in runs] == [[{}]] * 2


@pytest.mark.parametrize("name", ["raise", "raise on one rank"])
def test_raise_ends_both_ranks(folder: Path, name: str) -> None:
    runs = [outcome(folder, name, rank) for rank in RANKS]
    assert [run.raised for run in runs] == ["AlertRaisedError"] * 2
    assert runs[0].num_steps == runs[1].num_steps


def test_a_function_is_called_with_the_alert_once_on_rank_0(folder: Path) -> None:
    assert [outcome(folder, "called", rank).called for rank in RANKS] == [1, 0]


@pytest.mark.parametrize("how", ["stops", "raises"])
def test_what_a_function_does_to_the_run_on_rank_0_is_done_on_both(folder: Path, how: str) -> None:
    runs = [outcome(folder, f"called and {how}", rank) for rank in RANKS]
    assert [run.called for run in runs] == [1, 0]
    assert [run.num_steps for run in runs] == [FAULT_STEP + 1] * 2
    assert [run.raised for run in runs] == [{"raises": "AlertRaisedError"}.get(how)] * 2


@pytest.mark.parametrize("action", ["stop", "raise"])
def test_two_ranks_agree_and_every_alert_is_told_before_one_kind_ends_the_run(
    folder: Path, action: str
) -> None:
    name = f"{action} by kind, amid a burst"
    outcomes = [outcome(folder, name, rank) for rank in RANKS]
    for one in outcomes:
        assert one.raised == ("AlertRaisedError" if action == "raise" else None)
        assert one.alerts == [f"non_finite {FAULT_STEP}", "found 3"]
        assert one.failures == [{}, {}]
    assert outcomes[0].num_steps == outcomes[1].num_steps == FAULT_STEP + 1
    assert outcomes[0].weights == outcomes[1].weights
    assert [one.called for one in outcomes] == [1, 0]  # by the function, on rank 0
    (path,) = (folder / name).rglob("alerts.jsonl")
    kinds = {alert.kind for alert in read_alerts(path).alerts if alert.severity != "info"}
    assert kinds == {"non_finite", "found"}
