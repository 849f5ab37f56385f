"""What a monitor has to say of one snapshot, as values that no Trainer is needed for.

A monitor's ``observe`` returns a `Report`. Its items may hold tensors of the training
device: the wiring moves the tensors of all reports of a step to the host in one transfer
(`transfer`), so rules, render and writers only ever see host arrays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

Values = Tensor | np.ndarray

_FLOATS_OF_NUMPY = (torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """One number for every logger of the Trainer."""

    tag: str
    value: float | Values


@dataclass(frozen=True, kw_only=True)
class Readings:
    """One number a layer for the rules; written to no logger.

    ``values[i]`` belongs to ``layers[i]``. A number of the whole run (the loss, say) has
    the one layer ``""``.
    """

    metric: str
    layers: tuple[str, ...]
    values: Values | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ReadingsTable:
    """Several readings of the same layers in one tensor: fewer to move than one each.

    ``values[m, i]`` is the number ``metrics[m]`` of ``layers[i]``.
    """

    metrics: tuple[str, ...]
    layers: tuple[str, ...]
    values: Values | tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture still to be drawn: ``draw(**arrays)`` gives (height, width, 3) uint8.

    Drawing waits for the transfer and for the byte budget, and happens on rank 0 only.
    ``draw`` must be a pure function of its arrays.
    """

    tag: str
    draw: Callable[..., np.ndarray]
    arrays: Mapping[str, Values] = field(default_factory=dict)
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Text:
    """Markdown for TensorBoard's Text tab. Names of layers and classes go in escaped."""

    tag: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts already made on the device: ``counts[i]`` values lie in ``edges[i]..edges[i+1]``."""

    tag: str
    counts: Values
    edges: Values
    total: Values | float = 0.0
    total_of_squares: Values | float = 0.0


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Data of TensorBoard's Embedding Projector."""

    tag: str
    features: Values  # (samples, dimensions)
    metadata: tuple[str, ...] = ()
    thumbnails: Values | None = None  # (samples, 3, height, width) in 0-1


Item = Scalar | Readings | ReadingsTable | Image | Text | Histogram | Embedding


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one monitor saw at one step."""

    step: int
    items: tuple[Item, ...] = ()

    def of(self, kind: type[Any]) -> tuple[Any, ...]:
        """Returns the items of one kind, in order."""
        return tuple(item for item in self.items if isinstance(item, kind))

    def readings(self) -> dict[str, dict[str, float]]:
        """Returns all readings by metric and layer, once they are on the host."""
        rows = [(item.metric, item.layers, item.values) for item in self.of(Readings)]
        for table in self.of(ReadingsTable):
            by_metric = zip(table.metrics, table.values, strict=True)
            rows += [(metric, table.layers, values) for metric, values in by_metric]
        return {
            metric: dict(zip(layers, map(float, values), strict=True))
            for metric, layers, values in rows
        }


MAX_TAG_LENGTH = 200

_UNSAFE = re.compile(r"[^A-Za-z0-9_.\-]")
# An underscore that could be read as the start of an escape is escaped itself, so that no
# two names share a spelling: `_x23_` in a name becomes `_x5f_x23_`.
_LOOKS_ESCAPED = re.compile(r"_(?=x[0-9a-f]*(?:_|[^A-Za-z0-9_.\-]))")


def tag(metric: str, layer: str = "") -> str:
    """Returns the one spelling of a tag: ``metric/layer``, safe in every logger.

    Loggers rewrite what they do not like (tensorboardX turns ``#`` into ``_``, MLflow drops
    it), so that two names would collide. The characters that all of them keep are letters,
    digits and ``_.-/``: any other one is written as ``_x``, its code point in hexadecimal,
    ``_``. Parts between slashes that a path would swallow (empty, ``.``, ``..``) are escaped
    as well. The result has at most 200 characters; a longer one ends in a digest of the whole
    name.

    Example:
        >>> tag("sparsity", "net.2/relu-1")
        'sparsity/net.2/relu-1'
        >>> tag("sparsity", "cat #1")
        'sparsity/cat_x20__x23_1'
    """
    name = f"{metric}/{layer}" if layer else metric
    spelled = "/".join(_safe_part(part) for part in name.split("/"))
    if len(spelled) <= MAX_TAG_LENGTH:
        return spelled
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{spelled[: MAX_TAG_LENGTH - len(digest) - 1]}-{digest}"


def _safe_part(part: str) -> str:
    """One part between slashes, spelled so that no logger and no path changes it."""
    if part == "":
        return "_x_"
    if part in (".", ".."):
        return "_x2e_" * len(part)
    part = _LOOKS_ESCAPED.sub("_x5f_", part)
    return _UNSAFE.sub(lambda match: f"_x{ord(match.group()):x}_", part)


_MARKUP = re.compile(r"[^\w ,;%/']|_")
_NOT_A_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def escape_markdown(text: str) -> str:
    """Returns ``text`` so that Markdown shows it as it is, also within a table.

    Every character that Markdown or HTML could give a meaning is written as a numeric
    entity; control characters and lone surrogates become spaces.
    """
    text = _NOT_A_CHARACTER.sub(" ", text)
    return _MARKUP.sub(lambda match: f"&#{ord(match.group())};", text)


def tensors_of(report: Report) -> list[Tensor]:
    """Returns every tensor in the report, in the order `with_arrays` expects them back."""
    return [value for item in report.items for value in _leaves(item) if _is_tensor(value)]


def with_arrays(report: Report, arrays: Sequence[np.ndarray]) -> Report:
    """Returns the report with its tensors replaced by host arrays.

    A zero-dimensional tensor that is a field of its own (a scalar's value, a histogram's
    total) becomes a float; those in ``Image.arrays`` stay arrays.

    Raises:
        ValueError: There are more or fewer arrays than tensors.
    """
    num_tensors = len(tensors_of(report))
    if len(arrays) != num_tensors:
        raise ValueError(
            f"arrays has {len(arrays)} entries, but the report holds {num_tensors} tensors; "
            "give one for each of tensors_of(report)"
        )
    remaining = iter(arrays)
    return replace(report, items=tuple(_hosted(item, remaining) for item in report.items))


def transfer(reports: Sequence[Report]) -> list[Report]:
    """Moves the tensors of all reports to the host, in one transfer per device.

    Every transfer waits for the device, so the tensors of a step are joined, as bytes, on
    the device. The arrays are copies: what the network does next does not reach them.
    bfloat16 and float8, which NumPy lacks, become float32, complex32 becomes complex64.
    """
    counts = [len(tensors_of(report)) for report in reports]
    arrays = iter(_to_host([tensor for report in reports for tensor in tensors_of(report)]))
    return [
        with_arrays(report, list(islice(arrays, count)))
        for report, count in zip(reports, counts, strict=True)
    ]


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _leaves(item: Item) -> Iterator[Any]:
    """The values of an item's fields, mappings opened."""
    for entry in fields(item):
        value = getattr(item, entry.name)
        if isinstance(value, Mapping):
            yield from value.values()
        else:
            yield value


def _hosted(item: Item, arrays: Iterator[np.ndarray]) -> Item:
    """The item with each of its tensors replaced by the next array."""
    if not any(_is_tensor(value) for value in _leaves(item)):
        return item
    changes: dict[str, Any] = {}
    for entry in fields(item):
        value = getattr(item, entry.name)
        if isinstance(value, Mapping):
            changes[entry.name] = {
                name: next(arrays) if _is_tensor(inner) else inner for name, inner in value.items()
            }
        elif _is_tensor(value):
            array = next(arrays)
            changes[entry.name] = float(array) if array.ndim == 0 else array
    return replace(item, **changes)


def _to_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """The tensors as arrays of their own, in the same order."""
    by_device: dict[torch.device, list[int]] = {}
    for index, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(index)
    arrays: dict[int, np.ndarray] = {}
    for indices in by_device.values():
        together = _joined_on_device([tensors[index] for index in indices])
        arrays.update(zip(indices, together, strict=True))
    return [arrays[index] for index in range(len(tensors))]


def _joined_on_device(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Arrays of the tensors of one device, through one buffer of bytes."""
    plain = [_as_numpy_has_it(tensor) for tensor in tensors]
    pieces = [tensor.reshape(-1).view(torch.uint8) for tensor in plain]
    buffer = torch.cat(pieces).cpu().numpy()
    arrays = []
    start = 0
    for tensor, piece in zip(plain, pieces, strict=True):
        part = buffer[start : start + piece.numel()].view(_numpy_type(tensor.dtype))
        # A kept view would keep the whole buffer; a copy is aligned, too.
        arrays.append(part.reshape(tuple(tensor.shape)).copy())
        start += piece.numel()
    return arrays


@cache
def _numpy_type(dtype: torch.dtype) -> np.dtype[Any]:
    return torch.empty(0, dtype=dtype).numpy().dtype


def _as_numpy_has_it(tensor: Tensor) -> Tensor:
    """The tensor dense, contiguous, and of a type that NumPy has too."""
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
