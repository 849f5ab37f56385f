from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch
from tests.moving_state import DETECTED, NUM_FEATURES, PUT_BACK
from tests.tiny import tiny_trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from vis_callbacks import OcclusionMonitor
from vis_callbacks.engine import reached_state, state_watch
from vis_callbacks.engine.isolation import call_resolved, isolated
from vis_callbacks.engine.state_watch import ExtraPassRefused, StateWatch

X = torch.linspace(-1, 1, 6 * NUM_FEATURES).reshape(6, NUM_FEATURES)


def scores_of_a_run(make, *, passes: bool, watch=None) -> list[torch.Tensor]:
    """Trains for a few steps; the passes come where the graph of a step is alive, and after it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    scores = []
    for _ in range(8):
        inputs = torch.randn(5, NUM_FEATURES)
        out = model(inputs)
        scores.append(out.detach().clone())
        assert out.isfinite().all()
        if passes:
            with isolated(model, training=True, grad=False, watch=watch) as forward:
                forward.run(inputs)
        optimizer.zero_grad()
        out.square().mean().backward()
        optimizer.step()
        scores.append(inputs)
        if passes:
            with isolated(model, watch=watch) as forward:
                x = X.clone().requires_grad_()
                torch.autograd.grad(forward(x, chunk=4).sum(), x)
    return scores


@pytest.mark.parametrize("make", PUT_BACK.values(), ids=PUT_BACK.keys())
def test_passes_between_leave_a_forward_that_changes_state_as_it_was(make, caplog):
    plain = scores_of_a_run(make, passes=False)
    assert all(map(torch.equal, plain, scores_of_a_run(make, passes=False)))
    watch = StateWatch()
    watched = scores_of_a_run(make, passes=True, watch=watch)
    assert all(map(torch.equal, plain, watched))
    assert not caplog.records
    watch.require_harmless()


@pytest.mark.parametrize(("make", "name"), DETECTED.values(), ids=DETECTED.keys())
def test_what_cannot_be_put_back_is_named_once_and_ends_the_extra_passes(make, name, caplog):
    model, watch = make(), StateWatch()
    with isolated(model, watch=watch) as forward:
        forward(X)  # what it finds in the first pass is worth as much as ever
    for _ in range(2):
        with pytest.raises(ExtraPassRefused, match=re.escape(name)), isolated(model, watch=watch):
            pass
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"forward changes {name}, and" in caplog.text


def test_the_rest_is_put_back_beside_what_cannot_be():
    class Both(PUT_BACK["Objects"]):
        def begin(self):
            super().begin()
            self.numbers = iter([1, 2, 3])

        def move(self, hidden):
            return super().move(hidden) + next(self.numbers)

    model, watch = Both(), StateWatch()
    with isolated(model, watch=watch) as forward:
        forward(X)
    assert model.progress.calls == model.slotted.calls == 0
    assert next(model.numbers) == 2
    with pytest.raises(ExtraPassRefused, match="changes numbers,"):
        watch.require_harmless()


def test_a_write_that_no_copy_was_made_of_is_found_at_any_pass():
    """As by an operation whose schema says nothing of it."""
    model, watch = nn.Linear(2, 2), StateWatch()
    for _ in range(2):
        with isolated(model, watch=watch) as forward:
            forward(torch.ones(1, 2))

    def forward_fn(module, inputs):
        with torch.utils._python_dispatch._disable_current_modes(), torch.no_grad():
            module.weight.add_(1)
        return module(inputs)

    with isolated(model, forward=call_resolved, watch=watch) as forward:
        forward_fn(model, torch.ones(1, 2))
    with pytest.raises(ExtraPassRefused, match="changes weight,"):
        watch.require_harmless()


def test_each_kind_of_pass_is_compared_once(monkeypatch):
    sums = []
    checksum = state_watch._checksum
    monkeypatch.setattr(state_watch, "_checksum", lambda x: sums.append(1) or checksum(x))
    model, watch, compared = nn.Linear(2, 2), StateWatch(), []
    for training, grad in [(False, False), (False, False), (True, False), (False, True), (True, 0)]:
        with isolated(model, training=training, grad=bool(grad), watch=watch):
            pass
        compared.append(len(sums))
        sums.clear()
    assert compared == [4, 0, 4, 4, 0]  # two tensors, before and after


def test_more_objects_than_are_looked_at_are_said_once(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(reached_state.ReachedState.__init__, "__defaults__", (100, None))
    model, watch = nn.Linear(2, 2), StateWatch()
    model.samples = [[i] for i in range(1000)]
    for _ in range(2):
        with isolated(model, watch=watch) as forward:
            forward(torch.ones(1, 2))
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "beyond samples[" in caplog.text


def test_a_copy_is_made_of_nothing_but_what_is_written_to():
    model = PUT_BACK["MomentumEncoder"]()
    with isolated(model, training=True) as forward:
        forward(X)
        saved = [storage.data_ptr() for storage, _ in forward._kept.writes._saved.values()]
    assert saved == [p.data_ptr() for p in model.key.parameters()]


def test_scores_that_lie_in_the_models_own_memory_outlive_the_pass():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = torch.zeros(1, 3)

        def forward(self, x):
            return self.out.copy_(x)

    model, x = InPlace(), torch.tensor([[1.0, 2.0, 3.0]])
    with isolated(model) as forward:
        scores = forward(x)
    assert torch.equal(scores, x)
    assert not model.out.any()


def test_the_users_backward_does_not_see_that_a_saved_weight_was_written_to():
    class Drifting(nn.Linear):
        def forward(self, x):
            with torch.no_grad():
                self.weight.mul_(0.5)
            return super().forward(x)

    model = Drifting(3, 2)
    x = torch.randn(4, 3, requires_grad=True)
    loss = model(x).sum()
    weight, version = model.weight.detach().clone(), model.weight._version
    with isolated(model) as forward:
        forward(x.detach())
    assert model.weight._version == version
    loss.backward()
    assert torch.equal(x.grad, weight.sum(0).expand(4, 3))


def test_a_tensor_that_enters_a_graph_leaves_it_again():
    class Adding(nn.Linear):
        def forward(self, x):
            self.total.add_(super().forward(x).sum())
            return self.total.expand(len(x), 2)

    model = Adding(3, 2)
    model.total = total = torch.zeros(())
    with isolated(model) as forward:
        forward(torch.ones(1, 3))
    assert model.total is total
    assert total.is_leaf
    assert total._version == 0
    assert total == 0


@pytest.mark.parametrize("kind", ["Trainer", "data set", "loader", "monitor"])
def test_the_program_around_the_model_is_not_looked_into(kind, tmp_path):
    program = {
        "Trainer": lambda: tiny_trainer(tmp_path),
        "data set": lambda: TensorDataset(torch.zeros(3)),
        "loader": lambda: DataLoader([1]),
        "monitor": lambda: OcclusionMonitor(),
    }[kind]()
    program.of_mine = {"seen": []}
    model = nn.Linear(2, 2)
    model.around = [program]
    state = reached_state.ReachedState(reached_state.modules_by_name(model))
    assert not any(kept.owner is program.of_mine for kept in state.kept)


def test_a_storage_with_any_one_element_changed_has_another_checksum():
    for num_bytes in (1, 3, 8, 1021 * 8, 1021 * 8 * 3 + 77):
        values = torch.zeros(num_bytes, dtype=torch.uint8)
        before = state_watch._checksum(values.untyped_storage())
        for place in {*range(0, num_bytes, 101), *range(max(0, num_bytes - 80), num_bytes)}:
            values[place] = 1
            assert state_watch._checksum(values.untyped_storage()) != before
            values[place] = 0
        assert state_watch._checksum(values.untyped_storage()) == before
