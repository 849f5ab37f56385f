from __future__ import annotations

import random
import threading
from collections import UserDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from tests.identity import assert_identical, digest, fingerprint
from torch import nn

from vis_callbacks.engine.user_functions import harmless, own_copy


@dataclass
class Batch:
    x: torch.Tensor
    more: dict[str, Any]


def batch(extra: Any = None) -> Batch:
    return Batch(torch.arange(6.0).reshape(3, 2), {"y": torch.arange(3), "extra": extra})


def misuse(given: Batch) -> torch.Tensor:
    """Does to a batch, and to the random streams, what it should not."""
    given.x.mul_(2).add_(torch.randn(3, 2) + np.random.random() + random.random())
    given.x.numpy()[0] = 7
    given.more.pop("y")
    given.more["z"] = 1
    return given.x


def test_a_function_may_write_into_what_it_is_given_and_draw_random_numbers():
    given, before = batch(), fingerprint(nn.Identity())
    result = harmless(misuse)(given)
    assert digest(given) == digest(batch())
    assert_identical(before, fingerprint(nn.Identity()))
    torch.manual_seed(torch.initial_seed())
    assert (result[0] == 7).all()  # what it has computed
    assert (result[1:] != given.x[1:]).all()


def test_what_a_function_keeps_is_not_the_steps_own():
    kept = []
    given = batch()
    harmless(kept.append)(given)
    kept[0].x.zero_()
    assert digest(given) == digest(batch())


def test_a_batch_that_cannot_be_copied_is_put_back():
    def misuse_by_torch(given: Batch) -> torch.Tensor:
        given.more.pop("y").add_(1)
        return given.x.mul_(2)

    given = batch(threading.Lock())
    with pytest.raises(TypeError, match="lock"):
        own_copy(given)
    result = harmless(misuse_by_torch)(given)
    assert torch.equal(given.x, batch().x)
    assert torch.equal(given.more["y"], batch().more["y"])
    assert torch.equal(result, 2 * batch().x)
    assert given.x._version == 0


def test_an_error_of_the_function_comes_out_and_the_streams_come_back():
    def fail(given: Batch) -> None:
        misuse(given)
        raise KeyError("image")

    before, given = fingerprint(nn.Identity()), batch()
    with pytest.raises(KeyError, match="image"):
        harmless(fail)(given)
    assert_identical(before, fingerprint(nn.Identity()))
    assert digest(given) == digest(batch())


def test_no_function_stays_no_function():
    assert harmless(None) is None


def test_tensors_in_a_graph_and_parts_that_are_shared_are_copied_as_they_are():
    x = torch.ones(2, requires_grad=True)
    inside = UserDict(a=x * 2, b=[x, x])
    copied = own_copy(inside)
    assert copied["b"][0] is copied["b"][1]
    assert copied["b"][0].requires_grad
    assert copied["a"].is_leaf
    assert copied["a"].data_ptr() != inside["a"].data_ptr()
    assert type(copied) is UserDict


def test_a_batch_of_inference_mode_is_copied():
    with torch.inference_mode():
        given = batch()
        assert torch.equal(harmless(lambda b: b.x.add_(1))(given), given.x + 1)
