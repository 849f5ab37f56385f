from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from tests.system.models import LIGHTNING_CHATTER, Drawn, Net
from tests.tiny import tiny_trainer
from torch.utils.data import DataLoader
from torchvision.models import resnet18

import vis_callbacks

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER]


@pytest.mark.slow
def test_all_defaults_together_hold_16_megabytes_on_resnet18_at_224(tmp_path: Any) -> None:
    monitors = vis_callbacks.default_monitors(every_n_epochs=1)
    trainer = tiny_trainer(
        tmp_path, [*monitors], max_epochs=1, limit_train_batches=2, num_sanity_val_steps=0
    )
    # Images of 64 pixels leave behind what those of 224 do: small ones, and pooled features.
    trainer.fit(
        Net(resnet18(num_classes=10)),
        DataLoader(Drawn(16, 224), batch_size=8),
        DataLoader(Drawn(512, 64), batch_size=32),
    )
    assert {m.stem: m.guard.counts for m in monitors} == {m.stem: {} for m in monitors}
    assert monitors[2].last_report is not None, "no map was made"
    # Together, since monitors share what they keep alike: it is saved once, as it is held once.
    held = io.BytesIO()
    torch.save(monitors, held)
    assert held.tell() < 16e6
