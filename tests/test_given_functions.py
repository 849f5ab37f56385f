from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from tests.contracts.dummies import ActivationsDummy
from tests.tiny import NUM_STEPS, tiny_fit

from vis_callbacks import given_functions
from vis_callbacks.given_functions import GivenFunctionError


def test_a_failure_of_our_own_pass_is_not_blamed_on_the_users_function(tmp_path, monkeypatch):
    @contextmanager
    def failing(*args, **kwargs):
        raise RuntimeError("ours")
        yield

    monkeypatch.setattr(given_functions, "isolated", failing)
    monitor = ActivationsDummy(forward_fn=lambda model, inputs: model(inputs))
    assert tiny_fit(tmp_path, [monitor]).global_step == NUM_STEPS


def test_what_the_users_function_raises_ends_the_run_with_what_to_write(tmp_path):
    def wrong(model, inputs):
        raise KeyError("pixels")

    with pytest.raises(GivenFunctionError, match=r"forward_fn raised KeyError.* Write forward_fn="):
        tiny_fit(tmp_path, [ActivationsDummy(forward_fn=wrong)])


def test_a_function_that_is_tried_moves_no_random_stream(tmp_path):
    def careless(batch):
        torch.rand(1)
        batch[0].zero_()
        return batch[0]

    weights = []
    for monitors in ([], [ActivationsDummy(input_fn=careless)]):
        module = tiny_fit(tmp_path, monitors).lightning_module
        weights.append(torch.cat([p.flatten() for p in module.parameters()]))
    assert torch.equal(*weights)
