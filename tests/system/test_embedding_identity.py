"""A run whose evaluations are collected is, bit for bit, the run without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from tests.identity import digest
from tests.system.models import (
    BATCH,
    LIGHTNING_CHATTER,
    Cnn,
    CountingData,
    CountingLoader,
    Net,
    Recorder,
    Run,
    Transformer,
    forget_graphs,
    graphs,
    pictures,
    tokens,
    trainer_of,
)
from tests.system.test_identity import assert_same_run, trace
from torch import nn

from vis_callbacks import EmbeddingMonitor

pytestmark = [
    *(pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER),
    pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled"),
]

NUM_EPOCHS = 2


class NetOfTwo(Net):
    """Validates on two loaders."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx)


@dataclass(frozen=True)
class Scenario:
    network: Callable[[], nn.Module] = Cnn
    make_data: Callable[[], CountingData] = pictures
    options: dict[str, Any] = field(default_factory=dict)
    num_loaders: int = 1
    shuffle: bool = False
    num_mapped: int = 120

    def run(self, folder: Path, monitors: Sequence[EmbeddingMonitor] = ()) -> Run:
        forget_graphs()
        pl.seed_everything(3, verbose=False)
        module = (NetOfTwo if self.num_loaders > 1 else Net)(self.network())
        recorder, data = Recorder(), self.make_data()
        loaders = [CountingLoader(data, batch_size=BATCH, shuffle=True)] + [
            CountingLoader(data, batch_size=2 * BATCH, shuffle=self.shuffle)
            for _ in range(self.num_loaders)
        ]
        trainer = trainer_of(folder, [*monitors, recorder], **self.options)
        trainer.fit(module, loaders[0], loaders[1:])
        inner = trainer.lightning_module
        return Run(inner, trainer, folder, recorder, data, loaders, graphs())


SCENARIOS = {
    "one loader": Scenario(),
    "shuffled": Scenario(shuffle=True),
    "two loaders": Scenario(num_loaders=2),
    "a limited validation": Scenario(options={"limit_val_batches": 3}, num_mapped=48),
    "two validations an epoch": Scenario(options={"val_check_interval": 0.5}),
    "post-norm encoder": Scenario(partial(Transformer, norm_first=False), tokens),
    "pre-norm encoder, padded": Scenario(partial(Transformer, norm_first=True), tokens),
    "no validation": Scenario(options={"limit_val_batches": 0}, num_mapped=BATCH),
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_collecting_an_evaluation_leaves_no_trace(scenario: Scenario, tmp_path: Path) -> None:
    plain = trace(scenario.run(tmp_path / "plain"))
    assert_same_run(plain, scenario.run(tmp_path / "again"))
    monitor = EmbeddingMonitor(perplexity=10.0)
    watched = scenario.run(tmp_path / "watched", [monitor])
    assert_same_run(plain, watched)
    assert monitor.guard.counts == {}
    followed = monitor.state_dict()["monitor"]["maps"]["followed"]["network.head"]
    assert len(followed["points"]) == scenario.num_mapped
    assert len(followed["strip"]["steps"]) >= NUM_EPOCHS
    assert monitor.references is None or scenario.options.get("limit_val_batches") == 0


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_evaluation_by_itself_gives_the_metrics_of_one_that_is_not_collected(
    norm_first: bool, tmp_path: Path
) -> None:
    metrics = []
    for monitors in ([], [EmbeddingMonitor(perplexity=10.0)]):
        pl.seed_everything(3, verbose=False)
        module = Net(Transformer(norm_first=norm_first))
        trainer = trainer_of(tmp_path, monitors, logger=False)
        loader = CountingLoader(tokens(), batch_size=BATCH)
        metrics.append(digest(trainer.validate(module, loader, verbose=False)))
        metrics.append(digest(trainer.test(module, loader, verbose=False)))
    assert metrics[:2] == metrics[2:]
    assert len(monitors[0].history) == 2
    assert monitors[0].references is None
