from __future__ import annotations

import torch
from torch import nn

from vis_callbacks.engine.layers import (
    matches,
    module_names,
    nearest,
    no_such_layer,
    nth_call,
    strip_compiled,
)


def test_the_root_is_named_after_its_class_and_never_collides():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.Net = nn.ReLU()

    assert module_names(Net()) == ["Net_", "Net"]


def test_what_torch_compile_adds_to_names_is_taken_off():
    model = nn.Sequential(torch.compile(nn.Sequential(nn.Linear(2, 2)), backend="eager"))
    assert "0.0" in module_names(model)
    assert strip_compiled("_orig_mod") == ""
    assert strip_compiled("a._orig_mod.b") == "a.b"


def test_the_first_call_has_the_bare_name():
    assert [nth_call("relu", call) for call in range(3)] == ["relu", "relu-1", "relu-2"]


def test_a_name_with_brackets_matches_itself():
    assert matches("layer[0]", ["layer[0]"])


def test_an_unknown_glob_is_told_with_what_comes_nearest_and_what_to_write():
    assert no_such_layer("fc*", ["conv1", "head.fc"]).startswith(
        'layers="fc*" matches none of the model\'s 2 layers; nearest: "head.fc". Use "head.fc"'
    )


def test_a_glob_with_nothing_near_points_to_the_summary():
    assert "summary(model, inputs) lists them" in no_such_layer("zzz", ["conv1"])


def test_names_that_hold_what_was_written_come_before_those_that_only_look_like_it():
    assert nearest("relu", ["layer.relu", "rely"])[0] == "layer.relu"
