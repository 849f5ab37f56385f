from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vis_callbacks.analysis.unit_life import ALIVE, DEAD, NEVER_FIRED, UnitLife
from vis_callbacks.callbacks.activations import map_strips
from vis_callbacks.callbacks.activations.map_strips import MapStrips, as_maps
from vis_callbacks.callbacks.options import CheckedOptions
from vis_callbacks.engine.probe import LayerInfo
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Snapshot


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5,), (5,)),
        ((5, 1, 1), (5,)),
        ((5, 7, 9), (5, 7, 9)),
        ((5, 16), (5, 4, 4)),
        ((5, 17), (5, 4, 4)),  # a class token before the square
        ((5, 14), (5, 1, 14)),
        ((5, 6, 7, 8), (5, 7, 8)),
    ],
)
def test_an_activation_is_laid_out_as_maps(shape, expected):
    assert as_maps(torch.randn(shape)).shape == expected


def test_the_class_token_is_left_out_and_the_others_keep_their_places():
    tokens = torch.arange(10.0)[None]
    assert as_maps(tokens)[0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def snapshot(step: int) -> Snapshot:
    names = ["a", "b", "c", "d", "e"]
    return Snapshot(
        step=step,
        trace=tuple(LayerInfo(name=n, kind="relu", shape=(1, 4, 6, 6), num_units=4) for n in names),
        values={"units": {n: {} for n in names}},
        references=References(inputs=torch.rand(1, 3, 8, 8), labels=None, source="a test"),
        read_layers=lambda wanted, given: {n: torch.full((1, 4, 6, 6), step) for n in wanted},
    )


def test_the_first_a_middle_and_the_last_layer_are_shown_by_default():
    images = list(MapStrips(None, 16).pictures(snapshot(0), CheckedOptions(), UnitLife()))
    assert [image.tag for image in images] == [f"activations/maps/{n}" for n in "ace"]


def test_a_strip_keeps_the_first_frame_and_the_latest_and_not_more_than_eight():
    strips = MapStrips(["a"], 2)
    for step in range(0, 1000, 50):
        (image,) = strips.pictures(snapshot(step), CheckedOptions(), UnitLife())
    steps = image.draw.keywords["steps"]
    assert len(steps) == 8
    assert (steps[0], steps[-1]) == (0, 950)
    assert image.arrays["maps"].shape == (8, 2, 6, 6)


def test_a_strip_goes_on_after_a_restart():
    before, after = MapStrips(["a"], 2), MapStrips(["a"], 2)
    list(before.pictures(snapshot(0), CheckedOptions(), UnitLife()))
    after.restore(before.state())
    (image,) = after.pictures(snapshot(10), CheckedOptions(), UnitLife())
    assert image.draw.keywords["steps"] == [0, 10]


def test_each_unit_shown_has_its_own_state(monkeypatch):
    shown = {}

    def record(maps, steps, caption, **options):
        shown.update(options)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(map_strips, "activation_maps", record)
    strips = MapStrips(["a"], 2)
    (image,) = strips.pictures(snapshot(0), CheckedOptions(), UnitLife())
    maps = image.arrays["maps"].numpy()
    image.draw(maps, states=np.array([ALIVE, DEAD, NEVER_FIRED, ALIVE]))
    assert shown["unit_names"] == ["unit 0", "unit 2"]
    assert shown["states"].tolist() == [ALIVE, NEVER_FIRED]
    assert shown["min_samples"] == 160


def test_without_reference_samples_nothing_is_drawn():
    bare = Snapshot(step=0, values={"units": {}})
    assert list(MapStrips(None, 4).pictures(bare, CheckedOptions(), UnitLife())) == []


def reaching(read, names: str = "abcde", step: int = 0) -> Snapshot:
    """Returns a snapshot in which a pass of the sample gives these activations alone."""
    return replace(
        snapshot(step),
        trace=tuple(LayerInfo(name=n, kind="relu", shape=(1, 4, 6, 6), num_units=4) for n in names),
        values={"units": {n: {} for n in names}},
        read_layers=lambda wanted, given: {n: v for n, v in read.items() if n in wanted},
    )


def tags(strips: MapStrips, seen: Snapshot) -> list[str]:
    images = strips.pictures(seen, CheckedOptions(), UnitLife())
    return [image.tag.rpartition("/")[2] for image in images]


def test_layers_that_the_pass_does_not_reach_are_not_chosen():
    maps = {n: torch.ones(1, 4, 6, 6) for n in "bcdef"}
    strips = MapStrips(None, 4)
    assert tags(strips, reaching(maps, "abcdefghijklmn")) == ["b", "d", "f"]
    assert tags(strips, reaching(maps, "0abcdefghijklmn", step=9)) == ["b", "d", "f"]
    other = {n: torch.ones(1, 4, 6, 6) for n in "xyz"}
    assert tags(strips, reaching(other, "abcdefxyz", step=12)) == ["x", "y", "z"]


def test_a_layer_that_gets_no_row_of_the_sample_has_no_picture_now():
    strips = MapStrips(["a", "b"], 4)
    some, none = torch.ones(1, 4), torch.ones(0, 4)
    assert tags(strips, reaching({"a": none, "b": some})) == ["b"]
    assert tags(strips, reaching({"a": some, "b": none}, step=5)) == ["a"]
    (_, image) = strips.pictures(
        reaching({"a": some, "b": some}, step=9), CheckedOptions(), UnitLife()
    )
    assert image.draw.keywords["steps"] == [0, 9]


def test_the_rows_of_one_sample_lie_in_a_line():
    rows = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)  # (rows, units, positions)
    (image,) = MapStrips(["a"], 4).pictures(reaching({"a": rows}), CheckedOptions(), UnitLife())
    shown = image.arrays["maps"][0]
    assert shown[1].tolist() == [[4, 5, 6, 7, 16, 17, 18, 19]]
    assert image.draw.keywords["num_rows"] == 2


@pytest.mark.parametrize(("num_units", "steps"), [(9, [0, 5]), (4, [0, 5]), (3, [5])])
def test_the_units_shown_stay_as_long_as_they_are_there(num_units, steps):
    strips = MapStrips(["a"], 2)
    list(strips.pictures(reaching({"a": torch.ones(1, 4)}), CheckedOptions(), UnitLife()))
    again = reaching({"a": torch.ones(1, num_units)}, step=5)
    (image,) = strips.pictures(again, CheckedOptions(), UnitLife())
    assert image.draw.keywords["steps"] == steps
    assert image.draw.keywords["num_units"] == num_units
    assert image.draw.keywords["places"] == ([0, 2] if len(steps) > 1 else [0, 1])


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (replace(snapshot(0), references=None), "no batch was understood"),
        (reaching({}), "does not reach a, b, c"),
    ],
)
def test_without_a_pass_of_a_sample_it_says_why(seen, words):
    with pytest.raises(ValueError, match=words):
        list(MapStrips(None, 4).pictures(seen, CheckedOptions(), UnitLife()))
