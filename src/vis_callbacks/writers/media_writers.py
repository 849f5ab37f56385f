"""The ways that media can take: a SummaryWriter, ``log_image`` of a logger's service, a folder.

Each one says what it ``takes``, and has ``write(media, *, step, patience)``, which waits no
longer than ``patience`` seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vis_callbacks.cards import Card
from vis_callbacks.report import Embedding, Histogram, Markdown
from vis_callbacks.runs import TAB_NAME
from vis_callbacks.writers.budget import RESERVE_FOR_MEDIA, RESERVE_FOR_NUMBERS, require_room
from vis_callbacks.writers.media_items import DrawnImage, Media, Number, TabData
from vis_callbacks.writers.shared_writer import SharedWriter, package_of, summary_module

_SCALAR, _TENSOR, _BLOBS = 1, 2, 3  # data classes of TensorBoard's summary.proto
_FLOAT, _STRING = 1, 7  # of its types.proto
_LINE_BREAKS = str.maketrans("\t\n\r", "   ")


class TensorBoardMedia:
    """Writes media through a logger whose ``experiment`` is a SummaryWriter."""

    takes = (DrawnImage, Markdown, Histogram, Embedding, TabData)

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._shared: SharedWriter | None = None
        self._described: set[str] = set()  # tags of numbers

    def write(self, media: Media, *, step: int, patience: float) -> None:
        """Writes one item; waits for it no longer than ``patience`` seconds."""
        self._write(media, step, RESERVE_FOR_MEDIA, patience)

    def write_alerts(self, text: Media, *, step: int, patience: float) -> None:
        """Writes the text of the alerts, which may use the room that pictures may not."""
        self._write(text, step, RESERVE_FOR_NUMBERS, patience)

    def write_numbers(self, numbers: Mapping[str, Number], *, step: int, patience: float) -> None:
        """Has the logger log them; those that are no card, and the first of a tag, are written.

        Raises:
            LeftOutError: They cannot be written now without harm to the shared writer.
            RuntimeError: The writer has ended, and not through us.
        """
        size = 300 * len(numbers)
        self._current().require_ready(size=size, reserve=RESERVE_FOR_NUMBERS, patience=patience)
        logged = {tag: n.value for tag, n in numbers.items() if self._needs_nothing(tag, n.card)}
        written = {tag: number for tag, number in numbers.items() if tag not in logged}
        if logged:
            self._logger.log_metrics(logged, step=step)
        if written:
            self._write_values(written, step, patience)

    def _needs_nothing(self, tag: str, card: Card) -> bool:
        return card.is_shown and (tag in self._described or not card.how_to_read)

    def _write_values(self, numbers: Mapping[str, Number], step: int, patience: float) -> None:
        """Writes them as one record: a card's first number can carry its description."""
        shared, prefix = self._current(), _prefix_of(self._logger)
        summary = summary_module(shared.package).Summary()
        for tag, number in numbers.items():
            value = summary.value.add(tag=prefix + tag)
            if number.card.is_shown:
                value.simple_value = number.value
                _describe(value, "scalars", _SCALAR, number.card)
            else:
                value.tensor.dtype = _FLOAT
                value.tensor.float_val.append(number.value)
                _describe(value, TAB_NAME, _TENSOR, number.card)
        shared.add(summary, step=step, reserve=RESERVE_FOR_NUMBERS, patience=patience)
        self._described.update(numbers)

    def flush(self, *, patience: float) -> None:
        """Puts what was written into the file, so that a kill does not lose it."""
        self._current().flush(patience)

    def _current(self) -> SharedWriter:
        """The logger's writer; a logger may get another one, by a pickle for instance."""
        writer = self._logger.experiment
        if self._shared is None or self._shared.writer is not writer:
            package = package_of(writer)
            if package is None:
                raise TypeError(f"{type(self._logger).__name__}.experiment is no SummaryWriter")
            self._shared = SharedWriter(writer, package)
            self._described.clear()
        return self._shared

    def _write(self, media: Media, step: int, reserve: int, patience: float) -> None:
        shared = self._current()
        tag = _prefix_of(self._logger) + media.tag
        if isinstance(media, Embedding):
            _write_embedding(shared, media, tag, step, reserve, patience)
        else:
            summary = _summary_of(media, tag, summary_module(shared.package))
            shared.add(summary, step=step, reserve=reserve, patience=patience)


def _prefix_of(logger: Any) -> str:
    """TensorBoardLogger's ``prefix``, which it puts before numbers only."""
    prefix = getattr(logger, "_prefix", "")
    if not isinstance(prefix, str) or not prefix:
        return ""
    return f"{prefix}{getattr(type(logger), 'LOGGER_JOIN_CHAR', '-')}"


def _summary_of(
    media: DrawnImage | Markdown | Histogram | TabData, tag: str, summaries: Any
) -> Any:
    """The media as TensorBoard has it; what is no card belongs to our own plugin."""
    plugin, data_class, card = TAB_NAME, _TENSOR, None
    if isinstance(media, TabData):
        summary = summaries.text(tag, media.text)
        summary.value[0].tag = tag
        summary.value[0].metadata.plugin_data.content = b""
    elif isinstance(media, Markdown):
        plugin, card = "text", media.card
        summary = summaries.text(tag, media.text.encode("utf-8", "replace").decode())
    elif isinstance(media, Histogram):
        plugin, card = "histograms", media.card
        summary = _histogram(media, tag, summaries)
    else:
        card = media.card
        plugin, data_class = ("images", _BLOBS) if card.is_shown else (TAB_NAME, _TENSOR)
        summary = _image(media, tag, summaries)
    _describe(summary.value[0], plugin, data_class, card)
    return summary


def _image(media: DrawnImage, tag: str, summaries: Any) -> Any:
    height, width, num_channels = media.pixels.shape
    summary = summaries.Summary()
    value = summary.value.add(tag=tag)
    if media.card.is_shown:
        shape = {"height": height, "width": width, "colorspace": num_channels}
        value.image.CopyFrom(summaries.Summary.Image(**shape, encoded_image_string=media.png))
    else:
        value.tensor.dtype = _STRING
        value.tensor.tensor_shape.dim.add(size=3)
        value.tensor.string_val.extend([b"%d" % width, b"%d" % height, media.png])
    return summary


def _histogram(media: Histogram, tag: str, summaries: Any) -> Any:
    counts, edges = np.asarray(media.counts), np.asarray(media.edges)
    return summaries.histogram_raw(
        tag,
        float(edges[0]),
        float(edges[-1]),
        float(counts.sum()),
        _finite(media.total),
        _finite(media.total_of_squares),
        edges[1:].tolist(),
        counts.tolist(),
    )


def _describe(value: Any, plugin: str, data_class: int, card: Card | None) -> None:
    """Says which plugin a value belongs to, and how to read it."""
    value.metadata.plugin_data.plugin_name = plugin
    value.metadata.summary_description = card.how_to_read if card else ""
    # Without it TensorBoard's quick loader passes the description over.
    if hasattr(value.metadata, "data_class"):  # tensorboardX's summaries may have none
        value.metadata.data_class = data_class


def _finite(value: Any) -> float:
    """The number; 0 where it is none, which the sums of a histogram only mean "not known"."""
    number = float(value)
    return number if math.isfinite(number) else 0.0


def _write_embedding(
    shared: SharedWriter, media: Embedding, tag: str, step: int, reserve: int, patience: float
) -> None:
    """Writes the projector's files, beside the event file and not through its thread."""
    features = np.asarray(media.features)
    thumbnails = media.thumbnails
    size = 24 * features.size + (0 if thumbnails is None else int(np.size(thumbnails)))
    shared.require_ready(size=size, reserve=reserve, patience=patience)
    shared.writer.add_embedding(
        features,
        metadata=[str(entry).translate(_LINE_BREAKS) for entry in media.metadata] or None,
        label_img=None if thumbnails is None else torch.as_tensor(thumbnails),
        global_step=step,
        tag=tag,
    )


HandOver = Callable[[Any, DrawnImage, int], None]  # logger, picture, step


class LogImageMedia:
    """A logger whose service takes pictures: it has ``log_image`` itself, or its experiment has."""

    takes = (DrawnImage,)

    def __init__(self, logger: Any, hand_over: HandOver) -> None:
        self._logger, self._hand_over = logger, hand_over

    def write(self, media: Media, *, step: int, patience: float) -> None:
        """Hands one picture over."""
        if isinstance(media, DrawnImage):
            self._hand_over(self._logger, media, step)


def _to_wandb(logger: Any, image: DrawnImage, step: int) -> None:
    captions = {"caption": [image.caption]} if image.caption else {}
    logger.log_image(key=image.tag, images=[image.pixels], step=step, **captions)


def _to_mlflow(logger: Any, image: DrawnImage, step: int) -> None:
    # With a key and a step, which came with 2.11, its page shows pictures with a slider.
    logger.experiment.log_image(logger.run_id, image.pixels, key=image.tag, step=step)


def _to_comet(logger: Any, image: DrawnImage, step: int) -> None:
    logger.experiment.log_image(Image.fromarray(image.pixels), name=image.tag, step=step)


def _hand_over_of(logger: Any) -> HandOver | None:
    """How pictures get to the logger's service; None if it takes none."""
    # Asked of the class: a DummyLogger answers every attribute with a function.
    if callable(getattr(type(logger), "log_image", None)):
        return _to_wandb
    names = {kind.__name__ for kind in type(logger).__mro__}
    known = {"MLFlowLogger": _to_mlflow, "CometLogger": _to_comet}
    return next((known[name] for name in known if name in names), None)


class ImageFolder:
    """PNG files, ``<folder>/images/<tag>/step_<step>.png``."""

    takes = (DrawnImage,)

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "images"

    def write(self, media: Media, *, step: int, patience: float) -> None:
        """Writes one picture, whole or not at all."""
        if not isinstance(media, DrawnImage):
            return
        folder = self._folder.joinpath(*media.tag.split("/"))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step_{step:08d}.png"
        require_room(path, len(media.png), RESERVE_FOR_MEDIA)
        unfinished = path.with_suffix(".part")
        try:
            unfinished.write_bytes(media.png)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


MediaWriter = TensorBoardMedia | LogImageMedia | ImageFolder


def media_writer_of(logger: Any) -> MediaWriter | None:
    """Returns what takes the media of a logger, None if nothing does."""
    hand_over = _hand_over_of(logger)
    if hand_over is not None:
        return LogImageMedia(logger, hand_over)
    experiment = getattr(logger, "experiment", None)
    return TensorBoardMedia(logger) if package_of(experiment) else None


def names_of(loggers: Sequence[object]) -> list[str]:
    """Returns the class name of each logger, numbered where several share it."""
    kinds = [type(logger).__name__ for logger in loggers]
    return [
        kind if kinds.count(kind) == 1 else f"{kind} {kinds[: place + 1].count(kind)}"
        for place, kind in enumerate(kinds)
    ]
