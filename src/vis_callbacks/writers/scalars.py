"""Numbers for every logger, through its own ``log_metrics``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vis_callbacks.report import Scalar


def number_of(scalar: Scalar) -> float:
    """Returns the scalar's value as a float; NaN and the infinities pass.

    Raises:
        ValueError: It holds more than one value.
        OverflowError: It is an integer beyond the floats.
    """
    value: Any = scalar.value
    if np.size(value) != 1:
        raise ValueError(f'scalar "{scalar.tag}" holds {np.size(value)} values; it must hold one')
    return float(value.reshape(())) if isinstance(value, np.ndarray) else float(value)


def log_numbers(logger: Any, numbers: Mapping[str, float], step: int) -> None:
    """Hands the numbers of one report to a logger in one call.

    Not ``self.log`` of the user's module: what is logged there ends up in
    ``trainer.callback_metrics``, where checkpoints and early stopping look.
    """
    logger.log_metrics(dict(numbers), step=step)
