"""Batches of tensors that no arithmetic of ours may touch: the run keeps its bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from tests.identity import fingerprint
from tests.tiny import tiny_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vis_callbacks import default_monitors

IMAGES = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 3


class Annotated(Tensor):
    """Carries more along, as MONAI's MetaTensor does."""


KINDS: dict[str, Any] = {
    "quantised": lambda x: torch.quantize_per_tensor(x, 0.01, 0, torch.quint8),
    "complex": lambda x: torch.complex(x, x),
    "sparse": lambda x: x.flatten(1).to_sparse(),
    "nested": lambda x: torch.nested.nested_tensor(list(x.flatten(1))),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "annotated": lambda x: x.as_subclass(Annotated),
}


class TakesAnyKind(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        if x.is_nested:
            x = torch.stack(x.unbind())
        elif x.is_quantized:
            x = x.dequantize()
        elif x.layout is torch.sparse_coo:
            x = x.to_dense()
        return self.net((x.real if x.is_complex() else x).float())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, kind, callbacks=()):
    torch.manual_seed(0)
    module = TakesAnyKind()
    batches = [(KINDS[kind](IMAGES[i : i + 4]), LABELS[i : i + 4]) for i in range(0, 16, 4)]
    trainer = tiny_trainer(tmp_path, callbacks)
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return fingerprint(trainer)


@pytest.mark.contained
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_keeps_its_bits_whatever_tensors_its_batches_hold(tmp_path, kind):
    plain = fit(tmp_path, kind)
    assert fit(tmp_path, kind) == plain
    assert fit(tmp_path, kind, default_monitors(every_n_train_steps=1)) == plain


def test_a_subclass_that_carries_more_is_watched_like_any_tensor(tmp_path):
    monitors = default_monitors(every_n_train_steps=1)
    fit(tmp_path, "annotated", monitors)
    kept = [m.references for m in monitors if m.references is not None]
    assert kept
    for references in kept:
        assert {type(references.inputs), type(references.labels)} == {Tensor}
