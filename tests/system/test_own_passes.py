"""The monitors that run the network many times themselves change no bit of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.identity import digest
from tests.system.models import forget_graphs
from tests.tiny import TinyModule, tiny_loader, tiny_module, tiny_trainer
from torch import Tensor

from vis_callbacks import ActivationMaximizationMonitor, Monitor, OcclusionMonitor, SaliencyMonitor


class CompiledModule(TinyModule):
    """Runs a compiled function in its forward, which cannot be found beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self._compiled = torch.compile(super().forward, backend="aot_eager")

    def forward(self, x: Tensor) -> Tensor:
        return self._compiled(x)


class FrozenNorm(TinyModule):
    """Keeps its statistics in evaluation mode while it trains."""

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        self.norm.eval()
        return self


def monitors() -> list[Monitor]:
    return [
        OcclusionMonitor(window_size=2, every_n_train_steps=1),
        SaliencyMonitor(methods=["gradient", "grad_cam"], every_n_train_steps=1),
        ActivationMaximizationMonitor(
            classes=[0, 2], units=["relu:1"], num_steps=2, every_n_train_steps=1
        ),
    ]


@pytest.fixture
def compiler() -> Iterator[None]:
    forget_graphs()
    yield
    forget_graphs()


def outcome(cls: type[TinyModule], callbacks: list[Monitor], folder: Path, **options) -> str:
    tiny_module()  # seeds
    module = cls()
    calls: list[int] = []
    handle = module.conv.register_forward_hook(lambda *_: calls.append(1))  # one of the user's
    trainer = tiny_trainer(folder, callbacks, **options)
    trainer.fit(module, tiny_loader(), tiny_loader())
    handle.remove()
    return digest([module.state_dict(), module.losses, len(calls)])


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (TinyModule, {}),
        (FrozenNorm, {}),
        (TinyModule, {"precision": "bf16-mixed"}),
        (CompiledModule, {}),
    ],
)
def test_a_run_with_them_is_the_run_without_them(cls, options, tmp_path):
    plain = [outcome(cls, [], tmp_path, **options) for _ in range(2)]
    watching = monitors()
    assert plain[0] == plain[1]
    assert outcome(cls, watching, tmp_path, **options) == plain[0]
    assert all(monitor.last_report is not None for monitor in watching)
