from __future__ import annotations

import math

import torch

from vis_callbacks.engine.loss_log import LossLog


def test_it_gives_all_losses_since_the_last_time_with_their_steps() -> None:
    log = LossLog()
    for step in range(600):  # more than are kept one by one
        log.note(step, torch.tensor(float(step)))
    losses, steps = log.take()
    assert losses.tolist() == steps.tolist() == list(range(600))
    log.note(600, torch.tensor(math.nan))
    losses, steps = log.take()
    assert steps.tolist() == [600]
    assert losses.isnan().all()


def test_steps_without_a_loss_and_steps_of_several_batches_keep_their_numbers() -> None:
    log = LossLog()
    for step, loss in ((3, 1.0), (3, 2.0), (4, None), (5, 3.0)):
        log.note(step, None if loss is None else torch.tensor(loss))
    losses, steps = log.take()
    assert (losses.tolist(), steps.tolist()) == ([1.0, 2.0, 3.0], [3, 3, 5])


def test_without_a_loss_there_is_nothing() -> None:
    losses, steps = LossLog().take()
    assert len(losses) == len(steps) == 0
