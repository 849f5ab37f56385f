from __future__ import annotations

import pytest
import torch
from torch import nn

from vis_callbacks.engine.capture import CapturedActivation
from vis_callbacks.engine.layers import LayerNames
from vis_callbacks.engine.nonlinearities import RELU


def seen(name: str, num_units: int, site: str = "output") -> CapturedActivation:
    values = torch.zeros(2, num_units)
    return CapturedActivation(name, site, values, None, RELU, nn.ReLU(), None, values)


def names_of(batches: list[list[tuple[str, int]]]) -> list[list[str]]:
    """Returns the names that the calls of each batch get."""
    names, found = LayerNames(), []
    for calls in batches:
        names.start_occasion()
        found.append([names.note(seen(*call)) for call in calls])
    return found


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        # The same in each batch.
        ([[("a", 3)], [("a", 3)]], [["a"], ["a"]]),
        # Two layers of one name in one batch.
        ([[("a", 3), ("a", 5)]] * 2, [["a", "a-1"]] * 2),
        # Sequences of several lengths in one evaluation.
        ([[("a", 10), ("a", 12), ("a", 10), ("a", 13)]], [["a", "a-1", "a", "a-2"]]),
        # A layer that grows, and two of which one grows.
        ([[("a", 3)], [("a", 4)], [("a", 5)]], [["a"], ["a"], ["a"]]),
        ([[("a", 3), ("a", 5)], [("a", 3), ("a", 6)]], [["a", "a-1"]] * 2),
        ([[("a", 3), ("a", 5)], [("a", 4), ("a", 5)]], [["a", "a-1"]] * 2),
        # Heads that take turns are told apart once the first has come back.
        ([[("a", 3)], [("a", 5)], [("a", 3)], [("a", 5)]], [["a"], ["a"], ["a-1"], ["a"]]),
        # The name that is made is one that a capture gives as well.
        ([[("a", 3), ("a-1", 3), ("a", 5)]], [["a", "a-1", "a-2"]]),
    ],
)
def test_each_layer_keeps_its_name(batches, expected):
    assert names_of(batches) == expected


def test_what_goes_into_a_module_takes_no_name_away_from_what_comes_out():
    names = LayerNames()
    names.start_occasion()
    assert names.note(seen("fc", 32, "input")) == "fc"
    assert names.note(seen("fc", 4)) == "fc"
    assert {name: info.num_units for name, info in names.trace.items()} == {"fc": 4}


def test_the_trace_knows_how_large_a_layer_has_grown():
    names = LayerNames()
    for num_units in (3, 4):
        names.start_occasion()
        names.note(seen("a", num_units))
    assert [(info.name, info.num_units) for info in names.trace.values()] == [("a", 4)]
