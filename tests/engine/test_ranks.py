from __future__ import annotations

import functools
import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.ranks import (
    RanksError,
    all_agree,
    any_rank,
    gather,
    merge_named,
    merge_over_ranks,
    merge_two,
)

TIMEOUT = timedelta(seconds=120)  # a busy machine must not reach it

# -- merging two values

# Whole numbers in float64 add up exactly in any order, so equality is exact.
ROWS = st.lists(
    st.lists(st.integers(-1000, 1000).map(float), min_size=3, max_size=3), min_size=1, max_size=5
).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


def largest_by_size(old, new):
    """A top-1 by absolute value, as a user might write."""
    return torch.where(new.abs() > old.abs(), new, old)


# Each reduces samples (rows) to a value, and says how two such values become one.
REDUCTIONS = {
    "sum": (lambda rows: rows.sum(0), "sum"),
    "max": (lambda rows: rows.amax(0), "max"),
    "min": (lambda rows: rows.amin(0), "min"),
    "concat": (lambda rows: rows, "concat"),
    "a function": (
        lambda rows: functools.reduce(largest_by_size, rows),
        largest_by_size,
    ),
}
EVERY_REDUCTION = pytest.mark.parametrize(
    ("reduce", "how"), REDUCTIONS.values(), ids=REDUCTIONS.keys()
)


@EVERY_REDUCTION
@settings(max_examples=50, deadline=None)
@given(first=ROWS, second=ROWS)
def test_merged_values_are_those_of_the_union(reduce, how, first, second):
    assert torch.equal(
        merge_two(reduce(first), reduce(second), how), reduce(torch.cat([first, second]))
    )


@EVERY_REDUCTION
@settings(max_examples=50, deadline=None)
@given(first=ROWS, second=ROWS, third=ROWS)
def test_merging_is_associative(reduce, how, first, second, third):
    a, b, c = reduce(first), reduce(second), reduce(third)
    left = merge_two(merge_two(a, b, how), c, how)
    right = merge_two(a, merge_two(b, c, how), how)
    assert torch.equal(left, right)


@pytest.mark.parametrize("how", ["max", "min"])
def test_nan_wins_over_numbers(how):
    merged = merge_two(torch.tensor([1.0, float("nan")]), torch.tensor([float("nan"), 2.0]), how)
    assert merged.isnan().all()


@pytest.mark.parametrize("how", ["sum", "max", "min"])
def test_shapes_that_would_be_broadcast_are_refused(how):
    with pytest.raises(ValueError, match=rf'merge="{how}" got \(1,\) and \(5,\)'):
        merge_two(torch.zeros(1), torch.zeros(5), how)


def test_concat_of_scalars_is_refused():
    with pytest.raises(ValueError, match=r"Return at least one axis"):
        merge_two(torch.tensor(1.0), torch.tensor(2.0), "concat")


def test_concat_of_other_widths_is_refused():
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(1, 3\)"):
        merge_two(torch.zeros(1, 2), torch.zeros(1, 3), "concat")


def test_a_sum_of_bools_is_refused():
    with pytest.raises(TypeError, match=r"lose counts"):
        merge_two(torch.tensor([True]), torch.tensor([True]), "sum")


def test_an_unknown_way_to_merge_is_refused():
    with pytest.raises(ValueError, match=r"merge='mean' is unknown"):
        merge_two(torch.zeros(1), torch.zeros(1), "mean")


def test_named_values_are_merged_each_in_its_way():
    merged = merge_named(
        {"n": torch.tensor(2), "top": torch.tensor(5)},
        {"n": torch.tensor(3), "top": torch.tensor(4)},
        {"n": "sum", "top": "max"},
    )
    assert {name: value.item() for name, value in merged.items()} == {"n": 5, "top": 5}


def test_named_values_that_are_not_the_same_are_refused():
    with pytest.raises(ValueError, match=r"only one of the two has b"):
        merge_named({"a": torch.zeros(1)}, {"a": torch.zeros(1), "b": torch.zeros(1)}, {"a": "sum"})


# -- one rank


def test_without_other_ranks_values_come_back_as_they_are():
    value = torch.ones(3)
    gathered = gather(None, {"a": value})
    assert gathered.values[0]["a"] is value
    assert gathered.problem is None


def test_without_other_ranks_a_failure_is_told():
    assert gather("reading: ValueError", {}).problem == "rank 0: reading: ValueError"
    with pytest.raises(RanksError, match=r"nothing is merged.*rank 0: reading: ValueError"):
        merge_over_ranks({}, {}, status="reading: ValueError")


def test_without_other_ranks_merging_changes_nothing():
    value = torch.ones(3)
    assert merge_over_ranks({"fc": {"sum": value}}, {"sum": "sum"})["fc"]["sum"] is value


def test_without_other_ranks_each_is_agreed_with_itself():
    assert (all_agree(True), all_agree(False), any_rank(True), any_rank(False)) == (
        True,
        False,
        True,
        False,
    )


# -- two ranks: all that two processes do is done once, the tests look at what they have left

DTYPES = (
    torch.float32,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.bool,
    torch.uint8,
    torch.complex128,
)


def merging(rank):
    values = {
        "b": {"sum": torch.tensor([1.0, 2.0]) + rank, "top": torch.tensor([rank, -rank])},
        "a": {"rows": torch.full((2 + rank, 3), float(rank))},
    }
    return merge_over_ranks(values, {"sum": "sum", "top": "max", "rows": "concat"})


def types_and_odd_sizes(rank):
    values = {str(dtype): torch.ones(3 + rank, dtype=dtype) for dtype in DTYPES}
    values |= {"scalar": torch.tensor(rank), "empty": torch.zeros(rank * 2, 5)}
    return [dict(part) for part in gather(None, values).values]


def other_order(rank):
    values = {"x": torch.tensor([1.0]), "y": torch.tensor([2.0, 3.0])}
    items = list(values.items())
    part = gather(None, dict(items if rank else items[::-1])).values
    return [dict(p) for p in part]


def failing(rank, failed):
    return gather("reading: ValueError: é" * 20 if rank == failed else None, {"a": torch.ones(2)})


def failing_and_merging(rank):
    try:
        merge_over_ranks(
            {"fc": {"a": torch.ones(2)}}, {"a": "sum"}, status="sick" if rank else None
        )
    except RanksError as error:
        return str(error)
    return None


def unpackable(rank):
    value = torch.eye(2).to_sparse() if rank else torch.eye(2)
    return gather(None, {"a": value})


def disagreeing(rank):
    return gather(None, {"a": torch.ones(2, dtype=torch.float64 if rank else torch.float32)})


def other_layers(rank):
    return gather(None, {f"layer {rank}": torch.ones(2)})


def nothing_to_send(rank):
    return gather(None, {})


def deciding(rank):
    return [(all_agree(first), any_rank(first)) for first in (rank == 0, rank == 1, True, False)]


def isolated_on_one_rank(rank):
    """An extra pass of one rank between forward and backward of a DDP step."""
    torch.manual_seed(0)
    wrapped = nn.parallel.DistributedDataParallel(
        nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    )
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(rank))
    for _ in range(3):
        loss = wrapped(x).square().sum()
        if rank == 0:
            with isolated(wrapped) as forward:
                inputs = x.clone().requires_grad_()
                torch.autograd.grad(forward(inputs).sum(), inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return wrapped.module[0].weight.detach()


SCENARIOS = {
    "merging": merging,
    "types": types_and_odd_sizes,
    "order": other_order,
    "failing 0": functools.partial(failing, failed=0),
    "failing 1": functools.partial(failing, failed=1),
    "failing and merging": failing_and_merging,
    "unpackable": unpackable,
    "disagreeing": disagreeing,
    "other layers": other_layers,
    "nothing": nothing_to_send,
    "deciding": deciding,
    "ddp": isolated_on_one_rank,
}


def work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=TIMEOUT)
    results = {name: scenario(rank) for name, scenario in SCENARIOS.items()}
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory):
    """What each scenario returned on the two ranks; a rank that is kept waiting dies instead."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (port, str(folder)), nprocs=2)
    both = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    return {name: [results[name] for results in both] for name in both[0]}


def test_two_ranks_get_one_result_in_the_order_of_ranks(by_rank):
    for merged in by_rank["merging"]:
        assert merged["b"]["sum"].tolist() == [3.0, 5.0]
        assert merged["b"]["top"].tolist() == [1, 0]
        assert merged["a"]["rows"][:, 0].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
        assert list(merged) == ["b", "a"]


def test_every_type_and_unequal_sizes_arrive_whole(by_rank):
    for parts in by_rank["types"]:
        assert len(parts) == 2
        for rank, part in enumerate(parts):
            assert part["scalar"].item() == rank
            assert part["empty"].shape == (rank * 2, 5)
            for dtype in DTYPES:
                assert part[str(dtype)].dtype == dtype
                assert torch.equal(part[str(dtype)], torch.ones(3 + rank, dtype=dtype))


def test_the_order_of_names_does_not_matter(by_rank):
    for parts in by_rank["order"]:
        assert len(parts) == 2
        for part in parts:
            assert {name: value.tolist() for name, value in part.items()} == {
                "x": [1.0],
                "y": [2.0, 3.0],
            }


@pytest.mark.parametrize("failed", [0, 1])
def test_a_failed_rank_is_named_on_both_and_holds_nobody_up(by_rank, failed):
    for gathered in by_rank[f"failing {failed}"]:
        assert gathered.values == ()
        assert gathered.problem.startswith(f"rank {failed}: reading: ValueError: é")
        assert gathered.statuses[1 - failed] is None


def test_both_ranks_give_up_merging_for_the_same_reason(by_rank):
    assert (
        by_rank["failing and merging"] == ["nothing is merged at this snapshot: rank 1: sick"] * 2
    )


def test_values_that_cannot_be_sent_are_a_failure_of_their_rank(by_rank):
    for gathered in by_rank["unpackable"]:
        assert gathered.problem.startswith("rank 1: packing the values: RuntimeError")


@pytest.mark.parametrize("scenario", ["disagreeing", "other layers"])
def test_ranks_that_have_read_different_things_get_nothing(by_rank, scenario):
    for gathered in by_rank[scenario]:
        assert gathered.values == ()
        assert "different" in gathered.problem


def test_two_ranks_with_nothing_to_send_are_well(by_rank):
    for gathered in by_rank["nothing"]:
        assert gathered.problem is None
        assert gathered.values == ({}, {})


def test_decisions_are_the_same_on_both_ranks(by_rank):
    expected = [(False, True), (False, True), (True, True), (False, False)]
    assert by_rank["deciding"] == [expected, expected]


def test_an_extra_pass_of_one_rank_holds_up_no_ddp_step(by_rank):
    first, second = by_rank["ddp"]
    assert torch.equal(first, second)
