"""The one door to Lightning: its base classes, and the few facts of a Trainer that we use."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
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


def _planned_steps(trainer: Any) -> int | None:
    steps = trainer.max_steps
    if steps > 0 and not trainer.lightning_module.automatic_optimization:
        # It counts the steps of each optimizer.
        steps = -(-steps // max(1, len(trainer.optimizers)))
    per_epoch, epochs = _steps_per_epoch(trainer), trainer.max_epochs
    if epochs is not None and epochs > 0 and per_epoch is not None:
        total = per_epoch * epochs
        return int(min(total, steps)) if steps > 0 else total
    return int(steps) if steps > 0 else None


def _steps_per_epoch(trainer: Any) -> int | None:
    batches = trainer.num_training_batches
    return None if batches == float("inf") else -(-int(batches) // trainer.accumulate_grad_batches)


def _is_sharded(trainer: Any) -> bool:
    kinds = {kind.__name__ for kind in type(trainer.strategy).__mro__}
    return not kinds.isdisjoint({"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"})


def _stage(trainer: Any) -> str:
    return str(trainer.state.fn.value) if trainer.state.fn else "fit"


def _fact(read: Callable[[Any], Any], doc: str) -> Any:
    return property(lambda view: read(view.trainer), doc=doc)


class RunView:
    """The few facts of a Trainer that the monitors use, read at the moment they are asked for.

    It holds the Trainer; whoever keeps a view longer than a hook keeps the run alive.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    model: nn.Module = _fact(
        lambda t: t.lightning_module, "The user's LightningModule, without a wrapper."
    )
    is_wrapped: bool = _fact(
        lambda t: t.strategy.model is not t.lightning_module,
        "Whether the strategy runs the steps through a wrapper's ``forward`` (DDP).",
    )
    is_sharded: bool = _fact(
        _is_sharded, "Whether no rank has the whole model, so that all run each forward pass."
    )
    step: int = _fact(
        step_of,
        "The x-axis of the user's own ``self.log`` within a training batch or validation. It is "
        "not ``global_step``: they part with several optimizers.",
    )
    is_last_micro_batch: bool = _fact(
        lambda t: not t.fit_loop._should_accumulate(),
        "Whether the optimizer steps with this batch (gradient accumulation).",
    )
    accumulated_batches: int = _fact(
        lambda t: int(t.accumulate_grad_batches), "The number of batches that make one step."
    )
    is_automatic: bool = _fact(
        lambda t: bool(t.lightning_module.automatic_optimization),
        "Whether Lightning drives the optimizer.",
    )
    epoch: int = _fact(lambda t: int(t.current_epoch), "The current epoch, from 0.")
    stage: str = _fact(
        _stage, '``"fit"`` (with its validation), ``"validate"``, ``"test"`` or ``"predict"``.'
    )
    is_sanity_checking: bool = _fact(
        lambda t: bool(t.sanity_checking), "Whether this is the validation before training."
    )
    is_silent: bool = _fact(
        lambda t: bool(t.fast_dev_run) or bool(getattr(t, "barebones", False)),
        "Whether the run asks for no files: ``fast_dev_run`` and ``barebones``.",
    )
    planned_steps: int | None = _fact(
        _planned_steps, "How many steps the run will take, None where its end is not known."
    )
    steps_per_epoch: int | None = _fact(
        _steps_per_epoch, "How many steps an epoch takes, None where that is not known."
    )
    evaluates: bool = _fact(
        lambda t: _stage(t) != "fit" or bool(t.enable_validation),
        "Whether an evaluation passes by: in ``fit``, whether there is a validation at all.",
    )
    loggers: Sequence[Any] = _fact(lambda t: tuple(t.loggers), "The Trainer's loggers.")
    default_root_dir: Path = _fact(
        lambda t: Path(t.default_root_dir), "Where the Trainer puts what no logger takes."
    )
    is_global_zero: bool = _fact(
        lambda t: bool(t.is_global_zero), "Whether this is the rank that writes."
    )
    world_size: int = _fact(lambda t: int(t.world_size), "The number of ranks.")
    device: torch.device = _fact(lambda t: t.strategy.root_device, "Where the model is.")
    forward_context: Callable[[], AbstractContextManager[Any]] = _fact(
        lambda t: t.precision_plugin.forward_context,
        "Makes the context of the user's own forward passes (autocast).",
    )
    optimizers: Sequence[torch.optim.Optimizer] = _fact(
        lambda t: tuple(getattr(o, "optimizer", o) for o in t.optimizers), "The bare optimizers."
    )
    metrics: Mapping[str, Any] = _fact(
        lambda t: dict(t.callback_metrics),
        "A copy of what the user has logged so far; tensors stay on their device.",
    )
    is_stopping: bool = _fact(
        lambda t: bool(t.should_stop), "Whether the training is to end after this step."
    )

    def stop(self) -> None:
        """Ends the training after this step; all ranks must come to the same decision."""
        self.trainer.should_stop = True
