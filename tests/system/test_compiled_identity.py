"""A compiled run with monitors is, bit for bit and graph for graph, the run without them."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.system.models import LIGHTNING_CHATTER, NUM_STEPS, Cnn, Net, pictures, watchers
from tests.system.traces import LiveReads, Scenario, assert_same_run, assert_watched, trace
from torch import Tensor, nn

pytestmark = [
    *(pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


class WithCompiledFunction(nn.Module):
    """Nobody can find such a function before it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 4)
        self.compiled = torch.compile(_compiled, backend="aot_eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.compiled(self.first(x)))


def _compiled(x: Tensor) -> Tensor:
    return F.relu(x) * 1.5


class WithCompiledPart(nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.network = torch.compile(Cnn(), backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def compiled_in_place() -> nn.Module:
    network = Cnn()
    network.compile(backend="aot_eager")
    return network


COMPILED = {
    "a function": Scenario(lambda: Net(WithCompiledFunction())),
    "a part": Scenario(lambda: Net(WithCompiledPart("aot_eager")), pictures),
    "in place": Scenario(lambda: Net(compiled_in_place()), pictures),
    "the whole module": Scenario(lambda: torch.compile(Net(Cnn()), backend="aot_eager"), pictures),
}
if shutil.which("g++"):
    COMPILED["a part, inductor"] = Scenario(lambda: Net(WithCompiledPart("inductor")), pictures)


@pytest.mark.parametrize("name", COMPILED)
def test_monitors_leave_no_trace_in_a_compiled_run_and_make_no_graph(
    name: str, tmp_path: Any, caplog: Any
) -> None:
    scenario, look, monitors = COMPILED[name], LiveReads(), watchers()
    plain = trace(scenario.run(tmp_path / "plain"))
    watched = scenario.run(tmp_path / "watched", [*monitors, look])
    assert_same_run(plain, watched)
    assert_watched(watched, monitors, scenario.num_steps, caplog)
    assert watched.graphs["stats"]["unique_graphs"] > 0
    # What was compiled is found before it runs, but for a function.
    assert name == "a function" or look.seen == [False] * NUM_STEPS
