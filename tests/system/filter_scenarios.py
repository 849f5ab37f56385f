"""First layers that learn and that do not, through a Trainer: what a user would be told, and when.

300 steps of 32 samples: patches of twelve photographs ("which one is it from?"), and digits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from tests.scenarios import one_thread
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from photographs import training_patches
from vis_callbacks import FilterMonitor

STEPS = 300
BATCH_SIZE = 32
Data = tuple[Tensor, Tensor]
Optimizer = Callable[[Iterator[nn.Parameter]], torch.optim.Optimizer]


@cache
def patches() -> Data:
    data = training_patches(500)
    return torch.stack([image for image, _ in data]), torch.tensor([label for _, label in data])


@cache
def digits() -> Data:
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None]
    return (images - images.mean()) / images.std(), torch.tensor(bunch.target)


class GlobalMean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def plain(kernel: int = 7, *, norm: bool = False) -> nn.Module:
    def block(*sizes: int, **options: int) -> list[nn.Module]:
        convolution = nn.Conv2d(*sizes, padding=sizes[2] // 2, bias=not norm, **options)
        return [convolution, *([nn.BatchNorm2d(sizes[1])] if norm else []), nn.ReLU()]

    return nn.Sequential(
        *block(3, 32, kernel, stride=2),
        *block(32, 48, 3),
        nn.MaxPool2d(2),
        *block(48, 64, 3),
        GlobalMean(),
        nn.Linear(64, 12),
    )


class Transformer(nn.Module):
    def __init__(self, width: int = 64, patch: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(3, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn((32 // patch) ** 2, width))
        block = nn.TransformerEncoderLayer(
            width, 4, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 3, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 12))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embedding(images).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.blocks(tokens).mean(1))


def mlp() -> nn.Module:
    layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(nn.Flatten(), *layers)


def frozen() -> nn.Module:
    network = plain()
    network[0].requires_grad_(False)
    return network


def sgd(rate: float, decay: float = 5e-4) -> Optimizer:
    return partial(torch.optim.SGD, lr=rate, momentum=0.9, weight_decay=decay)


def adam(rate: float) -> Optimizer:
    return partial(torch.optim.Adam, lr=rate)


def adam_w(rate: float) -> Optimizer:
    return partial(torch.optim.AdamW, lr=rate, weight_decay=0.01)


@dataclass(frozen=True)
class Scenario:
    """A training and what must be said of it: ``alert`` is the step range, None is silence.

    ``filters_of`` names the scenario whose trained filters it begins with.
    """

    network: Callable[[], nn.Module]
    optimizer: Optimizer
    alert: tuple[int, int] | None = None
    remark: str = ""
    data: Callable[[], Data] = patches
    warms_up: bool = False
    filters_of: str = ""


BLOWS_UP = "rate far too high"
SCENARIOS = {
    "healthy": Scenario(plain, sgd(0.02)),
    "rate 200 times too small": Scenario(plain, sgd(1e-4), alert=(150, 200)),
    "the same with batch norm": Scenario(partial(plain, norm=True), sgd(1e-4), alert=(150, 200)),
    "Adam": Scenario(plain, adam(1e-3)),
    "Adam on 3x3": Scenario(partial(plain, 3), adam(1e-3)),
    "transformer": Scenario(Transformer, adam_w(1e-3)),
    "transformer, rate 100 times too small": Scenario(Transformer, adam_w(1e-5), alert=(150, 200)),
    "warm-up over the whole run": Scenario(plain, sgd(0.02), warms_up=True),
    "frozen": Scenario(frozen, sgd(1e-4), remark="filters_not_judged: .*frozen"),
    "pre-trained": Scenario(
        plain,
        sgd(1e-4),
        remark="filters_not_judged: .*had structure from the start",
        filters_of="healthy",
    ),
    "digits": Scenario(mlp, adam(1e-3), data=digits),
    BLOWS_UP: Scenario(partial(plain, norm=True), sgd(1.5), remark="filters_blow_up: .*blow up"),
}


class Batches(IterableDataset):
    def __init__(self, data: Data, seed: int, steps: int) -> None:
        self.data, self.seed, self.steps = data, seed, steps

    def __iter__(self) -> Iterator[Data]:
        inputs, labels = self.data
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            chosen = torch.randint(len(labels), (BATCH_SIZE,), generator=generator)
            yield inputs[chosen], labels[chosen]


class Training(pl.LightningModule):
    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        self.scenario, self.network = scenario, scenario.network()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = self.scenario.optimizer(self.parameters())
        if not self.scenario.warms_up:
            return optimizer
        steps = self.trainer.max_steps
        linear = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / steps)
        return [optimizer], [{"scheduler": linear, "interval": "step"}]


@dataclass(frozen=True)
class Outcome:
    """A scenario that was trained."""

    name: str
    monitor: FilterMonitor
    network: nn.Module
    said: tuple[str, ...]  # "kind: message" of every alert and remark

    def complaint(self) -> str:
        """Returns what is wrong with what was said, "" if it is as expected."""
        expected, alerts = SCENARIOS[self.name], self.monitor.alerts
        raised = ", ".join(f"{a.kind} ({a.severity}) at {a.step}" for a in alerts) or "nothing"
        if expected.alert is None and alerts:
            return f"expected silence, got {raised}"
        if expected.alert is not None:
            first, last = expected.alert
            if [(a.kind, a.severity) for a in alerts] != [("hardly_learned", "warning")]:
                return f"expected hardly_learned, got {raised}"
            if not first <= alerts[0].step <= last:
                return f"expected it between steps {first} and {last}, got {raised}"
            if "Try ten times the learning rate" not in alerts[0].remedy:
                return f"the remedy is {alerts[0].remedy!r}"
        blows_up = any(line.startswith("filters_blow_up") for line in self.said)
        if blows_up is not (self.name == BLOWS_UP):
            return f"filters_blow_up {'said' if blows_up else 'missing'}: {self.said}"
        if expected.remark and not any(re.match(expected.remark, line) for line in self.said):
            return f"{expected.remark!r} is not in {self.said}"
        return ""


@cache
def outcome(name: str, seed: int = 0, steps: int = STEPS) -> Outcome:
    """Trains a scenario; once, since another one begins with its weights.

    There is room in the budget for nothing, which must not keep an alert from anybody.
    """
    scenario = SCENARIOS[name]
    monitor = FilterMonitor(every_n_train_steps=20, max_overhead=1e-9)
    begins = outcome(scenario.filters_of, 0, steps) if scenario.filters_of else None
    with TemporaryDirectory() as folder, one_thread():
        pl.seed_everything(seed, verbose=False)
        training = Training(scenario)
        if begins is not None:
            training.network[0].load_state_dict(begins.network[0].state_dict())
        trainer = pl.Trainer(
            max_steps=steps,
            max_epochs=1,
            callbacks=[monitor],
            logger=False,
            default_root_dir=folder,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(training, DataLoader(Batches(scenario.data(), seed, steps), batch_size=None))
        return Outcome(name, monitor, training.network, tuple(remarks(Path(folder))))


def remarks(folder: Path) -> list[str]:
    lines = [
        json.loads(line)
        for path in folder.rglob("alerts.jsonl")
        for line in path.read_text().splitlines()
    ]
    return [f"{line['kind']}: {line['message']}" for line in lines if "kind" in line]
