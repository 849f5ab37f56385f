from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vis_callbacks.engine import sample_numbers
from vis_callbacks.engine.probe import Activation, Batch
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitors.top_patches import reader as patch_reader
from vis_callbacks.monitors.top_patches.edges import Pattern
from vis_callbacks.monitors.top_patches.reader import PatchReader, UnitChoice, boxes_of
from vis_callbacks.monitors.top_patches.receptive_field import AxisField, ReceptiveField
from vis_callbacks.monitors.top_patches.records import unpacked


def field_of(*windows: tuple[int, int, int, int]) -> ReceptiveField:
    """Returns a field whose axes have so many positions, a size and a stride, on so many pixels."""
    axes = []
    for dim, (count, size, stride, _) in enumerate(windows):
        seen = tuple((i * stride, i * stride + size) for i in range(count))
        axes.append(AxisField(dim=dim, seen=seen, pattern=Pattern(dim, (0,), (size,), stride)))
    grid, lengths = (tuple(window[i] for window in windows) for i in (0, 3))
    return ReceptiveField(axes=tuple(axes), grid=grid, input_size=lengths)


ROW = field_of((5, 4, 2, 10))


def reader(units: object = "random", **options: object) -> PatchReader:
    given = {"top_k": 2, "per_image": 1, "keep_whole": False, "fields": {}, "meet": met, **options}
    return PatchReader(UnitChoice(units, 3, 0), **given)


def met(inputs: Tensor, has_labels: bool) -> None:
    pass


def activation_of(layer: str, values: Tensor) -> Activation:
    shape = tuple(values.shape)
    return Activation(layer=layer, values=values, nonlinearity=None, inputs=None, shape=shape)


def read(reader: PatchReader, values: Tensor, inputs: Tensor, first: int = 0) -> dict[str, Tensor]:
    batch = Batch(inputs=inputs, labels=None, num_samples=len(inputs), first_index=first)
    return reader.read(activation_of("it", values), batch)


def test_samples_are_numbered_through_the_evaluation():
    found = read(reader(), torch.rand(4, 2, 3), torch.rand(4, 3, 5, 5), first=100)
    assert set(unpacked(found["top"]).samples.flatten().tolist()) <= {100, 101, 102, 103}


def test_samples_of_two_ranks_have_their_places_in_the_data_set(monkeypatch):
    monkeypatch.setattr(sample_numbers.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(sample_numbers.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(sample_numbers.dist, "get_rank", lambda: 1)
    found = read(reader(top_k=3), torch.rand(3, 1, 3), torch.rand(3, 3, 5, 5), first=10)
    assert sorted(unpacked(found["top"]).samples[0].tolist()) == [21, 23, 25]


def test_samples_that_excite_a_unit_are_counted():
    values = torch.tensor([[[1.0], [0.0]], [[2.0], [0.0]], [[0.0], [float("nan")]]])
    found = read(reader([0, 1]), values, torch.rand(3, 3, 5, 5))
    assert found["fired"].tolist() == [2, 0]
    assert found["ignored"].item() == 1


@pytest.mark.parametrize("num_rows", [0, 6])
def test_a_layer_whose_rows_are_no_images_is_left_out_from_then_on(num_rows):
    seen = reader()
    assert read(seen, torch.rand(num_rows, 2, 3), torch.rand(3, 3, 5, 5)) == {}
    assert read(seen, torch.rand(3, 2, 3), torch.rand(3, 3, 5, 5)) == {}
    assert seen.shown(["it"]) == []


def test_a_second_pass_over_a_batch_shows_no_image_twice():
    seen, images = reader(), torch.rand(3, 3, 5, 5)
    batch = Batch(inputs=images, labels=None, num_samples=3)
    assert seen.read(activation_of("it", torch.rand(3, 2, 3)), batch)
    assert seen.read(activation_of("it", torch.rand(3, 2, 3)), batch) == {}


@pytest.mark.parametrize("inputs", [None, torch.zeros(3, 7, dtype=torch.int64)])
def test_what_cannot_be_shown_is_said(inputs):
    batch = Batch(inputs=inputs, labels=None, num_samples=3)
    with pytest.raises(NothingToShow, match=r"no inputs to cut patches from|tokens or indices"):
        reader().read(activation_of("it", torch.rand(3, 2, 3)), batch)


def met_layers(seen: PatchReader, places: dict[str, int], first: int = 0) -> dict[str, dict]:
    """Lets layers with so many places pass by over one batch."""
    batch = Batch(inputs=torch.rand(3, 3, 5, 5), labels=None, num_samples=3, first_index=first)
    return {
        name: seen.read(activation_of(name, torch.rand(3, 2, count)), batch)
        for name, count in places.items()
    }


@pytest.mark.parametrize(
    ("places", "chosen"),
    [
        ({"a": 4, "b": 4, "c": 4, "flat": 1}, ["b", "c"]),
        ({"flat": 1, "a": 4, "wide": 1}, ["a"]),
        ({"one": 1, "two": 1}, ["two"]),
        ({}, []),
    ],
)
def test_the_last_two_layers_with_places_are_chosen_or_else_the_last(places, chosen):
    seen = reader(chooses_layers=True)
    first = met_layers(seen, places)
    assert seen.shown(list(places)) == chosen
    for name, found in first.items():  # what was let go of holds no memory
        assert not found or (found["top"].numel() > 0) is (name in chosen)
    second = met_layers(seen, places, first=3)
    assert [name for name, found in second.items() if found] == chosen


def test_the_strongest_are_looked_for_among_as_many_units_as_fit(monkeypatch):
    monkeypatch.setattr(patch_reader, "_MAX_BYTES", 10 * 2 * 3 * 5 * 5)
    found = read(reader("strongest"), torch.rand(3, 50, 3), torch.rand(3, 3, 5, 5))
    assert len(found["top"]) == 10


def test_of_many_units_whole_images_are_kept_small():
    few = read(reader([0]), torch.rand(1, 40, 1), torch.rand(1, 3, 200, 100))
    many = read(reader(list(range(40))), torch.rand(1, 40, 1), torch.rand(1, 3, 200, 100))
    sides = [unpacked(found["top"]).pixels.shape[-1] for found in (few, many)]
    assert sides[0] == 200
    assert sides[1] <= 64


def test_the_bytes_of_a_batch_go_with_it():
    shared = reader()
    batch = Batch(inputs=torch.rand(2, 3, 5, 5), labels=None, num_samples=2)
    shared.read(activation_of("a", torch.rand(2, 2, 3)), batch)
    (kept,) = (weakref.ref(images.pixels) for images in shared._images.values())
    shared.read(activation_of("b", torch.rand(2, 2, 3)), batch)
    assert len(shared._images) == 1
    del batch
    gc.collect()
    assert kept() is None


def test_a_row_of_a_signal_is_cut_at_its_places():
    boxes = boxes_of(ROW, (5,), (3, 10), rank=3)
    assert boxes.tolist()[:2] == [[0, 0, 3, 4], [0, 2, 3, 6]]
    assert boxes.tolist()[4] == [0, 8, 3, 10]  # clipped


def test_a_volume_is_cut_in_its_plane():
    field = field_of((1, 5, 1, 5), (2, 2, 1, 3), (2, 3, 1, 4))
    assert boxes_of(field, (1, 2, 2), (3, 4), rank=5).tolist()[3] == [1, 1, 3, 4]


def test_a_map_that_does_not_fit_the_field_has_no_boxes():
    assert boxes_of(ROW, (5, 5), (10, 10), rank=4) is None
    assert boxes_of(ReceptiveField(axes=(None, None)), (), (10, 10), rank=4) is None


def test_a_map_that_does_not_fit_its_field_is_shown_by_whole_images():
    values = torch.rand(1, 2, 9)
    activation = replace(activation_of("it", values), shape=(1, 2, 3, 3))
    batch = Batch(inputs=torch.rand(1, 3, 10), labels=None, num_samples=1)
    found = reader(fields={"it": ROW}).read(activation, batch)
    assert unpacked(found["top"]).boxes[0, 0].tolist() == [0, 0, 3, 10]


def test_no_value_is_brought_to_the_host_once_the_maps_are_known():
    shared = reader(fields={"it": ROW})
    inputs = torch.rand(2, 3, 10)
    read(shared, torch.rand(2, 4, 5), inputs)
    # The meta device has no values: whatever asks for one raises.
    key = ("it", 4, torch.device("meta"))
    shared._indices[key] = torch.empty(3, dtype=torch.int64, device="meta")
    (boxes,) = shared._boxes.values()
    name, grid, count, size, _ = next(iter(shared._boxes))
    key = (name, grid, count, size, torch.device("meta"))
    shared._boxes[key] = boxes[0].to("meta"), boxes[1]
    found = read(shared, torch.rand(2, 4, 5, device="meta"), inputs.to("meta"))
    assert found["top"].device.type == "meta"
