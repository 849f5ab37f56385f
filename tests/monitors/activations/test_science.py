from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.monitors.activations.made_up import measured_of
from torch import Tensor, nn

from vis_callbacks.alerts import metric_names
from vis_callbacks.engine.nonlinearities import NONLINEARITIES, RELU, Nonlinearity
from vis_callbacks.monitors.activations.science import (
    HISTOGRAM_SUMS,
    MAP_SUMS,
    UNIT_SUMS,
    UnitRows,
    UnitTable,
    histogram,
    log_edges,
    new_number,
    num_nonzero,
    unit_norms,
)

BY_KIND = {nonlinearity.kind: nonlinearity for nonlinearity in NONLINEARITIES}
TANH, GELU = BY_KIND["tanh"], BY_KIND["gelu"]
NO_LAYERS = UnitTable({}, torch.device("cpu"))


def stats_of(rows: UnitRows) -> dict[str, Tensor]:
    return rows.statistics(rows._sums)


def rows_of(**values: Tensor) -> UnitRows:
    return UnitRows({layer: measured_of(v, RELU) for layer, v in values.items()}, NO_LAYERS)


def merged(*measures: dict[str, Tensor]) -> dict[str, Tensor]:
    assert {*UNIT_SUMS.values(), *MAP_SUMS.values()} == {"sum"}
    return {name: sum(m[name] for m in measures) for name in measures[0]}  # type: ignore[misc]


def test_the_sums_of_a_small_map_are_those_counted_by_hand() -> None:
    # (2 samples, 2 units, 4 positions)
    values = torch.tensor(
        [
            [[0.0, 1.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]],
            [[2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]],
        ],
        dtype=torch.float64,
    )
    got = {name: value.tolist() for name, value in measured_of(values, RELU).items()}
    assert got == {
        "num_samples": 2.0,
        "num_rows": 0.0,
        "num_values": 8.0,
        "magnitude": [12.0, 0.0],
        "nonzeros": [6.0, 0.0],
        # (1 + 3)^2 / (4 (1 + 9)) = 0.4, and 1 for the constant map
        "area": [1.4, 0.0],
        "num_maps": [2.0, 0.0],
    }


@pytest.mark.parametrize("kind", ["relu", "tanh", "gelu", None])
@pytest.mark.parametrize("positions", [1, 7])
def test_the_sums_are_those_of_the_definition(kind: str | None, positions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = 3 * torch.randn(9, 5, positions, generator=generator, dtype=torch.float64)
    function = {"relu": torch.relu, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu}
    values = function.get(str(kind), lambda x: x)(inputs)
    got = measured_of(values, None if kind is None else BY_KIND[kind], inputs)
    size = values.abs()
    # Sums of 63 numbers in float64: their order may move the last few digits.
    torch.testing.assert_close(got["magnitude"], size.sum((0, 2)), rtol=1e-14, atol=0)
    torch.testing.assert_close(got["nonzeros"], (values != 0).double().sum((0, 2)))
    if positions > 1:
        area = size.sum(2) ** 2 / (positions * values.square().sum(2))
        torch.testing.assert_close(got["area"], area.nan_to_num().sum(0), rtol=1e-14, atol=0)
        torch.testing.assert_close(got["num_maps"], (size.sum(2) > 0).double().sum(0))


@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    kind=st.sampled_from(["relu", "tanh"]),
    seed=st.integers(0, 1000),
)
def test_measures_of_parts_merge_to_the_measure_of_the_whole(
    sizes: list[int], kind: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(sum(sizes), 3, 6, generator=generator, dtype=torch.float64)
    values = torch.relu(inputs) if kind == "relu" else torch.tanh(4 * inputs)
    whole = measured_of(values, BY_KIND[kind])
    parts = [measured_of(part, BY_KIND[kind]) for part in values.split(sizes)]
    together = merged(*parts)
    for name in (UNIT_SUMS | MAP_SUMS).keys() & whole.keys():
        torch.testing.assert_close(together[name], whole[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("positions", [1, 4])
def test_a_unit_that_is_not_finite_neither_fires_nor_counts_as_zero(
    bad: float, positions: int
) -> None:
    values = torch.zeros(3, 3, positions)
    values[0, 0] = bad
    values[1, 1] = 1.0
    measures = {"fc": measured_of(values, TANH)}
    rows = UnitRows(measures, NO_LAYERS)
    assert rows.is_finite.tolist() == [[False, True, True]]
    assert (rows.magnitude > 0).tolist() == [[False, True, False]]
    assert rows.non_finite().tolist() == pytest.approx([1 / 3])
    # Two finite units, one of which fired in one of three samples.
    assert stats_of(rows)["sparsity"].item() == pytest.approx(5 / 6)


def test_opposite_infinities_do_not_cancel() -> None:
    values = torch.tensor([math.inf, -math.inf]).reshape(2, 1, 1)
    measures = {"fc": measured_of(values, None)}
    assert UnitRows(measures, NO_LAYERS).non_finite().item() == 1.0


def test_a_unit_that_is_not_finite_in_one_part_stays_so_when_merged() -> None:
    broken = torch.full((2, 1, 2), math.nan)
    measures = {"fc": merged(measured_of(broken, RELU), measured_of(torch.ones(2, 1, 2), RELU))}
    assert UnitRows(measures, NO_LAYERS).non_finite().item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(dtype: torch.dtype) -> None:
    values = torch.full((64, 2, 100), 60_000.0, dtype=dtype)
    measured = measured_of(values, RELU)
    value = values[0, 0, 0].double().item()
    assert measured["magnitude"].dtype == torch.float32
    torch.testing.assert_close(
        measured["magnitude"].double(), torch.full((2,), 6400 * value).double(), rtol=1e-6, atol=0
    )
    assert measured["area"].tolist() == pytest.approx([64.0, 64.0], rel=1e-6)


def test_large_finite_values_are_finite() -> None:
    values = torch.full((8, 1, 8), 1e30)
    rows = rows_of(fc=values)
    assert rows.non_finite().item() == 0.0


def test_counts_stay_right_beyond_32_bits() -> None:
    # 2^31 values and more, as the merged sums of many micro-batches.
    one = measured_of(torch.ones(16, 1, 4096), RELU)
    total = {name: value.double() * 40_000 for name, value in one.items()}
    measures = {"fc": {name: value.float() for name, value in total.items()}}
    rows = UnitRows(measures, NO_LAYERS)
    assert float(measures["fc"]["nonzeros"]) == pytest.approx(16 * 4096 * 40_000, rel=1e-6)
    assert stats_of(rows)["sparsity"].item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "tokens"])
def test_the_memory_layout_does_not_matter(layout: str) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 6, 10, generator=generator, dtype=torch.float64).relu()
    same = values
    if layout == "channels_last":
        same = values.reshape(4, 6, 2, 5).to(memory_format=torch.channels_last).flatten(2)
    if layout == "tokens":
        same = values.transpose(1, 2).contiguous().transpose(1, 2)
    for nonlinearity in (RELU, TANH):
        expected, got = measured_of(values, nonlinearity), measured_of(same, nonlinearity)
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("kind", "inputs", "share"),
    [
        ("gelu", [-3.1, -2.9, 0.0, 5.0], 0.25),
        ("silu", [-6.1, -5.9, 0.0, 5.0], 0.25),
        ("elu", [-4.1, -3.9, 0.0, 5.0], 0.25),
        ("tanh", [-3.0, -2.0, 2.0, 3.0], 0.5),
        ("sigmoid", [-5.0, -4.0, 4.0, 5.0], 0.5),
        ("leaky_relu", [-5.0, -0.1, 0.1, 5.0], 0.5),
    ],
)
def test_the_flat_share_is_that_of_the_table(kind: str, inputs: list[float], share: float) -> None:
    function = getattr(torch.nn.functional, kind)
    x = torch.tensor(inputs, dtype=torch.float64).reshape(4, 1, 1)
    measures = {"act": measured_of(function(x), BY_KIND[kind], x)}
    assert UnitRows(measures, NO_LAYERS).flat_share().item() == share


def test_a_flat_share_told_from_the_input_is_unknown_without_it() -> None:
    values = torch.nn.functional.gelu(torch.randn(4, 2, 1))
    assert "flat" not in measured_of(values, GELU, None)
    assert "flat" not in measured_of(values.relu(), RELU, values)
    measures = {"act": measured_of(values, GELU, None)}
    rows = UnitRows(measures, NO_LAYERS)
    assert math.isnan(rows.flat_share().item())


def test_the_effective_area_is_1_for_a_constant_map_and_1_over_positions_for_a_spike() -> None:
    constant = torch.ones(2, 3, 16)
    spike = torch.zeros(2, 3, 16)
    spike[:, :, 5] = 7.0
    areas = stats_of(rows_of(constant=constant, spike=spike))["effective_area"]
    assert areas.tolist() == pytest.approx([1.0, 1 / 16])


def test_maps_that_are_all_zero_have_no_effective_area() -> None:
    half = torch.zeros(2, 2, 4)
    half[0, 0] = 1.0
    areas = stats_of(rows_of(half=half, dark=torch.zeros(2, 2, 4), flat=torch.ones(2, 2, 1)))
    assert areas["effective_area"][0].item() == 1.0
    assert areas["effective_area"][1:].isnan().all()


def test_dormant_units_are_those_below_a_tenth_of_the_mean() -> None:
    # Mean over units: (0 + .19 + .21 + 7.6) / 4 = 2, so the threshold lies at .2.
    means = torch.tensor([0.0, 0.19, 0.21, 7.6], dtype=torch.float64)
    values = means.reshape(1, 4, 1).expand(3, 4, 2)
    assert stats_of(rows_of(fc=values))["dormant_fraction"].item() == 0.5


def test_a_layer_of_zeros_is_all_dormant_and_all_sparse() -> None:
    stats = stats_of(rows_of(fc=torch.zeros(2, 3, 1)))
    assert (stats["dormant_fraction"].item(), stats["sparsity"].item()) == (1.0, 1.0)


def test_statistics_of_layers_do_not_depend_on_their_company() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = {
        "a": torch.randn(4, 3, 5, generator=generator).relu(),
        "b": torch.randn(4, 17, 1, generator=generator).relu(),
        "c": torch.randn(4, 1, 9, generator=generator).relu(),
    }
    together = stats_of(rows_of(**layers))
    for number, (name, values) in enumerate(layers.items()):
        for metric, value in stats_of(rows_of(**{name: values})).items():
            torch.testing.assert_close(together[metric][number], value[0], equal_nan=True)


def test_the_statistics_carry_the_names_of_the_readings() -> None:
    assert set(stats_of(rows_of(fc=torch.ones(1, 1, 1)))) == {
        metric_names.SPARSITY,
        metric_names.DORMANT_FRACTION,
        metric_names.EFFECTIVE_AREA,
    }


def test_a_layer_that_was_not_measured_is_not_known() -> None:
    both = {name: measured_of(torch.ones(2, 2, 2), RELU) for name in ("a", "b")}
    table = NO_LAYERS.holding(both)
    rows = UnitRows({"b": both["b"]}, table)
    assert rows.table is table
    assert rows.non_finite().tolist()[1] == 0.0
    assert rows.non_finite().isnan().tolist() == [True, False]
    assert stats_of(rows)["sparsity"].isnan().tolist() == [True, False]


def test_a_table_grows_with_layers_and_follows_a_changed_width() -> None:
    narrow = {"a": measured_of(torch.ones(2, 2, 2), RELU)}
    table = NO_LAYERS.holding(narrow)
    more = table.holding({"b": measured_of(torch.ones(2, 5, 2), RELU)})
    assert more.num_units == {"a": 2, "b": 5}
    wide = more.holding({"a": measured_of(torch.ones(2, 4, 2), RELU)})
    assert wide.num_units == {"a": 4, "b": 5}


@given(widths=st.lists(st.integers(1, 6), max_size=4))
def test_units_go_into_a_table_and_come_back(widths: list[int]) -> None:
    rows = [torch.arange(width) + 10.0 * number for number, width in enumerate(widths)]
    table = UnitTable({str(i): width for i, width in enumerate(widths)}, torch.device("cpu"))
    (filled,) = table.fill(rows)
    assert filled.shape == (len(widths), max(widths, default=0))
    assert int(table.mask.sum()) == sum(widths)
    for number, row in enumerate(rows):
        assert torch.equal(table.row(filled, str(number)), row)
    assert torch.equal(table.units(filled), torch.cat([torch.zeros(0), *rows]))


def test_no_layer_at_all_is_an_empty_table() -> None:
    rows = UnitRows({}, NO_LAYERS)
    assert rows.non_finite().shape == (0,)
    assert all(value.shape == (0,) for value in stats_of(rows).values())


def test_measuring_leaves_the_activation_and_its_graph_alone() -> None:
    inputs = torch.randn(4, 3, 2, requires_grad=True)
    values = torch.tanh(inputs)
    before, version = values.detach().clone(), values._version
    measured = measured_of(values, TANH, inputs)
    assert not any(value.requires_grad for value in measured.values())
    assert torch.equal(values, before)
    assert values._version == version
    values.sum().backward()


def test_measuring_is_allowed_under_deterministic_algorithms() -> None:
    values = torch.randn(4, 3, 5)
    torch.use_deterministic_algorithms(True)
    try:
        measured_of(values, TANH)
        histogram(values, log_edges())
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_activations_of_odd_types_are_measured(dtype: torch.dtype) -> None:
    values = torch.ones(2, 3, 4).to(dtype)
    measured = measured_of(values, None)
    assert measured["magnitude"].tolist() == [8.0] * 3
    assert histogram(values, log_edges())["counts"].sum().item() == 24.0


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES, ids=lambda n: n.kind)
def test_nothing_is_measured_of_an_empty_batch(nonlinearity: Nonlinearity) -> None:
    measures = {"fc": measured_of(torch.zeros(0, 3, 2), nonlinearity, torch.zeros(0, 3, 2))}
    rows = UnitRows(measures, NO_LAYERS)
    assert rows.num_samples.item() == 0
    assert stats_of(rows)["sparsity"].isnan().all()


def test_the_histogram_counts_what_lies_between_its_edges() -> None:
    edges = torch.tensor([-10.0, -1.0, 1.0, 10.0])
    values = torch.tensor([-100.0, -5.0, -1.0, 0.0, 0.5, 1.0, 7.0, 1000.0])
    counted = histogram(values, edges)
    assert counted["counts"].tolist() == [2.0, 3.0, 3.0]
    assert counted["total"].item() == values.sum().item()
    assert counted["total_of_squares"].item() == values.square().sum().item()


@given(
    values=st.lists(
        st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=50
    )
)
def test_the_histogram_agrees_with_numpy_and_leaves_out_what_is_not_finite(
    values: list[float],
) -> None:
    import numpy as np

    edges = log_edges()
    tensor = torch.tensor(values, dtype=torch.float64)
    finite = tensor[tensor.isfinite()].clamp(float(edges[0]), float(edges[-1])).numpy()
    expected, _ = np.histogram(finite, edges.numpy())
    assert histogram(tensor, edges)["counts"].tolist() == expected.tolist()


def test_histograms_merge_by_sum() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges = log_edges()
    whole, first, second = (histogram(part, edges) for part in (values, values[:300], values[300:]))
    assert set(HISTOGRAM_SUMS) == set(whole)
    for name, value in whole.items():
        torch.testing.assert_close(first[name] + second[name], value, rtol=1e-12, atol=0)


def test_the_edges_increase_and_mirror_each_other() -> None:
    edges = log_edges()
    assert len(edges) == 482
    assert (edges.diff() > 0).all()
    torch.testing.assert_close(edges, -edges.flip(0))
    torch.testing.assert_close(edges[[-1, 241]], torch.tensor([1e6, 1e-6]).double())


def test_a_large_activation_is_counted_in_part() -> None:
    values = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    counted = histogram(values, log_edges())
    total = counted["counts"].sum().item()
    assert 50_000 < total <= 65_536
    below = counted["counts"][: len(counted["counts"]) // 2].sum().item() / total
    assert below == pytest.approx(0.5, abs=0.008)  # four standard errors


def test_constants_that_are_kept_change_nothing() -> None:
    values, number = torch.randn(4, 3, 6), lru_cache(new_number)
    plain = measured_of(values, TANH)
    for _ in range(2):
        kept = measured_of(values, TANH, number=number)
        assert {k: v.tolist() for k, v in kept.items()} == {k: v.tolist() for k, v in plain.items()}


@pytest.mark.parametrize(
    ("num_rows", "num_samples", "counted", "of_rows"),
    [
        (32, 32, 32, 0),
        (12, 32, 12, 12),  # an expert's share
        (500, 32, 32, 32),  # nodes or boxes: at least so many, and of how many samples, who knows
        (500, 0, 500, 500),  # of a batch that was not understood
        (0, 32, 0, 0),
    ],
)
def test_a_layer_counts_the_samples_that_have_reached_it(num_rows, num_samples, counted, of_rows):
    got = measured_of(torch.ones(num_rows, 2, 3), RELU, num_samples=num_samples)
    assert (got["num_samples"], got["num_rows"]) == (counted, of_rows)


@pytest.mark.parametrize("shape", [(0, 3, 1), (0, 3, 5), (4, 3, 0), (0, 3, 0)])
@pytest.mark.parametrize("kind", ["relu", "tanh", "gelu"])
def test_a_layer_that_nothing_reaches_says_nothing(shape, kind):
    values = torch.zeros(shape)
    measures = {
        "fc": measured_of(values, BY_KIND[kind], values),
        "other": measured_of(values, None),
    }
    assert histogram(values, log_edges())["counts"].sum() == 0
    rows = UnitRows(measures, NO_LAYERS)
    assert rows.num_samples.tolist() == [0, 0]
    for value in (rows.non_finite(), rows.flat_share(), *stats_of(rows).values()):
        assert value.isnan().all()


def test_unit_norms_are_those_of_the_rows_of_a_linear_layer() -> None:
    weight = torch.tensor([[3.0, 4.0], [5.0, 12.0]])
    assert unit_norms(weight, len(weight)).tolist() == [5.0, 13.0]


def test_unit_norms_are_those_of_the_filters_of_a_convolution() -> None:
    weight = torch.ones(4, 2, 3, 3)
    weight[1] = 2.0
    assert unit_norms(weight, len(weight)).tolist() == pytest.approx(
        [18**0.5, 72**0.5, 18**0.5, 18**0.5]
    )


@pytest.mark.parametrize("groups", [1, 3])
def test_unit_norms_of_a_transposed_convolution_are_of_its_outputs(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(6, 3 * groups, 2, groups=groups, bias=False).double()
    norms = unit_norms(layer.weight, 3 * groups)
    # What reaches one output from each input alone are the weights that feed it.
    energy = torch.zeros(3 * groups, dtype=torch.float64)
    for channel in range(6):
        one = torch.zeros(1, 6, 1, 1, dtype=torch.float64)
        one[0, channel] = 1.0
        energy += layer(one)[0].square().sum((1, 2)).detach()
    torch.testing.assert_close(norms, energy.sqrt(), rtol=1e-14, atol=0)


def test_the_norm_of_a_layer_is_that_of_all_its_weights() -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(unit_norms(weight, 5).norm(), weight.norm(), rtol=1e-14, atol=0)


def test_half_precision_weights_do_not_overflow() -> None:
    weight = torch.full((1, 1000), 300.0, dtype=torch.float16)
    assert unit_norms(weight, len(weight)).item() == pytest.approx(300 * 1000**0.5, rel=1e-6)


@pytest.mark.parametrize(("shape", "num_units"), [((3,), 3), ((4, 2), 5), ((4, 3, 1, 1), 5)])
def test_weights_that_do_not_fit_the_units_have_no_norms(
    shape: tuple[int, ...], num_units: int
) -> None:
    assert unit_norms(torch.zeros(shape), num_units) is None


@pytest.mark.parametrize("shape", [(40, 30), (600, 513), (0, 3), (64, 33, 9, 9)])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_weights_that_are_not_0_are_counted(shape: tuple[int, ...], share: float) -> None:
    weight = torch.rand(shape) + 0.5
    weight *= torch.rand(shape) < share
    count = float(num_nonzero(weight))
    exact = float((weight != 0).sum())
    # Above 4,096 values a selection is counted: four standard errors of a share at its worst.
    least = 0.032 * weight.numel() if weight.numel() > 4_096 else 0.0
    assert count == pytest.approx(exact, abs=least)


def test_pruned_units_are_counted_whichever_they_are() -> None:
    weight = torch.ones(512, 4608)
    weight[100:300] = 0.0
    assert float(num_nonzero(weight)) == pytest.approx(312 * 4608, rel=0.02)
