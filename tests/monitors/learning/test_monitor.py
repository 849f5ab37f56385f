"""Whole runs of small networks: what the monitor makes of the user's own loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vis_callbacks import LearningMonitor, Picture
from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.rules.loss_facts import constant_loss, formula_of
from vis_callbacks.report import LayerTable

Loss = Callable[[Tensor, Tensor], Tensor]


class Module(pl.LightningModule):
    def __init__(self, last: nn.Module, loss: Loss, rate: float = 0.05) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3), last)
        self.loss, self.rate = loss, rate
        self.at: int | None = None  # the step whose loss is not a number

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(self(batch[0]), batch[1])
        return loss * float("nan") if self.global_step == self.at else loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.rate)


def watch(
    module: Module, tmp_path: Any, steps: int = 12, also: Sequence[pl.Callback] = (), **options: Any
) -> LearningMonitor:
    labels = torch.arange(64) % 3
    inputs = torch.randn(64, 4) + 2 * F.one_hot(labels, 4)
    monitor = LearningMonitor(every_n_train_steps=3)
    monitor.picture_schedule = None
    trainer = pl.Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", callbacks=[monitor, *also], logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
        default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(inputs, labels), 16))
    assert not monitor.guard.counts
    return monitor


def by_hand(outputs: Tensor, labels: Tensor) -> Tensor:
    return -2 * outputs.log_softmax(1).gather(1, labels[:, None]).mean()


@pytest.mark.parametrize(
    ("loss", "name", "factor"),
    [
        (F.cross_entropy, "cross_entropy", 1),
        (nn.CrossEntropyLoss(), "cross_entropy", 1),
        (by_hand, "cross_entropy", 2),
        (lambda x, y: (x - F.one_hot(y, 3)).square().mean(), "mse_loss", 1),
        (lambda x, y: -F.cross_entropy(x, y), "cross_entropy", -1),
    ],
    ids=["torch", "a module", "by hand", "squares by hand", "negative"],
)
def test_it_finds_out_which_formula_the_loss_is(loss, name, factor, tmp_path):
    formula = formula_of(watch(Module(nn.Identity(), loss), tmp_path).history)
    assert formula is not None
    assert formula.name == name
    assert formula.factor == pytest.approx(factor, rel=1e-5)


def test_the_best_constants_loss_is_the_entropy_of_the_labels(tmp_path):
    history = watch(Module(nn.Identity(), F.cross_entropy), tmp_path).history
    num_labels = history.latest(metric_names.NUM_LABELS)
    assert constant_loss(history) == pytest.approx(1.0986 + 2 / (2 * num_labels), abs=2e-3)


def test_a_softmax_too_many_is_told_before_the_first_update(tmp_path):
    monitor = watch(Module(nn.Softmax(1), F.cross_entropy), tmp_path)
    assert [(alert.kind, alert.step) for alert in monitor.alerts] == [("loss_misfit", 0)]


def test_a_sigmoid_is_known_as_what_makes_the_outputs(tmp_path):
    monitor = watch(Module(nn.Sigmoid(), F.cross_entropy), tmp_path)
    assert "ends in a sigmoid" in monitor.alerts[0].message


def test_a_nan_between_two_looks_is_told_with_its_step(tmp_path):
    module = Module(nn.Identity(), F.cross_entropy)
    module.at = 7
    monitor = watch(module, tmp_path)
    (alert,) = monitor.alerts
    assert (alert.kind, alert.since_step) == ("non_finite_loss", 7)
    assert alert.step == 9


def test_a_nan_that_ends_the_run_before_the_next_look_is_told(tmp_path):
    class StopsAtNaN(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, *args):
            trainer.should_stop |= not bool(outputs["loss"].isfinite())

    module = Module(nn.Identity(), F.cross_entropy)
    module.at = 7
    monitor = watch(module, tmp_path, also=[StopsAtNaN()])
    assert module.trainer.global_step == 8
    (alert,) = monitor.alerts
    assert (alert.kind, alert.step, alert.since_step) == ("non_finite_loss", 7, 7)


def test_an_early_end_with_finite_losses_is_no_further_look(tmp_path):
    class Stops(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 8

    monitor = watch(Module(nn.Identity(), F.cross_entropy), tmp_path, also=[Stops()])
    assert monitor.history.steps == (0, 3, 6)


def test_the_mean_loss_is_that_of_all_steps(tmp_path):
    kept: list[float] = []

    def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(outputs, labels)
        kept.append(float(loss.detach()))
        return loss

    history = watch(Module(nn.Identity(), loss_of), tmp_path).history
    means = history.series(metric_names.MEAN_LOSS)
    assert history.steps[:3] == (0, 3, 6)
    assert means[0] == pytest.approx(kept[0])
    assert means[1] == pytest.approx(sum(kept[1:4]) / 3)


def test_gradients_are_read_before_they_are_clipped(tmp_path):
    plain = watch(Module(nn.Identity(), F.cross_entropy), tmp_path, steps=1).history
    torch.manual_seed(0)
    clipped = watch(
        Module(nn.Identity(), lambda x, y: 1e6 * F.cross_entropy(x, y), rate=1e-3),
        tmp_path,
        steps=1,
        gradient_clip_val=1e-3,
    ).history
    layer = "net.0.weight"
    assert clipped.latest(metric_names.GRADIENT_NORM, layer) > 1e3
    assert clipped.latest(metric_names.UPDATE_NORM, layer) < 1e-5
    assert plain.latest(metric_names.GRADIENT_NORM, layer) < 1e3


def test_the_tab_is_told_gradient_and_update_of_every_weight(tmp_path):
    monitor = watch(Module(nn.Identity(), F.cross_entropy, rate=0.0), tmp_path)
    (table,) = monitor.last_report.of(LayerTable)
    assert table.layers == ("net.0.weight", "net.2.weight")
    assert (table.metrics, table.scale) == (("gradient_norm", "update_ratio"), "power")
    gradients, ratios = table.values
    latest = [monitor.history.latest(metric_names.GRADIENT_NORM, name) for name in table.layers]
    assert gradients.tolist() == pytest.approx(latest)
    assert gradients.min() > 0
    assert ratios.tolist() == [0.0, 0.0]


def test_every_picture_can_be_drawn(tmp_path):
    monitor = watch(Module(nn.Identity(), F.cross_entropy), tmp_path)
    pictures = monitor.last_report.of(Picture)
    assert {picture.tag for picture in pictures} <= set(monitor.tags)
    assert len(pictures) == 4
    for picture in pictures:
        drawn = picture.draw(**picture.arrays)
        assert drawn.ndim == 3
        assert drawn.std() > 0


def test_its_totals_go_on_after_a_restart(tmp_path):
    monitor = watch(Module(nn.Identity(), F.cross_entropy), tmp_path)
    other = LearningMonitor()
    other.load_state_dict(monitor.state_dict())
    assert other.state_dict()["monitor"]["totals"]["rows"] == 4 * 16
