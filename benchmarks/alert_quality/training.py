"""One training of the zoo: watched by the monitors that raise alerts, and judged at its end."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, seed_everything
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from benchmarks.alert_quality.configurations import CONFIGURATIONS, FACTORS, Configuration
from benchmarks.alert_quality.optimizers import OPTIMIZERS, schedule_of
from benchmarks.alert_quality.published import Looks, evaluated
from benchmarks.steps import one_thread
from benchmarks.trainers import quiet_trainer
from vis_callbacks import ActivationMonitor, FilterMonitor, LearningMonitor
from vis_callbacks.monitor import Monitor

WORST_SCORE = -1.0  # also of what is not finite


@dataclass(frozen=True, order=True)
class Job:
    """One training: a configuration, a rung of the ladder of rates, and a seed."""

    configuration: str
    rung: int
    seed: int

    @property
    def key(self) -> str:
        """Tells it from all others."""
        return f"{self.configuration}/{self.rung}/{self.seed}"


class Training(LightningModule):
    """Plain training at one rate."""

    def __init__(self, configuration: Configuration, rate: float) -> None:
        super().__init__()
        self.configuration, self.rate = configuration, rate
        self.net = configuration.net()
        self.losses: list[Tensor] = []

    def forward(self, *inputs: Tensor) -> Any:
        """Returns what the network does."""
        return self.net(*inputs)

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Returns the loss."""
        loss = self.configuration.task.loss(self, batch)
        self.losses.append(loss.detach())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """Returns optimizer and schedule."""
        made = OPTIMIZERS[self.configuration.optimizer](self.parameters(), lr=self.rate)
        schedule = self.configuration.schedule
        steps = self.configuration.steps
        return {
            "optimizer": made,
            "lr_scheduler": schedule_of(schedule, made, self.rate, steps),
        }


class Adversarial(Training):
    """Generator and discriminator in turn, with an optimizer each."""

    def __init__(self, configuration: Configuration, rate: float) -> None:
        super().__init__(configuration, rate)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Returns the discriminator's loss."""
        of_generator, of_discriminator = self.optimizers()
        real = self(batch[0])
        made = self.net.discriminator(self.net.made(len(real)).detach())
        loss = F.softplus(-real).mean() + F.softplus(made).mean()
        self._step(of_discriminator, loss)
        self._step(
            of_generator, F.softplus(-self.net.discriminator(self.net.made(len(real)))).mean()
        )
        self.losses.append(loss.detach())
        return loss

    def _step(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        """Returns both optimizers."""
        make = OPTIMIZERS[self.configuration.optimizer]
        nets = (self.net.generator, self.net.discriminator)
        return [make(net.parameters(), lr=self.rate) for net in nets]


def run(job: Job) -> dict[str, Any]:
    """Trains, and returns the outcome, the alerts, what published rules need, and all numbers."""
    configuration = CONFIGURATIONS[job.configuration]
    task, began = configuration.task, time.process_time()
    split = task.data()
    seed_everything(job.seed, verbose=False)
    rate = FACTORS[job.rung] * configuration.rate
    kind = Adversarial if configuration.is_adversarial else Training
    module = kind(configuration, rate)
    monitors: list[Monitor] = [
        made(max_overhead=None) for made in (ActivationMonitor, FilterMonitor, LearningMonitor)
    ]
    has_accuracy = configuration.task.score.__name__ == "_accuracy"
    looks = Looks(configuration.steps, split, task.score if has_accuracy else None)
    sampler = BatchSampler(RandomSampler(split[0][0]), configuration.batch, drop_last=True)
    with one_thread(), TemporaryDirectory() as folder:
        trainer = quiet_trainer(
            folder,
            max_steps=configuration.steps * (2 if configuration.is_adversarial else 1),
            max_epochs=-1,
            callbacks=[*monitors, looks],
        )
        trainer.fit(module, DataLoader(TensorDataset(*split[0]), None, sampler=sampler))
        with evaluated(module):
            score = task.score(module.net, split)
    losses = torch.stack(module.losses).tolist()
    return {
        **vars(job),
        "rate": rate,
        "score": max(score, WORST_SCORE) if math.isfinite(score) else WORST_SCORE,
        "steps": trainer.global_step,
        "seconds": time.process_time() - began,
        "losses": [float(f"{loss:.4g}") for loss in losses],
        "looks": looks.rows,
        "alerts": [
            [alert.step, alert.kind, alert.severity] for each in monitors for alert in each.alerts
        ],
        "histories": {each.stem: each.history.state_dict() for each in monitors},
    }
