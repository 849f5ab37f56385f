"""What would end a process must not, and what is held must not grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from tests.monitors.embedding.evaluated import Evaluated
from tests.system.constant_features import WAYS, train_all
from tests.system.processes import in_child
from torch import Tensor

from vis_callbacks import EmbeddingMonitor


def test_a_run_whose_features_are_all_equal_comes_to_its_end(tmp_path: Path) -> None:
    outcome = in_child(train_all, tmp_path)
    assert outcome["steps"] == 12
    assert outcome["failures"] == [{}] * len(WAYS)
    assert outcome["alerts"] == [["representation_collapse", "critical"]] * len(WAYS)


@pytest.mark.filterwarnings("ignore:.*weights.*")
@torch.no_grad()
def test_what_is_held_of_a_resnet_is_a_few_megabytes() -> None:
    torch.manual_seed(0)
    seen = Evaluated(torchvision.models.resnet18().eval(), EmbeddingMonitor())
    # Images of 32 pixels leave behind what those of 224 do: 32 x 32 of them, and pooled features.
    batches = [(torch.rand(100, 3, 32, 32), torch.arange(100) % 10) for _ in range(5)]
    for step in (10, 20):
        seen.monitor.last_report = seen.look(batches, step=step)
        held = [seen.monitor.__dict__, [s.values for s in seen.subscriptions]]
        assert 2e6 < num_bytes(held) < 9e6
    assert num_bytes(seen.monitor.state_dict()["monitor"]) < 0.2e6


def num_bytes(value: Any, known: set[int] | None = None) -> int:
    """Returns the bytes of all tensors and arrays that can be reached, each counted once."""
    known = set() if known is None else known
    if id(value) in known:
        return 0
    known.add(id(value))
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        is_new = storage.data_ptr() not in known
        known.add(storage.data_ptr())
        return storage.nbytes() if is_new else 0
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(num_bytes(item, known) for item in value.values())
    if isinstance(value, list | tuple | set | frozenset):
        return sum(num_bytes(item, known) for item in value)
    if type(value).__module__.startswith("vis_callbacks") and hasattr(value, "__dict__"):
        return num_bytes(vars(value), known)
    return 0
