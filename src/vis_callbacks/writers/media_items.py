"""What goes to the loggers besides numbers, drawn and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from vis_callbacks.cards import Card, card_of
from vis_callbacks.report import (
    Embedding,
    Histogram,
    Item,
    LayerTable,
    Markdown,
    Picture,
    Scalar,
)
from vis_callbacks.writers.png import encode_png


class Number(NamedTuple):
    """A number, and what is known of its tag."""

    value: float
    card: Card


@dataclass(frozen=True, kw_only=True)
class DrawnImage:
    """An image that has been drawn."""

    tag: str
    pixels: np.ndarray  # (height, width, 3) uint8
    png: bytes
    caption: str = ""
    card: Card


@dataclass(frozen=True, kw_only=True)
class TabData:
    """What the Health tab alone reads, as JSON."""

    tag: str
    text: str


Media = DrawnImage | Markdown | Histogram | Embedding | TabData
_WORDS = {
    DrawnImage: "pictures",
    Markdown: "texts",
    Histogram: "histograms",
    Embedding: "embeddings",
    TabData: "numbers of layers",
}


def word_for(media: Media) -> str:
    """Returns what such media are called in messages."""
    return _WORDS[type(media)]


def prepare(item: Item, prefix: str) -> Media:
    """Returns the item drawn and checked, its tag behind the stage's prefix.

    Raises:
        ValueError: The picture or the histogram is none.
        TypeError: The item is none of the media.
    """
    tag = f"{prefix}{getattr(item, 'tag', '')}"
    if isinstance(item, Picture):
        pixels = item.draw(**item.arrays)
        return DrawnImage(
            tag=tag,
            pixels=pixels,
            png=encode_png(pixels),
            caption=item.caption,
            card=card_for(item),
        )
    if isinstance(item, Histogram):
        return replace(item, tag=tag, card=card_for(item), **_checked(item))
    if isinstance(item, Markdown):
        return replace(item, tag=tag, card=card_for(item))
    if isinstance(item, Embedding):
        return replace(item, tag=tag)
    if isinstance(item, LayerTable):
        return TabData(tag=tag, text=_as_json(item))
    kind = type(item).__name__
    raise TypeError(f"{kind} is not a picture, text, histogram, embedding or table of layers")


def card_for(item: Scalar | Picture | Histogram | Markdown) -> Card:
    """Returns what is known of the item's tag; what the item says itself comes first."""
    return item.card or card_of(item.tag)


def _checked(histogram: Histogram) -> dict[str, np.ndarray]:
    """Counts and edges as float64, without empty bins at the ends.

    TensorBoard leaves those out by itself, but then has its axis reach from the first of all
    edges to the last.
    """
    counts = np.asarray(histogram.counts, dtype=np.float64)
    edges = np.asarray(histogram.edges, dtype=np.float64)
    if counts.ndim != 1 or edges.shape != (len(counts) + 1,) or not len(counts):
        raise ValueError(
            f'histogram "{histogram.tag}" has {counts.shape} counts and {edges.shape} edges; '
            "it needs at least one count and one edge more than counts"
        )
    if not (np.isfinite(edges).all() and np.isfinite(counts).all() and (np.diff(edges) > 0).all()):
        raise ValueError(f'histogram "{histogram.tag}": edges must rise and all be finite')
    filled = np.flatnonzero(counts)
    first, last = (filled[0], filled[-1]) if len(filled) else (0, len(counts) - 1)
    return {"counts": counts[first : last + 1], "edges": edges[first : last + 2]}


def _as_json(table: LayerTable) -> str:
    """Strict JSON; four digits say all that a colour can show."""
    values = np.reshape(table.values, (len(table.metrics), len(table.layers))).tolist()
    rows = [[float(f"{v:.4g}") if math.isfinite(v) else None for v in row] for row in values]
    metrics = dict(zip(table.metrics, rows, strict=True))
    plain = {"layers": table.layers, "metrics": metrics, "scale": table.scale}
    return json.dumps(plain, allow_nan=False, separators=(",", ":"))


def num_bytes(media: Media) -> int:
    """Returns about how many bytes the item adds to an event file."""
    if isinstance(media, DrawnImage):
        return len(media.png)
    if isinstance(media, Markdown | TabData):
        return len(media.text.encode("utf-8", "replace"))
    if isinstance(media, Histogram):
        return 16 * len(media.counts)
    return 0  # an embedding lies in files of its own


def within(media: Sequence[Media], num_bytes_left: int) -> tuple[list[Media], list[Media]]:
    """Splits into what fits into the bytes, in order, and what is dropped, the largest first."""
    kept, dropped = list(media), []
    while kept and sum(map(num_bytes, kept)) > num_bytes_left:
        largest = max(kept, key=num_bytes)
        kept = [item for item in kept if item is not largest]
        dropped.append(largest)
    return kept, dropped
