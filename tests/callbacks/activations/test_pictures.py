from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.callbacks.activations import pictures as home
from vis_callbacks.render.raster import ALIVE, DEAD, NEVER_FIRED, REVIVED


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """Collects the captions of what would be drawn."""
    captions: list[str] = []

    def record(values, *rest, **_):
        captions.extend(rest[-1])
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(home, "raster", record)
    monkeypatch.setattr(home, "heat_map", record)
    return captions


def raster_of(percents: list[int], latest: list[list[int]]) -> None:
    home.draw_raster(
        np.array([[ALIVE, state] for states in latest for state in states]),
        np.array(percents),
        widths={name: len(states) for name, states in zip("abc", latest, strict=False)},
        steps=[0, 60],
        min_samples=160,
        counts_rows=np.array([True, False])[: len(percents)],
    )


@pytest.mark.parametrize(
    ("percents", "latest", "words"),
    [
        ([0, 0], [[ALIVE] * 2, [ALIVE, REVIVED]], "of a; no unit of any layer is dead"),
        ([0, 50], [[ALIVE] * 2, [DEAD, ALIVE]], "of b; the layer with most dead units (50 %)"),
        ([0, 0], [[ALIVE] * 2, [DEAD] + [ALIVE] * 300], "of b; 1 of them dead"),
        # Too few samples yet, or too few units: "never fired" is not "dead".
        ([0, 0], [[ALIVE] * 2, [NEVER_FIRED, ALIVE]], "of a; no unit of any layer has died"),
        # -1: units that cannot die.
        ([-1, 0], [[DEAD] * 2, [ALIVE] * 2], "of b; no unit of any layer is dead"),
    ],
)
def test_the_raster_says_whether_any_unit_is_dead(said, percents, latest, words):
    raster_of(percents, latest)
    assert said[0] == f"life of the units {words}"


def test_the_first_row_is_said_to_be_the_first_layer(said):
    home.draw_unit_life(
        np.zeros((2, 2)), np.zeros(2, bool), np.ones(2, bool), rows=["a", "b"],
        steps=[0, 60], what="dead", num_samples=64,
    )  # fmt: skip
    assert "first layer on top" in said[0]
    assert said[2:] == ["", ""]


def test_the_captions_say_where_rows_and_not_samples_are_counted(said):
    home.draw_unit_life(
        np.zeros((4, 2)), np.array([True, False, True, True]), np.array([True, False, True, True]),
        rows=["a", "b", "c", "d"], steps=[0, 60], what="dead", num_samples=64,
    )  # fmt: skip
    assert said[2] == "rows, not samples, are counted of a, c and 1 more"
    assert said[3] == "no sample has reached b"
    for percents, word in (([50, 0], "rows"), ([0, 50], "samples")):
        said.clear()
        raster_of(percents, [[DEAD, ALIVE], [DEAD, ALIVE]])
        assert said[1] == f"dead: 0 for every one of 160 {word} or more"
