"""Gradients of networks that overwrite what their gradient needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def despite_overwriting(run: Callable[[], T]) -> T:
    """Returns what ``run`` returns, also where the network overwrites what a gradient needs.

    In evaluation mode, or where a part is frozen, an in-place call may overwrite what was
    another tensor while training (dropout returns its input then). What is overwritten is
    copied first; it takes a second run, so that networks that need none pay nothing.
    """
    try:
        return run()
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        return run()
