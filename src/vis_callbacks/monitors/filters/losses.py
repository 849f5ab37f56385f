"""Training and validation loss, found among what the user logs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_QUANTITIES = ("loss", "acc")  # the loss where both are logged
_VALIDATION = re.compile(r"val|dev|eval", re.IGNORECASE)
_TRAINING = re.compile(r"train", re.IGNORECASE)
_BARE = re.compile(r"(loss|acc|accuracy)(_epoch|_step)?", re.IGNORECASE)


def check_loss_names(value: object) -> None:
    """Raises unless ``value`` is None or two names."""
    if value is None:
        return
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(f'loss_names={value!r} is not a pair. Use ("train_loss", "val_loss").')
    for name in value:
        if not isinstance(name, str):
            raise TypeError(f"loss_names holds {name!r}, which is not a string. Use names only.")


def loss_pair(
    metrics: Mapping[str, Any], names: Sequence[str] | None
) -> tuple[Tensor | None, Tensor | None]:
    """Returns the latest (training, validation) loss, None where it was not logged.

    Of accuracies it is the share that is wrong, so that less is better here as well. Without names
    it is a name with "val" and "loss" (or "acc") in it, and one with "train", or the bare word.
    """
    if names is None:
        names = _found(tuple(metrics))
    return _value(metrics, names[0]), _value(metrics, names[1])


@lru_cache(maxsize=16)
def _found(names: tuple[str, ...]) -> tuple[str, str]:
    """Returns the names of the two metrics, "" for one that is not logged."""
    for quantity in _QUANTITIES:
        of_kind = [name for name in names if quantity in name.lower()]
        validation = [name for name in of_kind if _VALIDATION.search(name)]
        if not validation:
            continue
        training = [name for name in of_kind if _TRAINING.search(name)]
        training += [name for name in of_kind if _BARE.fullmatch(name)]
        # A mean over the epoch says more than the loss of one batch.
        training.sort(key=lambda name: name.endswith("_step"))
        return (training[0] if training else "", validation[0])
    return "", ""


def _value(metrics: Mapping[str, Any], name: str) -> Tensor | None:
    value = metrics.get(name)
    if not isinstance(value, Tensor | int | float):
        return None
    number = torch.as_tensor(value).detach()
    if number.numel() != 1:
        return None
    number = number.reshape(()).double() if number.device.type == "cpu" else number.reshape(())
    if "acc" in name.lower() and "loss" not in name.lower():
        return torch.where(number > 1, 100 - number, 1 - number)  # in percent, or a share
    return number
