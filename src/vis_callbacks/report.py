"""What a monitor has to say of one snapshot, as values that no Trainer is needed for.

A monitor's ``observe`` returns a `Report`, whose items may hold tensors of the training
device. `transfer` moves those of all reports of a step to the host at once, so rules, pictures
and writers only ever see host arrays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vis_callbacks.cards import Card, card_of
from vis_callbacks.tags import tag as tag  # monitors take it from here

Values = Tensor | np.ndarray

_FLOATS_OF_NUMPY = (torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """One number for every logger of the Trainer."""

    tag: str
    value: float | Values
    card: Card | None = None  # None: as `vis_callbacks.cards` has it; so below


@dataclass(frozen=True, kw_only=True)
class RuleMetrics:
    """Numbers for the rules alone, which no logger is given.

    ``values[m, i]`` is the number ``metrics[m]`` of ``layers[i]``; one tensor of all is less to
    move than one each. A number of the whole run, such as the loss, has the one layer ``""``.
    """

    metrics: tuple[str, ...]
    values: Values | float | Sequence[Any]  # of any shape with as many numbers, in this order
    layers: tuple[str, ...] = ("",)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture still to be drawn: ``draw(**arrays)`` gives (height, width, 3) uint8.

    It is drawn after the transfer, within the byte budget, on rank 0 alone. ``draw`` must be a
    pure function of its arrays.
    """

    tag: str
    draw: Callable[..., np.ndarray]
    arrays: Mapping[str, Values] = field(default_factory=dict)
    caption: str = ""
    card: Card | None = None


@dataclass(frozen=True, kw_only=True)
class Markdown:
    """Markdown for TensorBoard's Text tab. Names of layers and classes go in escaped."""

    tag: str
    text: str
    card: Card | None = None


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts already made on the device: ``counts[i]`` values lie in ``edges[i]..edges[i+1]``."""

    tag: str
    counts: Values
    edges: Values
    total: Values | float = 0.0
    total_of_squares: Values | float = 0.0
    card: Card | None = None


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Data of TensorBoard's Embedding Projector."""

    tag: str
    features: Values  # (samples, dimensions)
    metadata: tuple[str, ...] = ()
    thumbnails: Values | None = None  # (samples, 3, height, width) in 0-1


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """Numbers of all layers at this step, for the heat map of TensorBoard's Health tab.

    TensorBoard draws no card for it, so it may name every layer of a large network. NaN means
    "not known". Shares lie between 0 and 1; other numbers are shown as powers of ten.
    """

    tag: str
    metrics: tuple[str, ...]
    layers: tuple[str, ...]
    values: Values  # (metrics, layers)
    scale: Literal["share", "power"] = "share"


Item = Scalar | RuleMetrics | Picture | Markdown | Histogram | Embedding | LayerTable


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one monitor saw at one step."""

    step: int
    items: tuple[Item, ...] = ()

    def of(self, kind: type[Any]) -> tuple[Any, ...]:
        """Returns the items of one kind, in order."""
        return tuple(item for item in self.items if isinstance(item, kind))

    def with_all_cards(self) -> Report:
        """Returns the report with a card of TensorBoard's for each number and picture."""
        shown = [
            replace(item, card=(item.card or card_of(item.tag))._replace(is_shown=True))
            if isinstance(item, Scalar | Picture)
            else item
            for item in self.items
        ]
        return replace(self, items=tuple(shown))

    def rule_metrics(self) -> dict[str, dict[str, float]]:
        """Returns the numbers for the rules by metric and layer, once they are on the host."""
        found: dict[str, dict[str, float]] = {}
        for item in self.of(RuleMetrics):
            table = np.reshape(item.values, (len(item.metrics), len(item.layers)))
            for metric, values in zip(item.metrics, table.tolist(), strict=True):
                found[metric] = dict(zip(item.layers, map(float, values), strict=True))
        return found


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


_MARKUP = re.compile(r"[^\w ,;%/']|_")
_NOT_A_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def escape_markdown(text: str) -> str:
    """Returns ``text`` so that Markdown shows it as it is, also within a table.

    Every character that Markdown or HTML could give a meaning is written as a numeric
    entity; control characters and lone surrogates become spaces.
    """
    text = _NOT_A_CHARACTER.sub(" ", text)
    return _MARKUP.sub(lambda match: f"&#{ord(match.group())};", text)


def transfer(reports: Sequence[Report]) -> list[Report]:
    """Returns the reports with host arrays for tensors, moved in one transfer per device.

    Every transfer waits for the device, so the tensors of a step are joined, as bytes, on
    the device. The arrays are copies: what the network does next does not reach them.
    bfloat16 and float8, which NumPy lacks, become float32, complex32 becomes complex64. A
    zero-dimensional tensor that is a field of its own (a scalar's value) becomes a float.
    """
    tensors: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        tensors[id(tensor)] = tensor
        return tensor

    for report in reports:
        for item in report.items:
            _with_tensors(item, note)
    arrays = _to_host(tensors)

    def moved(item: Item) -> Item:
        return _with_tensors(item, lambda tensor: arrays[id(tensor)])

    return [replace(report, items=tuple(map(moved, report.items))) for report in reports]


def _with_tensors(item: Item, change: Callable[[Tensor], Values]) -> Item:
    """Returns the item with each of its tensors changed."""
    changes: dict[str, Any] = {}
    for name, value in vars(item).items():
        if isinstance(value, Tensor):
            changed = change(value)
            is_number = isinstance(changed, np.ndarray) and changed.ndim == 0
            changes[name] = float(changed) if is_number else changed
        elif type(value) is dict or isinstance(value, Mapping):
            changes[name] = {
                key: change(inner) if isinstance(inner, Tensor) else inner
                for key, inner in value.items()
            }
    return replace(item, **changes) if changes else item


def _to_host(tensors: Mapping[int, Tensor]) -> dict[int, np.ndarray]:
    """Returns the tensors as arrays of their own, through one buffer of bytes for each device."""
    arrays: dict[int, np.ndarray] = {}
    for device in {tensor.device for tensor in tensors.values()}:
        there = {k: _as_numpy_has_it(t) for k, t in tensors.items() if t.device == device}
        pieces = [tensor.reshape(-1).view(torch.uint8) for tensor in there.values()]
        buffer = torch.cat(pieces).cpu().numpy()
        start = 0
        for (key, tensor), piece in zip(there.items(), pieces, strict=True):
            part = buffer[start : start + piece.numel()].view(_numpy_type(tensor.dtype))
            # A kept view would keep the whole buffer; a copy is aligned, too.
            arrays[key] = part.reshape(tuple(tensor.shape)).copy()
            start += piece.numel()
    return arrays


@cache
def _numpy_type(dtype: torch.dtype) -> np.dtype[Any]:
    return torch.empty(0, dtype=dtype).numpy().dtype


def _as_numpy_has_it(tensor: Tensor) -> Tensor:
    """Returns the tensor dense, contiguous, and of a type that NumPy has too."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.dtype == torch.complex32:
        tensor = tensor.to(torch.complex64)
    elif tensor.is_floating_point() and tensor.dtype not in _FLOATS_OF_NUMPY:
        tensor = tensor.float()
    return tensor.resolve_conj().resolve_neg().contiguous()
