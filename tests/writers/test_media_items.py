import json

import numpy as np
import pytest
from tests.writers.stand_ins import noise, picture

from vis_callbacks.report import (
    Embedding,
    Histogram,
    LayerTable,
    Markdown,
    Picture,
    Scalar,
)
from vis_callbacks.writers.media_items import num_bytes, prepare, within


def test_a_picture_is_drawn_from_its_arrays_and_encoded():
    image = Picture(tag="a", draw=noise, arrays={"size": 8, "seed": 3}, caption="c")
    prepared = prepare(image, "test/")
    np.testing.assert_array_equal(prepared.pixels, noise(8, 3))
    assert (prepared.tag, prepared.caption) == ("test/a", "c")
    assert prepared.png.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "item",
    [
        Markdown(tag="a", text="x"),
        Histogram(tag="a", counts=np.ones(1), edges=np.arange(2.0)),
        Embedding(tag="a", features=np.ones((2, 2))),
        LayerTable(tag="a", metrics=("m",), layers=("l",), values=np.ones((1, 1))),
    ],
)
def test_the_prefix_stands_before_every_kind_of_tag(item):
    assert prepare(item, "test/").tag == "test/a"
    assert prepare(item, "").tag == "a"


def test_numbers_of_layers_become_strict_json():
    values = np.array([[0.123456, np.nan], [np.inf, 1.0]])
    item = LayerTable(tag="a", metrics=("m", "n"), layers=("one", "two"), values=values)
    prepared = prepare(item, "")
    assert json.loads(prepared.text, parse_constant=pytest.fail) == {
        "layers": ["one", "two"],
        "metrics": {"m": [0.1235, None], "n": [None, 1.0]},
        "scale": "share",
    }
    assert num_bytes(prepared) == len(prepared.text)


def test_a_number_is_no_medium():
    with pytest.raises(TypeError, match="Scalar is not a picture"):
        prepare(Scalar(tag="a", value=1.0), "")


def test_all_is_kept_where_the_bytes_suffice():
    media = [prepare(picture(), ""), Markdown(tag="t", text="x")]
    assert within(media, sum(map(num_bytes, media))) == (media, [])


def test_the_largest_are_dropped_first_and_the_order_stays():
    media = [Markdown(tag=str(size), text="x" * size) for size in (30, 90, 20, 60)]
    kept, dropped = within(media, 60)
    assert [item.tag for item in kept] == ["30", "20"]
    assert [item.tag for item in dropped] == ["90", "60"]


def test_equal_items_are_dropped_one_by_one():
    text = Markdown(tag="a", text="x" * 10)
    kept, dropped = within([text, Markdown(tag="a", text="x" * 10)], 10)
    assert (len(kept), len(dropped)) == (1, 1)


def test_an_embedding_takes_nothing_from_the_event_file():
    assert num_bytes(Embedding(tag="a", features=np.ones((100, 100)))) == 0


@pytest.mark.parametrize(
    ("counts", "edges", "kept"),
    [
        ([0, 0, 3, 0, 2, 0], [-9, -1, 0, 1, 2, 4, 9], ([3, 0, 2], [0, 1, 2, 4])),
        ([1, 0, 1], [0, 1, 2, 3], ([1, 0, 1], [0, 1, 2, 3])),
        ([0, 0], [0, 1, 2], ([0, 0], [0, 1, 2])),
    ],
)
def test_a_histogram_loses_the_empty_bins_at_its_ends(counts, edges, kept):
    prepared = prepare(Histogram(tag="a", counts=np.array(counts), edges=np.array(edges)), "")
    assert (prepared.counts.tolist(), prepared.edges.tolist()) == kept
