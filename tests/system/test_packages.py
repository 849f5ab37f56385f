"""One monitor, in the Trainer of either Lightning package."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.alerts.reading import read_alerts
from tests.system.models import LIGHTNING_CHATTER, mlp, vectors
from torch.utils.data import DataLoader

from vis_callbacks.monitors.activations.monitor import ActivationMonitor

pytestmark = [
    *(pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER),
    # LightningCLI itself calls what its parser has deprecated.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

PACKAGES = ("pytorch_lightning", "lightning.pytorch")
NUM_STEPS = 15


def module_class(package: str) -> type[Any]:
    """Returns a small classifier that is a module of this package."""
    base = importlib.import_module(package).LightningModule

    class Classifier(base):  # type: ignore[misc, valid-type]
        def __init__(self, lr: float = 0.05) -> None:
            super().__init__()
            self.network, self.lr = mlp(), lr

        def forward(self, x: Any) -> Any:
            return self.network(x)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self(batch[0]), batch[1])

        def train_dataloader(self) -> Any:
            return DataLoader(vectors(8 * NUM_STEPS), batch_size=8)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), self.lr)

    return Classifier


def trainer_options(folder: Path) -> dict[str, Any]:
    return {
        "accelerator": "cpu",
        "max_epochs": 1,
        "log_every_n_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": str(folder),
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_a_monitor_works_in_the_trainer_of_each_package(package: str, tmp_path: Path) -> None:
    monitor = ActivationMonitor(every_n_train_steps=1)
    trainer_class = importlib.import_module(package).Trainer
    trainer = trainer_class(callbacks=[monitor], **trainer_options(tmp_path))
    trainer.fit(module_class(package)())
    assert len(monitor.history) == NUM_STEPS
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_one_instance_goes_from_one_package_to_the_other(tmp_path: Path) -> None:
    monitor = ActivationMonitor(every_n_train_steps=1)
    for package in PACKAGES:
        trainer_class = importlib.import_module(package).Trainer
        trainer = trainer_class(callbacks=[monitor], **trainer_options(tmp_path / package))
        trainer.fit(module_class(package)())
        assert monitor.history.steps == tuple(range(NUM_STEPS))


def test_its_alerts_are_those_of_both_packages(tmp_path: Path) -> None:
    written = []
    for package in PACKAGES:
        monitor = ActivationMonitor(every_n_train_steps=1)
        trainer_class = importlib.import_module(package).Trainer
        trainer = trainer_class(callbacks=[monitor], **trainer_options(tmp_path / package))
        trainer.fit(module_class(package)(lr=1e30))
        (path,) = (tmp_path / package).rglob("alerts.jsonl")
        written.append([(a.kind, a.step) for a in read_alerts(path).alerts])
    assert written[0] == written[1]
    assert "non_finite" in [kind for kind, _ in written[0]]


YAML = """
trainer:
  accelerator: cpu
  max_epochs: 1
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: {folder}
  callbacks:
    - class_path: vis_callbacks.ActivationMonitor
      init_args:
        every_n_train_steps: 1
        max_maps: 4
        layers: ["network.*"]
        on_alert:
          dying_units: stop
          default: warn
        tag_prefix: from_yaml/
model:
  lr: 0.01
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_monitor_is_made_from_yaml(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(YAML.format(folder=tmp_path))
    monkeypatch.setattr(sys, "argv", ["train", "fit", "--config", str(config)])
    cli_class = importlib.import_module(f"{package}.cli").LightningCLI
    cli = cli_class(module_class(package), save_config_callback=None, seed_everything_default=3)
    monitors = [c for c in cli.trainer.callbacks if isinstance(c, ActivationMonitor)]
    assert [monitor.options.tag_prefix for monitor in monitors] == ["from_yaml/"]
    assert monitors[0].max_maps == 4
    assert monitors[0].options.on_alert == {"dying_units": "stop", "default": "warn"}
    assert len(monitors[0].history) == NUM_STEPS
