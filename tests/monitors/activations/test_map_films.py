from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vis_callbacks.engine.probe import LayerInfo
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.monitors.activations.dead_units import DeadUnitTracker
from vis_callbacks.monitors.activations.map_films import MapFilms, as_maps
from vis_callbacks.options import Options
from vis_callbacks.report import Picture


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((1, 5), (), (5,)),
        ((1, 5, 1, 1), (8, 8), (5,)),
        ((1, 5, 7, 9), (8, 8), (5, 7, 9)),
        ((1, 5, 16), (8, 8), (5, 4, 4)),
        ((1, 5, 17), (8, 8), (5, 4, 4)),  # a class token before the square
        ((1, 5, 16), (), (5, 1, 16)),  # tokens of a text
        ((1, 5, 14), (8, 8), (5, 1, 14)),
        ((1, 5, 6, 7, 8), (8, 8), (5, 7, 8)),
    ],
)
def test_an_activation_is_laid_out_as_maps(shape, size, expected):
    assert as_maps(torch.randn(shape), size).shape == expected


def test_the_class_token_is_left_out_and_the_others_keep_their_places():
    tokens = torch.arange(10.0)[None, None]
    assert as_maps(tokens, (6, 6))[0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def snapshot(step: int) -> Snapshot:
    names = ["a", "b", "c", "d", "e"]
    return Snapshot(
        step=step,
        trace=tuple(LayerInfo(name=n, kind="relu", shape=(1, 4, 6, 6), num_units=4) for n in names),
        values={"units": {n: {} for n in names}},
        references=References(inputs=torch.rand(1, 3, 8, 8), labels=None, source="a test"),
        read_layers=lambda wanted, given: {n: torch.full((1, 4, 6, 6), step) for n in wanted},
    )


def shown(films: MapFilms, seen: Snapshot) -> list[Picture]:
    return list(films.pictures(seen, Options(), DeadUnitTracker()))


def test_the_first_a_middle_and_the_last_layer_are_shown_by_default():
    images = shown(MapFilms(None, 16), snapshot(0))
    assert [image.tag for image in images] == [f"activations/maps/{n}" for n in "ace"]


@pytest.mark.parametrize("layers", [None, ["a"]])
def test_tensorboard_draws_cards_for_layers_that_were_named(layers):
    images = shown(MapFilms(layers, 16), snapshot(0))
    assert {image.card.is_shown for image in images} == {layers is not None}
    assert all(image.card.how_to_read for image in images)


def test_a_film_keeps_the_first_frame_and_the_latest_and_not_more_than_eight():
    films = MapFilms(["a"], 2)
    for step in range(0, 1000, 50):
        (image,) = shown(films, snapshot(step))
    steps = image.draw.keywords["steps"]
    assert len(steps) == 8
    assert (steps[0], steps[-1]) == (0, 950)
    assert image.arrays["maps"].shape == (8, 2, 6, 6)


def test_a_film_goes_on_after_a_restart():
    before, after = MapFilms(["a"], 2), MapFilms(["a"], 2)
    shown(before, snapshot(0))
    after.load_state_dict(before.state_dict())
    (image,) = shown(after, snapshot(10))
    assert image.draw.keywords["steps"] == [0, 10]


def test_without_reference_samples_nothing_is_drawn():
    bare = Snapshot(step=0, values={"units": {}})
    assert shown(MapFilms(None, 4), bare) == []


def reaching(read: Mapping[str, Tensor], names: str = "abcde", step: int = 0) -> Snapshot:
    """Returns a snapshot in which a pass of the sample gives these activations alone."""
    return replace(
        snapshot(step),
        trace=tuple(LayerInfo(name=n, kind="relu", shape=(1, 4, 6, 6), num_units=4) for n in names),
        values={"units": {n: {} for n in names}},
        read_layers=lambda wanted, given: {n: v for n, v in read.items() if n in wanted},
    )


def tags(films: MapFilms, seen: Snapshot) -> list[str]:
    return [image.tag.rpartition("/")[2] for image in shown(films, seen)]


def test_layers_that_the_pass_does_not_reach_are_not_chosen():
    maps = {n: torch.ones(1, 4, 6, 6) for n in "bcdef"}
    films = MapFilms(None, 4)
    assert tags(films, reaching(maps, "abcdefghijklmn")) == ["b", "d", "f"]
    assert tags(films, reaching(maps, "0abcdefghijklmn", step=9)) == ["b", "d", "f"]
    other = {n: torch.ones(1, 4, 6, 6) for n in "xyz"}
    assert tags(films, reaching(other, "abcdefxyz", step=12)) == ["x", "y", "z"]


def test_a_layer_that_gets_no_row_of_the_sample_has_no_picture_now():
    films = MapFilms(["a", "b"], 4)
    some, none = torch.ones(1, 4), torch.ones(0, 4)
    assert tags(films, reaching({"a": none, "b": some})) == ["b"]
    assert tags(films, reaching({"a": some, "b": none}, step=5)) == ["a"]
    (_, image) = shown(films, reaching({"a": some, "b": some}, step=9))
    assert image.draw.keywords["steps"] == [0, 9]


def test_the_rows_of_one_sample_lie_in_a_line():
    rows = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)  # (rows, units, positions)
    (image,) = shown(MapFilms(["a"], 4), reaching({"a": rows}))
    assert image.arrays["maps"][0, 1].tolist() == [[4, 5, 6, 7, 16, 17, 18, 19]]
    assert "the 2 rows that this sample has here" in image.draw.keywords["caption"][1]


@pytest.mark.parametrize(("num_units", "steps"), [(9, [0, 5]), (4, [0, 5]), (3, [5])])
def test_the_units_shown_stay_as_long_as_they_are_there(num_units, steps):
    films = MapFilms(["a"], 2)
    shown(films, reaching({"a": torch.ones(1, 4)}))
    again = reaching({"a": torch.ones(1, num_units)}, step=5)
    (image,) = shown(films, again)
    assert image.draw.keywords["steps"] == steps
    assert f" of {num_units} units" in image.draw.keywords["caption"][0]
    assert image.draw.keywords["units"] == ([0, 2] if len(steps) > 1 else [0, 1])


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (replace(snapshot(0), references=None), "no batch was understood"),
        (reaching({}), "does not reach a, b, c"),
    ],
)
def test_without_a_pass_of_a_sample_it_says_why(seen, words):
    with pytest.raises(ValueError, match=words):
        shown(MapFilms(None, 4), seen)
