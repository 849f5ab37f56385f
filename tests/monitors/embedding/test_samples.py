from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from vis_callbacks.engine import sample_numbers
from vis_callbacks.engine.probe import Activation, Batch, LayerInfo, Probe
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitors.embedding.samples import (
    CHOSEN,
    FACTS,
    MET,
    MISFIT,
    SampleCollector,
    Samples,
    classes_or_values,
    evenly_spaced,
    own_name,
    samples_of,
    values_of_references,
)

LINEAR = ("first", "last")


def batch(first: int = 0, count: int = 4, *, side: int = 6, labels: Tensor | None = None) -> Batch:
    """Returns images whose pixels all are the number of their sample."""
    numbers = torch.arange(first, first + count)
    inputs = numbers.float()[:, None, None, None].expand(count, 3, side, side)
    return Batch(
        inputs=inputs,
        labels=numbers % 3 if labels is None else labels,
        num_samples=count,
        first_index=first,
    )


def activation(given: Batch, layer: str = "last", num_units: int = 5) -> Activation:
    """Returns rows that all are the number of their sample."""
    numbers = torch.arange(given.first_index, given.first_index + given.num_samples).float()
    values = numbers[:, None, None].expand(-1, num_units, 1)
    return Activation(
        layer=layer, values=values, nonlinearity=None, inputs=None, shape=(len(values), num_units)
    )


def collector(num_samples: int = 10, *, maps_last: bool = True, max_probed: int = 2):
    return SampleCollector(num_samples, LINEAR, maps_last=maps_last, max_probed=max_probed)


# -- which samples


def test_the_first_samples_are_taken_and_the_rest_passes_by():
    seen, found = collector(6), []
    for first in (0, 4, 8):
        given = batch(first)
        found.append(seen.read("features", activation(given), given))
    assert [read["index"].tolist() for read in found[:2]] == [[0, 1, 2, 3], [4, 5]]
    assert [read["rows"][:, 0].tolist() for read in found[:2]] == [[0, 1, 2, 3], [4, 5]]
    assert found[2] == {}


def test_samples_are_numbered_as_a_sampler_deals_them_out_to_the_ranks(monkeypatch):
    indices = []
    for rank in (0, 1):
        told = {"is_initialized": True, "get_rank": rank, "get_world_size": 2}
        for name, answer in told.items():
            monkeypatch.setattr(sample_numbers.dist, name, lambda answer=answer: answer)
        seen, given = collector(11), batch(4)  # the fifth to the eighth sample of each rank
        seen.read("features", activation(first := batch(0)), first)
        indices.append(seen.read("features", activation(given), given)["index"].tolist())
    assert indices == [[8, 10], [9]]  # of eleven


def test_the_facts_come_with_the_layer_that_is_met_first_and_with_no_other():
    seen, given = collector(), batch()
    met = [
        seen.read("probes", activation(given, "relu"), given),
        seen.read("features", activation(given, "last"), given),
    ]
    of_layer = {"rows", "index", "num_units", "standing"}
    assert set(met[0]) == {*of_layer, *FACTS}
    assert set(met[1]) == of_layer
    assert met[0]["fact_index"].tolist() == [0, 1, 2, 3]
    assert met[0]["label"].tolist() == [0, 1, 2, 0]


def test_a_second_pass_over_the_same_batch_adds_nothing():
    seen, given = collector(), batch()
    assert seen.read("features", activation(given), given)
    assert seen.read("features", activation(given), given) == {}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.tensor([2, -1, -100, 0]), [2, -1, -1, 0]),
        (torch.rand(4, 7, 7), [-1, -1, -1, -1]),  # of each pixel: none of the sample
    ],
)
def test_labels_that_name_no_class_are_none(labels, expected):
    given = batch(labels=labels)
    assert collector().read("features", activation(given), given)["label"].tolist() == expected


def test_images_of_another_size_are_kept_at_the_size_of_the_first_ones():
    seen, first, second = collector(), batch(0, side=6), batch(4, side=9)
    shapes = [
        tuple(seen.read("features", activation(given), given)["pixels"].shape)
        for given in (first, second)
    ]
    assert shapes == [(4, 3, 6, 6), (4, 3, 6, 6)]


# -- which layers


def test_after_the_first_batch_only_the_last_linear_layer_is_kept():
    seen, first, second = collector(), batch(0), batch(4)
    met = [
        [seen.read("features", activation(given, name), given) for name in LINEAR]
        for given in (first, second)
    ]
    assert ["rows" in read for read in met[0]] == [True, True]
    assert ["rows" in read for read in met[1]] == [False, True]
    assert "fact_index" in met[1][0]  # the facts still come with what is met first


def test_layers_that_are_named_are_all_kept():
    seen = collector(maps_last=False)
    for given in (batch(0), batch(4)):
        assert all("rows" in seen.read("features", activation(given, n), given) for n in LINEAR)


def test_of_many_nonlinearities_the_first_and_the_last_are_probed():
    seen, names = collector(), ["a", "b", "c"]
    for given in (batch(0), batch(4)):
        met = [seen.read("probes", activation(given, name), given) for name in names]
    assert ["rows" in read for read in met] == [True, False, True]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, "e"), (2, "ae"), (3, "ace"), (5, "abcde"), (9, "abcde")],
)
def test_names_are_evenly_spaced_and_the_last_is_always_there(count, expected):
    assert evenly_spaced("abcde", count) == list(expected)
    assert evenly_spaced([], count) == []


def test_the_number_that_tells_two_readings_apart_is_no_part_of_a_name():
    assert own_name("head-1", ["head"]) == "head"
    assert own_name("head-1", ["head", "head-1"]) == "head-1"


# -- what cannot be


@pytest.mark.parametrize("num_rows", [0, 3, 8])
def test_a_layer_whose_rows_are_no_samples_is_a_misfit_and_stays_one(num_rows):
    seen, given, following = collector(), batch(count=4), batch(4, count=4)
    read = seen.read("features", activation(batch(count=num_rows)), given)
    assert (int(read["standing"]), len(read["rows"]), len(read["index"])) == (MISFIT, 0, 0)
    assert int(seen.read("features", activation(following), following)["standing"]) == MISFIT


def test_what_is_kept_is_chosen_among_layers_with_a_row_a_sample():
    seen, given, following = collector(max_probed=2), batch(), batch(4)
    for layer, of in (("a", given), ("expert", batch(count=2)), ("b", given), ("c", given)):
        seen.read("probes", activation(of, layer), given)
    met = {name: seen.read("probes", activation(following, name), following) for name in "abc"}
    assert [name for name in "abc" if "rows" in met[name]] == ["a", "c"]


def test_samples_without_inputs_are_known_again_by_their_place():
    prints = []
    for _ in range(2):
        given = Batch(inputs=None, labels=torch.arange(4) % 2, num_samples=4)
        prints.append(collector().read("features", activation(given), given)["fingerprint"])
    assert torch.equal(*prints)
    assert len(prints[0].unique()) == 4


def test_it_is_pickled_in_the_midst_of_an_evaluation():
    seen, given = collector(), batch()
    seen.read("features", activation(given), given)
    again = pickle.loads(pickle.dumps(seen))
    following = batch(4)
    rows = [s.read("features", activation(following), following)["rows"] for s in (seen, again)]
    assert torch.equal(*rows)


# -- put together

ORDER = [4, 0, 5, 2, 1, 3]  # in which batches and ranks happened to bring the samples


def rows(index: list[int], standing: int = MET) -> dict[str, Tensor]:
    """Returns what a layer gave: rows that are 10 times the number of their sample."""
    numbers = torch.tensor(index)
    return {
        "rows": 10.0 * numbers[:, None].expand(-1, 2),
        "index": numbers,
        "num_units": torch.tensor(2),
        "standing": torch.tensor(standing),
    }


def facts(index: list[int]) -> dict[str, Tensor]:
    numbers = torch.tensor(index)
    return {
        "fact_index": numbers,
        "fingerprint": numbers + 1_000,
        "label": numbers % 3,
        "target": torch.full((len(index),), torch.nan),
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
        predictions={"fc": rows(ORDER) | {"rows": torch.tensor(ORDER) % 2}},
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
    assert found.predictions.tolist() == [-1, -1]


def test_a_layer_that_was_chosen_stands_for_all_that_were_met():
    layers = {"a": rows([0]) | facts([0]), "b": rows([0], CHOSEN), "c": rows([0])}
    assert list(together(features=layers).features) == ["b"]


def test_where_nothing_was_collected_there_are_no_samples():
    assert samples_of({"features": {}, "probes": {}}, maps_last=True, max_probed=8) is None


def test_a_sample_is_wrong_where_label_and_prediction_are_known_and_differ():
    labels, predictions = np.array([0, 0, -1, 1]), np.array([0, 1, 1, -1])
    known = {"fingerprints": np.arange(4), "labels": labels, "features": {}}
    found = Samples(predictions=predictions, **known)
    assert found.is_wrong.tolist() == [False, True, False, False]
    assert found.at(np.array([1, 3])).is_wrong.tolist() == [True, False]


# -- classes and values


def test_floating_labels_are_values_to_reach():
    labels, targets = classes_or_values(np.full(3, -1), np.float32([0.5, 2, 1]), 1)
    assert labels.tolist() == [-1, -1, -1]
    assert targets.tolist() == [0.5, 2, 1]


def test_floating_labels_of_0_and_1_alone_are_two_classes():
    labels, targets = classes_or_values(np.full(3, -1), np.float32([0, 1, np.nan]), 1)
    assert labels.tolist() == [0, 1, -1]
    assert targets is None


@pytest.mark.parametrize(("num_outputs", "are_values"), [(1, True), (64, False)])
def test_many_whole_numbers_for_a_single_output_are_values(num_outputs, are_values):
    ages = np.arange(90)
    labels, targets = classes_or_values(ages, np.full(90, np.nan, np.float32), num_outputs)
    assert labels.tolist() == ([-1] * 90 if are_values else ages.tolist())
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
