from __future__ import annotations

from collections import UserDict
from types import SimpleNamespace

import pytest
import torch

from vis_callbacks.engine.batch_parts import guessed_size, tensors_in

FOUR, TWO = torch.zeros(4, 3), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (FOUR, 4),
        ((FOUR, torch.zeros(4)), 4),
        ({"x": [FOUR, {"y": torch.zeros(4)}], "edges": TWO}, 4),
        (UserDict(x=FOUR), 4),
        (SimpleNamespace(x=FOUR, name="a batch"), 4),
        ((FOUR.to_sparse(), torch.tensor(1.0)), 4),
        ((TWO, FOUR), 2),
        ("words", 0),
        (None, 0),
    ],
)
def test_the_size_is_the_length_that_most_tensors_have(batch, size):
    assert guessed_size(batch) == size


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_has_a_size():
    assert guessed_size([torch.nested.nested_tensor([torch.zeros(3), torch.zeros(5)])]) == 2


def test_what_is_very_deep_is_not_looked_into():
    batch: list[object] = [FOUR]
    for _ in range(10):
        batch = [batch]
    assert list(tensors_in(batch)) == []
