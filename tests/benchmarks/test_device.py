from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from benchmarks.__main__ import parse_options, rows
from benchmarks.nets import LARGE_NETS, large_benchmarks
from benchmarks.steps import StepClock
from torch import nn

from benchmarks import __main__ as module
from benchmarks import nets


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(1000))


@pytest.fixture
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nets, "LARGE_NETS", {"tiny": tiny})
    monkeypatch.setattr(nets, "LARGE_BATCHES", (2, 3))
    monkeypatch.setattr(module, "large_benchmarks", lambda device: large_benchmarks("cpu", side=8))


@pytest.mark.usefixtures("_on_the_cpu")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_the_table_of_a_device_has_milliseconds_and_ratios_of_every_network_and_batch() -> None:
    table = list(rows(parse_options(["--device", "cuda", "--pairs", "2"])))
    assert {row.net for row in table} == {"tiny/2", "tiny/3"}
    values = {row.what: row.value for row in table if row.net == "tiny/3"}
    assert values["a plain step"].endswith(" ms")
    assert values["a snapshot adds"].endswith(" ms")
    assert "[" in values["step with a snapshot / plain"]
    assert "[" in values["the last one of a burst / plain"]
    assert "[" in values["step without a snapshot / plain"]


def test_the_clock_waits_for_a_device_and_not_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []

    def module_of(device: str) -> SimpleNamespace:
        return SimpleNamespace(synchronize=lambda: waited.append(device))

    monkeypatch.setattr(torch, "get_device_module", module_of)
    StepClock().now()
    assert waited == []
    assert StepClock("cuda").now() > 0
    assert waited == ["cuda"]


@pytest.mark.parametrize("name", LARGE_NETS)
def test_the_large_networks_take_the_batches_that_they_are_given(name: str) -> None:
    (benchmark, _) = (b for b in large_benchmarks("cpu") if b.name.startswith(name))
    with torch.device("meta"):
        scores = benchmark.make()(torch.empty(2, *benchmark.sample_shape))
    assert scores.shape == (2, benchmark.num_classes)
