from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vis_callbacks.callbacks.embedding import sample_collector
from vis_callbacks.callbacks.embedding.sample_collector import (
    FACTS,
    MISFIT,
    SampleCollector,
    evenly_spaced,
    own_name,
)
from vis_callbacks.engine.probe import Activation, Batch

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
        found.append(seen.features(activation(given), given))
    assert [read["index"].tolist() for read in found[:2]] == [[0, 1, 2, 3], [4, 5]]
    assert [read["rows"][:, 0].tolist() for read in found[:2]] == [[0, 1, 2, 3], [4, 5]]
    assert found[2] == {}


def test_samples_are_numbered_as_a_sampler_deals_them_out_to_the_ranks(monkeypatch):
    indices = []
    for rank in (0, 1):
        monkeypatch.setattr(sample_collector, "_rank", lambda rank=rank: (rank, 2))
        seen, given = collector(11), batch(4)  # the fifth to the eighth sample of each rank
        seen.features(activation(first := batch(0)), first)
        indices.append(seen.features(activation(given), given)["index"].tolist())
    assert indices == [[8, 10], [9]]  # of eleven


def test_the_facts_come_with_the_layer_that_is_met_first_and_with_no_other():
    seen, given = collector(), batch()
    met = [
        seen.probes(activation(given, "relu"), given),
        seen.features(activation(given, "last"), given),
    ]
    of_layer = {"rows", "index", "num_units", "standing"}
    assert set(met[0]) == {*of_layer, *FACTS}
    assert set(met[1]) == of_layer
    assert met[0]["fact_index"].tolist() == [0, 1, 2, 3]
    assert met[0]["label"].tolist() == [0, 1, 2, 0]


def test_a_second_pass_over_the_same_batch_adds_nothing():
    seen, given = collector(), batch()
    assert seen.features(activation(given), given)
    assert seen.features(activation(given), given) == {}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (torch.tensor([2, -1, -100, 0]), [2, -1, -1, 0]),
        (torch.rand(4, 7, 7), [-1, -1, -1, -1]),  # of each pixel: none of the sample
    ],
)
def test_labels_that_name_no_class_are_none(labels, expected):
    given = batch(labels=labels)
    assert collector().features(activation(given), given)["label"].tolist() == expected


def test_images_of_another_size_are_kept_at_the_size_of_the_first_ones():
    seen, first, second = collector(), batch(0, side=6), batch(4, side=9)
    shapes = [
        tuple(seen.features(activation(given), given)["pixels"].shape) for given in (first, second)
    ]
    assert shapes == [(4, 3, 6, 6), (4, 3, 6, 6)]


# -- which layers


def test_after_the_first_batch_only_the_last_linear_layer_is_kept():
    seen, first, second = collector(), batch(0), batch(4)
    met = [
        [seen.features(activation(given, name), given) for name in LINEAR]
        for given in (first, second)
    ]
    assert ["rows" in read for read in met[0]] == [True, True]
    assert ["rows" in read for read in met[1]] == [False, True]
    assert "fact_index" in met[1][0]  # the facts still come with what is met first


def test_layers_that_are_named_are_all_kept():
    seen = collector(maps_last=False)
    for given in (batch(0), batch(4)):
        assert all("rows" in seen.features(activation(given, n), given) for n in LINEAR)


def test_of_many_nonlinearities_the_first_and_the_last_are_probed():
    seen, names = collector(), ["a", "b", "c"]
    for given in (batch(0), batch(4)):
        met = [seen.probes(activation(given, name), given) for name in names]
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
    read = seen.features(activation(batch(count=num_rows)), given)
    assert (int(read["standing"]), len(read["rows"]), len(read["index"])) == (MISFIT, 0, 0)
    assert int(seen.features(activation(following), following)["standing"]) == MISFIT


def test_what_is_kept_is_chosen_among_layers_with_a_row_a_sample():
    seen, given, following = collector(max_probed=2), batch(), batch(4)
    for layer, of in (("a", given), ("expert", batch(count=2)), ("b", given), ("c", given)):
        seen.probes(activation(of, layer), given)
    met = {name: seen.probes(activation(following, name), following) for name in "abc"}
    assert [name for name in "abc" if "rows" in met[name]] == ["a", "c"]


def test_samples_without_inputs_are_known_again_by_their_place():
    prints = []
    for _ in range(2):
        given = Batch(inputs=None, labels=torch.arange(4) % 2, num_samples=4)
        prints.append(collector().features(activation(given), given)["fingerprint"])
    assert torch.equal(*prints)
    assert len(prints[0].unique()) == 4


class Tagged(Tensor):
    """A tensor that carries something along, as MONAI's MetaTensor does."""


def test_what_is_kept_of_a_tensor_subclass_is_a_plain_tensor():
    given = batch()
    tagged = Batch(
        inputs=given.inputs.as_subclass(Tagged),
        labels=given.labels.as_subclass(Tagged),
        num_samples=4,
    )
    of = activation(given)
    values = replace(of, values=of.values.as_subclass(Tagged))
    read = collector().features(values, tagged)
    assert len(read) == 4 + len(FACTS)
    assert {type(value) for value in read.values()} == {Tensor}


def test_it_is_pickled_in_the_midst_of_an_evaluation():
    seen, given = collector(), batch()
    seen.features(activation(given), given)
    again = pickle.loads(pickle.dumps(seen))
    following = batch(4)
    rows = [s.features(activation(following), following)["rows"] for s in (seen, again)]
    assert torch.equal(*rows)
