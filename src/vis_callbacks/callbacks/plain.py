"""What a checkpoint may hold: values that load with ``weights_only=True``."""

from __future__ import annotations

from typing import Any

import torch

# Exactly these: a NumPy float is a float and a str-Enum a str, and neither loads.
_LEAVES = frozenset({bool, int, float, complex, str, bytes, type(None), torch.Tensor})
_CONTAINERS = frozenset({list, tuple, set})


def require_plain(value: Any, where: str) -> None:
    """Raises unless the value is made of numbers, strings, tensors and plain containers.

    Anything else would be saved without complaint and make the resume fail.

    Raises:
        TypeError: The message says what lies where.
    """
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            require_plain(key, f"a key of {where}")
            require_plain(item, f"{where}[{key!r}]")
    elif kind in _CONTAINERS:
        for index, item in enumerate(value):
            require_plain(item, f"{where}[{index}]")
    elif kind not in _LEAVES:
        raise TypeError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}, with which no checkpoint can be "
            "resumed. Use numbers, strings, tensors, lists, tuples, sets and dicts of them."
        )
