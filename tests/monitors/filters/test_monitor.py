from __future__ import annotations

import copy
import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from tests.tiny import smallest, tiny_fit, tiny_module
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from vis_callbacks import FilterMonitor
from vis_callbacks.alerts import metric_names
from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.probe import Batch, Probe
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Group, Snapshot, Weights
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitors.filters import pictures as filter_pictures
from vis_callbacks.pictures.tiles import Tile
from vis_callbacks.report import Picture, Report, Scalar, transfer


class Observed:
    """Lets a monitor look at a model without any Trainer."""

    def __init__(self, model: nn.Module, monitor: FilterMonitor, inputs: Tensor) -> None:
        self.monitor, self.engine, self.inputs = monitor, Engine(model), inputs
        trace = Probe(name="trace", layers=(), reduce=lambda activation, batch: {}, merge={})
        subscription = self.engine.subscribe(
            trace,
            guard=monitor.guard,
            batch_of=lambda x: Batch(inputs=x, labels=None, num_samples=len(x)),
        )
        self.engine.begin([subscription], live=False)
        self.engine.start_batch(inputs)
        self.engine.read_isolated(training=True)
        assert subscription.failure is None

    def snapshot(self, step: int, **known: Any) -> Snapshot:
        return Snapshot(
            **{
                "step": step,
                "weighted": self.engine.weights,
                "weights": Weights(self.engine.model),
                "references": References(inputs=self.inputs, labels=None, source="a test"),
                "wants_pictures": False,
                "is_reference": step == 0,
                **known,
            }
        )

    def look(self, step: int, **known: Any) -> Report:
        report = self.monitor.observe(self.snapshot(step, **known))
        assert report.step == step
        return transfer([report])[0]


def look(model: nn.Module, inputs: Tensor, step: int = 0, **options: Any) -> Report:
    known = {name: options.pop(name) for name in ("optimizer", "wants_pictures") if name in options}
    return Observed(model, FilterMonitor(**options), inputs).look(step, **known)


def scalars(report: Report) -> dict[str, float]:
    return {item.tag: float(item.value) for item in report.of(Scalar)}


def layers(report: Report) -> list[str]:
    return list(report.rule_metrics()[metric_names.NUM_FILTERS])


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def drawn(report: Report) -> dict[str, np.ndarray]:
    return {item.tag: item.draw(**item.arrays) for item in report.of(Picture)}


class Captions:
    """Keeps the captions and the tiles of the pictures that are drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.text = ""
        self.panels: dict[str, list[Tile]] = {}
        self._with_caption, self._panel = filter_pictures.with_caption, filter_pictures._panel
        monkeypatch.setattr(filter_pictures, "with_caption", self.with_caption)
        monkeypatch.setattr(filter_pictures, "_panel", self.panel)

    def with_caption(self, image: np.ndarray, lines: list[str]) -> np.ndarray:
        self.text += "\n".join(lines) + "\n"
        return self._with_caption(image, lines)

    def panel(self, title: str, tiles: list[Tile]) -> np.ndarray:
        self.panels[title] = tiles
        return self._panel(title, tiles)


@pytest.fixture
def captions(monkeypatch) -> Captions:
    return Captions(monkeypatch)


# -- which layer


class Branches(nn.Module):
    """The head is registered first, and two branches see different channels of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.left(x[:, :3])).mean((2, 3))
        right = F.relu(self.right(x[:, 3:])).mean((2, 3))
        return self.head(torch.cat([left, right], 1))


class PatchEmbedding(nn.Module):
    """No nonlinearity follows the first weights."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, 16, 4, stride=4)
        self.block = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.projection(x).flatten(2).transpose(1, 2))


class Residual(nn.Module):
    """The input is added to what the first layer makes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 2
        return self.second(F.relu(x + self.first(x)))


def pruned() -> nn.Module:
    return prune.random_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5)


def sequential(first: nn.Module) -> nn.Module:
    return nn.Sequential(first, nn.ReLU())


NETWORKS = {
    "conv1d": (lambda: sequential(nn.Conv1d(2, 4, 9)), (2, 2, 30), {"0": (4, 2, 9)}),
    "conv2d": (lambda: sequential(nn.Conv2d(3, 4, 7, 2)), (2, 3, 16, 16), {"0": (4, 3, 7, 7)}),
    "conv3d": (lambda: sequential(nn.Conv3d(1, 4, 3)), (2, 1, 5, 5, 5), {"0": (4, 1, 3, 3, 3)}),
    "grouped": (
        lambda: sequential(nn.Conv2d(3, 6, 5, groups=3)),
        (2, 3, 8, 8),
        {"0": (6, 1, 5, 5)},
    ),
    "transposed": (
        lambda: sequential(nn.ConvTranspose2d(3, 4, 5)),
        (2, 3, 8, 8),
        {"0": (4, 3, 5, 5)},
    ),
    "linear": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)),
        (2, 1, 8, 8),
        {"1": (5, 1, 8, 8)},
    ),
    "rows": (lambda: sequential(nn.Linear(64, 5)), (2, 64), {"0": (5, 1, 64)}),
    "branches": (Branches, (2, 4, 8, 8), {"left": (4, 3, 3, 3), "right": (4, 1, 5, 5)}),
    "patches": (PatchEmbedding, (2, 3, 8, 8), {"projection": (16, 3, 4, 4)}),
    "residual": (Residual, (2, 3, 8, 8), {"first": (3, 3, 3, 3)}),
    "lazy": (lambda: sequential(nn.LazyConv2d(4, 3)), (2, 3, 8, 8), {"0": (4, 3, 3, 3)}),
    "pruned": (lambda: sequential(pruned()), (2, 3, 8, 8), {"0": (4, 3, 3, 3)}),
    "weight norm": (
        lambda: sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3))),
        (2, 3, 8, 8),
        {"0": (4, 3, 3, 3)},
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layers_that_touch_the_input_are_found_and_read_as_filters(name):
    make, shape, expected = NETWORKS[name]
    report = look(make(), images(*shape), wants_pictures=True)
    assert layers(report) == list(expected)
    pictures = [item for item in report.of(Picture) if "over_time" not in item.tag]
    assert [item.arrays["filters"].shape for item in pictures] == list(expected.values())
    for picture in drawn(report).values():
        assert picture.std() > 5


def test_effective_weights_are_read_and_not_what_they_are_made_of():
    masked = pruned()
    report = look(sequential(masked), images(2, 3, 8, 8), wants_pictures=True)
    (picture, _) = report.of(Picture)
    assert (picture.arrays["filters"] == 0).sum() == 54
    assert torch.equal(torch.tensor(picture.arrays["filters"]), masked.weight.detach())


def test_a_layer_that_is_named_is_read_instead():
    report = look(Branches(), images(2, 4, 8, 8), layer="head")
    assert layers(report) == ["head"]


def test_a_named_layer_that_the_forward_pass_did_not_meet_is_read_by_its_shape():
    model = sequential(nn.Conv2d(3, 4, 3))
    model.register_module("unused", nn.Conv2d(5, 6, 7))
    model.forward = lambda x: model[1](model[0](x))
    report = look(model, images(2, 3, 8, 8), layer="unused")
    assert scalars(report)["filter_noise/unused"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("shape", "given", "kernel"),
    [
        ((2, 60), (3, 4, 5), 4),
        ((2, 60), (6, 10), 6),
        ((2, 5, 4, 3), None, 4),
        ((2, 6, 10), None, 6),
    ],
)
def test_a_linear_layer_is_an_image_where_batch_or_user_tell(shape, given, kernel):
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 5))
    report = look(model, images(*shape), image_shape=given)
    assert report.rule_metrics()[metric_names.KERNEL_SIZE]["1"] == kernel


# -- the numbers


def test_numbers_are_seen_from_the_weights_before_the_first_update():
    model = sequential(nn.Conv2d(3, 16, 7))
    observed = Observed(model, FilterMonitor(), images(4, 3, 12, 12))
    initial = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight += 0.05  # the update of step 0
    report = observed.look(0)
    change = 0.05 * math.sqrt(initial.numel()) / initial.norm().item()
    assert scalars(report)["filter_change/0"] == pytest.approx(change, rel=1e-5)
    assert report.rule_metrics()[metric_names.FIRST_STEP]["0"] == 0
    # A constant is smooth, and its part along the noise of a filter is next to nothing.
    assert scalars(report)["filter_learned_noise/0"] < 0.05


def test_scaled_weights_have_inherited_all_and_learned_nothing():
    model = sequential(nn.Conv2d(3, 16, 7))
    observed = Observed(model, FilterMonitor(), images(4, 3, 12, 12))
    with torch.no_grad():
        model[0].weight *= 0.25
    written = scalars(observed.look(0))
    assert written["filter_inherited/0"] == 1
    assert written["filter_change/0"] == pytest.approx(0.75)
    assert math.isnan(written["filter_learned_noise/0"])


@pytest.mark.parametrize(
    ("kernel", "shares"),
    [
        (1, {"odd"}),
        (3, {"odd"}),
        (5, {"odd", "noise_like"}),
    ],
)
def test_what_cannot_be_judged_at_a_size_is_not_written(kernel, shares):
    written = scalars(look(sequential(nn.Conv2d(3, 16, kernel)), images(2, 3, 8, 8)))
    assert {tag.split("/")[1] for tag in written if tag.startswith("filter_share")} == shares
    assert ("filter_noise/0" in written) is (kernel > 1)


def test_filters_that_are_dead_dominating_or_duplicated_are_counted_once():
    model = sequential(nn.Conv2d(3, 40, 7))
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].weight[1] *= 30
        model[0].weight[2] = model[0].weight[1]
    report = look(model, images(2, 3, 12, 12))
    known = {metric: value["0"] for metric, value in report.rule_metrics().items()}
    assert known[metric_names.DEAD_FILTERS] == pytest.approx(1 / 40)
    assert known[metric_names.DOMINATING_FILTERS] == pytest.approx(2 / 40)
    assert known[metric_names.DUPLICATED_FILTERS] == pytest.approx(2 / 40)
    assert scalars(report)["filter_share/odd/0"] == pytest.approx(3 / 40)


def test_the_roughness_of_the_inputs_is_that_of_the_reference_samples():
    smooth = torch.linspace(-1, 1, 16).expand(4, 3, 16, 16)
    numbers = look(sequential(nn.Conv2d(3, 16, 7)), smooth).rule_metrics()
    assert numbers[metric_names.INPUT_ROUGHNESS]["0"] < 0.2
    rough = look(sequential(nn.Conv2d(3, 16, 7)), images(4, 3, 16, 16)).rule_metrics()
    assert rough[metric_names.INPUT_ROUGHNESS]["0"] == pytest.approx(1, abs=0.1)


def group(kind: str = "SGD", names: tuple[str, ...] = ("0.weight",), **numbers: float) -> Group:
    return Group(name=kind, kind=kind, parameter_names=names, **{"lr": 0.1, **numbers})


def test_the_factor_that_weight_decay_leaves_follows_the_rate():
    model = sequential(nn.Conv2d(3, 16, 7))
    observed = Observed(model, FilterMonitor(), images(4, 3, 12, 12))
    for step, rate in ((0, 0.1), (50, 0.1), (100, 0.0)):
        decaying = group(lr=rate, momentum=0.9, weight_decay=0.01)
        left = scalars(observed.look(step, optimizer=(decaying,)))["filter_decay_left/0"]
    # 51 steps at .1, then falling to 0 evenly over 50 steps: as much as 76 steps at .1.
    assert left == pytest.approx(math.exp(-76 * 0.1 * 0.01 / 0.1), rel=1e-6)


@pytest.mark.parametrize(
    "names",
    [("0.weight",), ("0.parametrizations.weight.original0",), ("0.weight_orig",), ("0.weight_v",)],
)
def test_the_rate_is_that_of_the_group_that_holds_the_layer(names):
    other = group(names=("1.weight", "0.bias"), lr=7.0)
    groups = (other, group(names=names, lr=0.2))
    report = look(sequential(nn.Conv2d(3, 4, 3)), images(2, 3, 8, 8), optimizer=groups)
    assert report.rule_metrics()[metric_names.LEARNING_RATE]["0"] == 0.2


def test_a_layer_in_no_group_has_the_rate_0():
    other = (group(names=("1.weight",)),)
    report = look(sequential(nn.Conv2d(3, 4, 3)), images(2, 3, 8, 8), optimizer=other)
    assert report.rule_metrics()[metric_names.LEARNING_RATE]["0"] == 0
    assert "filter_decay_left/0" not in scalars(report)


def test_of_a_huge_layer_evenly_spread_filters_are_read():
    report = look(sequential(nn.Linear(64, 5000)), images(2, 64), wants_pictures=True)
    assert report.rule_metrics()[metric_names.NUM_FILTERS]["0"] == 256
    (grid, strip) = report.of(Picture)
    assert grid.arrays["filters"].shape == (256, 1, 64)
    assert strip.arrays["frames"].shape[1] <= 36


# -- the pictures


def test_the_largest_filters_are_shown_and_the_rest_is_counted(captions):
    model = sequential(nn.Conv2d(3, 40, 7))
    with torch.no_grad():
        model[0].weight[[3, 20, 30]] *= torch.tensor([2.0, 4.0, 3.0]).reshape(3, 1, 1, 1)
    report = look(model, images(2, 3, 12, 12), wants_pictures=True, max_filters=3)
    drawn(report)
    labels = [tile.lines[0].split()[0] for tile in captions.panels["the filters"]]
    assert labels == ["3", "20", "30"]
    assert "3 of 40 filters of 7x7, the largest ones; 37 are left out" in captions.text
    report = look(model, images(2, 3, 12, 12), wants_pictures=True, max_filters=3, order="norm")
    drawn(report)
    labels = [tile.lines[0].split()[0] for tile in captions.panels["the filters"]]
    assert labels == ["20", "30", "3"]


@pytest.mark.parametrize(
    ("side", "options", "count"),
    [(16, {}, 64), (17, {}, 25), (17, {"max_filters": 40}, 40)],
)
def test_of_large_filters_fewer_are_shown_unless_the_user_asks_for_more(
    captions, side, options, count
):
    model = sequential(nn.Conv2d(1, 70, side))
    drawn(look(model, images(2, 1, 20, 20), wants_pictures=True, **options))
    assert len(captions.panels["the filters"]) == count
    assert f"{count} of 70 filters" in captions.text


def test_the_learned_part_stands_beside_with_its_share(captions):
    model = sequential(nn.Conv2d(3, 16, 7))
    observed = Observed(model, FilterMonitor(), images(4, 3, 12, 12))
    with torch.no_grad():
        model[0].weight += model[0].weight.square().mean().sqrt()
    report = observed.look(0, wants_pictures=True)
    drawn(report)
    arrays = report.of(Picture)[0].arrays
    np.testing.assert_allclose(arrays["filters"], model[0].weight.detach().numpy(), rtol=1e-6)
    share = np.square(arrays["learned"]).sum() / np.square(arrays["filters"]).sum()
    assert f"what training added: {100 * share:.0f} % of the energy" in captions.panels
    assert 0.4 < share < 0.6


@pytest.mark.parametrize(
    ("change", "kernel", "known", "words"),
    [
        (lambda w: None, 3, {}, "a single filter of this size cannot be told from noise"),
        (lambda w: None, 7, {}, "orange frame"),
        (lambda w: None, 1, {}, "1x1 filters have no neighbouring weights"),
        (lambda w: w[0].fill_(math.nan), 7, {}, "magenta: not finite (1 filters)"),
        (lambda w: w[1].zero_(), 7, {}, "1 near zero (crossed)"),
        (lambda w: w[1].copy_(w[0]), 7, {}, "2 nearly equal to another one"),
        (lambda w: None, 7, {"step": 120}, "it was first read at step 120"),
        (lambda w: None, 7, {"optimizer": (group(names=("1.weight",)),)}, "it is frozen"),
    ],
)
def test_a_caption_says_what_must_be_known(change, kernel, known, words, captions):
    model = sequential(nn.Conv2d(3, 16, kernel))
    with torch.no_grad():
        change(model[0].weight)
    drawn(look(model, images(2, 3, 12, 12), wants_pictures=True, **known))
    assert words in captions.text


def test_a_layer_that_starts_structured_is_said_to(captions):
    model = sequential(nn.Conv2d(3, 16, 7))
    with torch.no_grad():
        model[0].weight += 0.2
    drawn(look(model, images(2, 3, 12, 12), wants_pictures=True))
    assert "its filters had structure from the start (pre-trained?)" in captions.text


def test_the_strip_begins_with_the_initial_weights_and_ends_with_the_latest():
    model = sequential(nn.Conv2d(3, 64, 7))
    observed = Observed(model, FilterMonitor(), images(4, 3, 12, 12))
    initial = model[0].weight.detach().clone()
    for step in range(0, 1000, 50):
        with torch.no_grad():
            model[0].weight += 0.01
        report = observed.look(step, wants_pictures=step == 950)
    (_, strip) = report.of(Picture)
    frames, record = strip.arrays["frames"], observed.monitor._records["0"]
    assert frames.shape == (8, 36, 3, 7, 7)
    assert record.strip.steps[0] == 0
    assert record.strip.steps[-1] == 950
    places = record.strip_places
    assert np.array_equal(frames[0], initial[places].numpy())
    assert np.array_equal(frames[-1], model[0].weight.detach()[places].numpy())


# -- the restart


def test_the_past_survives_a_checkpoint(tmp_path):
    kept = smallest(FilterMonitor)
    before = tiny_module().conv.weight.detach().clone()
    checkpoint = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=-1)
    tiny_fit(tmp_path, [kept, checkpoint], enable_checkpointing=True, max_epochs=1)
    again = smallest(FilterMonitor)
    (path,) = tmp_path.glob("*.ckpt")
    tiny_fit(tmp_path, [again, checkpoint], ckpt_path=path, enable_checkpointing=True)
    record = again._records["conv"]
    assert record.first_step == 0
    assert torch.equal(record.initial, before)
    assert record.strip.steps == [0, 1, 2, 3]
    assert again.history.latest(metric_names.FIRST_STEP, "conv") == 0


def test_a_monitor_that_comes_later_says_so(tmp_path):
    checkpoint = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=-1)
    tiny_fit(tmp_path, [checkpoint], enable_checkpointing=True, max_epochs=1)
    (path,) = tmp_path.glob("*.ckpt")
    late = smallest(FilterMonitor)
    tiny_fit(tmp_path, [late, checkpoint], ckpt_path=path, enable_checkpointing=True)
    assert late._records["conv"].first_step == 2
    assert late.history.latest(metric_names.FIRST_STEP, "conv") == 2


@pytest.mark.parametrize("options", [{}, {"layer": "conv"}, {"layer": "head"}])
def test_the_initial_weights_are_those_before_the_training(options, tmp_path):
    monitor = smallest(FilterMonitor, **options)
    name = options.get("layer", "conv")
    before = tiny_module().get_submodule(name).weight.detach().clone()
    tiny_fit(tmp_path, [monitor])
    assert torch.equal(monitor._records[name].initial.reshape(before.shape), before)
    assert monitor.history.first(metric_names.FILTER_CHANGE, name) > 0


def test_a_state_goes_on_where_it_was():
    model = sequential(nn.Conv2d(3, 16, 7))
    one = Observed(model, FilterMonitor(), images(4, 3, 12, 12))
    decaying = (group(momentum=0.9, weight_decay=0.01),)
    one.look(0, optimizer=decaying)
    with torch.no_grad():
        model[0].weight += 0.05
    other = FilterMonitor()
    other.load_state_dict(copy.deepcopy(one.monitor.state_dict()))
    two = Observed(model, other, images(4, 3, 12, 12))
    assert scalars(one.look(50, optimizer=decaying)) == scalars(two.look(50, optimizer=decaying))


def test_a_layer_that_changed_its_shape_begins_anew():
    model = sequential(nn.Conv2d(3, 16, 7))
    observed = Observed(model, FilterMonitor(), images(4, 3, 12, 12))
    observed.look(0)
    model[0].weight = nn.Parameter(model[0].weight[:8])
    report = observed.look(50)
    assert report.rule_metrics()[metric_names.FIRST_STEP]["0"] == 50
    assert report.rule_metrics()[metric_names.FILTER_CHANGE]["0"] == 0


# -- bad input


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


@pytest.mark.parametrize(
    ("model", "shape", "options", "message"),
    [
        (nn.ReLU(), (2, 3), {}, "the model has no layer with weights.*Leave FilterMonitor out"),
        (Recurrent(), (2, 5, 4), {}, r'FilterMonitor\(layer="\.\.\."\); the first ones are "head"'),
        (sequential(nn.BatchNorm2d(3)), (2, 3, 4, 4), {}, "met a convolution or a linear layer"),
        (
            Branches(),
            (2, 4, 8, 8),
            {"layer": "lft"},
            r'layer="lft" names no layer with a weight\. Nearest: "left".*Use layer="left"',
        ),
        (Branches(), (2, 4, 8, 8), {"layer": "0"}, 'names no layer with a weight. Nearest: "head"'),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
            (2, 3, 8, 8),
            {"layer": "1"},
            r'the weight of "1" has the shape \(4,\): no filters',
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(60, 5)),
            (2, 60),
            {"image_shape": (3, 4, 4)},
            r'image_shape=\(3, 4, 4\) has 48 numbers, and "1" has 60 inputs',
        ),
    ],
)
def test_a_model_that_has_no_such_layer_is_told_what_to_write(model, shape, options, message):
    kind = ValueError if options else NothingToShow  # a wrong option is a mistake
    with pytest.raises(kind, match=message):
        look(model, images(*shape), **options)


class Sharded(Tensor):
    def full_tensor(self) -> Tensor:
        raise AssertionError("a collective that the other ranks do not come to")


@pytest.mark.parametrize(
    "part", [torch.zeros(2, 3, 3, 3).as_subclass(Sharded), torch.zeros(54)], ids=["dtensor", "flat"]
)
def test_a_sharded_weight_is_said_to_be_one(part):
    observed = Observed(sequential(nn.Conv2d(3, 4, 3)), FilterMonitor(), images(2, 3, 8, 8))
    with pytest.raises(ValueError, match='the weight of "0" is sharded: this rank holds a part'):
        observed.look(0, weights={"0.weight": part})


def test_one_branch_that_cannot_be_read_is_left_out_and_the_other_is_shown(caplog):
    observed = Observed(Branches(), FilterMonitor(), images(2, 4, 8, 8))
    weights = dict(Weights(observed.engine.model)) | {"left.weight": torch.zeros(54)}
    caplog.set_level(logging.INFO, "vis_callbacks")
    for step in (0, 50):
        assert layers(observed.look(step, weights=weights)) == ["right"]
    (words,) = [record.getMessage() for record in caplog.records]
    assert words.startswith('FilterMonitor leaves out "left" and goes on')
    assert 'the weight of "left" is sharded' in words


@pytest.mark.parametrize(
    "references",
    [None, References(inputs=torch.ones(2, 3, 9, 9).to_sparse(), labels=None, source="a test")],
)
def test_without_the_inputs_only_their_roughness_is_left_out_and_that_is_said_once(
    caplog, references
):
    caplog.set_level(logging.INFO, "vis_callbacks")
    observed = Observed(sequential(nn.Conv2d(3, 16, 7)), FilterMonitor(), images(2, 3, 12, 12))
    for step in (0, 50):
        report = observed.look(step, references=references, wants_pictures=True)
    assert math.isnan(report.rule_metrics()[metric_names.INPUT_ROUGHNESS]["0"])
    assert scalars(report)["filter_noise/0"] == pytest.approx(0.98, abs=0.05)
    assert len(drawn(report)) == 2
    (words,) = [record.getMessage() for record in caplog.records]
    assert words.startswith("FilterMonitor leaves out the roughness of the inputs and goes on")
    assert words.endswith("Write input_fn=lambda batch: ... that returns the inputs as a tensor.")


def test_a_layer_that_grows_keeps_its_past():
    model = nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 4))
    monitor = FilterMonitor(layer="1")
    observed = Observed(model, monitor, images(2, 6))
    first = model[1].weight.detach().clone()
    observed.look(0)
    with torch.no_grad():
        model[1].weight += 0.1
    more = torch.cat([model[1].weight.detach(), torch.ones(3, 9)])
    report = observed.look(50, weights={"1.weight": more}, wants_pictures=True)
    moved = torch.cat([more[:4] - first, torch.zeros(3, 9)])
    change = moved.norm() / torch.cat([first, torch.ones(3, 9)]).norm()
    assert scalars(report)["filter_change/1"] == pytest.approx(float(change), rel=1e-5)
    assert report.rule_metrics()[metric_names.FIRST_STEP]["1"] == 0.0
    strip = {i.tag: i for i in report.of(Picture)}["filters/over_time/1"]
    assert strip.draw.keywords["steps"] == (0, 50)
    assert all(picture.shape[2] == 3 for picture in drawn(report).values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_shown_and_counted(value, captions):
    model = sequential(nn.Conv2d(3, 16, 7))
    observed = Observed(model, FilterMonitor(), images(2, 3, 12, 12))
    with torch.no_grad():
        model[0].weight.fill_(value)
    report = observed.look(0, wants_pictures=True)
    assert all(picture.shape[2] == 3 for picture in drawn(report).values())
    assert "magenta: not finite (16 filters)" in captions.text
    assert math.isnan(scalars(report)["filter_noise/0"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_are_read(dtype):
    model = sequential(nn.Conv2d(3, 16, 7))
    observed = Observed(model, FilterMonitor(), images(2, 3, 12, 12))
    model.to(dtype)
    written = scalars(observed.look(0, wants_pictures=True))
    assert written["filter_noise/0"] == pytest.approx(0.98, abs=0.03)
    assert written["filter_change/0"] < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 3}, 'layer=3 is a int. Use one name: "conv1"'),
        ({"layer": ""}, "Use None for the first layer"),
        ({"layer": ["conv1"]}, "is a list. Use one name"),
        ({"max_filters": 0}, "max_filters=0 is too small"),
        ({"max_filters": 300}, "Use at most 256"),
        ({"scale": "minmax"}, 'Use "filter" or "layer"'),
        ({"order": "random"}, 'Use "index" or "norm"'),
        ({"image_shape": 28}, r"Use \(1, 28, 28\)"),
        ({"image_shape": (28, 0)}, "image_shape=0 is too small"),
        ({"image_shape": (784,)}, "has 1 axes"),
        ({"loss_names": "val_loss"}, r'Use \("train_loss", "val_loss"\)'),
        ({"layers": ["conv1"]}, "has no option 'layers'"),
    ],
)
def test_a_wrong_option_says_what_to_write(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        FilterMonitor(**options)
