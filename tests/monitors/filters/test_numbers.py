from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vis_callbacks.alerts import metric_names
from vis_callbacks.engine.probe import WeightInfo
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Group, Snapshot
from vis_callbacks.monitors.filters.layers import WatchedLayer
from vis_callbacks.monitors.filters.noise import noise_null, roughness
from vis_callbacks.monitors.filters.numbers import (
    MEASURED,
    FilterRecord,
    LayerNumbers,
    layer_numbers,
    readings_of,
    roughness_of_inputs,
    scalars_of,
)
from vis_callbacks.monitors.filters.science import input_roughness
from vis_callbacks.report import Report, transfer


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape or (32, 3, 7, 7), generator=torch.Generator().manual_seed(seed))


def layer(kind: str = "conv2d", image_shape: tuple[int, ...] = (), **known) -> WatchedLayer:
    info = WeightInfo(**{"layer": "conv", "weight_name": "conv.weight", "kind": kind, **known})
    return WatchedLayer(info, image_shape)


def look(
    weight: Tensor, initial: Tensor | None = None, of: WatchedLayer | None = None, **known
) -> LayerNumbers:
    """Returns the look at a weight that began as ``initial``, or as it is now."""
    of = of or layer()
    begun = of.filters(weight if initial is None else initial)
    record = FilterRecord(begun, 0, is_before_update=True)
    snapshot, filters = Snapshot(**{"step": 10, **known}), of.filters(weight)
    of_inputs = None
    if snapshot.references is not None:
        of_inputs = roughness_of_inputs(of, filters, record, snapshot.references)
    return layer_numbers(of, weight, filters, record, snapshot, of_inputs)


def numbers(*looks: LayerNumbers) -> dict[str, dict[str, float]]:
    (report,) = transfer([Report(step=0, items=tuple(readings_of(looks)))])
    return report.rule_metrics()


def number(metric: str, *args, **known) -> float:
    return numbers(look(*args, **known))[metric]["conv"]


def scalars(seen: LayerNumbers) -> dict[str, float]:
    (report,) = transfer([Report(step=0, items=tuple(scalars_of(seen)))])
    return {item.tag.removesuffix("/conv"): item.value for item in report.items}


# -- numbers


def test_the_numbers_are_those_of_the_analysis():
    weight, initial = noise(seed=1), noise(seed=2)
    found = {metric: value["conv"] for metric, value in numbers(look(weight, initial)).items()}
    moved = (weight - initial).norm() / initial.norm()
    along = (weight * initial).flatten(1).sum(1) / initial.flatten(1).square().sum(1)
    learned = weight - along[:, None, None, None] * initial
    left = 1 - learned.square().sum() / weight.square().sum()
    assert found[metric_names.INITIAL_ROUGHNESS] == pytest.approx(float(roughness(initial).mean()))
    assert found[metric_names.FILTER_ROUGHNESS] == pytest.approx(float(roughness(weight).mean()))
    assert found[metric_names.FILTER_CHANGE] == pytest.approx(float(moved), rel=1e-5)
    assert found[metric_names.INHERITED_SHARE] == pytest.approx(float(left), abs=1e-5)
    assert found[metric_names.NUM_FILTERS] == 32
    assert found[metric_names.KERNEL_SIZE] == 7


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_scaled_filters_have_inherited_all_that_they_are(factor):
    found = numbers(look(factor * noise(), noise()))
    assert found[metric_names.INHERITED_SHARE]["conv"] == pytest.approx(1)
    assert found[metric_names.FILTER_CHANGE]["conv"] == pytest.approx(abs(factor - 1), abs=1e-6)
    assert math.isnan(found[metric_names.LEARNED_ROUGHNESS]["conv"])


def test_noise_is_called_noise_and_a_smooth_filter_is_not():
    assert number(metric_names.NOISE_LIKE, noise()) > 0.85
    smooth = torch.linspace(0, 1, 7)[:, None] * torch.linspace(1, 2, 7)
    assert number(metric_names.NOISE_LIKE, noise(32, 3, 1, 1) * smooth) == 0


def test_shares_are_of_the_filters_and_odd_is_any_of_them():
    weight = noise()
    weight[0] = 0  # dead
    weight[1] *= 50  # dominating
    weight[2] = -2 * weight[3]  # both of them duplicated
    found = {metric: value["conv"] for metric, value in numbers(look(weight)).items()}
    assert found[metric_names.DEAD_FILTERS] == 1 / 32
    assert found[metric_names.DOMINATING_FILTERS] == 1 / 32
    assert found[metric_names.DUPLICATED_FILTERS] == 2 / 32
    assert found[metric_names.ODD_FILTERS] == 4 / 32


def test_the_error_of_the_mean_shrinks_with_the_root_of_the_filters():
    sd = noise_null((7, 7), 3).roughness_sd
    assert number(metric_names.ROUGHNESS_ERROR, noise()) == pytest.approx(sd / math.sqrt(32))
    assert math.isnan(number(metric_names.ROUGHNESS_ERROR, noise(8, 3, 1, 1)))


def test_several_layers_are_columns_of_one_table():
    small = WatchedLayer(WeightInfo(layer="small", weight_name="w", kind="conv2d"))
    found = numbers(look(noise()), look(noise(4, 1, 3, 3), of=small))
    assert found.keys() >= set(MEASURED)
    assert all(list(values) == ["conv", "small"] for values in found.values())
    assert found[metric_names.NUM_FILTERS] == {"conv": 32, "small": 4}
    assert math.isnan(found[metric_names.NOISE_LIKE]["small"])  # of 3x3 no single one is judged


# -- the optimizer


def sgd(*names: str) -> Group:
    return Group(name="SGD", kind="SGD", parameter_names=names, lr=0.1, weight_decay=0.01)


def test_the_rate_is_that_of_its_group_and_0_where_no_group_moves_it():
    rates = [
        number(metric_names.LEARNING_RATE, noise(), optimizer=groups)
        for groups in ((sgd("conv.weight"),), (sgd("fc.weight"),), ())
    ]
    assert rates[:2] == [0.1, 0.0]
    assert math.isnan(rates[2])


def test_what_weight_decay_leaves_is_written_where_it_is_known():
    known, unknown = (look(noise(), optimizer=g) for g in ((sgd("conv.weight"),), ()))
    assert scalars(known)["filter_decay_left"] == pytest.approx(math.exp(-11 * 0.001))
    assert "filter_decay_left" not in scalars(unknown)


# -- what is written


@pytest.mark.parametrize(
    ("weight", "of", "left_out"),
    [
        (noise(), None, set()),
        (noise(32, 3, 3, 3), None, {"filter_share/noise_like"}),
        (
            noise(32, 3, 1, 1),
            None,
            {"filter_share/noise_like", "filter_noise", "filter_learned_noise"},
        ),
        (
            noise(32, 20),
            layer("linear"),
            {"filter_share/noise_like", "filter_noise", "filter_learned_noise"},
        ),
    ],
)
def test_what_cannot_be_judged_at_a_size_is_not_written(weight, of, left_out):
    every = {
        "filter_noise",
        "filter_change",
        "filter_inherited",
        "filter_learned_noise",
        "filter_share/noise_like",
        "filter_share/odd",
    }
    found = scalars(look(weight, weight + 0.1 * noise(*weight.shape, seed=3), of))
    assert set(found) == every - left_out
    assert all(math.isfinite(value) for value in found.values())


def test_what_is_written_is_what_the_rules_are_told():
    seen = look(noise(seed=1), noise(seed=2))
    told, written = numbers(seen), scalars(seen)
    assert written["filter_change"] == told[metric_names.FILTER_CHANGE]["conv"]
    assert written["filter_share/odd"] == told[metric_names.ODD_FILTERS]["conv"]


# -- the reference samples


def of_inputs(weight: Tensor, inputs: Tensor | None, of: WatchedLayer | None = None) -> float:
    references = None
    if inputs is not None:
        references = References(inputs=inputs, labels=None, source="a test")
    return number(metric_names.INPUT_ROUGHNESS, weight, None, of, references=references)


def test_inputs_are_read_as_the_filters_meet_them():
    inputs = noise(4, 3, 12, 12, seed=5)
    expected = pytest.approx(float(input_roughness(inputs, (5, 5))))
    assert of_inputs(noise(8, 3, 5, 5), inputs) == expected
    assert of_inputs(noise(6, 1, 5, 5), inputs, layer(groups=3)) == expected


def test_images_with_their_channels_last_are_turned_for_a_linear_layer():
    inputs = noise(4, 6, 6, 3, seed=5)
    found = of_inputs(noise(8, 108), inputs, layer("linear", (6, 6, 3)))
    assert found == pytest.approx(float(input_roughness(inputs.movedim(-1, 1), (6, 6))))


def test_images_without_channels_have_one():
    inputs = noise(4, 6, 6, seed=5)
    found = of_inputs(noise(8, 36), inputs, layer("linear", (6, 6)))
    assert found == pytest.approx(float(input_roughness(inputs[:, None], (6, 6))))


@pytest.mark.parametrize("inputs", [None, noise(4, 1, 12, 12), noise(4, 20), noise(4, 3, 4, 4)])
def test_inputs_that_do_not_fit_the_filters_have_no_roughness(inputs):
    assert math.isnan(of_inputs(noise(8, 3, 5, 5), inputs))
