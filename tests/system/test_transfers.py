"""How often a snapshot waits for the device, counted by a mode opened outside of ours."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from tests.identity import num_hooks
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, TensorDataset

from vis_callbacks import ActivationMonitor, FilterMonitor

TRANSFERS = frozenset(
    {
        torch.Tensor.item,
        torch.Tensor.cpu,
        torch.Tensor.numpy,
        torch.Tensor.tolist,
        torch.Tensor.nonzero,
        torch.nonzero,
        torch.Tensor.__bool__,
        torch.Tensor.__float__,
        torch.Tensor.__int__,
        torch.Tensor.__index__,
        torch.Tensor.__array__,
        torch.Tensor.__contains__,
        torch.equal,
        torch.Tensor.equal,
        torch.Tensor.masked_select,
        torch.Tensor.unique,
    }
)


class Counting(TorchFunctionMode):
    """Counts what brings a tensor's values to the host, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.step = -1
        self.by_step: dict[int, list[str]] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        # A look-up of NumPy's name for a type needs no values.
        if func in TRANSFERS and args[0].numel():
            self.by_step.setdefault(self.step, []).append(func.__name__)
        return func(*args, **(kwargs or {}))


class Net(pl.LightningModule):
    def __init__(self, counting: Counting) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 16), nn.ReLU(),
            nn.Linear(16, 4),
        )  # fmt: skip
        self.counting = counting

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        self.counting.step = self.trainer.fit_loop.epoch_loop._batches_that_stepped
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def run(tmp_path, monitors) -> Counting:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(96, 3, 8, 8), torch.randint(0, 4, (96,)))
    counting = Counting()
    trainer = pl.Trainer(
        max_steps=12,
        callbacks=monitors,
        logger=pl.loggers.CSVLogger(tmp_path),
        accelerator="cpu",
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=100,
    )
    model, loader = Net(counting), DataLoader(data, 8)
    with counting:
        trainer.fit(model, loader)
    return counting


def test_a_snapshot_crosses_to_the_host_once_for_all_monitors_and_otherwise_never(tmp_path):
    monitors = [
        ActivationMonitor(every_n_train_steps=4, map_layers=[], tag_prefix="a/"),
        ActivationMonitor(every_n_train_steps=4, map_layers=[], tag_prefix="b/"),
        FilterMonitor(every_n_train_steps=4),
    ]
    plain = run(tmp_path / "plain", [])
    counted = run(tmp_path / "monitored", monitors)
    assert [len(monitor.history) for monitor in monitors] == [3, 3, 3]
    extra = {
        step: [name for name in names if name not in plain.by_step.get(step, [])]
        for step, names in counted.by_step.items()
    }
    assert {step: names for step, names in extra.items() if names and step >= 0} == {
        step: ["cpu", "numpy"]  # one copy of all, and NumPy's view of it
        for step in (0, 4, 8)
    }


def test_the_count_sees_a_transfer_in_a_reduction(tmp_path, monkeypatch):
    def reading(self, snapshot):
        next(iter(snapshot.values["units"].values()))["magnitude"].sum().item()
        return observe(self, snapshot)

    observe = ActivationMonitor.observe
    monkeypatch.setattr(ActivationMonitor, "observe", reading)
    counted = run(tmp_path, [ActivationMonitor(every_n_train_steps=4, map_layers=[])])
    assert "item" in counted.by_step[4]


@pytest.mark.parametrize("every", [1, 5])
def test_nothing_is_attached_between_snapshots(tmp_path, every):
    attached: dict[int, int] = {}

    class Watch(pl.Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            step = trainer.fit_loop.epoch_loop._batches_that_stepped
            attached[step] = num_hooks()

    run(tmp_path, [ActivationMonitor(every_n_train_steps=every), Watch()])
    live = {step for step, count in attached.items() if count}
    assert live == {step for step in range(12) if step % every == 0}
