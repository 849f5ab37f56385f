"""Roll calls of several ranks, each in a thread of its own, over one store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch.distributed as dist

from vis_callbacks.engine import roll_call as module
from vis_callbacks.engine.roll_call import Answer, RollCall

LONG_S, SHORT_S = 30.0, 0.1


@pytest.fixture(params=["hash", "tcp", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> dist.Store:
    makers: dict[str, Callable[[], dist.Store]] = {
        "hash": dist.HashStore,
        "tcp": lambda: dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False),
        "file": lambda: dist.FileStore(str(tmp_path / "store"), 3),
    }
    return makers[request.param]()


def one(store: dist.Store, rank: int, what: str = "a", *, num_ranks: int = 2) -> RollCall:
    call = RollCall(store, rank, num_ranks)
    call.announce(what)
    return call


def answers(*calls: RollCall, wait_s: float = LONG_S) -> list[Answer]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(lambda call: call.answer(wait_s), calls))


def test_ranks_with_the_same_are_together(store: dist.Store) -> None:
    calls = [one(store, rank, num_ranks=3) for rank in range(3)]
    assert answers(*calls) == [Answer(True, (0, 1, 2))] * 3


def test_ranks_that_differ_are_apart_and_nobody_waits(store: dist.Store) -> None:
    found = answers(one(store, 0), one(store, 1, "b"))
    assert found == [Answer(False, (0, 1))] * 2


def test_a_rank_that_never_comes_is_waited_for_no_longer_than_asked(store: dist.Store) -> None:
    assert answers(one(store, 1), wait_s=SHORT_S) == [Answer(False, (1,))]


def test_a_late_rank_is_waited_for(store: dist.Store) -> None:
    def late(rank: int) -> Answer:
        sleep(0.3 * rank)
        return one(store, rank).answer(LONG_S)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(late, range(2))) == [Answer(True, (0, 1))] * 2


def test_a_rank_that_comes_after_the_wait_is_apart_as_well(store: dist.Store) -> None:
    first, second = one(store, 0), one(store, 1)
    assert first.answer(LONG_S).is_together
    early = one(store, 0)
    assert not early.answer(SHORT_S).is_together
    late = one(store, 1)  # the call that it would have belonged to is closed
    assert not late.answer(SHORT_S).is_together
    assert second.answer(SHORT_S).is_together  # of the first call


def test_what_the_first_has_said_holds_for_one_that_sees_more(store: dist.Store) -> None:
    first, second = one(store, 0), one(store, 1, num_ranks=2)
    first._close("apart")  # it had given up before the second announced itself
    assert not second.answer(LONG_S).is_together


def test_calls_follow_each_other_whoever_took_part_in_the_one_before(store: dist.Store) -> None:
    assert not one(store, 0).answer(SHORT_S).is_together
    for _ in range(2):
        assert all(a.is_together for a in answers(one(store, 0), one(store, 1)))
    assert not one(store, 1).answer(SHORT_S).is_together
    assert all(a.is_together for a in answers(one(store, 1), one(store, 0)))


def test_a_run_that_was_announced_and_never_began_is_passed_over(store: dist.Store) -> None:
    for rank in (0, 1):
        one(store, rank)
    assert all(a.is_together for a in answers(one(store, 1), one(store, 0)))


def test_an_answer_is_asked_for_once(store: dist.Store) -> None:
    call = one(store, 0)
    assert call.answer(SHORT_S) is call.answer(LONG_S)


def test_a_wait_that_is_broken_off_closes_the_call(
    store: dist.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(seconds: float) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "sleep", interrupted)
    call = one(store, 0)
    with pytest.raises(KeyboardInterrupt):
        call.answer(LONG_S)
    assert not one(store, 1).answer(0).is_together


def test_without_a_group_of_that_size_there_is_no_call() -> None:
    assert RollCall.of_default_group(2) is None
