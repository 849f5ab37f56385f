from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vis_callbacks.monitors.top_patches import pictures as patch_pictures
from vis_callbacks.monitors.top_patches.edges import Pattern
from vis_callbacks.monitors.top_patches.pictures import PatchPage, draw
from vis_callbacks.monitors.top_patches.reader import UnitChoice
from vis_callbacks.monitors.top_patches.receptive_field import AxisField, ReceptiveField
from vis_callbacks.monitors.top_patches.records import packed
from vis_callbacks.monitors.top_patches.science import (
    as_bytes,
    finite_samples,
    top_patches,
)

FIELD = ReceptiveField(
    axes=tuple(
        AxisField(dim=d, seen=((0, 2), (1, 4), (3, 6)), pattern=Pattern(d, (-1,), (2,), 2))
        for d in (0, 1)
    ),
    grid=(3, 3),
    input_size=(6, 6),
)
PAGE = PatchPage(
    layer="net.relu", step=1500, num_samples=60, candidates=(3, 17), num_units=64,
    choice=UnitChoice("random", 2, 0), field=FIELD, has_flat_zero=True, is_whole=False,
    has_labels=True, step_before=None, class_names=("cat", "dog"), mean=None, std=None,
)  # fmt: skip


def arrays_of(values: torch.Tensor, images: torch.Tensor | None = None) -> dict[str, np.ndarray]:
    images = torch.rand(len(values), 3, 6, 6) if images is None else images
    shown = as_bytes(images)
    top = top_patches(
        values, shown, is_valid=finite_samples(values, shown), samples=torch.arange(len(values)),
        top_k=3, side=6,
        labels=torch.arange(len(values)) % 3,
    )  # fmt: skip
    return {
        "records": packed(top).numpy(),
        "rows": np.arange(values.shape[1]),
        "fired": (values.amax(2) > 0).sum(0).numpy(),
        "ignored": np.array(0),
    }


@pytest.fixture
def said(monkeypatch) -> list[object]:
    """Collects what would be drawn."""
    calls: list[object] = []

    def record(rows, caption, **options):
        calls.extend([rows, caption])
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(patch_pictures, "tile_table", record)
    return calls


def test_images_that_excite_a_unit_equally_are_said_to_be_drawn(said):
    values = torch.full((60, 1, 1), 6.0)
    values[7] = 8.0
    draw(**arrays_of(values), page=PAGE)
    assert said[0][0].notes[:2] == ["1 of 1: dog", "2 drawn from 59 equally strong"]


def test_volumes_are_said_to_be_shown_by_their_middle_slice(said):
    draw(**arrays_of(VALUES), page=replace(PAGE, is_volume=True))
    assert "the middle slice of each volume is shown" in said[1]


VALUES = torch.tensor([[[3.0], [0.0]], [[2.0], [0.0]], [[0.0], [0.0]], [[1.0], [0.0]]])


def test_a_row_says_which_class_it_is_for_and_how_often_it_fires(said):
    draw(**arrays_of(VALUES), page=PAGE)
    rows, _ = said
    assert rows[0].name == "unit 3"
    # Samples 0, 1 and 3 are of the classes 0, 1 and 0; 3 of 60 are 5 %.
    assert rows[0].notes == ["2 of 3: cat", "fires for 5.0 % of images"]
    assert [list(patch.lines) for patch in rows[0].tiles] == [
        ["3", "cat"], ["2", "dog"], ["1", "cat"],
    ]  # fmt: skip


def test_a_dead_unit_is_said_to_be_dead(said):
    draw(**arrays_of(VALUES), page=PAGE)
    rows, caption = said
    assert (rows[1].name, rows[1].tiles) == ("unit 17", [])
    assert rows[1].missing == "dead: 0 everywhere in all 60 images"
    assert "1 of 2 units are dead" in caption[2]


def test_a_unit_that_is_never_exactly_zero_is_never_dead(said):
    draw(**arrays_of(VALUES - 5), page=replace(PAGE, has_flat_zero=False))
    rows, caption = said
    assert [len(row.tiles) for row in rows] == [3, 3]
    assert "dead" not in " ".join(caption)
    assert "fires" not in " ".join(rows[0].notes)


def test_what_was_shown_before_is_counted(said):
    before = np.array([[3, 0, 9], [0, 1, 2]])
    draw(**arrays_of(VALUES), before=before, page=replace(PAGE, step_before=900))
    assert said[0][0].notes[-1] == "2 of 3 as at step 900"


def test_the_caption_says_what_a_patch_is_and_how_units_were_chosen(said):
    draw(**arrays_of(VALUES), page=PAGE)
    caption = said[1]
    assert caption[0] == (
        "net.relu: the 3 patches that excite each unit most, among 60 images, step 1,500"
    )
    assert caption[1] == (
        "receptive field 3 x 3 px, stride 2 x 2 px; grey-blue: beyond the image's border"
    )
    assert caption[2].startswith("units: 2 of 64, drawn once (seed 0)")


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (None, "could not be measured"),
        (ReceptiveField(axes=(None, None), reason="attention"), "sees all of it (attention)"),
        (replace(FIELD, notes=("gates see more",)), "; gates see more"),
        (replace(FIELD, axes=(FIELD.axes[0], None)), "3 x all px, stride 2 x - px"),
    ],
)
def test_the_caption_says_what_is_seen_of_an_image(said, field, words):
    draw(**arrays_of(VALUES), page=replace(PAGE, field=field))
    assert words in said[1][1]


@pytest.mark.parametrize(
    ("units", "candidates", "words"),
    [
        ("strongest", range(64), "units: those with the largest activation, of 64"),
        ("strongest", range(10), "of 10 (drawn) of 64"),
        ("selective", range(64), "units: the most selective for each class in turn, of 64"),
        ([3, 17], (3, 17), "units: 2 of 64"),
        ("random", range(64), "units: 64 of 64"),
    ],
)
def test_the_caption_says_how_units_were_chosen(said, units, candidates, words):
    page = replace(PAGE, choice=UnitChoice(units, 2, 0), candidates=tuple(candidates))
    draw(**arrays_of(VALUES), page=page)
    assert words in said[1][2]


def test_images_that_were_left_out_are_counted(said):
    draw(**arrays_of(VALUES) | {"ignored": np.array(7)}, page=PAGE)
    assert said[1][3] == "7 images with values that are not finite are left out"
    assert said[0][1].missing == "dead: 0 everywhere in all 53 images"


def test_without_any_finite_image_nothing_is_called_dead(said):
    values = torch.full((4, 2, 1), torch.nan)
    draw(**arrays_of(values) | {"ignored": np.array(60)}, page=PAGE)
    assert {row.missing for row in said[0]} == {"no image with finite values"}
    assert "dead" not in said[1][2]


def test_a_normalisation_is_undone(said):
    images = torch.rand(4, 3, 6, 6)
    images[:, :, 0, 0], images[:, :, 0, 1] = 0, 1
    mean, std = (0.5, 0.3, 0.2), (0.2, 0.3, 0.4)
    normal = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    draw(**arrays_of(VALUES, normal), page=replace(PAGE, mean=mean, std=std))
    shown = said[0][0].tiles[0].picture
    # Bytes of the normalised values: 7.5 units of 1/255 of the range, times 0.4.
    wanted = (255 * images[0]).permute(1, 2, 0).numpy()
    assert np.abs(shown - wanted).max() < 0.5 * 5 * 0.4 + 1
    assert said[1][-1] == ""


def test_whole_images_show_the_box(said):
    images = torch.rand(1, 3, 6, 6)
    top = top_patches(
        torch.ones(1, 1, 1), as_bytes(images), samples=torch.tensor([0]), top_k=1, side=6,
        is_valid=torch.tensor([True]), boxes=torch.tensor([[1, 2, 4, 6]]), keep_whole=True,
    )  # fmt: skip
    given = arrays_of(torch.ones(1, 1, 1)) | {"records": packed(top).numpy()}
    draw(**given, page=replace(PAGE, is_whole=True))
    (patch,) = said[0][0].tiles
    assert patch.picture.shape == (6, 6, 3)
    assert [box for box, _ in patch.boxes] == [(1, 2, 4, 6)]
    assert "(the box)" in said[1][1]


@pytest.mark.parametrize(
    ("box", "seen"),
    [
        ((0, 0, 2, 4), (slice(2, 4), slice(0, 4))),
        ((4, 1, 6, 5), (slice(0, 2), slice(0, 4))),
        ((1, 0, 5, 2), (slice(0, 4), slice(2, 4))),
    ],
)
def test_what_lies_beyond_the_border_is_marked_on_the_side_of_the_border(said, box, seen):
    images = torch.rand(2, 3, 6, 6)
    boxes = torch.tensor([[1, 1, 5, 5], box])
    top = top_patches(
        torch.tensor([[[2.0, 0]], [[0, 1.0]]]), as_bytes(images), samples=torch.arange(2), top_k=3,
        side=6, is_valid=torch.tensor([True, True]), boxes=boxes,
    )  # fmt: skip
    given = arrays_of(torch.ones(1, 1, 1)) | {"records": packed(top).numpy()}
    draw(**given, page=PAGE)
    whole, part = (patch.picture for patch in said[0][0].tiles)
    assert whole.shape == part.shape == (4, 4, 3)  # all patches have one scale
    is_beyond = (part == (150, 160, 185)).all(2)
    assert not is_beyond[seen].any()
    is_beyond[seen] = True
    assert is_beyond.all()


def test_patches_that_do_not_fit_are_left_out_and_said(said):
    values = torch.arange(60.0).view(60, 1, 1) + 1
    images = as_bytes(torch.rand(60, 3, 6, 6))
    top = top_patches(values, images, samples=torch.arange(60), top_k=40, side=6,
                      is_valid=torch.ones(60, dtype=torch.bool))  # fmt: skip
    draw(**arrays_of(values) | {"records": packed(top).numpy()}, page=PAGE)
    assert len(said[0][0].tiles) == 20
    assert said[1][-1] == "20 weaker patches of each unit do not fit"


def test_the_picture_is_drawn():
    drawn = draw(**arrays_of(VALUES), page=PAGE)
    assert drawn.dtype == np.uint8
    assert drawn.std() > 10
