from __future__ import annotations

import enum
import io
from collections import Counter, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch

from vis_callbacks.observer import require_plain


class Kind(enum.StrEnum):
    A = "a"


PLAIN = [
    None,
    1,
    1.5,
    True,
    "a",
    b"a",
    [1, (2, {3})],
    {"a": {1: torch.zeros(2)}},
    torch.zeros(2, dtype=torch.bfloat16),
]
ODD = [
    np.float64(1.0),
    np.zeros(2),
    Kind.A,
    deque([1]),
    defaultdict(list),
    Counter("a"),
    Path("a"),
    torch.nn.Identity(),
]


@pytest.mark.parametrize("value", PLAIN, ids=str)
def test_what_is_called_plain_loads_with_weights_only(value):
    require_plain(value, "state()")
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    torch.load(file, weights_only=True)


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    ("wrap", "where"),
    [
        (lambda v: v, r"state\(\)"),
        (lambda v: {"a": [0, v]}, r"state\(\)\['a'\]\[1\]"),
        (lambda v: (0, {2: v}), r"state\(\)\[1\]\[2\]"),
    ],
)
def test_anything_else_is_refused_where_it_lies(value, wrap, where):
    with pytest.raises(TypeError, match=rf"^{where} is a .*{type(value).__name__}, with which"):
        require_plain(wrap(value), "state()")


def test_a_key_is_checked_as_well():
    with pytest.raises(TypeError, match=r"^a key of state\(\) is a numpy.float64"):
        require_plain({np.float64(1.0): 1}, "state()")
