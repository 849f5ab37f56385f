"""Healthy and sick trainings through a Trainer: what a user would be told, and when."""

from __future__ import annotations

from functools import cache

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from tests.scenarios import SCENARIOS, Scenario, one_thread
from torch.utils.data import DataLoader, IterableDataset

from vis_callbacks import ActivationMonitor


class Batches(IterableDataset):
    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario, self.seed = scenario, seed

    def __iter__(self):
        return self.scenario.batches(self.seed)


class Training(pl.LightningModule):
    def __init__(self, scenario: Scenario, seed: int) -> None:
        super().__init__()
        self.scenario = scenario
        self.network = scenario.seeded_network(seed)

    def forward(self, inputs):
        return self.network(inputs)

    def on_train_batch_start(self, batch, batch_idx):
        (group,) = self.optimizers().optimizer.param_groups
        self.base = getattr(self, "base", group["lr"])
        group["lr"] = self.base * self.scenario.rate(batch_idx / self.scenario.steps)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return self.scenario.optimizer(self.parameters())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Returns the monitors of a scenario, by their schedules; it is trained once for all."""

    @cache
    def monitors_of(scenario: Scenario, seed: int = 0) -> dict[str, ActivationMonitor]:
        monitors = {
            "every 5 steps": ActivationMonitor(every_n_train_steps=5, tag_prefix="fixed/"),
            "the default schedule": ActivationMonitor(),
            # As on a core that is far too busy: all waits that may wait.
            "no room for more": ActivationMonitor(max_overhead=1e-9, tag_prefix="poor/"),
        }
        with one_thread():
            pl.seed_everything(seed, verbose=False)
            trainer = pl.Trainer(
                max_steps=scenario.steps,
                max_epochs=1,
                callbacks=[*monitors.values()],
                logger=False,
                default_root_dir=tmp_path_factory.mktemp("scenario"),
                accelerator="cpu",
                enable_progress_bar=False,
                enable_checkpointing=False,
                enable_model_summary=False,
            )
            batches = DataLoader(Batches(scenario, seed), batch_size=None)
            trainer.fit(Training(scenario, seed), batches)
        return monitors

    return monitors_of


@pytest.mark.parametrize("schedule", ["every 5 steps", "the default schedule", "no room for more"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: str(scenario.number))
def test_a_training_is_judged_as_it_deserves(scenario, schedule, trained):
    monitor = trained(scenario)[schedule]
    assert len(monitor.history) > 10
    assert scenario.complaint(monitor.alerts) == ""


def test_an_alert_names_layers_evidence_and_a_remedy_with_a_number(trained):
    scenario = next(s for s in SCENARIOS if s.number == 2)
    monitor = trained(scenario)["the default schedule"]
    alert = next(a for a in monitor.alerts if a.kind == "dying_units" and a.severity == "warning")
    assert set(alert.layers) <= {"network.2", "network.4", "network.6"}
    assert alert.sample_size >= 160
    assert "0.1" in alert.remedy
    assert torch.tensor(float(alert.evidence["learning_rate"])) == 1.0
