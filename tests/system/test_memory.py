from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from tests.system.models import LIGHTNING_CHATTER, Net
from tests.tiny import tiny_trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18

import vis_callbacks

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER]


class Noise(Dataset):
    """Pictures of 224 pixels that are made when they are asked for."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, 224, 224, generator=generator), index % 10


@pytest.mark.slow
def test_all_defaults_together_hold_16_megabytes_on_resnet18_at_224(tmp_path: Any) -> None:
    monitors = vis_callbacks.default_monitors(every_n_epochs=1)
    trainer = tiny_trainer(tmp_path, [*monitors], max_epochs=1, limit_train_batches=2)
    trainer.fit(
        Net(resnet18(num_classes=10)),
        DataLoader(Noise(16), batch_size=8),
        DataLoader(Noise(512), batch_size=32),
    )
    assert {m.stem: m.guard.counts for m in monitors} == {m.stem: {} for m in monitors}
    assert monitors[2].last_report is not None, "no map was made"
    # Together, since monitors share what they keep alike; what a monitor holds is what it pickles.
    assert len(pickle.dumps(monitors)) < 16e6
