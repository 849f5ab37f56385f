from __future__ import annotations

import resource
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.writers import reading
from tests.writers.stand_ins import (
    BrokenLogger,
    Recorder,
    TensorBoardLogger,
    TensorboardXLogger,
    picture,
)

from vis_callbacks.cards import Card
from vis_callbacks.guard import LeftOutError
from vis_callbacks.report import Embedding, Histogram, LayerTable, Markdown
from vis_callbacks.runs.run import OverTime, Run, over_time
from vis_callbacks.writers.budget import RESERVE_FOR_NUMBERS
from vis_callbacks.writers.media_items import Number, prepare
from vis_callbacks.writers.media_writers import TensorBoardMedia

with warnings.catch_warnings():  # html5lib, inside TensorBoard's copy of bleach, is deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

PATIENCE = 5.0


@pytest.fixture
def logger(any_tensorboard):
    return any_tensorboard


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "run"


def write(outlet: TensorBoardMedia, item, step: int = 3) -> None:
    outlet.write(prepare(item, ""), step=step, patience=PATIENCE)


def test_a_picture_is_in_the_file_byte_by_byte(logger, run):
    drawn = prepare(picture("filters/conv1", size=40), "")
    TensorBoardMedia(logger).write(drawn, step=3, patience=PATIENCE)
    (event,) = reading.read(run).Images("filters/conv1")
    assert (event.step, event.height, event.width) == (3, 40, 40)
    assert event.encoded_image_string == drawn.png


def test_numbers_of_layers_are_for_our_tab_alone(logger, run):
    layers, values = ("features.1", "<b>"), np.array([[0.5, np.nan]])
    outlet = TensorBoardMedia(logger)
    for step in (3, 5):
        item = LayerTable(tag="layers", metrics=("m",), layers=layers, values=values, scale="power")
        write(outlet, item, step=step)
    outlet.flush(patience=PATIENCE)
    read = Run(run)
    read.refresh()
    rows = [(0.5,) * 2, (None,) * 2]
    assert over_time(read.tables) == {"m": OverTime([3, 5], list(layers), rows, "power")}
    accumulator = reading.read(run)
    assert accumulator.PluginTagToContent("vis_callbacks") == {"layers": b""}
    with pytest.raises(KeyError):
        accumulator.PluginTagToContent("text")


def test_a_histogram_keeps_its_counts_edges_and_sums(logger, run):
    edges = np.array([-1.0, 0.0, 0.5, 4.0])
    counts = np.array([5.0, 0.0, 2.0])
    item = Histogram(tag="h", counts=counts, edges=edges, total=1.5, total_of_squares=9.0)
    write(TensorBoardMedia(logger), item)
    (event,) = reading.read(run).Histograms("h")
    value = event.histogram_value
    assert (value.min, value.max, value.num) == (-1.0, 4.0, 7.0)
    assert (value.sum, value.sum_squares) == (1.5, 9.0)
    assert value.bucket_limit == [0.0, 0.5, 4.0]
    assert value.bucket == [5.0, 0.0, 2.0]


def test_sums_that_are_not_known_do_no_harm_to_a_histogram(logger, run):
    nan = float("nan")
    item = Histogram(
        tag="h", counts=np.ones(2), edges=np.arange(3.0), total=nan, total_of_squares=float("inf")
    )
    write(TensorBoardMedia(logger), item)
    (event,) = reading.read(run).Histograms("h")
    assert (event.histogram_value.sum, event.histogram_value.sum_squares) == (0.0, 0.0)
    assert event.histogram_value.num == 2


def test_half_of_a_character_does_not_lose_the_text(logger, run):
    write(TensorBoardMedia(logger), Markdown(tag="t", text="name \ud83d of a class"))
    assert reading.texts(run, "t") == {3: "name ? of a class"}


def test_an_embedding_needs_neither_names_nor_thumbnails(logger, run):
    write(TensorBoardMedia(logger), Embedding(tag="e", features=np.arange(6.0).reshape(3, 2)))
    (values,) = run.rglob("tensors.tsv")
    rows = [[float(v) for v in line.split("\t")] for line in values.read_text().splitlines()]
    assert rows == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert not list(run.rglob("metadata.tsv"))
    assert not list(run.rglob("sprite.png"))


def test_a_prefix_of_the_loggers_own_is_joined_as_it_joins_it(tmp_path, run):
    class Dotted(TensorBoardLogger):
        LOGGER_JOIN_CHAR = "."

    logger = Dotted(tmp_path, name="run", version="", prefix="mine")
    write(TensorBoardMedia(logger), picture("a", size=8))
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    tags = reading.read(run).Tags()
    assert (tags["images"], tags["scalars"]) == (["mine.a"], ["mine.loss"])


def test_a_writer_that_took_the_place_of_another_is_written_to(tmp_path):
    first, second = (TensorboardXLogger(tmp_path / name) for name in ("first", "second"))
    outlet = TensorBoardMedia(first)
    write(outlet, picture("a", size=8))
    before = first.experiment
    first.experiment = second.experiment
    write(outlet, picture("b", size=8))
    before.close()
    second.finalize("success")
    assert reading.read(tmp_path / "first").Tags()["images"] == ["a"]
    assert reading.read(tmp_path / "second").Tags()["images"] == ["b"]


def test_alerts_may_use_the_room_that_pictures_may_not(logger, run, monkeypatch):
    outlet, text = TensorBoardMedia(logger), Markdown(tag="t", text="x")
    write(outlet, text)  # the file exists from here on
    outlet.flush(patience=PATIENCE)
    room = 2 * RESERVE_FOR_NUMBERS + sum(path.stat().st_size for path in run.glob("events*"))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (room, resource.RLIM_INFINITY))
    with pytest.raises(LeftOutError, match="kept for the run's own logs"):
        write(outlet, Markdown(tag="late", text="x"))
    outlet.write_alerts(Markdown(tag="alerts", text="y"), step=4, patience=PATIENCE)
    assert reading.texts(run, "late") == {}
    assert reading.texts(run, "alerts") == {4: "y"}


def test_numbers_are_refused_where_they_would_not_find_room(logger, tmp_path, monkeypatch):
    outlet = TensorBoardMedia(logger)
    room = RESERVE_FOR_NUMBERS + 10_000
    monkeypatch.setattr(resource, "getrlimit", lambda which: (room, resource.RLIM_INFINITY))
    numbers = {f"n{index}": Number(1.0, Card("")) for index in range(100)}
    with pytest.raises(LeftOutError, match="kept for the run's own logs"):
        outlet.write_numbers(numbers, step=0, patience=PATIENCE)
    outlet.write_numbers({"few": Number(1.0, Card(""))}, step=0, patience=PATIENCE)
    outlet.flush(patience=PATIENCE)
    assert reading.read(tmp_path / "run").Tags()["scalars"] == ["few"]


def test_what_is_no_card_is_for_our_tab_alone(logger, run):
    outlet, aside = TensorBoardMedia(logger), Card("how to read it", is_shown=False)
    drawn = replace(prepare(picture("aside/picture", size=8), ""), card=aside)
    for step in (3, 5):
        outlet.write(drawn, step=step, patience=PATIENCE)
        outlet.write_numbers({"aside/number": Number(step, aside)}, step=step, patience=PATIENCE)
    outlet.flush(patience=PATIENCE)
    tags = reading.read(run).Tags()
    assert (tags["scalars"], tags["images"]) == ([], [])
    read = Run(run)
    read.refresh()
    assert read.curves["aside/number"].items() == [(3, 3.0), (5, 5.0)]
    assert read.pictures["aside/picture"].steps() == [3, 5]
    assert read.picture("aside/picture", 5) == drawn.png
    assert read.num_left_out == 0


def test_each_card_carries_its_description(logger, run):
    outlet, card = TensorBoardMedia(logger), Card("how to read it")
    drawn = replace(prepare(picture("seen/picture", size=8), ""), card=card)
    edges = np.array([0.0, 1.0])
    outlet.write(drawn, step=3, patience=PATIENCE)
    write(outlet, Histogram(tag="seen/histogram", counts=np.ones(1), edges=edges, card=card))
    write(outlet, Markdown(tag="seen/text", text="words", card=card))
    for step in (3, 5):
        outlet.write_numbers({"seen/number": Number(step, card)}, step=step, patience=PATIENCE)
    outlet.flush(patience=PATIENCE)
    multiplexer = EventMultiplexer().AddRun(str(run), "run")
    multiplexer.Reload()
    described = {
        tag: multiplexer.SummaryMetadata("run", tag).summary_description
        for plugin in ("scalars", "images", "histograms", "text")
        for tag in multiplexer.PluginRunToTagToContent(plugin)["run"]
    }
    assert described == dict.fromkeys(
        ("seen/number", "seen/picture", "seen/histogram", "seen/text/text_summary"),
        "how to read it",
    )
    assert reading.scalars(run, "seen/number") == {3: 3.0, 5: 5.0}


def test_a_logger_whose_experiment_is_something_else_is_named():
    logger = Recorder()
    logger.experiment = object()
    with pytest.raises(TypeError, match=r"Recorder\.experiment is no SummaryWriter"):
        write(TensorBoardMedia(logger), picture(size=8))


def test_a_logger_that_cannot_give_its_experiment_raises_its_own_error():
    with pytest.raises(ConnectionError, match="no service"):
        TensorBoardMedia(BrokenLogger()).flush(patience=PATIENCE)
