"""How a program of somebody else's is listed among those that `programs` gathers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

NUM_CLASSES = 4
# What is said where `forward` cannot be called with the input alone: an example to copy.
NEEDS_FORWARD_FN = r"forward_fn=lambda \w+, inputs: "


@dataclass(frozen=True, kw_only=True)
class Program:
    """What a user's script hands to its Trainer.

    Args:
        module: The user's LightningModule.
        data: The loader for training, a CombinedLoader or a LightningDataModule.
        val: The loader for validation, where there is one.
        trainer: Arguments of the Trainer, callbacks included.
        options: Options that this user gives to each monitor.
    """

    module: LightningModule
    data: Any
    val: Any = None
    trainer: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A program and what the monitors are meant to say of it.

    Args:
        title: What the program is, in the words of the table.
        make: Returns it; the random streams start anew before.
        says: A regular expression for each cause that may be told at level warning, in one line,
            and may make monitors fail. Of every other program there is no such line.
    """

    title: str
    make: Callable[[], Program]
    says: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.make.__name__


ENTRIES: list[Entry] = []


def program(
    title: str, says: Sequence[str] = ()
) -> Callable[[Callable[[], Program]], Callable[[], Program]]:
    """Lists the function below it as a program."""

    def listed(make: Callable[[], Program]) -> Callable[[], Program]:
        ENTRIES.append(Entry(title, make, tuple(says)))
        return make

    return listed


def pictures(num: int = 64, channels: int = 3, size: int = 16) -> tuple[Tensor, Tensor]:
    """Returns images of `NUM_CLASSES` kinds, in noise, and the kind of each."""
    labels = torch.arange(num) % NUM_CLASSES
    kinds = torch.randn(NUM_CLASSES, channels, size, size)
    return kinds[labels] + 0.5 * torch.randn(num, channels, size, size), labels


def vectors(num: int = 64, features: int = 12) -> tuple[Tensor, Tensor]:
    """Returns vectors of `NUM_CLASSES` kinds, in noise, and the kind of each."""
    labels = torch.arange(num) % NUM_CLASSES
    return torch.randn(NUM_CLASSES, features)[labels] + 0.5 * torch.randn(num, features), labels
