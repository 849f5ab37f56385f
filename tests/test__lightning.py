from __future__ import annotations

import importlib
import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from tests.tiny import NUM_STEPS, TinyModule, tiny_loader, tiny_module, tiny_trainer

from vis_callbacks._lightning import LightningCallback, RunView, SetUpError, _installed

PROPERTIES = [n for n, value in vars(RunView).items() if isinstance(value, property)]


class Looks(Callback):
    """Notes facts of the run at each batch."""

    def __init__(self, *facts: str) -> None:
        self.facts = facts
        self.seen: list[Any] = []

    def note(self, trainer: Trainer) -> None:
        values = tuple(getattr(RunView(trainer), fact) for fact in self.facts)
        self.seen.append(values if len(values) > 1 else values[0])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.note(trainer)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.note(trainer)


def look(tmp_path, *facts: str, run: str = "fit", **options: Any) -> list[Any]:
    looks = Looks(*facts)
    trainer = tiny_trainer(tmp_path, [looks], num_sanity_val_steps=0, **options)
    if run == "fit":
        trainer.fit(tiny_module(), tiny_loader())
    else:
        getattr(trainer, run)(tiny_module(), tiny_loader(), verbose=False)
    assert looks.seen
    return looks.seen


def test_the_base_is_a_callback_of_every_installed_package():
    assert _installed()
    for package in _installed():
        assert issubclass(LightningCallback, importlib.import_module(package).Callback)


def test_the_error_of_a_wrong_set_up_is_that_of_every_package_and_a_value_error():
    assert issubclass(SetUpError, ValueError)
    for package in _installed():
        exceptions = importlib.import_module(f"{package}.utilities.exceptions")
        assert issubclass(SetUpError, exceptions.MisconfigurationException)


@pytest.mark.parametrize("fact", PROPERTIES)
def test_every_fact_can_be_read_in_a_fit(fact, tmp_path):
    assert len(look(tmp_path, fact)) == NUM_STEPS


def test_the_step_is_that_of_the_users_own_log(tmp_path):
    assert look(tmp_path, "step") == [0, 1, 2, 3]


def test_the_step_counts_updates_where_batches_are_accumulated(tmp_path):
    facts = ("step", "is_last_micro_batch", "accumulated_batches")
    seen = look(tmp_path, *facts, accumulate_grad_batches=2)
    assert seen == [(0, False, 2), (0, True, 2), (1, False, 2), (1, True, 2)]


class TwoOptimizers(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.a, self.b = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.a, self.b)]


def test_the_step_counts_batches_where_several_optimizers_step(tmp_path):
    looks = Looks("step", "is_automatic")
    trainer = tiny_trainer(tmp_path, [looks])
    trainer.fit(TwoOptimizers(), tiny_loader())
    assert trainer.global_step == 2 * NUM_STEPS
    assert looks.seen == [(step, False) for step in range(NUM_STEPS)]


@pytest.mark.parametrize(
    ("options", "planned", "per_epoch"),
    [
        ({"max_epochs": 3}, 6, 2),
        ({"max_epochs": 3, "max_steps": 4}, 4, 2),
        ({"max_epochs": -1, "max_steps": 3}, 3, 2),
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, 3, 1),
        ({"max_epochs": 3, "limit_train_batches": 1}, 3, 1),
    ],
)
def test_the_planned_steps_are_those_that_are_taken(tmp_path, options, planned, per_epoch):
    assert set(look(tmp_path, "planned_steps", "steps_per_epoch", **options)) == {
        (planned, per_epoch)
    }


def test_a_run_without_an_end_has_no_planned_steps():
    trainer = SimpleNamespace(
        max_steps=-1, max_epochs=-1, num_training_batches=float("inf"), accumulate_grad_batches=1
    )
    assert RunView(trainer).planned_steps is None
    assert RunView(trainer).steps_per_epoch is None


def test_of_two_optimizers_that_step_in_turn_a_limit_counts_both(tmp_path):
    class Manual(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.conv, self.head)]

    planned, steps = set(), []

    class Looks(Callback):
        def on_train_batch_end(self, trainer, *args):
            planned.add(RunView(trainer).planned_steps)
            steps.append(RunView(trainer).step)

    trainer = tiny_trainer(tmp_path, [Looks()], max_steps=7, max_epochs=-1)
    trainer.fit(Manual(), tiny_loader(32))
    assert planned == {len(steps)} == {4}


@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_the_stage_is_what_the_user_called(tmp_path, stage):
    assert set(look(tmp_path, "stage", run=stage)) == {stage}


@pytest.mark.parametrize(
    ("options", "is_silent"), [({}, False), ({"fast_dev_run": 1}, True)], ids=str
)
def test_a_trial_run_is_silent(tmp_path, options, is_silent):
    assert set(look(tmp_path, "is_silent", **options)) == {is_silent}


def test_stopping_ends_the_run_after_the_step(tmp_path):
    class Stops(Callback):
        def on_train_batch_end(self, trainer, *args):
            RunView(trainer).stop()

    trainer = tiny_trainer(tmp_path, [Stops()])
    trainer.fit(tiny_module(), tiny_loader())
    assert trainer.global_step == 1


def test_a_view_reads_at_the_moment_it_is_asked():
    trainer = SimpleNamespace(current_epoch=1)
    view = RunView(trainer)
    trainer.current_epoch = 2
    assert view.epoch == 2
    assert all(inspect.getdoc(getattr(RunView, name)) for name in PROPERTIES)
