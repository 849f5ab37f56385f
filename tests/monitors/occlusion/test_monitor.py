from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import TinyModule, tiny_fit, tiny_loader, tiny_module, tiny_trainer
from torch import Tensor, nn

from vis_callbacks import OcclusionMonitor, Report
from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitors.occlusion import monitor as home
from vis_callbacks.monitors.occlusion import pictures as occlusion_pictures
from vis_callbacks.pictures.tiles import TileRow
from vis_callbacks.report import Picture, Scalar, transfer


class Quadrants(nn.Module):
    """Class k is what is bright in quadrant k; a map of its own for each quadrant."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        halves = [x[:, 0, :4], x[:, 0, 4:]]
        maps = [part for half in halves for part in (half[..., :4], half[..., 4:])]
        return 0.5 * self.relu(torch.stack(maps, dim=1)).sum((2, 3))


def bright(quadrants: list[int]) -> Tensor:
    x = torch.zeros(len(quadrants), 1, 8, 8)
    for image, quadrant in zip(x, quadrants, strict=True):
        row, column = 4 * (quadrant // 2), 4 * (quadrant % 2)
        image[0, row : row + 4, column : column + 4] = 1.0
    return x


def look(
    monitor: OcclusionMonitor,
    model: nn.Module,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    step: int = 0,
    **known: Any,
) -> Report:
    with ExitStack() as stack:
        forward = stack.enter_context(isolated(model))
        seen = References(inputs=x, labels=labels, source="a test")
        snapshot = Snapshot(step=step, references=seen, forward=forward, **known)
        (report,) = transfer([monitor.observe(snapshot)])
    return report


def pictures(report: Report) -> dict[str, Picture]:
    return {item.tag: item for item in report.of(Picture)}


def draw(report: Report) -> list[np.ndarray]:
    drawn = [item.draw(**item.arrays) for item in report.of(Picture)]
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in drawn)
    return drawn


def facts(report: Report) -> occlusion_pictures.OcclusionFacts:
    return pictures(report)["occlusion/views"].draw.keywords["facts"]


def maps(report: Report) -> np.ndarray:
    return pictures(report)["occlusion/views"].arrays["values"]


def test_the_probability_falls_where_the_evidence_lies():
    monitor = OcclusionMonitor(window_size=4, stride=4, baseline=0.0)
    report = look(monitor, Quadrants(), bright([0, 3]), torch.tensor([0, 3]))
    probability = maps(report)[..., 0]
    hidden, plain = 1 / 4, np.exp(8) / (np.exp(8) + 3)
    expected = np.full((2, 2, 2), plain)
    expected[0, 0, 0] = expected[1, 1, 1] = hidden
    np.testing.assert_allclose(probability, expected, rtol=1e-6)
    scalars = {item.tag: item.value for item in report.of(Scalar)}
    assert scalars["occlusion/largest_fall"] == pytest.approx(plain - hidden, rel=1e-6)
    assert scalars["occlusion/effective_area"] == pytest.approx(1 / 4)


def test_the_activity_is_that_of_the_map_that_was_strongest():
    monitor = OcclusionMonitor(window_size=4, stride=4, baseline=0.0)
    x = bright([2, 1])
    x[:, :, 0, 0] = 0.5  # some activity in another map
    report = look(monitor, Quadrants(), x, torch.tensor([2, 1]))
    np.testing.assert_allclose(maps(report)[0, :, :, 2], [[16, 16], [0, 16]])


def test_the_most_probable_class_changes_where_two_compete():
    x = bright([0, 1])
    x = x[:1] + 0.5 * x[1:]
    monitor = OcclusionMonitor(window_size=4, stride=4, baseline=0.0)
    classes = maps(look(monitor, Quadrants(), x, torch.tensor([0])))[0, :, :, 1]
    assert classes.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("target", "labels", "explained"),
    [("label", [1], 1), ("predicted", [1], 0), (3, [1], 3), ("label", None, 0)],
)
def test_the_class_that_is_explained_can_be_chosen(target, labels, explained):
    monitor = OcclusionMonitor(window_size=4, target=target)
    given = None if labels is None else torch.tensor(labels)
    report = look(monitor, Quadrants(), bright([0]), given)
    assert pictures(report)["occlusion/views"].arrays["targets"].tolist() == [explained]


def test_the_layer_whose_map_is_followed_can_be_named():
    torch.manual_seed(0)
    monitor = OcclusionMonitor(window_size=2, stride=2, layer="conv")
    report = look(monitor, TinyModule(), torch.randn(2, 3, 6, 6), torch.tensor([0, 1]))
    assert maps(report).shape[-1] == 3
    other = OcclusionMonitor(window_size=2, stride=2, layer="hiden")
    with pytest.raises(ValueError, match='nearest: "hidden"'):
        look(other, TinyModule(), torch.randn(2, 3, 6, 6))


def test_a_network_without_maps_has_no_activity():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3))
    report = look(OcclusionMonitor(window_size=4), model, torch.randn(2, 1, 8, 8))
    assert maps(report).shape[-1] == 2
    assert draw(report)


def test_a_network_of_tokens_follows_a_map_of_tokens():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    patches = nn.Sequential(nn.Conv2d(1, 8, 2, 2), nn.Flatten(2))

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.layer, self.head = patches, layer, nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(self.patches(x).transpose(1, 2)).mean(1))

    report = look(OcclusionMonitor(window_size=4), Tokens(), torch.randn(2, 1, 8, 8))
    assert maps(report).shape[-1] == 3


@pytest.mark.parametrize("inputs", [torch.zeros(1, 1, 8, 8), bright([0])])
def test_every_picture_can_be_drawn_of_one_sample_and_of_a_silent_map(inputs):
    assert len(draw(look(OcclusionMonitor(window_size=4), Quadrants(), inputs))) == 2


def test_a_network_that_gives_nan_is_drawn_as_such():
    class Broken(Quadrants):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * float("nan")

    report = look(OcclusionMonitor(window_size=4), Broken(), bright([0]), torch.tensor([0]))
    for picture in draw(report):
        assert (picture == (255, 0, 255)).all(-1).any()


def test_the_strip_keeps_the_first_the_latest_and_log_spaced_steps():
    monitor, model = OcclusionMonitor(window_size=4), Quadrants()
    for step in range(0, 110, 10):
        report = look(monitor, model, bright([0, 1]), torch.tensor([0, 1]), step=step)
    strip = pictures(report)["occlusion/over_time"]
    steps = strip.draw.keywords["steps"]
    assert (steps[0], steps[-1], len(steps)) == (0, 100, 8)
    assert strip.arrays["frames"].shape[:2] == (8, 2)


def test_the_state_goes_on_where_it_was():
    first, second, model = OcclusionMonitor(), OcclusionMonitor(), Quadrants()
    look(first, model, bright([0, 1]), step=0)
    second.load_state_dict(first.state_dict())
    reports = [look(monitor, model, bright([0, 1]), step=5) for monitor in (first, second)]
    frames = [pictures(r)["occlusion/over_time"].arrays["frames"] for r in reports]
    assert frames[0].shape[0] == 2
    assert np.array_equal(*frames)


def test_the_cost_is_announced_once(caplog):
    monitor, model = OcclusionMonitor(), Quadrants()
    with caplog.at_level(logging.INFO, logger="vis_callbacks"):
        for step in range(2):
            look(monitor, model, bright([0, 1, 2]), step=step)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "occlusion: 150 forward passes a snapshot (3 images x 49 positions of the square)."
    ]


def test_the_bound_on_the_cost_is_kept():
    counted: list[int] = []

    class Counting(Quadrants):
        def forward(self, x: Tensor) -> Tensor:
            counted.append(len(x))
            return super().forward(x)

    monitor = OcclusionMonitor(max_forward_passes=70)
    report = look(monitor, Counting(), bright([0, 1, 2]))
    assert sum(counted) <= 70
    assert facts(report).notes[0].startswith("stride 2 instead of 1 px")


def test_a_snapshot_that_takes_long_is_said_once(caplog, monkeypatch):
    monkeypatch.setattr(home, "_LONG_SECONDS", 0.0)
    monitor, model = OcclusionMonitor(), Quadrants()
    for step in range(2):
        look(monitor, model, bright([0]), step=step)
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 1
    assert "coarse_to_fine=True" in said[0]


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (torch.randn(3, 6), "whose features are not neighbours"),
        (torch.ones(3, 6, dtype=torch.int64), "which are indices of tokens or categories"),
        (torch.ones(3, 6, 4, dtype=torch.int64), "which are indices of tokens or categories"),
        (torch.randn(3, 2, 2, 2, 2, 2), "with more axes than a volume or a video has"),
    ],
)
def test_of_inputs_without_places_it_has_nothing_to_show(inputs, why):
    with pytest.raises(NothingToShow, match=why):
        look(OcclusionMonitor(), nn.Flatten(), inputs)


def test_without_reference_samples_it_says_what_to_write():
    with pytest.raises(NothingToShow, match="Write input_fn="):
        OcclusionMonitor().observe(Snapshot(step=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_size": 0}, "window_size=0 is too small"),
        ({"window_size": 2.5}, "window_size=2.5 is a float"),
        ({"stride": 9, "window_size": 4}, "stride=9 is larger than window_size=4"),
        ({"baseline": "grey"}, 'baseline must be "mean", "blur", a number .*; got \'grey\''),
        ({"baseline": True}, 'baseline must be "mean", "blur", a number .*; got True'),
        ({"baseline": (0.5, "red")}, "baseline holds 'red', which is not a finite number"),
        ({"target": "both"}, 'target="both" is two'),
        ({"target": "lable"}, 'nearest: "label"'),
        ({"layer": 3}, "layer=3 is not a name"),
        ({"coarse_to_fine": 1}, "coarse_to_fine=1 is not a bool"),
        ({"max_forward_passes": 0}, "max_forward_passes=0 is too small"),
        ({"batch_size": 0}, "batch_size=0 is too small"),
    ],
)
def test_a_wrong_option_says_what_to_write(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        OcclusionMonitor(**options)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_it_runs_in_an_evaluation_alone(stage, tmp_path):
    monitor = OcclusionMonitor(window_size=3, num_samples=2)
    getattr(tiny_trainer(tmp_path, [monitor]), stage)(tiny_module(), tiny_loader(), verbose=False)
    assert monitor.last_report is not None
    assert maps(monitor.last_report).shape[-1] == 3


def test_it_runs_every_five_epochs_and_under_bfloat16(tmp_path):
    monitor = OcclusionMonitor(window_size=3, num_samples=2)
    tiny_fit(tmp_path, [monitor], max_epochs=11, precision="bf16-mixed")
    assert monitor.history.steps == (0, 9, 19, 21)
    assert maps(monitor.last_report).dtype == np.float32


def rows_of(report: Report, monkeypatch) -> list[TileRow]:
    seen = []

    def record(rows, *_, **__):
        seen.extend(rows)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(occlusion_pictures, "tile_table", record)
    picture = pictures(report)["occlusion/views"]
    picture.draw(**picture.arrays)
    return seen


def titles(row: TileRow) -> list[str]:
    return [tile.title for tile in row.tiles]


def test_it_is_said_where_no_position_matters(monkeypatch):
    x = torch.cat([bright([0]), torch.zeros(1, 1, 8, 8)])
    monitor = OcclusionMonitor(window_size=4, baseline=0.0, outputs="classes")
    report = look(monitor, Quadrants(), x, torch.tensor([0, 0]))
    bright_one, dark_one = rows_of(report, monkeypatch)
    assert bright_one.lines == ["class 0: 1.00 without a square", "falls to 0.25 (white outline)"]
    assert dark_one.lines == ["class 0: 0.25 without a square; no position matters"]
    assert [box for box, _ in bright_one.tiles[0].boxes] == [(0, 0, 4, 4)]
    assert not dark_one.tiles[0].boxes


def test_a_place_that_misleads_is_found_outlined_and_said(monkeypatch):
    x = bright([0, 1])
    x = x[:1] + 2 * x[1:]  # a faint 0, and a bright 1 that hides it from the network
    monitor = OcclusionMonitor(window_size=4, stride=4, baseline=0.0, outputs="classes")
    report = look(monitor, Quadrants(), x, torch.tensor([0]))
    (row,) = rows_of(report, monkeypatch)
    assert row.tiles[0].boxes == [((0, 4, 4, 8), occlusion_pictures.RISE)]
    assert row.lines[:2] == ["class 0: 0.00 without a square", "rises to 1.00 (orange outline)"]
    assert scalars(report)["largest_rise"] == pytest.approx(1.0, abs=0.01)
    assert scalars(report)["largest_fall"] == pytest.approx(0.0, abs=0.01)


def scalars(report: Report) -> dict[str, float]:
    return {item.tag.rpartition("/")[2]: float(item.value) for item in report.of(Scalar)}


_SEEN: list[Tensor] = []  # of the module, since what hangs on a model is put back after a pass


def test_a_colour_can_stand_for_what_is_hidden():
    _SEEN.clear()

    class Recording(TinyModule):
        def forward(self, x: Tensor) -> Tensor:
            _SEEN.append(x.clone())
            return super().forward(x)

    monitor = OcclusionMonitor(window_size=6, baseline=(1.0, -2.0, 0.5))
    look(monitor, Recording(), torch.randn(2, 3, 6, 6))
    assert _SEEN[-1][0, :, 3, 3].tolist() == [1.0, -2.0, 0.5]
    wrong = OcclusionMonitor(baseline=(1.0, 2.0))
    with pytest.raises(ValueError, match="has 2 numbers, but the inputs have 3 channels"):
        look(wrong, TinyModule(), torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_an_evaluation_adds_no_frame_to_the_strip(stage):
    monitor, model = OcclusionMonitor(window_size=4), Quadrants()
    look(monitor, model, bright([0, 1]), step=0)
    report = look(monitor, model, bright([0, 1]), step=5, stage=stage)
    assert set(pictures(report)) == {"occlusion/views"}
    report = look(monitor, model, bright([0, 1]), step=9)
    assert pictures(report)["occlusion/over_time"].draw.keywords["steps"] == (0, 9)


class OneLogit(nn.Module):
    """Positive where the left half is bright."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :4].sum((1, 2, 3))[:, None] - 4


def test_of_one_logit_class_1_has_the_probability_and_class_0_the_rest(monkeypatch):
    x = torch.cat([bright([0]), torch.zeros(1, 1, 8, 8)])
    monitor = OcclusionMonitor(window_size=4, baseline=0.0, class_names=["cat", "dog"])
    report = look(monitor, OneLogit(), x, torch.tensor([1, 0]))
    dog, cat = rows_of(report, monkeypatch)
    assert dog.lines[:2] == ["dog: 1.00 without a square", "falls to 0.02 (white outline)"]
    assert cat.lines == ["cat: 0.98 without a square; no position matters"]
    classes = maps(report)[..., 1]
    assert classes[0].ravel()[0] == 0
    assert classes[1].max() == 0


def test_a_single_output_that_is_no_class_is_a_value(monkeypatch):
    x = torch.cat([bright([0]), torch.zeros(1, 1, 8, 8)])
    monitor = OcclusionMonitor(window_size=4, stride=4, baseline=0.0)
    report = look(monitor, OneLogit(), x, None)
    one, other = rows_of(report, monkeypatch)
    assert one.lines == ["output 0: 12 without a square", "falls to -4 (white outline)"]
    assert other.lines == ["output 0: -4 without a square; no position matters"]
    assert titles(one) == ["image", "change"]
    assert scalars(report)["largest_fall"] == pytest.approx(8.0)


def test_while_outputs_are_not_known_to_be_classes_none_is_called_one(monkeypatch):
    monitor = OcclusionMonitor(window_size=4, baseline=0.0)
    report = look(monitor, Quadrants(), bright([0, 3]), torch.tensor([1, 2]))
    said = [facts(report).explained, *facts(report).notes]
    said += [line for row in rows_of(report, monkeypatch) for line in row.lines]
    assert any(line.startswith("output 1: ") for line in said)
    assert not any("class" in line or "predicted" in line for line in said)


def test_values_of_which_the_user_says_so_are_not_made_probabilities(monkeypatch):
    monitor = OcclusionMonitor(window_size=4, stride=4, baseline=0.0, outputs="values")
    report = look(monitor, Quadrants(), bright([0, 3]), torch.tensor([1, 2]))
    first, _ = rows_of(report, monkeypatch)
    assert first.lines == ["output 0: 8 without a square", "falls to 0 (white outline)"]


def test_the_strip_begins_anew_where_values_become_probabilities():
    monitor, model = OcclusionMonitor(window_size=4), OneLogit()
    x, labels = torch.cat([bright([0]), torch.zeros(1, 1, 8, 8)]).repeat(30, 1, 1, 1), None
    monitor.max_forward_passes = 100_000
    look(monitor, model, x, labels, step=0)
    labels = torch.tensor([1, 0]).repeat(30)
    report = look(monitor, model, x, labels, step=1)
    assert monitor.outputs.are_classes
    assert pictures(report)["occlusion/over_time"].draw.keywords["steps"] == (1,)


# -- signals, volumes and other forms of inputs


class Peak(nn.Module):
    """One output: what stands at one place of the last axes."""

    def __init__(self, place: tuple[int, ...], *, conv: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.place = place
        self.known = nn.Identity() if conv is None else conv(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x[(slice(None), 0, *self.place)][:, None]


@pytest.mark.parametrize(
    ("model", "shape", "kind"),
    [
        (Peak((70,), conv=nn.Conv1d), (2, 8, 128), "signal"),
        (Peak((70,)), (2, 2, 128), "signal"),
        (Peak((0, 70)), (2, 2, 1, 128), "image"),
        (Peak((3, 4, 5)), (2, 1, 8, 8, 8), "volume"),
    ],
)
def test_a_window_in_time_and_a_cube_find_what_matters(model, shape, kind, monkeypatch):
    monitor = OcclusionMonitor(baseline=0.0)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)) + 0.5
    report = look(monitor, model, x)
    plan = facts(report).plan
    assert facts(report).kind == kind
    values, whole = maps(report)[..., 0], x[(slice(None), 0, *model.place)].numpy()
    hidden = (values == 0).reshape(len(x), -1).any(1)
    assert hidden.all()
    for index in np.argwhere(values[0] == 0):
        for axis, place in enumerate(model.place):
            start = plan.offsets[axis][index[axis]]
            assert start <= place < start + plan.window[axis]
    assert scalars(report)["largest_fall"] == pytest.approx(whole.mean(), rel=1e-5)
    assert len(draw(report)) == 2
    (row, _) = rows_of(report, monkeypatch)
    assert any("falls to 0" in line for line in row.lines)
    assert any("slice 3" in line or "slice 4" in line for line in row.lines) == (kind == "volume")


def test_a_recurrent_network_has_time_before_features():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(5, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    report = look(OcclusionMonitor(), Recurrent(), torch.randn(2, 40, 5))
    assert facts(report).plan.image_size == (40,)
    assert pictures(report)["occlusion/views"].arrays["images"].shape == (2, 5, 40)


def test_images_with_channels_last_are_understood():
    class Last(TinyModule):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.movedim(3, 1))

    report = look(OcclusionMonitor(window_size=3), Last(), torch.randn(2, 6, 6, 3))
    assert pictures(report)["occlusion/views"].arrays["images"].shape == (2, 3, 6, 6)


# -- layers that not all samples reach


class Experts(nn.Module):
    """Two convolutional experts; bright images go to the first, none to the second."""

    def __init__(self, *, share: float) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(2)
        )
        self.head = nn.Linear(4, 3)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        order = x.flatten(1).sum(1).argsort(descending=True)
        count = round(self.share * len(x))
        for expert, rows in zip(self.experts, (order[:count], order[count:]), strict=True):
            h = h.index_add(0, rows, expert(h[rows]))
        return self.head(h.mean((2, 3)))


@pytest.mark.parametrize(
    ("share", "layer"), [(0.5, "stem.1"), (1.0, "experts.0.1"), (0.0, "experts.1.1")]
)
def test_a_layer_that_not_all_samples_reach_is_not_followed(share, layer):
    monitor = OcclusionMonitor(window_size=4)
    report = look(monitor, Experts(share=share), bright([0, 1, 2, 3]))
    assert facts(report).layer == layer
    assert np.isfinite(maps(report)).all()


def test_a_named_layer_without_rows_is_left_out_and_said():
    monitor = OcclusionMonitor(window_size=4, layer="experts.1.1")
    report = look(monitor, Experts(share=1.0), bright([0, 1, 2, 3]))
    assert maps(report).shape[-1] == 2


def test_a_layer_that_is_lost_while_a_place_is_hidden_is_left_out_and_said(monkeypatch):
    class Gated(Experts):
        def forward(self, x: Tensor) -> Tensor:
            self.share = float((x.flatten(1).sum(1) > 15).all())
            return super().forward(x)

    monitor = OcclusionMonitor(window_size=4, baseline=0.0, layer="experts.0.1", batch_size=4)
    report = look(monitor, Gated(share=1.0), bright([0, 1, 2, 3]))
    assert all("activity" not in titles(row) for row in rows_of(report, monkeypatch))
