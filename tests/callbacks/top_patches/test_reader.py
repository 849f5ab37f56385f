from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vis_callbacks.analysis.axis_field import AxisField
from vis_callbacks.analysis.receptive_field import ReceptiveField
from vis_callbacks.analysis.top_patches import unpacked
from vis_callbacks.callbacks.top_patches import reader as patch_reader
from vis_callbacks.callbacks.top_patches.reader import PatchReader, UnitChoice, boxes_of
from vis_callbacks.engine.probe import Activation, Batch

ROW = ReceptiveField(axes=(AxisField((0,), (4,), 2),), positions=((5, 0),))


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
    monkeypatch.setattr(patch_reader.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(patch_reader.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(patch_reader.dist, "get_rank", lambda: 1)
    found = read(reader(top_k=3), torch.rand(3, 1, 3), torch.rand(3, 3, 5, 5), first=10)
    assert sorted(unpacked(found["top"]).samples[0].tolist()) == [21, 23, 25]


def test_samples_that_excite_a_unit_are_counted():
    values = torch.tensor([[[1.0], [0.0]], [[2.0], [0.0]], [[0.0], [float("nan")]]])
    found = read(reader([0, 1]), values, torch.rand(3, 3, 5, 5))
    assert found["fired"].tolist() == [2, 0]
    assert found["ignored"].item() == 1


def test_rows_that_are_not_images_are_refused():
    with pytest.raises(ValueError, match='layer "it" has 6 rows for 3 samples'):
        read(reader(), torch.rand(6, 2, 3), torch.rand(3, 3, 5, 5))


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
    axes = tuple(AxisField((0,), (size,), 1) for size in (5, 2, 3))
    field = ReceptiveField(axes=axes, positions=((1, 0), (2, 1), (2, 2)))
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
    shared._boxes[name, grid, count, size, torch.device("meta")] = patch_reader._Boxes(
        boxes.table.to("meta"), boxes.extent
    )
    found = read(shared, torch.rand(2, 4, 5, device="meta"), inputs.to("meta"))
    assert found["top"].device.type == "meta"
