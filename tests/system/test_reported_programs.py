"""Small programs of kinds that monitors once killed, changed or misjudged."""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch._dynamo
import torch.nn.functional as F
import torchmetrics
from tests.identity import assert_identical, fingerprint, num_hooks_on
from tests.system.models import LIGHTNING_CHATTER
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from vis_callbacks import ActivationMonitor, EmbeddingMonitor, TopPatchesMonitor, default_monitors
from vis_callbacks.alerts.alert import Alert

pytestmark = [pytest.mark.filterwarnings(chatter) for chatter in LIGHTNING_CHATTER]


class Module(pl.LightningModule):
    """Trains ``net`` on (input, label), by the rate ``lr``."""

    lr = 3e-3

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), self.lr)


def mlp(num_inputs: int = 12, num_outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_inputs, 32), nn.ReLU(), nn.Linear(32, num_outputs))


def vectors(num_samples: int = 320) -> TensorDataset:
    return TensorDataset(torch.randn(num_samples, 12), torch.randint(0, 4, (num_samples,)))


def fit(
    module: pl.LightningModule,
    data: Dataset[Any],
    folder: Path,
    callbacks: Sequence[pl.Callback],
    *,
    validate: bool = False,
    **options: Any,
) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"max_epochs": 2, "logger": False} | options,
    )
    torch.manual_seed(1)
    loaders = [DataLoader(data, 32, shuffle=True), *([DataLoader(data, 32)] if validate else [])]
    trainer.fit(module, *loaders)
    return trainer


def grave(monitors: Sequence[Any]) -> list[Alert]:
    return [alert for monitor in monitors for alert in monitor.alerts]


# -- nothing of ours may raise into the user's code


class WithMetric(Module):
    """Keeps a torchmetrics metric, as Lightning's docs show: its hash changes with its state."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        scores = self(batch[0])
        self.accuracy(scores, batch[1])
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        return F.cross_entropy(scores, batch[1])


def test_a_module_with_a_metric_is_watched_to_the_end(tmp_path):
    states = []
    for monitors in ([], default_monitors()):
        torch.manual_seed(0)
        trainer = fit(WithMetric(), vectors(), tmp_path, monitors)
        assert trainer.global_step == 20
        states.append(fingerprint(trainer))
    assert_identical(*states)
    assert len(monitors[0].history) > 3


class Saves(pl.Callback):
    """Saves and copies the model in the midst of each step."""

    def __init__(self) -> None:
        self.most_hooks = 0
        self.num_copies = 0

    def copy(self, module: nn.Module) -> None:
        torch.save(module, io.BytesIO())
        self.most_hooks = max(self.most_hooks, num_hooks_on(copy.deepcopy(module)))
        self.num_copies += 1

    def on_before_backward(self, trainer, pl_module, loss):
        self.copy(pl_module.net)

    def on_after_backward(self, trainer, pl_module):
        self.copy(pl_module.net)


def test_a_model_that_is_saved_in_the_midst_of_a_step_has_no_hook_of_ours(tmp_path):
    saves = Saves()
    fit(Module(mlp()), vectors(), tmp_path, [saves, ActivationMonitor(every_n_train_steps=1)])
    assert (saves.num_copies, saves.most_hooks) == (40, 0)


# -- the run is the same


class FrozenEncoder(Module):
    """A frozen encoder in evaluation mode takes PyTorch's fused path inside ``training_step``."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)))
        layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.encoder = encoder.eval().requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        self.encoder.eval()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.encoder(x).mean(1)
        return self.net(features)


@pytest.mark.filterwarnings("ignore:.*module.* in eval mode at the start")
@pytest.mark.contained  # the pictures that need a gradient through the frozen part
def test_a_frozen_encoder_keeps_its_fused_path(tmp_path):
    data = TensorDataset(torch.randn(320, 6, 12), torch.randint(0, 4, (320,)))
    states = []
    for monitors in ([], [], default_monitors()):
        torch.manual_seed(0)
        states.append(fingerprint(fit(FrozenEncoder(), data, tmp_path, monitors)))
    assert_identical(states[0], states[1])
    assert_identical(states[0], states[2])


class CompilesLater(Module):
    """Compiles, in one of several ways, in the midst of the training."""

    def __init__(self, way: str) -> None:
        super().__init__(mlp())
        self.way = way
        self.loss_of = torch.compile(self.plain_loss, backend="aot_eager")

    @staticmethod
    def plain_loss(scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(F.relu(scores) - F.relu(-scores), labels)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.way == "function" and batch_idx >= 5:
            return self.loss_of(self(batch[0]), batch[1])
        if batch_idx == 5 and self.current_epoch == 0:
            if self.way == "wrapper":
                self.net = torch.compile(self.net, backend="aot_eager")
            elif self.way == "in place":
                self.net.compile(backend="aot_eager")
        return self.plain_loss(self(batch[0]), batch[1])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("way", ["function", "wrapper", "in place"])
def test_what_is_compiled_in_mid_run_is_compiled_as_often_as_without_us(way, tmp_path):
    frames, states = [], []
    for monitors in ([], default_monitors(), [ActivationMonitor(every_n_train_steps=1)]):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        torch.manual_seed(0)
        states.append(fingerprint(fit(CompilesLater(way), vectors(), tmp_path, monitors)))
        frames.append(torch._dynamo.utils.counters["frames"]["total"])
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert frames[0] > 0
    assert frames == [frames[0]] * 3
    assert_identical(states[0], states[1])
    assert_identical(states[0], states[2])
    assert len(monitors[0].history) == 20


# -- the essential survives the optional


class TwoInputs(Module):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(12, 32), nn.ReLU()))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        mask = (torch.arange(6) < lengths[:, None]).float()[..., None]
        return self.head((self.net(x) * mask).sum(1) / lengths[:, None])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0], batch[1]), batch[2])


def test_a_batch_that_the_step_empties_is_understood_when_it_arrives(tmp_path):
    class Pops(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch.pop("pixel_values")), batch.pop("labels"))

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx), batch_size=32)

    data = [
        {"pixel_values": torch.randn(1, 8, 8), "labels": torch.tensor(i % 4)} for i in range(96)
    ]
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4))
    monitors = default_monitors(input_fn=lambda batch: batch["pixel_values"])
    fit(Pops(net), data, tmp_path, monitors, validate=True)
    assert all(len(monitor.history) >= 2 for monitor in monitors)


# -- what is said is true


class Hinge(Module):
    """Has a margin loss written with ``F.relu``, which is 0 where training has succeeded."""

    def __init__(self) -> None:
        super().__init__(mlp(20, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        scores = self(x)
        margins = 1 + scores - scores.gather(1, y[:, None])
        loss = F.relu(margins.masked_fill(F.one_hot(y, 10).bool(), -1)).sum(1).mean()
        self.log("accuracy", (scores.argmax(1) == y).float().mean())
        return loss


def test_a_relu_in_the_loss_is_no_layer(tmp_path):
    y = torch.randint(0, 10, (1280,))
    data = TensorDataset(3 * torch.randn(10, 20)[y] + 0.2 * torch.randn(1280, 20), y)
    monitor = ActivationMonitor()
    trainer = fit(Hinge(), data, tmp_path, [monitor], max_epochs=6)
    assert trainer.callback_metrics["accuracy"] == 1
    assert monitor.history.layers("dead_fraction") == ("net.1",)
    assert grave([monitor]) == []


def test_a_layers_name_does_not_depend_on_what_else_is_watched(tmp_path, caplog):
    caplog.set_level(logging.WARNING, "vis_callbacks")
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    data = TensorDataset(torch.randn(96, 1, 8, 8), torch.arange(96) % 4)
    for others in ([], [EmbeddingMonitor()]):
        patches = TopPatchesMonitor(["net.3"], every_n_epochs=1)
        fit(Module(net), data, tmp_path, [*others, patches], validate=True)
        tags = [getattr(item, "tag", "") for item in patches.last_report.items]
        assert "class_purity/net.3" in tags
    assert "matches none" not in caplog.text


class Growing(Module):
    """Has a head that gets a unit more at each epoch."""

    def on_train_epoch_start(self) -> None:
        head = nn.Linear(self.net[0].in_features, self.net[0].out_features + 1)
        self.net[0], self.net[2] = head, nn.Linear(head.out_features, 4)


def test_a_head_that_grows_keeps_its_name_and_curve(tmp_path):
    monitor = ActivationMonitor(every_n_train_steps=1)
    fit(Growing(mlp()), vectors(), tmp_path, [monitor], max_epochs=3)
    assert monitor.history.layers("sparsity") == ("net.1",)
    assert len(monitor.history) == 30
