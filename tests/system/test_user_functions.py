"""The functions that a user gives us may draw random numbers and write into what they get."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from tests.system.models import LIGHTNING_CHATTER, Cnn, Net, Run, pictures, train
from tests.system.test_identity import assert_same_run, trace
from torch import Tensor

from vis_callbacks import ActivationMonitor, OcclusionMonitor, SaliencyMonitor

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER]


def draw() -> float:
    return float(torch.rand(())) + np.random.random() + random.random()


def input_fn(batch: Any) -> Tensor:
    images = batch[0].add_(draw())
    images.numpy()[:, 0] = 0
    del batch[:-1]
    return images


def label_fn(batch: Any) -> Tensor:
    draw()
    return batch.pop().clamp_(0, 3)


def mask_fn(batch: Any) -> Tensor:
    return batch[0].mul_(draw()).amax(1) > 0


def forward_fn(module: Any, inputs: Tensor) -> Any:
    if not inputs.requires_grad:
        inputs.mul_(1 + draw())
    return module(inputs)


class ListBatches(Net):
    """Is given lists, which can be written into."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return list(batch)


def run(folder: Any, monitors: Any) -> Run:
    return train(lambda: ListBatches(Cnn()), folder, monitors, make_data=pictures)


def test_functions_of_the_user_leave_no_trace_in_a_run(tmp_path: Any) -> None:
    functions = {"input_fn": input_fn, "label_fn": label_fn, "forward_fn": forward_fn}
    often = {"num_samples": 2, "every_n_train_steps": 3}
    monitors = [
        ActivationMonitor(**functions, **often),
        SaliencyMonitor(mask_fn=mask_fn, **functions, **often),
        OcclusionMonitor(window_size=4, stride=4, **functions, **often),
    ]
    plain = trace(run(tmp_path / "plain", []))
    assert_same_run(plain, run(tmp_path / "watched", monitors))
    assert all(monitor.last_report is not None for monitor in monitors)
    assert {m.stem: m.guard.counts for m in monitors} == {m.stem: {} for m in monitors}
    masks = monitors[1].references.masks
    assert masks is not None
    assert (monitors[1].references.inputs[:, 0] == 0).all()  # what the function has computed
