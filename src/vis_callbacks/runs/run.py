"""One run as a whole: its alerts, the numbers of its layers, its curves and pictures."""

from __future__ import annotations

import json
import math
import threading
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

from vis_callbacks.runs import TAB_NAME
from vis_callbacks.runs.alert_cases import AlertCases
from vis_callbacks.runs.event_file import EventFile

# What is kept of a run, so that a run of any length takes bounded memory.
MAX_TAGS = 2000
MAX_POINTS = 256
MAX_PICTURES = 500
MAX_TABLES = 8
MAX_LAYERS = 10_000
MAX_CELLS = 500_000  # of a table over time: 4 MB
EVENT_FILES = "*tfevents*"

Entry = TypeVar("Entry")


@dataclass
class Thinned(Generic[Entry]):
    """Entries by step; beyond a number of them every second one goes, never the latest.

    Attributes:
        num_seen: How many there were.
    """

    limit: int
    num_seen: int = 0
    _every: int = 1
    _entries: dict[int, Entry] = field(default_factory=dict)

    def add(self, step: int, entry: Entry) -> None:
        """Adds the latest one; a step that is written again, by a resumed run, is replaced."""
        if step in self._entries:
            self._entries[step] = entry
            return
        if self._entries and (self.num_seen - 1) % self._every:
            self._entries.popitem()
        self._entries[step] = entry
        self.num_seen += 1
        if len(self._entries) > self.limit:
            self._every *= 2
            items = list(self._entries.items())
            self._entries = dict([*items[:-1:2], items[-1]])

    def steps(self) -> list[int]:
        """Returns the steps, rising."""
        return sorted(self._entries)

    def items(self) -> list[tuple[int, Entry]]:
        """Returns (step, entry), the steps rising."""
        return sorted(self._entries.items())


@dataclass(frozen=True)
class StoredPicture:
    """Where a picture lies: which event file, at which byte."""

    file: EventFile
    offset: int


@dataclass(frozen=True)
class Numbers:
    """The numbers of all layers at one step.

    Attributes:
        values: (metrics, layers), flat.
        scale: "share" where they lie between 0 and 1, "power" where they span powers of ten.
    """

    layers: tuple[str, ...]
    metrics: tuple[str, ...]
    values: array[float]
    scale: str


class Run:
    """What the folder of one run holds. It is read on, bit by bit, by `refresh`.

    Attributes:
        alerts: What its alerts.jsonl says.
        tables: By tag, the numbers of its layers.
        curves: By tag, the scalars of any logger.
        pictures: By tag, where its pictures lie.
        last_step: The latest one of all that was read.
        last_time: When the latest was written, in seconds since 1970.
        lock: Held while it is refreshed or read.

    Args:
        folder: Of the run.
        max_pictures: How many pictures of a tag are remembered.
    """

    def __init__(self, folder: Path, max_pictures: int = MAX_PICTURES) -> None:
        self.folder = folder
        self._max_pictures = max_pictures
        self.alerts = AlertCases(folder)
        self.tables: dict[str, Thinned[Numbers]] = {}
        self.curves: dict[str, Thinned[float]] = {}
        self.pictures: dict[str, Thinned[StoredPicture]] = {}
        self.last_step: int | None = None
        self.last_time: float | None = None
        self.num_left_out = 0
        self.is_complete = False
        self.lock = threading.RLock()
        self._files: dict[str, EventFile] = {}
        self._layers: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._num_events = 0

    def refresh(self, seconds: float = math.inf) -> None:
        """Reads what is new, for so long at most; `is_complete` says whether that was all."""
        with self.lock:
            until = time.monotonic() + seconds
            self.alerts.refresh(until)
            for path in sorted(self.folder.glob(EVENT_FILES)):
                file = self._files.setdefault(path.name, EventFile(path))
                for offset, event in file.events(until):
                    self._take(file, offset, event)
            files = self._files.values()
            self.is_complete = self.alerts.is_complete and all(f.is_at_end for f in files)

    @property
    def version(self) -> str:
        """Changes when there is something new."""
        return f"{self._num_events}-{self.alerts.num_lines}-{int(self.is_complete)}"

    @property
    def is_watched(self) -> bool:
        """Whether any monitor has left a trace."""
        marks = ("alerts/active", "overhead/")
        return (
            bool(self.tables)
            or self.alerts.num_lines > 0
            or any(mark in tag for tag in self.curves for mark in marks)
        )

    def problems(self) -> list[str]:
        """Returns in sentences what could not be read."""
        said = self.alerts.problems()
        said += [file.problem for file in self._files.values() if file.problem]
        num_too_long = sum(file.num_too_long for file in self._files.values())
        if num_too_long:
            said.append(f"{num_too_long} records above 64 MiB were passed over.")
        if self.num_left_out:
            said.append(
                f"{self.num_left_out} values are left out: of too many tags, or not readable."
            )
        return said

    def picture(self, tag: str, step: int) -> bytes | None:
        """Returns the encoded image of a tag at exactly this step, None if there is none."""
        with self.lock:
            stored = dict(self.pictures[tag].items()).get(step) if tag in self.pictures else None
            event = stored and stored.file.event_at(stored.offset)
            values = event.summary.value if event else ()
            return next((_image_of(value) for value in values if value.tag == tag), None)

    def _take(self, file: EventFile, offset: int, event: Any) -> None:
        self._num_events += 1
        self.last_time = max(event.wall_time, self.last_time or 0.0)
        for value in event.summary.value:
            self.last_step = max(event.step, self.last_step or 0)
            if (number := _number_of(value)) is not None:
                self._add(self.curves, MAX_TAGS, value.tag, MAX_POINTS, event.step, number)
            elif _image_of(value) is not None:
                place = StoredPicture(file, offset)
                self._add(self.pictures, MAX_TAGS, value.tag, self._max_pictures, event.step, place)
            elif value.metadata.plugin_data.plugin_name == TAB_NAME:
                table = self._table_of(value)
                limit = MAX_CELLS // max(1, len(table.values) if table else 1)
                limit = min(max(limit, 16), MAX_POINTS)
                self._add(self.tables, MAX_TABLES, value.tag, limit, event.step, table)

    def _add(
        self,
        of: dict[str, Thinned[Entry]],
        max_tags: int,
        tag: str,
        limit: int,
        step: int,
        entry: Entry | None,
    ) -> None:
        if entry is None or (tag not in of and len(of) >= max_tags):
            self.num_left_out += 1
        else:
            of.setdefault(tag, Thinned(limit)).add(step, entry)

    def _table_of(self, value: Any) -> Numbers | None:
        """The numbers of a record of ours; None if it is none, whoever wrote it."""
        try:
            plain = json.loads(value.tensor.string_val[0], parse_constant=lambda _: None)
            layers, metrics = tuple(plain["layers"]), plain["metrics"]
            rows = [_floats(row) for row in metrics.values()]
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError):
            return None
        is_sound = all(isinstance(name, str) for name in layers) and len(layers) <= MAX_LAYERS
        if not is_sound or len(rows) > MAX_TABLES or {len(row) for row in rows} != {len(layers)}:
            return None
        layers = self._layers.setdefault(layers, layers)  # the same names at every step: once
        values = array("d", [x for row in rows for x in row])
        return Numbers(layers, tuple(metrics), values, str(plain.get("scale", "share")))


def _floats(row: Iterable[Any]) -> list[float]:
    return [math.nan if number is None else float(number) for number in row]


def _number_of(value: Any) -> float | None:
    """A scalar's number, or one that is for our tab alone; None where the value is another."""
    if value.WhichOneof("value") == "simple_value":
        return float(value.simple_value)
    is_ours = value.metadata.plugin_data.plugin_name == TAB_NAME
    return float(value.tensor.float_val[0]) if is_ours and value.tensor.float_val else None


def _image_of(value: Any) -> bytes | None:
    """The encoded image of a value in the old form, the new one or for our tab; else None."""
    if value.WhichOneof("value") == "image":
        return bytes(value.image.encoded_image_string)
    is_image = value.metadata.plugin_data.plugin_name in ("images", TAB_NAME)
    if is_image and len(value.tensor.string_val) > 2:
        return bytes(value.tensor.string_val[2])  # behind width and height
    return None


@dataclass(frozen=True)
class OverTime:
    """One number of every layer over the steps, which a heat map shows.

    ``rows[i][k]`` is that of ``layers[i]`` at ``steps[k]``, None where it is not known. ``scale``
    is as in `Numbers`.
    """

    steps: Sequence[int]
    layers: Sequence[str]
    rows: Sequence[Sequence[float | None]]
    scale: str


def over_time(
    tables: Mapping[str, Thinned[Numbers]], max_cells: int = MAX_CELLS
) -> dict[str, OverTime]:
    """Returns by metric what is known of it at any step.

    The layers of several monitors stand below each other. Beyond ``max_cells`` steps are left
    out, never the first and the last.
    """
    by_metric: dict[str, dict[int, list[Numbers]]] = {}
    for table in tables.values():
        for step, numbers in table.items():
            for metric in numbers.metrics:
                by_metric.setdefault(metric, {}).setdefault(step, []).append(numbers)
    found = {
        metric: _over_time(metric, by_step, max_cells // len(by_metric))
        for metric, by_step in by_metric.items()
    }
    return {metric: one for metric, one in found.items() if _is_known(one.rows)}


def _over_time(metric: str, by_step: Mapping[int, Sequence[Numbers]], max_cells: int) -> OverTime:
    tables = [table for some in by_step.values() for table in some]
    names = dict.fromkeys(table.layers for table in tables)
    layers = list(dict.fromkeys(chain.from_iterable(names)))
    steps = sorted(by_step)
    while len(steps) > 2 and len(steps) * len(layers) > max_cells:
        steps = [*steps[:-1:2], steps[-1]]
    places = {layer: place for place, layer in enumerate(layers)}
    columns = [_column(metric, by_step[step], places) for step in steps]
    return OverTime(steps, layers, list(zip(*columns, strict=True)), tables[-1].scale)


def _column(
    metric: str, tables: Sequence[Numbers], places: Mapping[str, int]
) -> list[float | None]:
    """One number of all layers at one step; None where it is not known."""
    column: list[float | None] = [None] * len(places)
    for table in tables:
        start = table.metrics.index(metric) * len(table.layers)
        values = table.values[start : start + len(table.layers)]
        for layer, value in zip(table.layers, values, strict=True):
            column[places[layer]] = value if math.isfinite(value) else None
    return column


def _is_known(rows: Sequence[Sequence[float | None]]) -> bool:
    return any(value is not None for row in rows for value in row)
