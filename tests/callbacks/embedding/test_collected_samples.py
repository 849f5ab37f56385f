from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vis_callbacks.callbacks.embedding.collected_samples import (
    Samples,
    classes_or_values,
    samples_of,
    values_of_references,
)
from vis_callbacks.engine.probe import LayerInfo, Probe
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.guard import NothingToShow

ORDER = [4, 0, 5, 2, 1, 3]  # in which batches and ranks happened to bring the samples


def rows(index: list[int], width: int = 2) -> dict[str, Tensor]:
    """Returns what a layer gave: rows that are 10 times the number of their sample."""
    numbers = torch.tensor(index)
    return {"rows": 10.0 * numbers[:, None].expand(-1, width), "index": numbers}


def facts(index: list[int]) -> dict[str, Tensor]:
    numbers = torch.tensor(index)
    return {
        "fact_index": numbers,
        "fingerprint": numbers + 1_000,
        "label": numbers % 3,
        "pixels": numbers.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2),
        "range": numbers.float()[:, None].expand(-1, 2),
    }


def together(maps_last: bool = True, max_probed: int = 8, **values) -> Samples:
    samples = samples_of(values, maps_last=maps_last, max_probed=max_probed)
    assert samples is not None
    return samples


def test_what_came_in_any_order_is_put_in_the_order_of_the_samples():
    found = together(
        features={"fc": rows(ORDER) | facts(ORDER)},
        predictions={"fc": {"rows": torch.tensor(ORDER) % 2, "index": torch.tensor(ORDER)}},
        probes={"relu": rows(ORDER[::-1])},
    )
    assert found.fingerprints.tolist() == [1_000 + number for number in range(6)]
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert found.predictions.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.pixels[:, 0, 0, 0].tolist() == found.ranges[:, 1].tolist() == list(range(6))
    for features in (found.features["fc"], found.probed["relu"]):
        assert features[:, 0].tolist() == [10 * number for number in range(6)]


def test_facts_that_came_with_several_layers_are_one_table():
    found = together(
        features={"a": rows([0, 1]) | facts([0, 1]), "fc": rows([0, 1, 2]) | facts([2])}
    )
    assert found.labels.tolist() == [0, 1, 2]
    assert found.features["fc"][:, 0].tolist() == [0, 10, 20]


def test_samples_that_a_mapped_layer_missed_are_left_out_everywhere():
    found = together(features={"fc": rows([3, 2, 5]) | facts(ORDER)}, probes={"relu": rows(ORDER)})
    assert found.labels.tolist() == [2, 0, 2]
    assert found.features["fc"][:, 0].tolist() == [20, 30, 50]
    assert found.probed["relu"][:, 0].tolist() == [20, 30, 50]


def test_samples_that_a_probed_layer_missed_stay_on_the_map():
    found = together(
        features={"fc": rows(ORDER) | facts(ORDER)},
        probes={"first": rows(ORDER), "second": rows([1, 4])},
    )
    assert len(found.labels) == 6
    assert found.probed_labels.tolist() == [1, 1]
    assert {name: r[:, 0].tolist() for name, r in found.probed.items()} == {
        "first": [10, 40],
        "second": [10, 40],
    }


def test_of_all_layers_the_last_is_mapped_and_evenly_spaced_ones_are_probed():
    layers = {name: rows([0, 1]) for name in "abcde"}
    layers["a"] |= facts([0, 1])
    found = together(features=layers, probes=layers, max_probed=3)
    assert (list(found.features), list(found.probed)) == (["e"], ["a", "c", "e"])
    assert list(together(features=layers, maps_last=False).features) == list("abcde")


def test_without_a_linear_layer_the_last_nonlinearity_is_mapped():
    found = together(probes={"one": rows([0, 1]) | facts([0, 1]), "two": rows([0, 1])})
    assert list(found.features) == ["two"]
    assert found.predictions is None


def test_where_nothing_was_collected_there_are_no_samples():
    assert samples_of({"features": {}, "probes": {}}, maps_last=True, max_probed=8) is None


@pytest.mark.parametrize(("height", "is_picture"), [(2, True), (1, False)])
def test_rows_of_numbers_are_no_pictures(height, is_picture):
    known = facts([0, 1])
    known["pixels"] = known["pixels"][:, :, :height]
    assert together(features={"fc": rows([0, 1]) | known}).has_pictures is is_picture


# -- classes and values


def test_floating_labels_are_values_to_reach():
    labels, targets = classes_or_values(torch.full((3,), -1), torch.tensor([0.5, 2, 1]), 1)
    assert labels.tolist() == [-1, -1, -1]
    assert targets.tolist() == [0.5, 2, 1]


def test_floating_labels_of_0_and_1_alone_are_two_classes():
    labels, targets = classes_or_values(torch.full((3,), -1), torch.tensor([0.0, 1, torch.nan]), 1)
    assert labels.tolist() == [0, 1, -1]
    assert targets is None


@pytest.mark.parametrize(("num_outputs", "are_values"), [(1, True), (64, False)])
def test_many_whole_numbers_for_a_single_output_are_values(num_outputs, are_values):
    ages = torch.arange(90)
    labels, targets = classes_or_values(ages, torch.full((90,), torch.nan), num_outputs)
    assert torch.equal(labels, torch.full((90,), -1) if are_values else ages)
    assert (targets is not None) is are_values


# -- reference samples in place of an evaluation


def counted(activation, batch) -> dict[str, Tensor]:
    index = torch.arange(batch.num_samples) + batch.first_index
    return {"rows": activation.values.flatten(1), "index": index}


def probe(**options) -> Probe:
    merge = {"rows": "concat", "index": "concat"}
    return Probe(**{"name": "features", "reduce": counted, "merge": merge, **options})


def read_of(inputs: Tensor, *probes: Probe, calls: list | None = None):
    def read(names, given, site="output"):
        if calls is not None:
            calls.append((tuple(names), len(given), site))
        return {name: given.flatten(1) for name in names}

    snapshot = Snapshot(
        step=0,
        trace=(
            LayerInfo(name="relu", kind="relu", shape=(1, 3), num_units=3),
            LayerInfo(name="gate", kind="sigmoid", shape=(1, 3), num_units=3, is_gate=True),
            LayerInfo(name="fc", kind="Linear", shape=(1, 3), num_units=3),
        ),
        references=References(inputs=inputs, labels=None, source="a test"),
        read_layers=read,
    )
    return values_of_references(snapshot, probes, ["fc", "other"])


def test_references_are_read_a_few_at_a_time_and_give_one_evaluation():
    inputs, calls = torch.randn(37, 3), []
    values = read_of(inputs, probe(layers=["fc"], site="input"), calls=calls)
    assert calls == [(("fc",), 16, "input"), (("fc",), 16, "input"), (("fc",), 5, "input")]
    assert torch.equal(values["features"]["fc"]["rows"], inputs)
    assert values["features"]["fc"]["index"].tolist() == list(range(37))


def test_a_probe_of_every_nonlinearity_asks_for_no_gate_and_no_other_module():
    calls = []
    read_of(torch.randn(2, 3), probe(), probe(name="none", layers=["nothing*"]), calls=calls)
    assert calls == [(("relu",), 2, "output")]


def test_without_references_it_says_what_to_give():
    with pytest.raises(NothingToShow, match="Give the Trainer validation data"):
        values_of_references(Snapshot(step=0), [probe()], [])
