"""Activations of given values, as the engine would see them."""

from __future__ import annotations

from torch import Tensor

from vis_callbacks.engine.nonlinearities import Nonlinearity
from vis_callbacks.engine.probe import Activation, Batch
from vis_callbacks.monitors.activations.science import measure, measure_maps


def measured_of(
    values: Tensor,
    nonlinearity: Nonlinearity | None,
    inputs: Tensor | None = None,
    num_samples: int | None = None,
    **options: object,
) -> dict[str, Tensor]:
    """Returns the sums of units and maps; as many samples as there are rows unless told."""
    activation = Activation(
        layer="",
        values=values,
        nonlinearity=nonlinearity,
        inputs=inputs,
        shape=tuple(values.shape),
    )
    num_samples = len(values) if num_samples is None else num_samples
    batch = Batch(inputs=None, labels=None, num_samples=num_samples)
    return measure(activation, batch, **options) | measure_maps(activation, batch)
