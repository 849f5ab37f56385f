from __future__ import annotations

import math

import numpy as np
import pytest

from vis_callbacks.callbacks.embedding import pictures as home
from vis_callbacks.callbacks.embedding.pictures import (
    MapFacts,
    draw_map,
    draw_probes,
    draw_thumbnails,
)

N = 20
POINTS = np.random.default_rng(0).normal(size=(N, 2))
LABELS = np.arange(N) % 3
NUMBERS = np.array([0.994, 0.41, 0.61, 0.81])


def facts(num_twins: int = 0) -> MapFacts:
    return MapFacts(
        what="input of fc",
        method="tsne",
        num_samples=N,
        num_twins=num_twins,
        epoch=7,
        step=1_495,
        class_names=["a", "b", "c"],
    )


@pytest.fixture
def drawn(monkeypatch) -> list[tuple]:
    """Collects what would be drawn: (arguments, options) of each call."""
    calls: list[tuple] = []

    def record(*given, **options):
        calls.append((given, options))
        return np.zeros((1, 1, 3), np.uint8)

    for name in ("scatter", "thumbnail_map", "probe_curve"):
        monkeypatch.setattr(home, name, record)
    return calls


@pytest.mark.parametrize(("num_twins", "words"), [(2, ""), (3, " of what is left")])
def test_trustworthiness_is_no_quality_where_many_features_are_identical(drawn, num_twins, words):
    wrong = np.zeros(N, bool)
    draw_map(POINTS, LABELS, wrong, NUMBERS, facts=facts(num_twins), has_predictions=True)
    ((_, options),) = drawn
    assert (
        options["caption"][1]
        == f"trustworthiness 0.994{words}; moved by 0.81 of its spread (median)"
    )


def test_thumbnails_name_the_classes(drawn):
    pixels = np.zeros((N, 3, 4, 4), np.uint8)
    ranges = np.tile([0.0, 1.0], (N, 1))
    draw_thumbnails(POINTS, LABELS, pixels, ranges, NUMBERS, facts=facts(), mean=None, std=None)
    ((given, _),) = drawn
    assert given[-2:] == (["a", "b", "c"], None)


def probes(network: float, num_classes: int = 2) -> None:
    draw_probes(
        np.array([[0.2, 0.3], [0.4, 0.712]]),
        network=np.array(network),
        layers=["a", "b"],
        steps=[5, 1_495],
        num_samples=N,
        num_classes=num_classes,
        epoch=7,
        chance=0.084,
    )


def test_probes_are_compared_with_guessing_and_with_the_network_itself(drawn):
    probes(0.76)
    (((curves, _, levels, caption), _),) = drawn
    assert list(curves) == ["step 5", "step 1,495"]
    assert levels == {"network itself": 0.76, "guessing": 0.084}
    assert caption[-1] == "the network itself, on the same samples now: 76.0 %"


def test_few_samples_a_class_are_said_to_be_few(drawn):
    probes(0.76, num_classes=4)
    assert drawn[0][0][3][-1].startswith("5.0 samples a class: a probe fitted to so few")


def test_nothing_is_said_of_a_network_whose_predictions_are_not_known(drawn):
    probes(math.nan)
    (((_, _, levels, caption), _),) = drawn
    assert math.isnan(levels["network itself"])
    assert not any("network" in line for line in caption)
