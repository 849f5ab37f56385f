from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vis_callbacks.callbacks.embedding.collected_samples import Samples
from vis_callbacks.callbacks.embedding.feature_clouds import Facts, clouds_of
from vis_callbacks.callbacks.embedding.followed_map import Layout
from vis_callbacks.callbacks.embedding.maps import EmbeddingMaps, Look
from vis_callbacks.callbacks.options import CheckedOptions
from vis_callbacks.callbacks.plain import require_plain
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.report import Embedding, Image, Report, Scalar, transfer

N = 20


def features(seed: int = 0, width: int = 6) -> Tensor:
    return torch.randn(N, width, generator=torch.Generator().manual_seed(seed))


def maps(method: str = "pca", *, projector: bool = False, perplexity: float = 30.0):
    layout = Layout(method=method, perplexity=perplexity)
    return EmbeddingMaps(layout, side="input of", projector=projector)


def seen(
    followed: EmbeddingMaps,
    given: Tensor | None = None,
    step: int = 0,
    *,
    labels: Tensor | None = None,
    predictions: Tensor | None = None,
    with_pixels: bool = True,
    num_units: int = 6,
    class_names: list[str] | None = None,
    **known,
) -> Report:
    """Returns what the maps of one layer say of these features, on the host."""
    labels = torch.arange(N) % 3 if labels is None else labels
    pixels = torch.zeros(N, 1, 4, 4, dtype=torch.uint8)
    samples = Samples(
        fingerprints=torch.arange(N),
        labels=labels,
        predictions=predictions,
        pixels=pixels if with_pixels else None,
        ranges=torch.tensor([0.0, 1.0]).expand(N, 2) if with_pixels else None,
        features={"fc": features() if given is None else given},
        num_units={"fc": num_units},
        probed={},
        probed_labels=labels,
    )
    facts = Facts.of(samples)
    look = Look(
        snapshot=Snapshot(step=step, **known),
        samples=samples,
        facts=facts,
        of_pixels=torch.tensor(0.5),
        options=CheckedOptions(class_names=class_names),
    )
    items = tuple(followed.items(look, clouds_of(samples, facts)))
    (report,) = transfer([Report(step=step, items=items)])
    return report


def tags(report: Report) -> list[str]:
    return [item.tag for item in report.items]


def notes(report: Report) -> tuple[str, ...]:
    return report.of(Image)[0].draw.keywords["facts"].notes


def array(report: Report, name: str, tag: str = "embedding/map/fc") -> np.ndarray:
    (item,) = [item for item in report.of(Image) if item.tag == tag]
    return item.arrays[name]


# -- what a snapshot gives


def test_the_first_map_has_no_way_that_its_samples_have_come():
    followed = maps()
    first, second = (seen(followed, step=step) for step in (0, 5))
    moved = "displacement/fc"
    assert tags(first) == [
        "trustworthiness/fc",
        "embedding/map/fc",
        "embedding/strip/fc",
        "embedding/thumbnails/fc",
    ]
    assert "before" not in first.of(Image)[0].arrays
    assert [s.value for s in second.of(Scalar) if s.tag == moved] == [0.0]
    assert np.array_equal(array(second, "before"), array(first, "points"))


def test_the_strip_gains_a_frame_at_each_snapshot():
    followed = maps()
    reports = [seen(followed, features(seed), step) for step, seed in ((0, 0), (5, 1))]
    strip = next(item for item in reports[1].of(Image) if "strip" in item.tag)
    assert strip.draw.keywords["steps"] == [0, 5]
    assert {"points_0", "labels_0", "points_1", "labels_1"} <= set(strip.arrays)
    assert np.array_equal(strip.arrays["points_1"], array(reports[1], "points"))


def test_features_without_extent_give_a_reason_and_leave_the_followed_map_alone():
    followed = maps()
    first = seen(followed)
    without = seen(followed, torch.ones(N, 6), step=5)
    after = seen(followed, step=10)
    assert tags(without) == ["embedding/map/fc"]
    assert without.of(Image)[0].draw.keywords["shape"].obstacle == "equal"
    assert np.array_equal(array(after, "before"), array(first, "points"))


def test_numbers_of_the_caption_are_trust_agreements_and_the_way():
    followed = maps()
    report = (seen(followed), seen(followed, step=5))[1]
    trust = next(s.value for s in report.of(Scalar) if s.tag.startswith("trust"))
    numbers = array(report, "numbers")
    assert numbers[[0, 2, 3]].tolist() == [trust, 0.5, 0.0]
    assert 0 < numbers[1] < 1


def test_a_wrong_sample_is_marked_only_where_there_are_predictions():
    labels = torch.arange(N) % 3
    report = seen(maps(), predictions=(torch.arange(N) + (torch.arange(N) < 2)) % 3)
    assert np.flatnonzero(array(report, "wrong")).tolist() == [0, 1]
    assert report.of(Image)[0].draw.keywords["has_predictions"]
    without = seen(maps(), labels=labels)
    assert not without.of(Image)[0].draw.keywords["has_predictions"]


# -- thumbnails


def shown_at(followed: EmbeddingMaps, steps: list[int], **known) -> list[int]:
    reports = {step: seen(followed, step=step, planned_steps=100, **known) for step in steps}
    return [step for step, report in reports.items() if "embedding/thumbnails/fc" in tags(report)]


def test_thumbnails_come_at_each_doubling_and_at_the_planned_end():
    assert shown_at(maps(), [0, 10, 19, 20, 30, 39, 40, 79, 80, 99]) == [0, 20, 40, 80, 99]


def test_an_evaluation_beside_the_training_shows_its_samples_and_delays_nothing():
    followed = maps()
    assert shown_at(followed, [0]) == [0]
    assert shown_at(followed, [10, 25], stage="validate") == [10, 25]
    assert shown_at(followed, [30]) == [30]  # due since step 20


def test_inputs_without_pixels_have_no_thumbnails():
    assert tags(seen(maps(), with_pixels=False))[-1] == "embedding/strip/fc"


# -- the projector


def test_the_projector_names_classes_predictions_and_what_is_not_known():
    labels, predictions = torch.arange(N) % 3, torch.arange(N) % 3
    labels[0], predictions[1], predictions[2] = -1, 0, -1
    report = seen(
        maps(projector=True), labels=labels, predictions=predictions, class_names=["cat", "dog"]
    )
    (written,) = report.of(Embedding)
    assert written.tag == "embedding/projector/fc"
    assert written.metadata[:6] == ("not known", "dog, predicted cat", "2", "cat", "dog", "2")
    assert written.features.shape == (N, 6)
    assert written.thumbnails.shape == (N, 3, 4, 4)


# -- what is out of the ordinary


def test_samples_that_are_left_out_and_twins_are_counted():
    given = features()
    given[3] = float("nan")
    given[5] = given[4]
    report = seen(maps(), given)
    assert report.of(Image)[0].draw.keywords["facts"].num_twins == 1
    assert notes(report) == (
        "left out: 1 of 20 samples, features not finite",
        "1 of 19 samples have the features of another one: the network does not tell them apart",
    )


def test_features_on_one_line_are_said_to_be():
    line = torch.arange(N)[:, None].float() * torch.ones(6)
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


def test_no_class_and_one_class_are_told_apart():
    assert notes(seen(maps(), labels=torch.full((N,), -1))) == ("no classes are known",)
    assert notes(seen(maps(), labels=torch.full((N,), 2))) == ("all samples are of one class",)


# -- the restart


def test_its_state_is_plain_and_goes_on_where_it_was():
    followed, other = maps(), maps()
    seen(followed, features(0), 0, planned_steps=100)
    seen(followed, features(1), 25, planned_steps=100)
    require_plain(followed.state(), "state")
    other.restore(followed.state())
    for step in (30, 45):
        one, two = (seen(each, features(2), step, planned_steps=100) for each in (followed, other))
        assert tags(one) == tags(two)
        assert np.array_equal(array(one, "points"), array(two, "points"))
        assert np.array_equal(array(one, "before"), array(two, "before"))
