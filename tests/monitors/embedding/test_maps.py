from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.monitors.embedding import tsne
from vis_callbacks.monitors.embedding.maps import (
    EmbeddingMaps,
    FollowedMap,
    Layout,
    followed,
    matched,
)
from vis_callbacks.monitors.embedding.samples import Samples
from vis_callbacks.monitors.embedding.science import (
    clouds_of,
    spread,
    squared_distances,
    trustworthiness,
)
from vis_callbacks.observer import require_plain
from vis_callbacks.options import Options
from vis_callbacks.report import Embedding, Picture, Report, Scalar, transfer

N = 90
FEW = 20


def clusters(num_samples: int = N, seed: int = 0) -> Tensor:
    centres = 4 * torch.randn(6, 12, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(num_samples, 12, generator=torch.Generator().manual_seed(seed))
    return centres[torch.arange(num_samples) % 6] + noise


def prints(num_samples: int = N) -> np.ndarray:
    return np.arange(1_000, 1_000 + num_samples)


def follow(
    last: FollowedMap | None, features: Tensor, fingerprints: np.ndarray | None = None, **layout
) -> FollowedMap:
    fingerprints = prints(len(features)) if fingerprints is None else fingerprints
    (cloud,) = clouds_of({"fc": features}, np.full(len(features), -1))
    return followed(last, cloud, fingerprints, Layout(**layout))


@pytest.fixture(scope="module")
def first() -> FollowedMap:
    return follow(None, clusters())


# -- one map after another


def test_the_k_th_of_equal_fingerprints_is_the_k_th_of_before():
    before = np.array([5, 7, 5, 9])
    assert matched(before, np.array([9, 5, 5, 5, 8])).tolist() == [3, 0, 2, -1, -1]


def test_the_same_features_leave_the_map_where_it_is(first):
    assert first.before is None
    second = follow(first, clusters())
    assert second.moved < 0.05
    assert second.note == ""
    assert np.array_equal(second.before, first.points)


def test_a_network_that_has_turned_its_features_leaves_the_map_where_it_is(first):
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q
    assert follow(first, clusters() @ turn + 3).moved < 0.05


def test_two_maps_from_scratch_would_lie_far_apart(first):
    # The claim below is not such as any two maps would pass.
    other = follow(None, clusters() + 0.7 * clusters(seed=3))
    apart = np.median(np.linalg.norm(first.points - other.points, axis=1))
    assert apart / spread(first.points) > 0.15


def test_features_that_move_a_little_move_the_map_a_little(first):
    assert 0 < follow(first, clusters() + 0.7 * clusters(seed=3)).moved < 0.15


def test_samples_in_another_order_are_known_again(first):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert follow(first, clusters()[order], prints()[order.numpy()]).moved < 0.05


def test_new_samples_begin_among_their_neighbours_and_are_counted():
    last = follow(None, clusters(), perplexity=10.0)
    features = torch.cat([clusters(), clusters(30, seed=4)])
    second = follow(last, features, perplexity=10.0)
    assert second.note == "30 samples are new"
    assert np.isnan(second.before[N:]).all()
    assert np.isfinite(second.before[:N]).all()
    assert second.moved < 0.15
    assert trustworthiness(squared_distances(features), second.points) > 0.9


def test_a_map_of_other_samples_begins_afresh_and_says_so(first):
    second = follow(first, clusters(seed=5), prints() + 60)
    assert second.note == "started afresh: only 30 of 90 samples are those of the previous map"
    assert second.before is None
    assert second.moved is None


def test_principal_components_that_change_places_are_turned_back():
    scale = torch.ones(12)
    first_then_second, second_then_first = scale.clone(), scale.clone()
    first_then_second[:2] = torch.tensor([9.0, 8.0])
    second_then_first[:2] = torch.tensor([8.0, 9.0])
    noise = torch.randn(N, 12, generator=torch.Generator().manual_seed(0))
    last = follow(None, noise * first_then_second, method="pca")
    assert follow(last, noise * second_then_first, method="pca").moved < 0.2
    by_itself = follow(None, noise * second_then_first, method="pca")
    apart = np.median(np.linalg.norm(last.points - by_itself.points, axis=1))
    assert apart / spread(last.points) > 0.5


def test_scikit_learn_lays_out_and_follows_as_well():
    layout = {"backend": "sklearn", "perplexity": 10.0}
    last = follow(None, clusters(60), **layout)
    assert trustworthiness(squared_distances(clusters(60)), last.points) > 0.9
    assert follow(last, clusters(60), **layout).moved < 0.1


@pytest.mark.parametrize("num_exact", [N - 1, N])
def test_many_points_are_handed_over_to_scikit_learn(monkeypatch, num_exact):
    monkeypatch.setattr(tsne, "_MAX_ON_HOST", num_exact)
    by = "torch" if num_exact == N else "sklearn"
    last = follow(None, clusters(), perplexity=10.0)
    assert np.array_equal(last.points, follow(None, clusters(), perplexity=10.0, backend=by).points)
    moved = follow(last, clusters() + 0.01, perplexity=10.0)
    again = follow(last, clusters() + 0.01, perplexity=10.0, backend=by)
    assert np.array_equal(moved.points, again.points)
    assert moved.moved < 0.2


# -- what a snapshot gives


def features(seed: int = 0, width: int = 6) -> Tensor:
    return torch.randn(FEW, width, generator=torch.Generator().manual_seed(seed))


def maps(method: str = "pca", *, perplexity: float = 30.0, projector: bool = False, **options):
    layout = Layout(method=method, perplexity=perplexity)
    given = Options(num_samples=FEW, **options)
    return EmbeddingMaps(layout, given, side="input of", projector=projector)


def seen(
    kept: EmbeddingMaps,
    given: Tensor | None = None,
    step: int = 0,
    *,
    labels: np.ndarray | None = None,
    predictions: np.ndarray | None = None,
    with_pixels: bool = True,
    num_units: int = 6,
    **known,
) -> Report:
    """Returns what the maps of one layer say of these features, on the host."""
    given = features() if given is None else given
    labels = np.arange(len(given)) % 3 if labels is None else labels
    samples = Samples(
        fingerprints=np.arange(len(given)),
        labels=labels,
        predictions=np.full(len(given), -1) if predictions is None else predictions,
        pixels=torch.zeros(len(given), 1, 4, 4, dtype=torch.uint8) if with_pixels else None,
        ranges=torch.tensor([0.0, 1.0]).expand(len(given), 2) if with_pixels else None,
        features={"fc": given},
        num_units={"fc": num_units},
    )
    clouds = clouds_of(samples.features, labels)
    items = tuple(kept.items(Snapshot(step=step, **known), samples, clouds, 0.5))
    (report,) = transfer([Report(step=step, items=items)])
    return report


def tags(report: Report) -> list[str]:
    return [item.tag for item in report.items]


def caption(report: Report) -> tuple[str, ...]:
    return tuple(line for line in report.of(Picture)[0].draw.keywords["caption"] if line)


def notes(report: Report) -> tuple[str, ...]:
    """Returns what the caption says after the title and two lines of numbers."""
    return caption(report)[3:]


def array(report: Report, name: str, picture: str = "map") -> np.ndarray:
    (item,) = [item for item in report.of(Picture) if item.tag == f"embedding/{picture}/fc"]
    return item.arrays[name]


def test_the_first_map_has_no_way_that_its_samples_have_come():
    kept = maps()
    first, second = (seen(kept, step=step) for step in (0, 5))
    assert tags(first) == [
        "trustworthiness/fc",
        "embedding/map/fc",
        "embedding/strip/fc",
        "embedding/thumbnails/fc",
    ]
    assert "before" not in first.of(Picture)[0].arrays
    assert [s.value for s in second.of(Scalar) if s.tag == "displacement/fc"] == [0.0]
    assert np.array_equal(array(second, "before"), array(first, "points"))


def test_the_strip_keeps_the_first_and_the_latest_of_its_frames_of_any_number_of_samples():
    kept = maps()
    reports = [seen(kept, features()[: FEW - step % 3], step) for step in range(12)]
    strip = next(item for item in reports[-1].of(Picture) if "strip" in item.tag)
    steps = strip.draw.keywords["steps"]
    assert (len(steps), steps[0], steps[-1]) == (8, 0, 11)
    assert np.array_equal(strip.arrays["points"][0], array(reports[0], "points"))
    assert np.array_equal(strip.arrays["points"][-1][:18], array(reports[-1], "points"))
    assert np.isnan(strip.arrays["points"][-1][18:]).all()
    assert (strip.arrays["labels"][-1][18:] == -1).all()
    assert all(item.draw(**item.arrays).dtype == np.uint8 for item in reports[-1].of(Picture))


def test_a_map_that_begins_afresh_begins_a_strip():
    kept = maps()
    seen(kept)
    kept._followed["fc"].fingerprints[:] += 1_000
    report = seen(kept, step=5)
    assert array(report, "points", "strip").shape[0] == 1
    assert "started afresh" in notes(report)[0]


def test_features_without_extent_give_a_reason_and_leave_the_followed_map_alone():
    kept = maps()
    first = seen(kept)
    without = seen(kept, torch.ones(FEW, 6), step=5)
    after = seen(kept, step=10)
    assert tags(without) == ["embedding/map/fc"]
    assert "no map: the features of all 20 samples are equal" in caption(without)
    assert np.array_equal(array(after, "before"), array(first, "points"))


def test_the_caption_names_trust_agreements_and_the_way():
    kept = maps()
    report = (seen(kept), seen(kept, step=5))[1]
    trust = next(s.value for s in report.of(Scalar) if s.tag.startswith("trust"))
    title, first, second = caption(report)
    assert title == "input of fc: principal components, 20 samples; epoch 0, step 5"
    assert first == f"trustworthiness {trust:.3f}; moved by 0.00 of its spread (median)"
    assert second.startswith("nearest neighbours of the same class: ")
    assert second.endswith("(in pixels 50 %)")


@pytest.mark.parametrize(("num_twins", "said"), [(2, False), (3, True)])
def test_trustworthiness_is_no_quality_where_many_features_are_identical(num_twins, said):
    given = features()
    given[1 : 1 + num_twins] = given[0]
    assert (" of the different ones" in caption(seen(maps(), given))[1]) is said


def test_a_wrong_sample_is_marked_only_where_there_are_predictions():
    predictions = (np.arange(FEW) + (np.arange(FEW) < 2)) % 3
    assert np.flatnonzero(array(seen(maps(), predictions=predictions), "wrong")).tolist() == [0, 1]
    assert "wrong" not in seen(maps()).of(Picture)[0].arrays


# -- thumbnails


def shown_at(kept: EmbeddingMaps, steps: list[int], **known) -> list[int]:
    reports = {step: seen(kept, step=step, planned_steps=100, **known) for step in steps}
    return [step for step, report in reports.items() if "embedding/thumbnails/fc" in tags(report)]


def test_thumbnails_come_at_each_doubling_and_at_the_planned_end():
    assert shown_at(maps(), [0, 10, 19, 20, 30, 39, 40, 79, 80, 99]) == [0, 20, 40, 80, 99]


def test_an_evaluation_beside_the_training_shows_its_samples_and_delays_nothing():
    kept = maps()
    assert shown_at(kept, [0]) == [0]
    assert shown_at(kept, [10, 25], stage="validate") == [10, 25]
    assert shown_at(kept, [30]) == [30]  # due since step 20


def test_inputs_without_pixels_have_no_thumbnails():
    assert tags(seen(maps(), with_pixels=False))[-1] == "embedding/strip/fc"


# -- the projector


def test_the_projector_names_classes_predictions_and_what_is_not_known():
    labels, predictions = np.arange(FEW) % 3, np.arange(FEW) % 3
    labels[0], predictions[1], predictions[2] = -1, 0, -1
    kept = maps(projector=True, class_names=["cat", "dog"])
    (written,) = seen(kept, labels=labels, predictions=predictions).of(Embedding)
    assert written.tag == "embedding/projector/fc"
    assert written.metadata[:6] == ("not known", "dog, predicted cat", "2", "cat", "dog", "2")
    assert written.features.shape == (FEW, 6)
    assert written.thumbnails.shape == (FEW, 3, 4, 4)


# -- what is out of the ordinary


def test_samples_that_are_left_out_and_twins_are_counted():
    given = features()
    given[3] = float("nan")
    given[5] = given[4]
    assert notes(seen(maps(), given)) == (
        "left out: 1 of 20 samples, features not finite",
        "1 of 19 samples have the features of another one: the network does not tell them apart",
    )


def test_features_on_one_line_are_said_to_be():
    line = torch.arange(FEW)[:, None].float() * torch.ones(6)
    assert notes(seen(maps(), line)) == ("all features lie on one line",)


def test_a_perplexity_is_lowered_for_few_samples_and_only_for_tsne():
    said = "perplexity 6.33 instead of 30: few samples"
    assert notes(seen(maps("tsne"))) == (said,)
    assert notes(seen(maps("tsne", perplexity=5.0))) == ()
    assert notes(seen(maps("pca"))) == ()


def test_features_of_a_wide_layer_are_said_to_be_random_sums():
    wide = features(width=2_048)
    said = ("2,048 random sums of its 5,000 features",)
    assert notes(seen(maps(), wide, num_units=5_000)) == said
    assert notes(seen(maps(), wide, num_units=2_048)) == ()


@pytest.mark.parametrize(
    ("label", "said"), [(-1, "no classes are known"), (2, "all samples are of one class")]
)
def test_no_class_and_one_class_are_told_apart(label, said):
    assert caption(seen(maps(), labels=np.full(FEW, label)))[2:] == (said,)


# -- the restart


def test_its_state_is_plain_and_goes_on_where_it_was():
    kept, other = maps(), maps()
    seen(kept, features(0), 0, planned_steps=100)
    seen(kept, features(1), 25, planned_steps=100)
    require_plain(kept.state_dict(), "state")
    other.load_state_dict(kept.state_dict())
    for step in (30, 45):
        one, two = (seen(each, features(2), step, planned_steps=100) for each in (kept, other))
        assert tags(one) == tags(two)
        for name, picture in (("points", "map"), ("before", "map"), ("points", "strip")):
            assert np.array_equal(array(one, name, picture), array(two, name, picture))
