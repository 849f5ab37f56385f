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
from vis_callbacks.engine.probe import Batch, Probe
from vis_callbacks.engine.ranks import (
    any_rank,
    gather,
    merge_two,
)
from vis_callbacks.engine.subscription import Subscription, merge_ranks
from vis_callbacks.guard import Guard

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
@settings(max_examples=20, deadline=None)
@given(first=ROWS, second=ROWS)
def test_merged_values_are_those_of_the_union(reduce, how, first, second):
    assert torch.equal(
        merge_two(reduce(first), reduce(second), how), reduce(torch.cat([first, second]))
    )


@EVERY_REDUCTION
@settings(max_examples=20, deadline=None)
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


# -- one rank


def test_without_other_ranks_values_come_back_as_they_are():
    value = torch.ones(3)
    assert gather({"a": value})[0]["a"] is value
    assert (any_rank(True), any_rank(False)) == (True, False)


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


MERGE = {"sum": "sum", "top": "max", "rows": "concat"}


def subscription(values, num_samples: int = 1, failure: str | None = None) -> Subscription:
    probe = Probe(name="p", reduce=lambda activation, batch: {}, merge=MERGE)
    made = Subscription(probe, guard=Guard("tester"), batch_of=lambda batch: NO_BATCH)
    made.values, made.num_samples, made.failure = values, num_samples, failure
    return made


NO_BATCH = Batch(inputs=None, labels=None, num_samples=0)


def merged(subscriptions, **shared):
    """Returns what one rank has after merging: of each subscription, and what is shared."""
    total = merge_ranks(subscriptions, shared)
    return [(s.values, s.num_samples, s.failure) for s in subscriptions], total


def merging(rank):
    b = {"sum": torch.tensor([1.0, 2.0]) + rank, "top": torch.tensor([rank, -rank])}
    a = {"rows": torch.full((2 + rank, 3), float(rank))}
    return merged([subscription({"b": b, "a": a}, 2 + rank)], loss=torch.tensor(1.0 + rank))


def merging_experts(rank):
    """Each rank has called one expert more, and misses a number that is shared."""
    one = {"sum": torch.ones(1)}
    shared = {"samples": torch.ones(1), f"of rank {rank}": torch.ones(1)}
    return merged([subscription({"fc": one, f"expert.{rank}": one})], **shared)


def merging_failed(rank):
    """The first has failed on rank 1, the second has other types, the third is well."""
    well, typed = (
        {"sum": torch.ones(1)},
        {"sum": torch.ones(1, dtype=(torch.int64, torch.int32)[rank])},
    )
    first = subscription({} if rank else {"fc": dict(well)}, failure="sick" if rank else None)
    return merged([first, subscription({"fc": typed}), subscription({"fc": dict(well)})])


def merging_unpackable(rank):
    value = torch.eye(2).to_sparse() if rank else torch.eye(2)
    return merged([subscription({"fc": {"sum": value}})], loss=torch.ones(1))


def types_and_odd_sizes(rank):
    values = {str(dtype): torch.ones(3 + rank, dtype=dtype) for dtype in DTYPES}
    values |= {"scalar": torch.tensor(rank), "empty": torch.zeros(rank * 2, 5)}
    return gather(values)


def other_names(rank):
    values = {"x": torch.tensor([1.0]), f"of rank {rank}": torch.ones(2), "y": torch.tensor([2.0])}
    return gather(dict(list(values.items())[:: 1 if rank else -1]))


def nothing_to_send(rank):
    return gather({})


def deciding(rank):
    return [any_rank(flag) for flag in (rank == 0, rank == 1, True, False)]


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
    "experts": merging_experts,
    "failed": merging_failed,
    "unpackable": merging_unpackable,
    "types": types_and_odd_sizes,
    "names": other_names,
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
    # A fork spares the imports; where there is a GPU, autograd may have threads by now.
    method = "spawn" if torch.cuda.is_available() else "fork"
    torch.multiprocessing.start_processes(work, (port, str(folder)), 2, start_method=method)
    both = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]
    return {name: [results[name] for results in both] for name in both[0]}


def test_two_ranks_get_one_result_in_the_order_of_ranks(by_rank):
    for [(values, num_samples, failure)], shared in by_rank["merging"]:
        assert values["b"]["sum"].tolist() == [3.0, 5.0]
        assert values["b"]["top"].tolist() == [1, 0]
        assert values["a"]["rows"][:, 0].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
        assert list(values) == ["b", "a"]
        assert (num_samples, failure) == (5, None)
        assert shared == {"loss": 3.0}


def test_what_one_rank_alone_has_takes_nothing_else_with_it(by_rank):
    for [(values, _, failure)], shared in by_rank["experts"]:
        assert values == {"fc": {"sum": 2.0}}
        assert failure is None
        assert shared == {"samples": 2.0}


def test_what_failed_on_one_rank_has_failed_on_both_and_nothing_else_has(by_rank):
    for rank, ([first, other_types, well], _) in enumerate(by_rank["failed"]):
        assert first[0] == other_types[0] == {}
        assert first[2] == ("sick" if rank else "merging over ranks: RanksError")
        assert other_types[2] == "merging over ranks: RanksError"
        assert (well[0], well[2]) == ({"fc": {"sum": 2.0}}, None)


def test_values_that_cannot_be_sent_hold_nobody_up(by_rank):
    for [(values, _, failure)], shared in by_rank["unpackable"]:
        assert values == shared == {}
        assert failure == "merging over ranks: RanksError"


def test_every_type_and_unequal_sizes_arrive_whole(by_rank):
    for parts in by_rank["types"]:
        assert len(parts) == 2
        for rank, part in enumerate(parts):
            assert part["scalar"].item() == rank
            assert part["empty"].shape == (rank * 2, 5)
            for dtype in DTYPES:
                assert part[str(dtype)].dtype == dtype
                assert torch.equal(part[str(dtype)], torch.ones(3 + rank, dtype=dtype))


def test_the_names_that_all_ranks_have_are_exchanged_in_any_order(by_rank):
    assert by_rank["names"] == [[{"x": 1.0, "y": 2.0}] * 2] * 2


def test_two_ranks_with_nothing_to_send_are_well(by_rank):
    assert by_rank["nothing"] == [[{}, {}]] * 2


def test_decisions_are_the_same_on_both_ranks(by_rank):
    assert by_rank["deciding"] == [[True, True, True, False]] * 2


def test_an_extra_pass_of_one_rank_holds_up_no_ddp_step(by_rank):
    first, second = by_rank["ddp"]
    assert torch.equal(first, second)
