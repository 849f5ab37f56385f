"""How often the alert "the first layer has hardly learned" is right.

    python -m benchmarks.filter_alerts        about ten minutes on one core
    python -m benchmarks.filter_alerts --scenarios --seeds 0 1 2 3 4

Networks, optimizers and seeds are none that a threshold was taken from. Each network is trained
at five rates, each ten times the one before. A training is called *under-trained* where the one
at ten times its rate ends with a validation accuracy at least 3 points higher.

With ``--scenarios`` the acceptance scenarios of `tests/system` are trained instead, to see how
many of the seeds end as each scenario demands: about seven minutes on one core for five seeds.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch
from pytorch_lightning import LightningModule, seed_everything
from sklearn.datasets import load_digits
from tests.system.filter_scenarios import SCENARIOS, outcome
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.steps import one_thread
from benchmarks.trainers import quiet_trainer
from photographs import (
    PhotoPatches,
    channel_statistics,
    load_photographs,
    split_photographs,
)
from vis_callbacks import FilterMonitor

STEPS = 400
BATCH_SIZE = 32
FACTORS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of each network's usual rate
BETTER = 0.03

Split = tuple[TensorDataset, TensorDataset]


@dataclass(frozen=True)
class Case:
    """One network with the rate that suits it."""

    name: str
    make: Callable[[], nn.Module]
    optimizer: Callable[..., torch.optim.Optimizer]
    rate: float
    data: Callable[[], Split]


class Training(LightningModule):
    """Plain supervised training at one rate."""

    def __init__(self, case: Case, rate: float) -> None:
        super().__init__()
        self.case, self.rate, self.network = case, rate, case.make()

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the class scores."""
        return self.network(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns the case's optimizer."""
        return self.case.optimizer(self.parameters(), lr=self.rate)


class Mixer(nn.Module):
    """Patches of 4 x 4, mixed over places and over channels."""

    def __init__(self, width: int = 48, places: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(3, width, 4, stride=4)
        self.over_places = nn.Sequential(nn.LayerNorm(places), nn.Linear(places, places), nn.GELU())
        self.over_channels = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.head = nn.Linear(width, 12)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the class scores."""
        maps = self.embedding(images).flatten(2)
        maps = maps + self.over_places(maps)
        tokens = maps.transpose(1, 2)
        return self.head((tokens + self.over_channels(tokens)).mean(1))


def _pooled(*layers: nn.Module, width: int) -> nn.Module:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 12)]
    return nn.Sequential(*layers, *head)


def batch_norm_9x9() -> nn.Module:
    first = [nn.Conv2d(3, 24, 9, stride=4, padding=4), nn.BatchNorm2d(24), nn.GELU()]
    return _pooled(*first, nn.Conv2d(24, 48, 3), nn.BatchNorm2d(48), nn.GELU(), width=48)


def group_norm_5x5() -> nn.Module:
    first = [nn.Conv2d(3, 20, 5, stride=2), nn.GroupNorm(4, 20), nn.SiLU(), nn.MaxPool2d(2)]
    return _pooled(*first, nn.Conv2d(20, 40, 3), nn.GroupNorm(4, 40), nn.SiLU(), width=40)


def separable_7x7() -> nn.Module:
    first = [nn.Conv2d(3, 24, 7, stride=2), nn.LeakyReLU(), nn.MaxPool2d(2)]
    depthwise = [nn.Conv2d(24, 24, 3, groups=24), nn.Conv2d(24, 64, 1), nn.LeakyReLU()]
    return _pooled(*first, *depthwise, width=64)


def small_3x3() -> nn.Module:
    first = [nn.Conv2d(3, 16, 3), nn.ELU(), nn.MaxPool2d(2)]
    return _pooled(*first, nn.Conv2d(16, 32, 3), nn.ELU(), width=32)


def tanh_mlp() -> nn.Module:
    hidden = [nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))


def patches() -> Split:
    sides = split_photographs(load_photographs())
    mean, std = channel_statistics(sides[0])
    training, validation = (
        _stacked(PhotoPatches(side, count, mean=mean, std=std, seed=seed))
        for side, count, seed in zip(sides, (400, 60), (10, 11), strict=True)
    )
    return training, validation


def digits() -> Split:
    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32)[:, None]
    images = (images - images.mean()) / images.std()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(3))
    labels = torch.tensor(bunch.target)
    parts = (order[:1400], order[1400:])
    training, validation = (TensorDataset(images[part], labels[part]) for part in parts)
    return training, validation


def _stacked(data: PhotoPatches) -> TensorDataset:
    images, labels = zip(*(data[index] for index in range(len(data))), strict=True)
    return TensorDataset(torch.stack(images), torch.tensor(labels))


def _sgd(parameters: Iterator[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


CASES = (
    Case("9x9, batch norm, GELU; AdamW", batch_norm_9x9, torch.optim.AdamW, 2e-3, patches),
    Case("5x5, group norm, SiLU; SGD", group_norm_5x5, _sgd, 0.02, patches),
    Case("7x7, separable; SGD", separable_7x7, _sgd, 0.02, patches),
    Case("3x3, ELU; RMSprop", small_3x3, torch.optim.RMSprop, 1e-3, patches),
    Case("mixer, patches of 4x4; AdamW", Mixer, torch.optim.AdamW, 2e-3, patches),
    Case("MLP, tanh, digits; Adam", tanh_mlp, torch.optim.Adam, 1e-3, digits),
)


def train(case: Case, rate: float, seed: int, data: Split) -> tuple[float, bool]:
    """Returns the validation accuracy at the end, and whether the alert was raised."""
    seed_everything(seed, verbose=False)
    monitor, training = FilterMonitor(), Training(case, rate)
    with TemporaryDirectory() as folder:
        trainer = quiet_trainer(folder, max_steps=STEPS, max_epochs=-1, callbacks=[monitor])
        loader = DataLoader(data[0], batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
        trainer.fit(training, loader)
    images, labels = data[1].tensors
    with torch.no_grad():
        predicted = training.eval()(images).argmax(1)
    was_raised = any(alert.kind == "hardly_learned" for alert in monitor.alerts)
    return (predicted == labels).float().mean().item(), was_raised


def judged(case: Case, seed: int, data: Split) -> Iterator[tuple[bool, bool, str]]:
    """Yields (under-trained, alert raised, in words) of each rate that has one above it."""
    results = [train(case, case.rate * factor, seed, data) for factor in FACTORS]
    pairs = zip(FACTORS, results, results[1:], strict=False)
    for factor, (accuracy, was_raised), (of_ten_times, _) in pairs:
        is_under = of_ten_times >= accuracy + BETTER
        words = f"rate x {factor:<6g} accuracy {accuracy:.2f}, at ten times {of_ten_times:.2f}"
        yield is_under, was_raised, words


def scenario_lines(seeds: Sequence[int]) -> Iterator[str]:
    """Yields, of each acceptance scenario, how many seeds are as expected, and what is not."""
    for name in SCENARIOS:
        complaints = {seed: outcome(name, seed).complaint() for seed in seeds}
        wrong = {seed: complaint for seed, complaint in complaints.items() if complaint}
        yield f"{name:40} {len(seeds) - len(wrong)} of {len(seeds)}"
        yield from (f"    seed {seed}: {complaint}" for seed, complaint in wrong.items())


def main(arguments: list[str] | None = None) -> None:
    """Prints each training, then precision and recall; or the scenarios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[101])
    parser.add_argument("--scenarios", action="store_true", help="the acceptance scenarios instead")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "vis_callbacks"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if options.scenarios:
        for line in scenario_lines(options.seeds):
            print(line, flush=True)
        return
    counts = {(is_under, raised): 0 for is_under in (True, False) for raised in (True, False)}
    with one_thread():
        for case in CASES:
            data = case.data()
            for seed in options.seeds:
                for is_under, was_raised, words in judged(case, seed, data):
                    counts[is_under, was_raised] += 1
                    truth = "under-trained" if is_under else "-"
                    said = "ALERT" if was_raised else "silent"
                    print(f"{case.name:32} {seed} {words}  {truth:14} {said}", flush=True)
    found, missed = counts[True, True], counts[True, False]
    wrong, right = counts[False, True], counts[False, False]
    print(f"precision {found} of {found + wrong}, recall {found} of {found + missed},")
    print(f"false alarms {wrong} of {wrong + right} trainings that are not under-trained")


if __name__ == "__main__":
    main()
