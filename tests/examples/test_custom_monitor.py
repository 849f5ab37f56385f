from __future__ import annotations

import ast
import math
import runpy
from pathlib import Path

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tests.tiny import NUM_CLASSES, NUM_STEPS, tiny_loader, tiny_module, tiny_trainer
from tests.writers.reading import scalars

import vis_callbacks

SCRIPT = Path(__file__).parents[2] / "examples" / "custom_monitor.py"


@pytest.fixture
def monitor():
    return runpy.run_path(str(SCRIPT))["DoubtMonitor"](every_n_train_steps=1)


def train(monitor, folder: Path, scale: float):
    """Trains with scores multiplied by ``scale``; returns the Trainer."""
    module = tiny_module()
    with torch.no_grad():
        module.head.weight.mul_(scale)
        module.head.bias.mul_(scale)
    trainer = tiny_trainer(folder, [monitor], logger=TensorBoardLogger(folder))
    trainer.fit(module, tiny_loader())
    return trainer


def test_it_is_short():
    assert len(SCRIPT.read_text().splitlines()) < 40


def test_it_needs_public_names_alone():
    imports = [n for n in ast.walk(ast.parse(SCRIPT.read_text())) if isinstance(n, ast.ImportFrom)]
    ours = {n.module: [a.name for a in n.names] for n in imports if "vis_callbacks" in n.module}
    assert list(ours) == ["vis_callbacks"]
    assert set(ours["vis_callbacks"]) <= set(vis_callbacks.__all__)


def test_equal_scores_have_the_entropy_of_a_fair_choice(monitor, tmp_path):
    trainer = train(monitor, tmp_path, scale=0.0)
    written = scalars(Path(trainer.logger.log_dir), "score_entropy")
    assert sorted(written) == list(range(NUM_STEPS))
    assert written[0] == pytest.approx(math.log(NUM_CLASSES), rel=1e-6)  # in float32
    assert not monitor.alerts


def test_scores_without_doubt_are_an_alert(monitor, tmp_path):
    trainer = train(monitor, tmp_path, scale=1e4)
    (alert,) = monitor.alerts
    assert alert.kind == "no_doubt"
    assert alert.evidence["entropy"] < 0.05
    assert "no_doubt" in (Path(trainer.logger.log_dir) / "alerts.jsonl").read_text()
