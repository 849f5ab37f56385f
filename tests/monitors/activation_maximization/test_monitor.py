from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import TinyModule, tiny_loader, tiny_module, tiny_trainer
from torch import Tensor, nn

from vis_callbacks import ActivationMaximizationMonitor, Report
from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.references import References
from vis_callbacks.engine.scores import Unit
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitors.activation_maximization import pictures as am_pictures
from vis_callbacks.monitors.activation_maximization.monitor import MaximizedTargets
from vis_callbacks.monitors.activation_maximization.science import Preset
from vis_callbacks.pictures.tiles import TileRow
from vis_callbacks.report import Picture, Scalar, transfer


def images(num_samples: int = 6, channels: int = 3, side: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_samples, channels, side, side, generator=generator)


def short(**options: Any) -> ActivationMaximizationMonitor:
    """Returns a monitor of few steps."""
    return ActivationMaximizationMonitor(**{"num_steps": 8} | options)


def look(
    monitor: ActivationMaximizationMonitor,
    model: nn.Module,
    x: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    step: int = 0,
    **known: Any,
) -> Report:
    references = References(inputs=images() if x is None else x, labels=labels, source="a test")
    with ExitStack() as stack:
        forward = stack.enter_context(isolated(model))
        snapshot = Snapshot(step=step, references=references, forward=forward, **known)
        (report,) = transfer([monitor.observe(snapshot)])
    return report


def arrays(report: Report) -> dict[str, np.ndarray]:
    (picture,) = (i for i in report.of(Picture) if i.tag == "activation_maximization/images")
    return dict(picture.arrays)


def draw(report: Report) -> list[np.ndarray]:
    return [item.draw(**item.arrays) for item in report.of(Picture)]


def scalars(report: Report) -> dict[str, float]:
    return {item.tag.rpartition("/")[2]: float(item.value) for item in report.of(Scalar)}


def net() -> TinyModule:
    return tiny_module().eval()


def names(report: Report) -> tuple[str, ...]:
    (picture,) = (i for i in report.of(Picture) if i.tag == "activation_maximization/images")
    return picture.draw.keywords["facts"].names


def test_each_class_has_an_image_whose_score_is_what_is_said():
    model = net()
    report = look(short(outputs="classes"), model)
    found = arrays(report)
    made = torch.from_numpy(found["deviations"]) + torch.from_numpy(found["centre"])[:, None, None]
    scores = model(made).diagonal().detach().numpy()
    np.testing.assert_allclose(found["scores"], scores, rtol=1e-4, atol=1e-6)
    best = model(images()).amax(0).detach().numpy()
    np.testing.assert_allclose(found["best_scores"], best, rtol=1e-5)
    assert names(report) == ("class 0", "class 1", "class 2")
    assert scalars(report)["score"] == pytest.approx(found["scores"].mean(), rel=1e-5)
    assert scalars(report)["best_real_score"] == pytest.approx(best.mean(), rel=1e-5)


def test_the_real_image_beside_it_is_the_best_of_its_class():
    model, x, labels = net(), images(), torch.arange(6) % 3
    monitor = short(outputs="classes")
    report = look(monitor, model, x, labels)
    found, scores = arrays(report), model(x)
    best = scores.argmax(0)
    own = torch.stack([scores[labels == c, c].argmax() * 3 + c for c in range(3)])
    assert not torch.equal(own, best)
    np.testing.assert_array_equal(found["real"], x[own].numpy())
    np.testing.assert_array_equal(found["best"], x[best].numpy())
    assert found["is_best"].tolist() == (own == best).tolist()
    assert found["labels"].tolist() == (best % 3).tolist()
    np.testing.assert_allclose(
        found["real_scores"], scores.gather(0, own[None])[0].detach(), rtol=1e-5
    )


def rows_of(report: Report, monkeypatch) -> list[TileRow]:
    seen = []

    def record(rows, *_, **__):
        seen.append(rows)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(am_pictures, "tile_table", record)
    draw(report)
    return seen[0]


def num_shown(row: TileRow) -> int:
    """Returns how many real inputs stand beside what was made."""
    return sum(not (tile.picture == 255).all() for tile in row.tiles) - 1


def test_the_best_of_any_class_stands_beside_it_where_it_is_another(monkeypatch):
    labels = torch.arange(6) % 3
    report = look(short(outputs="classes"), net(), labels=labels)
    found = arrays(report)
    for index, row in enumerate(rows_of(report, monkeypatch)):
        said = " ".join(row.notes)
        assert num_shown(row) == (1 if found["is_best"][index] else 2)
        assert ("best of its class" in said) != found["is_best"][index]
        assert f"(class {found['labels'][index]})" in said


def test_without_known_classes_no_image_is_the_best_of_one(monkeypatch):
    report = look(short(), net(), labels=torch.arange(6) % 3)
    for row in rows_of(report, monkeypatch):
        assert num_shown(row) == 1
        assert not any("class" in line for line in (row.name, *row.notes))


class Bright(nn.Module):
    """One logit: how bright the input is."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))[:, None] - 2


def test_of_one_logit_class_0_is_raised_by_its_negative():
    monitor = short(class_names=["dark", "bright"])
    report = look(monitor, Bright(), labels=torch.tensor([0, 1] * 3))
    found = arrays(report)
    assert names(report) == ("dark", "bright")
    dark, bright = found["deviations"].mean((1, 2, 3))
    assert dark < 0 < bright
    assert found["best_scores"].tolist() == pytest.approx(
        [-Bright()(images()).min().item(), Bright()(images()).max().item()]
    )


def test_a_single_output_that_is_no_class_is_raised_as_a_value():
    report = look(short(), Bright())
    assert names(report) == ("output 0",)
    assert arrays(report)["deviations"].mean() > 0


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_an_evaluation_adds_no_frame_and_moves_no_image(stage):
    monitor, model = short(num_steps=4), net()
    look(monitor, model, step=0)
    before = monitor.state_dict()["monitor"]
    report = look(monitor, model, step=5, stage=stage)
    assert [item.tag for item in report.of(Picture)] == ["activation_maximization/images"]
    after = monitor.state_dict()["monitor"]
    assert torch.equal(before["last"], after["last"])
    assert after["strip"]["steps"] == [0]


def test_it_is_said_where_the_real_image_scores_higher(monkeypatch):
    strict = Preset(l2=1e6, step_size=0.01)
    report = look(short(preset=strict), Bright())
    found = arrays(report)
    assert found["scores"][0] < found["best_scores"][0]
    (row,) = rows_of(report, monkeypatch)
    assert "the best real image scores higher" in row.notes
    loose = look(short(preset=Preset(l2=0.1)), Bright())
    (row,) = rows_of(loose, monkeypatch)
    assert not any("higher" in line for line in row.notes)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("preset", ["simonyan", "smooth"])
def test_a_network_of_small_images_is_raised_above_the_real_ones(preset, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    )  # fmt: skip
    found = arrays(look(ActivationMaximizationMonitor(preset=preset), model, images(32, 1, 8)))
    assert (found["scores"] > found["best_scores"]).all()


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv1d(2, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), (6, 2, 40)),
        (
            nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(864, 3)),
            (6, 1, 8, 8, 8),
        ),
    ],
)
def test_signals_and_volumes_are_made_and_drawn(model, shape):
    torch.manual_seed(0)
    monitor = short()
    for step in range(2):
        report = look(monitor, model, torch.randn(shape), step=step)
    assert arrays(report)["deviations"].shape == (3, *shape[1:])
    assert (arrays(report)["scores"] > arrays(report)["best_scores"]).all()
    assert all(picture.dtype == np.uint8 for picture in draw(report))


@pytest.mark.parametrize("unit", ["relu:1@0,3", "TinyModule/relu:4", "conv:3", "head:1"])
def test_any_unit_can_be_maximized(unit):
    torch.manual_seed(0)
    monitor = short(units=[unit], preset="simonyan")
    report = look(monitor, net())
    found = arrays(report)
    assert names(report) == (f"unit {unit}",)
    assert found["is_silent"].tolist() == [False]
    best = found["best_scores"][0]  # may lie below zero
    assert found["scores"][0] > best - 0.5 * abs(best)
    assert np.abs(found["deviations"]).max() > 0


_COUNTED: list[int] = []  # of the module, since what hangs on a model is put back after a pass


def test_classes_and_units_are_one_batch():
    _COUNTED.clear()
    model = net()

    def forward(x: Tensor) -> Tensor:
        _COUNTED.append(len(x))
        return TinyModule.forward(model, x)

    model.forward = forward
    monitor = short(classes=[2, 0], units=[Unit("relu", 1), "TinyModule/relu:0"], num_steps=5)
    report = look(monitor, model)
    assert names(report) == ("output 2", "output 0", "unit relu:1", "unit TinyModule/relu:0")
    # The real images, the mean and the best real ones, the steps, and the last score; after so
    # few steps some real image still scores higher, and the ascent is tried from there.
    assert [6, 4, 4, *[4] * 6, *[4] * 6] == _COUNTED


def test_of_many_classes_some_evenly_spread_are_taken():
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 40))
    monitor = short(num_steps=1, max_images=4)
    expected = ("output 0", "output 10", "output 20", "output 30")
    assert names(look(monitor, model)) == expected


def test_a_dead_unit_is_said_to_be_silent_and_not_drawn():
    model = net()
    with torch.no_grad():
        model.hidden.weight.zero_()
        model.hidden.bias.fill_(-1.0)
        model.hidden.bias[0] = 1.0
    report = look(short(units=["TinyModule/relu:3", "conv:0"]), model)
    found = arrays(report)
    assert found["is_silent"].tolist() == [True, False]
    assert not found["deviations"][0].any()
    assert scalars(report)["num_silent"] == 1
    assert all((p == (200, 200, 200)).all(-1).any() for p in draw(report))


def test_a_unit_that_the_mean_image_does_not_reach_begins_at_a_real_one():
    model = net()
    x = images()
    with torch.no_grad():
        at_mean = model.conv(x.mean((0, 2, 3), keepdim=True).expand(1, 3, 6, 6))[0, 0].max()
        model.conv.bias[0] -= at_mean + 0.1
        model.norm = nn.BatchNorm2d(4).eval()
    found = arrays(look(short(units=["relu:0"]), model, x))
    assert found["is_real"].tolist() == [True]
    assert found["scores"][0] > 0


def test_a_snapshot_goes_on_from_the_last_one():
    monitor, model = short(num_steps=4, preset="simonyan"), net()
    first, second = (arrays(look(monitor, model, step=s))["scores"] for s in (0, 5))
    assert (second > first).all()


def test_the_state_goes_on_where_it_was():
    first, second = short(), short()
    model = net()
    look(first, model, step=0)
    second.load_state_dict(first.state_dict())
    one, two = (look(monitor, model, step=5) for monitor in (first, second))
    np.testing.assert_array_equal(arrays(one)["deviations"], arrays(two)["deviations"])
    frames = [report.of(Picture)[1].arrays["frames"] for report in (one, two)]
    np.testing.assert_array_equal(*frames)
    assert len(frames[0]) == 2


def test_a_state_of_another_shape_is_not_gone_on_with():
    first, second = short(), short(classes=[1])
    look(first, net())
    second.load_state_dict(first.state_dict())
    assert arrays(look(second, net(), step=5))["deviations"].shape[0] == 1


def test_it_is_the_same_again_for_a_seed():
    x = images(side=32)
    first, again, other = (arrays(look(short(seed=seed), net(), x)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first["deviations"], again["deviations"])
    assert not np.array_equal(first["deviations"], other["deviations"])


def test_images_without_channels_go_to_the_model_as_they_are():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    report = look(short(), model, images()[:, 0])
    assert arrays(report)["deviations"].shape == (3, 1, 6, 6)
    assert all(picture.dtype == np.uint8 for picture in draw(report))


def test_pictures_are_drawn_with_and_without_statistics():
    for options in ({}, {"mean": [0.5] * 3, "std": [0.2] * 3}):
        report = look(short(**options), net(), labels=torch.arange(6) % 3)
        for picture in draw(report):
            assert picture.dtype == np.uint8
            assert picture.std() > 10


def test_a_network_that_gives_nan_is_said_to():
    model = net()
    with torch.no_grad():
        model.head.bias[1] = float("nan")
    report = look(short(), model)
    assert arrays(report)["is_silent"].tolist() == [False, True, False]
    assert all(picture.dtype == np.uint8 for picture in draw(report))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": [7]}, "classes holds 7, which is not a class of these scores: they have 3"),
        ({"units": ["rellu:1"]}, 'layer="rellu" matches none .*nearest: "relu"'),
        ({"units": ["relu:9"]}, 'layer "relu" has 4 units. Use an index from 0 to 3'),
        ({"units": ["relu:1@9,9"]}, r"positions of size \(4, 4\)"),
    ],
)
def test_what_the_network_does_not_have_says_what_it_has(options, message):
    with pytest.raises(ValueError, match=message):
        look(short(**options), net())


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (torch.randn(3, 6), "whose features are not neighbours"),
        (torch.ones(3, 6, dtype=torch.int64), "which are indices of tokens or categories"),
        (
            torch.ones(3, 1, 4, 4, dtype=torch.uint8),
            "which are not floating point and have no gradient",
        ),
    ],
)
def test_of_inputs_without_places_or_gradient_it_has_nothing_to_show(inputs, why):
    with pytest.raises(NothingToShow, match=f"{why}.*Write input_fn="):
        look(short(), nn.Flatten(), inputs)


def test_without_reference_samples_it_says_what_to_write():
    with pytest.raises(NothingToShow, match="Write input_fn="):
        ActivationMaximizationMonitor().observe(Snapshot(step=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 3}, "classes=3 is not a list of classes"),
        ({"classes": []}, r"classes=\[\] is not a list"),
        ({"classes": [-1]}, "classes holds -1"),
        ({"units": "relu:1"}, "units='relu:1' is not a list of units"),
        ({"units": ["relu"]}, "is not written as a layer and an index"),
        ({"num_steps": 0}, "num_steps=0 is too small"),
        ({"preset": "deepdream"}, "preset='deepdream' is none. Use a Preset or one of natural"),
        ({"max_images": 0}, "max_images=0 is too small"),
        ({"seed": 0.5}, "seed=0.5 is not a whole number"),
    ],
)
def test_a_wrong_option_says_what_to_write(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ActivationMaximizationMonitor(**options)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_it_runs_in_an_evaluation_alone(stage, tmp_path):
    monitor = ActivationMaximizationMonitor(num_steps=2, units=["relu:1"])
    getattr(tiny_trainer(tmp_path, [monitor]), stage)(tiny_module(), tiny_loader(), verbose=False)
    assert monitor.last_report is not None


def test_it_runs_every_five_epochs_under_bfloat16_and_with_frozen_parameters(tmp_path):
    monitor = ActivationMaximizationMonitor(num_steps=1)
    module = tiny_module()
    module.conv.requires_grad_(False)
    trainer = tiny_trainer(tmp_path, [monitor], precision="bf16-mixed", max_epochs=11)
    trainer.fit(module, tiny_loader(), tiny_loader())
    assert monitor.history.steps == (0, 9, 19, 21)
    assert arrays(monitor.last_report)["scores"].dtype == np.float32
    assert not module.conv.weight.requires_grad


# -- the targets, each a row of the batch

UNITS = (Unit("relu", 1), Unit("conv", 0, (2, 3)))


def activations(num_rows: int) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(num_rows, 10, generator=generator)
    return scores, {
        "relu": torch.randn(num_rows, 3, 4, 5, generator=generator),
        "conv": torch.randn(num_rows, 2, 4, 5, generator=generator),
    }


def test_a_row_has_the_score_of_its_own_target():
    targets = MaximizedTargets((7, 2), UNITS)
    scores, layers = activations(4)
    expected = [scores[0, 7], scores[1, 2], layers["relu"][2, 1].max(), layers["conv"][3, 0, 2, 3]]
    assert torch.equal(targets.of_rows(scores, layers), torch.stack(expected))


def test_all_samples_have_a_score_for_each_target():
    targets = MaximizedTargets((7,), UNITS)
    scores, layers = activations(6)
    expected = [scores[:, 7], layers["relu"][:, 1].amax((1, 2)), layers["conv"][:, 0, 2, 3]]
    assert torch.equal(targets.of_all(scores, layers), torch.stack(expected, dim=1))


def test_classes_alone_and_units_alone_are_rows_as_well():
    scores, layers = activations(1)
    for targets in (MaximizedTargets((7,), ()), MaximizedTargets((), UNITS[:1])):
        assert torch.equal(targets.of_rows(scores, layers), targets.of_all(scores, layers)[0])


def test_a_row_moves_by_its_own_score_and_by_no_others():
    scores, layers = activations(2)
    scores.requires_grad_()
    MaximizedTargets((7, 2), ()).of_rows(scores, layers)[1].backward()
    assert scores.grad.nonzero().tolist() == [[1, 2]]


def test_the_best_of_a_class_is_among_its_samples():
    targets = MaximizedTargets((0, 2, 1), UNITS[:1])
    scores = torch.tensor([[1.0, 9.0, 2.0, 3.0], [5.0, 1.0, 4.0, 2.0], [9.0, 2.0, 3.0, 1.0]])
    labels = torch.tensor([0, 0, 2])
    # Nothing is of class 1, and a unit belongs to none: the best of all.
    assert targets.best_of_class(scores, labels).tolist() == [1, 2, 1, 0]
    assert targets.best_of_class(scores, None).tolist() == [2, 0, 1, 0]


def test_one_pass_gives_scores_and_the_layers_of_the_units():
    model, x = net(), images(3)
    twice = MaximizedTargets((), (Unit("conv", 0), Unit("conv", 1), Unit("relu", 2)))
    with isolated(model) as forward, torch.no_grad():
        scores, layers = twice.look(forward, x)
        alone, nothing = MaximizedTargets((0,), ()).look(forward, x)
        torch.testing.assert_close(scores, model(x))
        torch.testing.assert_close(layers["conv"].reshape(3, 4, 4, 4), model.conv(x))
    assert list(layers) == ["conv", "relu"]
    assert torch.equal(alone, scores)
    assert nothing == {}
