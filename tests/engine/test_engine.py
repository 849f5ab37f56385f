from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack

from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.probe import Batch, Probe
from vis_callbacks.guard import Guard


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).mean((2, 3))
        return self.fc(x).relu()


def batch_of(batch: Tensor) -> Batch:
    return Batch(inputs=batch, labels=None, num_samples=len(batch))


def positives(activation, batch):
    return {
        "positive": (activation.values > 0).sum((0, 2)),
        "samples": torch.tensor(batch.num_samples),
    }


def probe(**options) -> Probe:
    defaults = {"name": "p", "reduce": positives, "merge": {"positive": "sum", "samples": "sum"}}
    return Probe(**{**defaults, **options})


def subscribe(engine: Engine, **options):
    return engine.subscribe(probe(**options), guard=Guard("tester"), batch_of=batch_of)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def read(engine: Engine, due, *batches: Tensor, live: bool = True) -> None:
    engine.begin(due, live=live)
    for batch in batches:
        engine.start_batch(batch)
        if live:
            engine.model(batch)
        else:
            engine.read_isolated(training=True)
        engine.count_batch()
    engine.end_capture()


def test_a_live_capture_and_an_extra_pass_read_the_same(net, x):
    engine = Engine(net)
    subscription = subscribe(engine)
    read(engine, [subscription], x)
    live = subscription.values
    read(engine, [subscription], x, live=False)
    assert list(live) == ["Net/relu", "Net/relu-1"]
    assert live["Net/relu"]["positive"].sum() > 0
    for layer, values in live.items():
        assert torch.equal(values["positive"], subscription.values[layer]["positive"])


def test_micro_batches_merge_to_the_values_of_the_whole_batch(net, x):
    engine = Engine(net)
    subscription = subscribe(engine)
    read(engine, [subscription], x)
    whole = subscription.values
    read(engine, [subscription], x[:2], x[2:])
    assert subscription.num_samples == 5
    assert torch.equal(whole["Net/relu"]["positive"], subscription.values["Net/relu"]["positive"])


def test_an_activation_is_reduced_once_for_all_who_ask_for_the_same(net, x):
    calls = []

    def counting(activation, batch):
        calls.append(activation.layer)
        return positives(activation, batch)

    engine = Engine(net)
    due = [subscribe(engine, reduce=counting) for _ in range(3)]
    read(engine, due, x)
    assert calls == ["Net/relu", "Net/relu-1"]
    assert all(s.values["Net/relu"] for s in due)


def test_the_layers_of_the_trace_come_in_the_order_of_the_forward_pass(net, x):
    engine = Engine(net)
    read(engine, [subscribe(engine)], x, live=False)
    assert [(i.name, i.num_units, i.weight_name, i.touches_input) for i in engine.trace] == [
        ("Net/relu", 4, "conv.weight", True),
        ("Net/relu-1", 6, "fc.weight", False),
    ]


def test_a_probe_of_one_layer_reads_no_other(net, x):
    engine = Engine(net)
    subscription = subscribe(engine, layers=["*relu-1"])
    read(engine, [subscription], x)
    assert list(subscription.values) == ["Net/relu-1"]


def test_the_input_of_a_named_module_can_be_read(net, x):
    engine = Engine(net)
    subscription = subscribe(engine, layers=["fc"], site="input")
    read(engine, [subscription], x)
    assert subscription.values["fc"]["positive"].shape == (4,)


@pytest.mark.parametrize("usual", [torch.bfloat16, torch.float64])
def test_what_a_reduction_makes_is_float32_whatever_the_users_pass_makes(net, x, usual):
    """Lightning's precision "bf16-true" changes the type of new tensors for the training step."""

    def count(activation, batch):
        return {"count": torch.zeros(()) + 257}

    engine = Engine(net.to(usual))
    subscription = subscribe(engine, reduce=count, merge={"count": "sum"})
    torch.set_default_dtype(usual)
    try:
        read(engine, [subscription], x.to(usual))
        assert torch.get_default_dtype() == usual
    finally:
        torch.set_default_dtype(torch.float32)
    count_read = subscription.values["Net/relu"]["count"]
    assert count_read == 257
    assert count_read.dtype == torch.float32


@pytest.mark.contained
def test_a_failing_reduction_fails_its_own_subscription_only(net, x):
    def failing(activation, batch):
        raise RuntimeError("ours")

    engine = Engine(net)
    bad, good = subscribe(engine, reduce=failing), subscribe(engine)
    read(engine, [bad, good], x)
    assert bad.failure == "reading activations: RuntimeError"
    assert bad.guard.counts.total() == 1
    assert list(good.values) == ["Net/relu", "Net/relu-1"]


@pytest.mark.contained
def test_a_glob_that_no_layer_answers_to_is_reported_once_with_near_names(net, x, caplog):
    engine = Engine(net)
    subscription = subscribe(engine, layers=["relu"])
    with caplog.at_level(logging.WARNING, "vis_callbacks"):
        for _ in range(2):
            read(engine, [subscription], x)
            engine.check_names([subscription])
    assert 'layers="relu" matches none' in caplog.text
    assert '"Net/relu"' in caplog.text
    assert subscription.guard.counts.total() == 1


def test_calls_of_training_step_that_share_a_name_are_told_apart_by_their_units():
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.Linear(3, 4))
            self.b = nn.Sequential(nn.Linear(4, 2))
            self.act = nn.Sequential(nn.ReLU())

        def training_step(self, x: Tensor) -> Tensor:
            return self.act(self.b(self.act(self.a(x))))

    loop = Loop()
    engine = Engine(loop)
    subscription = subscribe(engine)
    engine.begin([subscription], live=True)
    engine.start_batch(torch.randn(5, 3))
    loop.training_step(torch.randn(5, 3))
    engine.end_capture()
    assert {k: len(v["positive"]) for k, v in subscription.values.items()} == {
        "act.0": 4,
        "act.0-1": 2,
    }


@pytest.mark.parametrize("was_compiled", [False, True])
def test_a_compiled_run_is_never_read_live(net, monkeypatch, was_compiled):
    monkeypatch.setattr("vis_callbacks.engine.engine._was_compiled", lambda: was_compiled)
    assert Engine(net).can_read_live is not was_compiled


def test_layers_are_read_for_other_inputs_with_the_units_second():
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU())
    values = Engine(model).read_layers(["1"], torch.randn(2, 7, 4), lambda m, i: m(i))
    assert values["1"].shape == (2, 6, 7)


class Modules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.ReLU())

    def forward(self, x):
        return self.layers(x)


def test_within_a_burst_only_what_the_whole_capture_has_seen_is_hooked():
    model, x = Modules().eval(), torch.randn(3, 4)
    engine = Engine(model)
    subscription = subscribe(engine)
    found, counted = [], []
    for in_burst in (True, True, False, True):  # nothing is planned before the first
        engine.begin([subscription], live=True, in_burst=in_burst)
        engine.start_batch(x)
        counted.append(len(_get_current_function_mode_stack()))
        model(x)
        engine.end()
        found.append(
            {n: {k: v.tolist() for k, v in p.items()} for n, p in subscription.values.items()}
        )
    assert counted == [1, 0, 1, 0]  # hooks do without a function mode
    assert list(found[0]) == ["layers.1", "layers.3"]
    assert found[0] == found[1] == found[2] == found[3]


@pytest.mark.parametrize("when", ["between bursts", "within a burst"])
def test_a_module_that_joins_is_seen_and_a_step_that_was_not_planned_is_left_out(when):
    model, x = Modules().eval(), torch.randn(3, 4)
    engine = Engine(model)
    subscription = subscribe(engine)
    names, failures = [], []
    for number, in_burst in enumerate((False, True, False, True)):
        if number == {"between bursts": 2, "within a burst": 1}[when]:
            model.layers.append(nn.Tanh())
        engine.begin([subscription], live=True, in_burst=in_burst)
        engine.start_batch(x)
        model(x)
        engine.end()
        engine.forget_names()
        names.append(list(subscription.values))
        failures.append(subscription.failure)
    before, after = ["layers.1", "layers.3"], ["layers.1", "layers.3", "layers.4"]
    if when == "between bursts":
        assert names == [before, before, after, after]
        assert failures == [None] * 4
    else:  # and from then on every capture is a whole one
        assert names == [before, [], after, after]
        assert failures == [None, "the step was not the planned one", None, None]
    assert subscription.guard.counts == {}


def test_a_probe_that_names_layers_is_never_served_by_a_plan():
    model, x = Modules().eval(), torch.randn(3, 4)
    engine = Engine(model)
    every, named = subscribe(engine), subscribe(engine, layers=["layers.0"])
    for due in ([every], [every, named]):
        engine.begin(due, live=True, in_burst=True)
        engine.start_batch(x)
        model(x)
        engine.end()
    assert list(named.values) == ["layers.0"]


def test_a_layer_touches_the_input_though_it_was_called_with_something_else_before(net):
    engine, x = Engine(net), torch.randn(2, 3, 8, 8)
    engine.begin([subscribe(engine)], live=True)
    engine.start_batch((x,))
    for given in (torch.rand_like(x), x):
        net(given)
    engine.end()
    assert [info.touches_input for info in engine.weights][:1] == [True]


def test_an_evaluation_in_which_the_compiler_begins_is_given_up(net):
    engine, x = Engine(net), torch.randn(2, 3, 8, 8)
    subscription = subscribe(engine)
    engine.begin([subscription], live=True)
    engine.start_batch(x)
    net(x)
    assert not engine.miss_what_was_interrupted("why")
    engine._capture._interrupt()
    assert engine.miss_what_was_interrupted("why")
    assert (subscription.values, subscription.failure) == ({}, "why")
    engine.end()


def test_what_is_compiled_after_the_forward_pass_leaves_what_was_read_of_it(net):
    engine, x = Engine(net), torch.randn(2, 3, 8, 8)
    subscription = subscribe(engine)
    engine.begin([subscription], live=True)
    engine.start_batch(x)
    net(x)
    engine.pause()
    engine._capture._interrupt()
    assert not engine.gave_way()
    engine.count_batch()
    once = {name: values["positive"].clone() for name, values in subscription.values.items()}
    engine.start_batch(x)  # another micro-batch: the capture cannot see it any more
    assert not engine.reads_live
    engine.read_isolated(training=True)
    engine.count_batch()
    assert once
    assert subscription.num_samples == 4
    for name, values in subscription.values.items():
        torch.testing.assert_close(values["positive"], 2 * once[name])
    engine.end()
