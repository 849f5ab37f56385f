"""Top patches in whole runs: against brute force, over two ranks, and without a trace."""

from __future__ import annotations

import gc
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.strategies import DDPStrategy
from tests.identity import digest
from tests.system.models import (
    LIGHTNING_CHATTER,
    Cnn,
    Drawn,
    Net,
    Transformer,
    pictures,
    tokens,
    train,
    trainer_of,
)
from tests.system.processes import RANKS, run_in_two_ranks
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vis_callbacks import TopPatchesMonitor
from vis_callbacks.monitors.top_patches.records import TopPatches, unpacked
from vis_callbacks.report import Picture, Report, Scalar

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER]

ROOT = Path(__file__).parents[2]


def tops(report: Report) -> dict[str, TopPatches]:
    return {
        item.tag.removeprefix("top_patches/"): unpacked(torch.from_numpy(item.arrays["records"]))
        for item in report.of(Picture)
    }


# -- against brute force


@pytest.mark.parametrize("num_epochs", [1, 2])  # fields unknown, and known
def test_the_patches_of_a_fit_are_the_best_of_its_whole_validation_set(num_epochs, tmp_path):
    layers, units = ["network.relu", "network/relu"], [0, 3, 5]
    monitor = TopPatchesMonitor(layers, units=units, top_k=6, every_n_epochs=1)
    run = train(lambda: Net(Cnn()), tmp_path, [monitor], make_data=pictures, max_epochs=num_epochs)
    network, images = run.module.network.eval(), run.data.inputs
    with torch.no_grad():
        first = F.relu(network.norm(network.first(images)))
        second = F.relu(network.second(first))
    found = tops(monitor.last_report)
    assert list(found) == layers
    for layer, maps in zip(layers, (first, second), strict=True):
        top = found[layer]
        for row, unit in enumerate(units):
            best, places = maps[:, unit].flatten(1).max(1)
            order = best.argsort(descending=True, stable=True)[:6]
            assert top.samples[row].tolist() == order.tolist()
            assert top.positions[row].tolist() == places[order].tolist()
            # Batches of another size are computed in another order of sums.
            torch.testing.assert_close(top.values[row], best[order], rtol=1e-5, atol=1e-6)


def test_a_run_without_a_sanity_check_knows_receptive_fields_and_labels(tmp_path):
    monitor = TopPatchesMonitor(["network.relu"], every_n_epochs=1)
    train(lambda: Net(Cnn()), tmp_path, [monitor], make_data=pictures, num_sanity_val_steps=0,
          max_epochs=1)  # fmt: skip
    (top,) = tops(monitor.last_report).values()
    assert int((top.boxes[..., 2:] - top.boxes[..., :2]).max()) == 3
    assert [item.tag for item in monitor.last_report.of(Scalar)] == [
        "class_purity/network.relu",
        "concentration/network.relu",
    ]


# -- over two ranks


class Planted(pl.LightningModule):
    """Whole numbers only: sums are exact in batches of any size, and there are ties."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.conv.weight.data = torch.randint(-2, 3, (4, 1, 3, 3), generator=generator).float()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x)).mean((2, 3))

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])


def validated(
    folder: Path, monitors: list[TopPatchesMonitor], batch_size: int, **options: Any
) -> None:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(-1, 2, (48, 1, 7, 7), generator=generator).float()
    images[7, 0, 2, 2] = float("nan")
    data = TensorDataset(images, torch.arange(48) % 3)
    trainer = trainer_of(folder, monitors, logger=False, **options)
    for _ in range(2):  # fields unknown, and known
        trainer.validate(Planted(), DataLoader(data, batch_size=batch_size), verbose=False)


def watching() -> list[TopPatchesMonitor]:
    return [
        TopPatchesMonitor(["relu"], units=[0, 1, 2, 3], top_k=7),
        TopPatchesMonitor(["relu"], units="selective", max_units=2, top_k=7, tag_prefix="b/"),
        TopPatchesMonitor(["relu"], units=[1], top_k=7, patches_per_image=2, tag_prefix="c/"),
    ]


def arrays_of(monitors: list[TopPatchesMonitor]) -> list[dict[str, np.ndarray]]:
    return [dict(item.arrays) for m in monitors for item in m.last_report.of(Picture)]


def on_one_rank(folder: Path) -> None:
    monitors = watching()
    strategy = DDPStrategy(process_group_backend="gloo")
    validated(folder, monitors, 4, strategy=strategy, devices=2)
    torch.save(arrays_of(monitors), folder / f"{os.environ['RANK']}.pt")


def test_two_ranks_find_what_one_process_finds(tmp_path):
    run_in_two_ranks(on_one_rank, tmp_path)
    monitors = watching()
    validated(tmp_path / "single", monitors, 8)
    expected = arrays_of(monitors)
    assert [len(arrays["rows"]) for arrays in expected] == [4, 2, 1]
    for rank in RANKS:
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.keys() == theirs.keys()
            assert [n for n in mine if not np.array_equal(mine[n], theirs[n])] == []


# -- memory


class Weighing(pl.Callback):
    """Weighs all tensors that are alive behind the last batch of a validation."""

    def __init__(self) -> None:
        self.num_bytes = 0

    def on_validation_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        if args[2] == trainer.num_val_batches[0] - 1:
            gc.collect()
            tensors = [o for o in gc.get_objects() if type(o) in (Tensor, nn.Parameter)]
            # Sparse tensors, of whoever ran before, have no storage.
            dense = [t for t in tensors if t.layout == torch.strided]
            storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in dense}
            self.num_bytes = sum(storage.nbytes() for storage in storages.values())


def weighed(folder: Path, num_samples: int, monitors: list[TopPatchesMonitor]) -> int:
    weighing = Weighing()
    trainer = trainer_of(folder, [*monitors, weighing], logger=False)
    trainer.validate(Net(Cnn()), DataLoader(Drawn(num_samples), batch_size=16), verbose=False)
    gc.collect()
    return weighing.num_bytes


def test_memory_does_not_grow_with_the_validation_set(tmp_path):
    make = partial(TopPatchesMonitor, ["network.relu", "network/relu"], top_k=9)
    plain = weighed(tmp_path, 64, [])
    once, twenty = (weighed(tmp_path, n, [make()]) - plain for n in (64, 20 * 64))
    # (6 + 8 units) x 9 patches of 3 x (72 + 32 x 32) bytes, and a few numbers.
    kept = 14 * 9 * 3 * (72 + 32 * 32)
    assert kept <= once <= 1.1 * kept
    assert twenty <= 1.01 * once


# -- without a trace


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_transformer_has_the_validation_metrics_of_an_unwatched_run(norm_first, tmp_path):
    make = partial(Transformer, norm_first=norm_first)
    facts, metrics = [], []
    for name, monitors in {
        "plain": [],
        "watched": [
            TopPatchesMonitor(
                ["*/relu"],
                every_n_epochs=1,
                input_fn=lambda batch: batch[0].float(),  # of tokens no part could be shown
                forward_fn=lambda model, inputs: model(inputs.long()),
            )
        ],
    }.items():
        run = train(lambda: Net(make()), tmp_path / name, monitors, make_data=tokens)
        facts.append(run.facts)
        metrics.append(digest(run.trainer.validate(run.module, run.loaders[1], verbose=False)))
    odd = [name for name in facts[0] if facts[0][name] != facts[1].get(name)]
    assert odd == []
    assert metrics[0] == metrics[1]
    assert len(tops(monitors[0].last_report)) == 2
    assert monitors[0].guard.counts == {}


def test_a_run_is_the_same_with_the_monitor_and_without(tmp_path):
    monitor = TopPatchesMonitor(
        ["network.relu", "network/relu"], units="strongest", show_images=True, every_n_epochs=1
    )
    plain, watched = (
        train(lambda: Net(Cnn()), tmp_path / name, monitors, make_data=pictures).facts
        for name, monitors in (("plain", []), ("watched", [monitor]))
    )
    assert [name for name in plain if plain[name] != watched.get(name)] == []
    assert len(tops(monitor.last_report)) == 2
