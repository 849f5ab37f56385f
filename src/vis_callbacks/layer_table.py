"""The table of layers as we name them: names that exist only after a traced forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vis_callbacks.engine.capture import Capture, CapturedActivation
from vis_callbacks.engine.isolation import call_resolved, isolated

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


class LayerTable(str):
    """A text that a notebook and a Python prompt show in lines, too."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def summary(
    model: nn.Module, inputs: Any, forward_fn: Callable[[nn.Module, Any], Any] | None = None
) -> LayerTable:
    """Returns the layers that monitors read, in the order of the forward pass, as a text.

    In a script, print it. A notebook shows it by itself.

    Use the names, or globs over them, in options such as ``layers=``. Modules that are no
    nonlinearity (``model.named_modules()``) can be named too.

    The model is run once in evaluation mode, without gradients, and is left as it was.

    Args:
        model: The LightningModule, or any module.
        inputs: One batch of inputs, on the model's device.
        forward_fn: ``(model, inputs) -> scores`` where the model has no ``forward``.
    """
    rows = [("name", "kind", "shape", "units", "weight")]

    def note(seen: CapturedActivation) -> None:
        weight = seen.weighted.weight_name if seen.weighted else None
        kind = f"{seen.kind} (gate)" if seen.is_gate else seen.kind
        shape = " x ".join(str(length) for length in seen.values.shape)
        rows.append((seen.name, kind, shape, str(seen.values.shape[seen.unit_axis]), weight or "-"))

    with (
        isolated(model, forward=forward_fn or call_resolved, grad=False) as forward,
        Capture(model, note),
    ):
        forward.run(inputs)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    gates = sum("(gate)" in row[1] for row in rows)
    of_gates = f" and {_counted(gates, 'gate')}, read only where named" if gates else ""
    lines.append(f"{_counted(len(rows) - 1 - gates, 'layer')}{of_gates}")
    return LayerTable("\n".join(lines))


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
