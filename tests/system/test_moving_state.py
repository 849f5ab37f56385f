"""Monitors leave no trace in runs of networks whose ``forward`` changes state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tests.moving_state import DETECTED, PUT_BACK
from tests.system.models import LIGHTNING_CHATTER, NUM_STEPS, Net, Run, pictures, train
from tests.system.test_identity import assert_same_run, trace
from torch import Tensor, nn

from vis_callbacks import ActivationMonitor, Monitor, OcclusionMonitor, default_monitors

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER]


def run(make: Callable[[], nn.Module], folder: Any, monitors: list[Monitor]) -> Run:
    return train(lambda: Net(make()), folder, monitors, make_data=pictures, max_epochs=1)


def all_monitors() -> list[Monitor]:
    return [
        *default_monitors(),
        OcclusionMonitor(window_size=4, stride=4, num_samples=2, every_n_train_steps=5),
    ]


def warnings_of_ours(caplog: Any) -> list[str]:
    records = (r for r in caplog.records if r.name == "vis_callbacks")
    return [r.getMessage() for r in records if r.levelno >= logging.WARNING]


class Several(nn.Module):
    """Networks side by side, whose scores are added."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(PUT_BACK[name]() for name in names)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in self.networks]).sum(0)


# Each kind alone is run in tests/engine/test_state_watch.py.
ALONE = ["MoCo", "WritesToItsInput"]  # other scores; the backward of another one needs the input
TOGETHER = [name for name in PUT_BACK if name not in ALONE]
GROUPS = [*(TOGETHER[i::3] for i in range(3)), *([name] for name in ALONE)]


@pytest.mark.parametrize("names", GROUPS, ids=" ".join)
def test_a_forward_that_changes_state_leaves_the_run_as_it_is_without_monitors(
    names: Sequence[str], tmp_path: Any, caplog: Any
) -> None:
    plain = trace(run(lambda: Several(names), tmp_path / "plain", []))
    monitors = all_monitors()
    assert_same_run(plain, run(lambda: Several(names), tmp_path / "watched", monitors))
    assert {m.stem: m.guard.counts for m in monitors} == {m.stem: {} for m in monitors}
    assert all(monitor.last_report is not None for monitor in monitors)
    assert not [text for text in warnings_of_ours(caplog) if "extra pass" in text]


@pytest.mark.parametrize(("make", "name"), DETECTED.values(), ids=DETECTED.keys())
def test_what_cannot_be_put_back_ends_the_extra_passes_and_not_the_reading(
    make: Callable[[], nn.Module], name: str, tmp_path: Any, caplog: Any
) -> None:
    reading = ActivationMonitor(map_layers=[], every_n_train_steps=1)
    looking = OcclusionMonitor(window_size=4, stride=4, num_samples=2, every_n_train_steps=1)
    run(make, tmp_path, [reading, looking])
    (warning,) = (text for text in warnings_of_ours(caplog) if "extra pass" in text)
    assert f"forward changes network.{name}, and" in warning
    assert len(reading.history) == NUM_STEPS // 2
    assert len(looking.history) <= 1
    assert looking.guard.counts == reading.guard.counts == {}
