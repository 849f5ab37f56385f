"""The one door to Lightning: its base classes, and the few facts of a Trainer that we use."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    LightningCallback = Callback

_PACKAGES = ("pytorch_lightning", "lightning.pytorch")


def _installed() -> list[str]:
    def has(package: str) -> bool:
        try:
            return importlib.util.find_spec(package) is not None
        except ModuleNotFoundError:
            return False

    return [package for package in _PACKAGES if has(package)]


def _of_every_package(module: str, name: str) -> tuple[type, ...]:
    found = [getattr(importlib.import_module(f"{p}{module}"), name) for p in _installed()]
    return tuple(dict.fromkeys(found))


# A Trainer only accepts callbacks of its own package, so ours is one of every installed one.
if not TYPE_CHECKING:
    LightningCallback = type("LightningCallback", _of_every_package("", "Callback"), {})

_MISCONFIGURATIONS = _of_every_package(".utilities.exceptions", "MisconfigurationException")


class _SetUpError(ValueError):
    """A Trainer or a model that a monitor cannot work with; raised before training begins."""


SetUpError: type[Exception] = type(
    "SetUpError", (*_MISCONFIGURATIONS, _SetUpError), {"__doc__": _SetUpError.__doc__}
)


def trainer_of(module: Any) -> Any:
    """Returns the Trainer that a module is attached to, None where it is to none."""
    return getattr(module, "_trainer", None)  # the public property raises where there is none


def step_of(trainer: Any) -> int:
    """Returns `RunView.step`, at less cost: it is asked for at every step of a run."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


@dataclass(frozen=True)
class RunView:
    """The few facts of a Trainer that the monitors use, read at the moment they are asked for.

    It holds the Trainer; whoever keeps a view longer than a hook keeps the run alive.
    """

    trainer: Any

    @property
    def model(self) -> nn.Module:
        """The user's LightningModule, without a wrapper."""
        module: nn.Module = self.trainer.lightning_module
        return module

    @property
    def is_wrapped(self) -> bool:
        """Whether the strategy runs the steps through a wrapper's ``forward`` (DDP)."""
        return self.trainer.strategy.model is not self.trainer.lightning_module

    @property
    def is_sharded(self) -> bool:
        """Whether no rank has the whole model, so that all must run each forward pass."""
        kinds = {kind.__name__ for kind in type(self.trainer.strategy).__mro__}
        return not kinds.isdisjoint({"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"})

    @property
    def step(self) -> int:
        """The x-axis of the user's own ``self.log`` within a training batch or validation.

        Not ``global_step``: they part with several optimizers.
        """
        return step_of(self.trainer)

    @property
    def is_last_micro_batch(self) -> bool:
        """Whether the optimizer steps with this batch (gradient accumulation)."""
        return not self.trainer.fit_loop._should_accumulate()

    @property
    def accumulated_batches(self) -> int:
        """The number of batches whose gradients make one step."""
        return int(self.trainer.accumulate_grad_batches)

    @property
    def is_automatic(self) -> bool:
        """Whether Lightning drives the optimizer."""
        return bool(self.model.automatic_optimization)

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""
        return int(self.trainer.current_epoch)

    @property
    def stage(self) -> str:
        """``"fit"`` (with its validation), ``"validate"``, ``"test"`` or ``"predict"``."""
        return str(self.trainer.state.fn.value) if self.trainer.state.fn else "fit"

    @property
    def is_sanity_checking(self) -> bool:
        """Whether this is the validation before training."""
        return bool(self.trainer.sanity_checking)

    @property
    def is_silent(self) -> bool:
        """Whether the run asks for no files: ``fast_dev_run`` and ``barebones``."""
        return bool(self.trainer.fast_dev_run) or bool(getattr(self.trainer, "barebones", False))

    @property
    def planned_steps(self) -> int | None:
        """How many steps the run will take, or None where its end is not known."""
        steps = self.trainer.max_steps
        if steps > 0 and not self.is_automatic:  # it counts the steps of each optimizer
            steps = -(-steps // max(1, len(self.trainer.optimizers)))
        batches = self.trainer.num_training_batches
        epochs = self.trainer.max_epochs
        if epochs is not None and epochs > 0 and batches != float("inf"):
            per_epoch = -(-int(batches) // self.accumulated_batches)
            total = per_epoch * epochs
            return int(min(total, steps)) if steps > 0 else total
        return int(steps) if steps > 0 else None

    @property
    def steps_per_epoch(self) -> int | None:
        """How many steps an epoch takes, or None where that is not known."""
        batches = self.trainer.num_training_batches
        return None if batches == float("inf") else -(-int(batches) // self.accumulated_batches)

    @property
    def evaluates(self) -> bool:
        """Whether an evaluation passes by: in ``fit``, whether there is a validation at all."""
        return self.stage != "fit" or bool(self.trainer.enable_validation)

    @property
    def loggers(self) -> Sequence[Any]:
        """The Trainer's loggers."""
        return tuple(self.trainer.loggers)

    @property
    def default_root_dir(self) -> Path:
        """Where the Trainer puts what no logger takes."""
        return Path(self.trainer.default_root_dir)

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the rank that writes."""
        return bool(self.trainer.is_global_zero)

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return int(self.trainer.world_size)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.trainer.strategy.root_device
        return device

    @property
    def forward_context(self) -> Callable[[], AbstractContextManager[Any]]:
        """Makes the context of the user's own forward passes (autocast)."""
        context: Callable[[], AbstractContextManager[Any]] = (
            self.trainer.precision_plugin.forward_context
        )
        return context

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """The bare optimizers."""
        return tuple(getattr(o, "optimizer", o) for o in self.trainer.optimizers)

    @property
    def metrics(self) -> Mapping[str, Any]:
        """A copy of what the user has logged so far; tensors stay on their device."""
        return dict(self.trainer.callback_metrics)

    @property
    def is_stopping(self) -> bool:
        """Whether the training is to end after this step."""
        return bool(self.trainer.should_stop)

    def stop(self) -> None:
        """Ends the training after this step; all ranks must come to the same decision."""
        self.trainer.should_stop = True
