from __future__ import annotations

import math

import numpy as np

from vis_callbacks.monitors.learning.pictures import draw_loss, draw_norms, draw_spread
from vis_callbacks.pictures.colours import NOT_MEASURED


def norms(latest: float, past: float = 1e-3) -> np.ndarray:
    return draw_norms(
        np.array([latest, 1e-2]),
        steps=(0, 50),
        past=[[past], [1e-2]],
        layers=("a", "b"),
        what="norm",
        note="",
    )


def test_a_weight_without_a_gradient_is_grey() -> None:
    grey = np.array(NOT_MEASURED)
    with_one, without = ((norms(x) == grey).all(-1).sum() for x in (1e-4, 0.0))
    assert without > with_one + 100


def test_what_is_exactly_0_is_not_said_to_be_unmeasured(monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        "vis_callbacks.pictures.time_plots.with_caption",
        lambda body, lines, bar: said.extend(map(str, lines)) or body,
    )
    norms(0.0, past=0.0)
    assert "grey: 0 or not known (2 of 4 cells)" in said
    assert not [line for line in said if "measured" in line]


def test_powers_of_ten_are_told_apart() -> None:
    assert not np.array_equal(norms(1e-3), norms(1e-6))


def test_nothing_known_can_be_drawn() -> None:
    nothing = np.array([math.nan])
    assert draw_loss(nothing, steps=(0,), losses=(), constant=math.nan).ndim == 3
    assert draw_spread(nothing, steps=(0,), spreads=(), targets=math.nan).ndim == 3
    assert norms(math.nan, math.nan).ndim == 3


def test_the_constants_level_is_drawn() -> None:
    latest = np.array([1.0])
    plain, with_level = (
        draw_loss(latest, steps=(0, 50), losses=(2.0,), constant=c) for c in (math.nan, 1.5)
    )
    assert plain.shape != with_level.shape or not np.array_equal(plain, with_level)
