from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from vis_callbacks.engine.probe import WeightInfo
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Group, Snapshot
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitors.filters.layers import WatchedLayer, group_of, watched_layers


def info(layer: str = "conv", kind: str = "conv2d", **known) -> WeightInfo:
    return WeightInfo(**{"layer": layer, "weight_name": f"{layer}.weight", "kind": kind, **known})


def watched(kind: str = "conv2d", image_shape: tuple[int, ...] = (), **known) -> WatchedLayer:
    return WatchedLayer(info(kind=kind, **known), image_shape)


# -- a weight as filters


@pytest.mark.parametrize(
    ("layer", "weight", "filters"),
    [
        (watched(), (8, 3, 5, 5), (8, 3, 5, 5)),
        (watched("conv_transpose2d", groups=2), (4, 3, 5, 5), (6, 2, 5, 5)),
        (watched("linear"), (8, 20), (8, 1, 20)),
        (watched("linear", (4, 5)), (8, 20), (8, 1, 4, 5)),
        (watched("linear", (6, 5, 3)), (8, 90), (8, 3, 6, 5)),
    ],
)
def test_every_output_has_one_filter(layer, weight, filters):
    values = torch.randn(weight)
    assert layer.filters(values).shape == filters
    assert layer.num_filters(values) == filters[0]


def test_of_a_large_layer_evenly_spread_filters_are_read():
    weight = torch.arange(3_000.0)[:, None].expand(3_000, 4)
    layer = watched("linear")
    found = layer.filters(weight)[:, 0, 0]
    assert len(found) == 256
    assert layer.num_filters(weight) == 3_000
    assert set(found.diff().tolist()) == {11.0, 12.0}


def test_of_large_filters_fewer_are_read_and_sixteen_at_least():
    weight = torch.zeros(1, 1).expand(64, 2**15)  # 32 of them are a million numbers
    assert len(watched("linear").filters(weight)) == 32
    larger = torch.zeros(1, 1).expand(64, 2**18)
    assert len(watched("linear").filters(larger)) == 16


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_filters_are_read_in_single_precision_at_least(given, read):
    assert watched().filters(torch.ones(2, 3, 5, 5, dtype=given)).dtype == read


@pytest.mark.parametrize("shape", [(8,), (0, 3, 5, 5), ()])
def test_a_weight_that_holds_no_filters_is_told_by_its_shape(shape):
    with pytest.raises(ValueError, match=r'the weight of "conv" has the shape .*: no filters'):
        watched().filters(torch.zeros(shape))


def test_a_flat_part_of_a_weight_is_told_to_be_sharded():
    layer = watched(initial=torch.zeros(8, 3, 5, 5))
    with pytest.raises(ValueError, match=r"is sharded: .* of shape \(600,\)"):
        layer.filters(torch.zeros(600))


@pytest.mark.parametrize(
    ("layer", "filters", "kernel_size", "has_null"),
    [
        (watched(), (4, 3, 7, 7), 7, True),
        (watched(), (4, 3, 1, 7), 7, True),
        (watched(), (4, 3, 3, 5), 3, True),
        (watched(), (4, 3, 1, 1), 1, False),
        (watched("linear"), (4, 1, 20), 0, False),  # neighbours mean nothing there
        (watched("linear", (4, 5)), (4, 1, 4, 5), 4, True),
    ],
)
def test_noise_can_be_judged_where_there_are_neighbours(layer, filters, kernel_size, has_null):
    values = torch.zeros(filters)
    assert layer.kernel_size(values) == kernel_size
    assert (layer.null(values) is not None) is has_null


# -- which layers


def snapshot(*weighted: WeightInfo, inputs: Tensor | None = None, **weights: Tensor) -> Snapshot:
    references = None
    if inputs is not None:
        references = References(inputs=inputs, labels=None, source="a test")
    named = {f"{name}.weight": weight for name, weight in weights.items()}
    return Snapshot(step=0, weighted=weighted, weights=named, references=references)


def test_layers_that_touch_the_input_are_watched_and_no_other():
    given = snapshot(
        info("left", touches_input=True),
        info("behind"),
        info("right", touches_input=True),
        info("computed", weight_name=None, touches_input=True),
    )
    assert [layer.name for layer in watched_layers(given, None, None)] == ["left", "right"]


def test_a_layer_that_the_pass_did_not_meet_is_read_by_the_shape_of_its_weight():
    given = snapshot(fc=torch.zeros(2, 3), conv=torch.zeros(2, 3, 4, 4))
    kinds = [watched_layers(given, name, None)[0].weight.kind for name in ("fc", "conv")]
    assert kinds == ["linear", "conv2d"]


@pytest.mark.parametrize(
    ("given", "layer", "words"),
    [
        (snapshot(), None, "has no layer with weights"),
        (
            snapshot(conv=torch.zeros(1)),
            None,
            r'no forward pass .* met a convolution .* there are "conv"',
        ),
        (snapshot(info("deep")), None, r'was found that reads the input.*first ones are "deep"'),
        (snapshot(conv=torch.zeros(1)), "cov", r'Nearest: "conv". Use layer="conv"'),
        (snapshot(), "conv", "The model has none"),
    ],
)
def test_where_there_is_no_layer_it_says_what_to_write(given, layer, words):
    kind = NothingToShow if layer is None else ValueError  # a wrong name is a mistake
    with pytest.raises(kind, match=words):
        watched_layers(given, layer, None)


def of_linear(inputs: Tensor | None, image_shape=None, *, touches_input=True) -> tuple[int, ...]:
    given = snapshot(
        info("fc", "linear", touches_input=touches_input), inputs=inputs, fc=torch.zeros(4, 60)
    )
    (layer,) = watched_layers(given, "fc", image_shape)
    return layer.image_shape


def test_a_linear_layer_is_an_image_where_batch_or_user_tell():
    assert of_linear(torch.zeros(2, 3, 4, 5)) == (3, 4, 5)
    assert of_linear(None, [4, 15]) == (4, 15)
    assert of_linear(torch.zeros(2, 60)) == ()
    assert of_linear(torch.zeros(2, 3, 4, 4)) == ()  # not what was flattened
    assert of_linear(torch.zeros(2, 3, 4, 5), touches_input=False) == ()


def test_a_shape_that_does_not_fit_the_layer_is_refused():
    with pytest.raises(ValueError, match=r"image_shape=\(4, 4\) has 16 numbers, .* has 60 inputs"):
        of_linear(None, [4, 4])


# -- whose learning rate


def group(*names: str) -> Group:
    return Group(name="SGD", kind="SGD", parameter_names=names, lr=0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(3, 4, 3),
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        lambda: prune.random_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5),
        lambda: nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)),
    ],
)
def test_the_group_is_the_one_that_holds_what_the_weight_is_computed_of(make):
    model = nn.ModuleDict({"conv2": nn.Conv2d(3, 4, 3), "conv": make()})
    groups = [group(name) for name, _ in model.named_parameters()]
    found = group_of(info("conv"), groups)
    assert found is not None
    assert found.parameter_names[0].startswith("conv.")
    assert "bias" not in found.parameter_names[0]


def test_a_weight_in_no_group_has_none():
    assert group_of(info("conv"), [group("conv.bias", "conv2.weight")]) is None
    assert group_of(info("conv", weight_name=None), [group("conv.weight")]) is None
