from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.monitors.top_patches.receptive_field import receptive_fields
from vis_callbacks.monitors.top_patches.records import TopPatches, lots, merged, packed, unpacked
from vis_callbacks.monitors.top_patches.science import (
    as_bytes,
    class_purity,
    concentration,
    drawn_by_lot,
    factor_and_side,
    finite_samples,
    num_kept,
    overlap_of_boxes,
    selective_order,
    strongest_places,
    top_patches,
)

NO_VALUE = -math.inf


def batch_of(
    values: Tensor, images: Tensor | None = None, first: int = 0, **options: object
) -> TopPatches:
    images = torch.rand(len(values), 3, 6, 6) if images is None else images
    given = {"samples": torch.arange(len(values)) + first, "top_k": 4, "side": 8, **options}
    shown = as_bytes(images)
    return top_patches(values, shown, is_valid=finite_samples(values, shown), **given)


def collected(
    values: Tensor, sizes: list[int], top_k: int, images: Tensor, **options
) -> TopPatches:
    """Returns the patches of all samples, read in batches of these sizes."""
    records, start = None, 0
    for size in sizes:
        part = slice(start, start + size)
        labels = options.get("labels")
        given = options | ({"labels": labels[part]} if labels is not None else {})
        top = batch_of(values[part], images[part], start, top_k=top_k, **given)
        new, seed = packed(top), options.get("seed", 0)
        records = new if records is None else merged(records, new, top_k=top_k, seed=seed)
        start += size
    return unpacked(records)


# -- against brute force


@pytest.mark.parametrize("sizes", [[30], [7, 7, 7, 7, 2], [1] * 30, [29, 1]])
def test_the_best_of_batches_are_the_best_of_all_samples(sizes):
    values = torch.randint(0, 6, (30, 5, 9)).float()  # full of ties
    images = torch.rand(30, 3, 6, 6)
    top = collected(values, sizes, 4, images)
    for unit in range(5):
        best = [(-values[n, unit].max().item(), lots(torch.tensor(n)).item(),
                 n, values[n, unit].argmax().item()) for n in range(30)]  # fmt: skip
        expected = [(-value, n, place) for value, _, n, place in sorted(best)[:4]]
        found = zip(
            top.values[unit].tolist(),
            top.samples[unit].tolist(),
            top.positions[unit].tolist(),
            strict=True,
        )
        assert list(found) == expected
        counts = torch.bincount(values[:, unit].amax(1).long())
        assert top.ties[unit].tolist() == counts[top.values[unit].long()].tolist()


def test_a_merge_does_not_depend_on_how_the_parts_are_put_together():
    parts = [packed(batch_of(torch.randint(0, 4, (3, 2, 5)).float(), first=3 * i))
             for i in range(4)]  # fmt: skip

    def join(one: Tensor, other: Tensor) -> Tensor:
        return merged(one, other, top_k=4)

    in_order = join(join(join(parts[0], parts[1]), parts[2]), parts[3])
    in_pairs = join(join(parts[2], parts[3]), join(parts[1], parts[0]))
    assert torch.equal(in_order, in_pairs)


def test_fewer_samples_than_patches_leave_places_empty():
    top = batch_of(torch.tensor([[[1.0]], [[3.0]]]))
    assert top.values.tolist() == [[3.0, 1.0, NO_VALUE, NO_VALUE]]
    assert top.samples.tolist()[0][:2] == [1, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, NO_VALUE])
@pytest.mark.parametrize("where", ["input", "activation"])
def test_a_sample_that_is_not_finite_is_left_out(bad, where):
    values, images = torch.arange(5.0).view(5, 1, 1), torch.rand(5, 3, 6, 6)
    if where == "input":
        images[4, 1, 2, 3] = bad
    else:
        values[4] = bad
    top = batch_of(values, images)
    assert top.samples.tolist() == [[3, 2, 1, 0]]


def test_half_precision_is_read_as_it_is():
    values = torch.randn(6, 2, 5).bfloat16()
    assert torch.equal(batch_of(values).values, batch_of(values.float()).values)


# -- units that many samples excite equally


def saturated(num_samples: int = 300, **options: object) -> TopPatches:
    """Returns the patches of a unit that is at its upper end everywhere, and of one that is not."""
    values = torch.stack([torch.full((num_samples, 1), 6.0), torch.rand(num_samples, 1)], 1)
    labels = torch.arange(num_samples) // (num_samples // 10)  # the first ones are of class 0
    return collected(values, [50] * (num_samples // 50), 9, torch.rand(num_samples, 3, 6, 6),
                     labels=labels, **options)  # fmt: skip


def test_samples_that_excite_a_unit_equally_are_drawn_by_lot():
    top, again, other = saturated(), saturated(), saturated(seed=1)
    assert top.samples[0].tolist() == again.samples[0].tolist()
    assert set(top.samples[0].tolist()) != set(other.samples[0].tolist())
    assert len(set(top.labels[0].tolist())) > 3
    assert top.ties[0].tolist() == [300] * 9


def test_what_was_drawn_says_nothing_of_the_unit_and_is_told_apart():
    top = saturated()
    is_shown = torch.ones(2, 9, dtype=torch.bool)
    is_drawn = drawn_by_lot(top, is_shown)
    assert is_drawn.all(1).tolist() == [True, False]
    assert not is_drawn[1].any()
    _, count, share = class_purity(top.labels, is_shown & ~is_drawn)
    assert count[0] == 0
    assert math.isnan(share[0])


def test_equally_strong_samples_that_all_are_shown_were_not_drawn():
    top = batch_of(torch.tensor([5.0, 3, 3, 3, 1]).view(5, 1, 1), top_k=4)
    assert top.ties.tolist() == [[1, 3, 3, 3]]
    assert not drawn_by_lot(top, torch.ones(1, 4, dtype=torch.bool)).any()
    fewer = batch_of(torch.tensor([5.0, 3, 3, 3, 1]).view(5, 1, 1), top_k=3)
    is_drawn = drawn_by_lot(fewer, torch.ones(1, 3, dtype=torch.bool))
    assert is_drawn.tolist() == [[False, True, True]]


# -- planted patterns


@pytest.mark.parametrize("sizes", [[40], [16, 16, 8], [1] * 40])
def test_a_detector_finds_exactly_the_planted_places(sizes):
    generator = torch.Generator().manual_seed(3)
    # Whole numbers and quarters: sums are exact in whatever order, so that ties are ties.
    template = torch.randint(-3, 4, (3, 5, 5), generator=generator).float()
    images = torch.randint(-1, 2, (40, 3, 16, 20), generator=generator) / 4
    planted = {  # sample: upper left corner; corners and edges among them
        3: (0, 0), 8: (11, 15), 11: (0, 15), 17: (6, 7), 20: (11, 0), 26: (0, 4), 31: (3, 15),
    }  # fmt: skip
    for sample, (row, column) in planted.items():
        images[sample, :, row : row + 5, column : column + 5] = template
    images[20] *= 2  # the best one; all others are ties
    images[39, :, 5:10, 5:10] = 9 * template  # better still, but for a NaN in the image
    images[39, 0, 0, 0] = math.nan

    def detect(x: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, template[None]))

    maps = detect(images)
    field = receptive_fields(lambda x: {"it": detect(x)}, images[:1])["it"]
    windows = field.windows(maps.shape[2:], images.shape[2:])
    boxes = torch.cat([windows[:, :, 0], windows[:, :, 1]], 1)
    top = collected(maps.flatten(2), sizes, len(planted), images, boxes=boxes)
    found = top.samples[0].tolist()
    equally_strong = [sample for sample in planted if sample != 20]
    assert found == [20, *sorted(equally_strong, key=lambda n: lots(torch.tensor(n)).item())]
    for place, sample in enumerate(found):
        row, column = planted[sample]
        assert top.boxes[0, place].tolist() == [row, column, row + 5, column + 5]
        kept = top.pixels[0, place, :, :5, :5] * top.steps[0, place] + top.low[0, place]
        size = 2 if sample == 20 else 1
        half = top.steps[0, place].item() / 2  # of a byte
        torch.testing.assert_close(kept, size * template, rtol=0, atol=half + 1e-6)


# -- places


def test_of_equal_values_the_first_position_counts():
    best, places = strongest_places(torch.tensor([[[1.0, 5.0, 5.0, 5.0]]]), 1)
    assert (best.item(), places.item()) == (5.0, 1)


def test_patches_of_one_image_do_not_overlap():
    boxes = torch.tensor([[0, start, 10, start + 10] for start in range(0, 60, 2)])
    values = torch.zeros(1, 1, 30)
    values[0, 0, [10, 11, 12, 20, 21]] = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0])
    best, places = strongest_places(values, 3, boxes)
    # Boxes 2 apart share 8 of 12, 4 apart 6 of 14; 6 apart 4 of 16 is below 30 %.
    assert places[0, 0].tolist() == [10, 20, 0]
    assert best[0, 0].tolist() == [9.0, 6.0, 0.0]


def test_where_all_boxes_overlap_there_is_one_patch_an_image():
    boxes = torch.tensor([[0, 0, 6, 6]] * 9)
    top = batch_of(torch.rand(2, 3, 9), boxes=boxes, per_sample=3, top_k=4)
    assert (top.values > NO_VALUE).sum(1).tolist() == [2, 2, 2]


def test_several_patches_an_image_are_counted_as_its_own():
    boxes = torch.tensor([[0, 2 * i, 2, 2 * i + 2] for i in range(3)])
    values = torch.tensor([[[1.0, 2.0, 3.0]], [[5.0, 0.5, 4.0]]])
    top = batch_of(values, boxes=boxes, per_sample=2, top_k=4)
    assert top.values.tolist() == [[5.0, 4.0, 3.0, 2.0]]
    assert top.samples.tolist() == [[1, 1, 0, 0]]
    assert top.positions.tolist() == [[0, 2, 2, 1]]


def test_the_overlap_of_boxes_is_the_share_of_their_union():
    one = torch.tensor([0, 0, 4, 4])
    others = torch.tensor([[0, 0, 4, 4], [0, 2, 4, 6], [4, 4, 8, 8], [1, 1, 2, 2]])
    assert overlap_of_boxes(one, others).tolist() == pytest.approx([1, 8 / 24, 0, 1 / 16])


# -- pixels


def test_the_box_is_cut_out_of_the_image():
    images = torch.arange(36.0).view(1, 1, 6, 6) / 255
    top = batch_of(torch.ones(1, 1, 1), images, boxes=torch.tensor([[1, 2, 4, 6]]), side=4)
    values = top.low[0, 0] + top.steps[0, 0] * top.pixels[0, 0, 0, :3, :4]
    half = top.steps[0, 0].item() / 2  # of a byte
    torch.testing.assert_close(values, images[0, 0, 1:4, 2:6], rtol=0, atol=half + 1e-6)


def test_a_large_box_is_averaged():
    images = torch.rand(1, 3, 12, 12)
    factor, side = factor_and_side(12, 6)
    top = top_patches(
        torch.ones(1, 1, 1),
        as_bytes(images, factor),
        samples=torch.tensor([0]),
        is_valid=torch.tensor([True]),
        top_k=1,
        side=side,
    )
    assert factor == 3
    values = top.low[0, 0] + top.steps[0, 0] * top.pixels[0, 0, :, :4, :4]
    torch.testing.assert_close(values, F.avg_pool2d(images, 3)[0], rtol=0, atol=2e-3)


# -- packing


def test_what_is_packed_comes_back():
    top = batch_of(torch.randn(6, 3, 5), labels=torch.arange(6), boxes=torch.randint(0, 6, (5, 4)))
    again = unpacked(packed(top))
    for name in vars(top):
        torch.testing.assert_close(
            getattr(again, name), getattr(top, name), rtol=0, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_several_sizes_are_merged(channels):
    small = batch_of(torch.tensor([[[1.0]]]), torch.rand(1, channels, 5, 5), side=5)
    large = batch_of(torch.tensor([[[2.0]]]), torch.rand(1, channels, 9, 9), first=1, side=9)
    for order in ((small, large), (large, small)):
        top = unpacked(merged(*map(packed, order), top_k=2))
        assert top.samples.tolist() == [[1, 0]]
        assert torch.equal(top.pixels[0, 1, :, :5, :5], small.pixels[0, 0, :, :5, :5])
        assert torch.equal(top.pixels[0, 0, :, :9, :9], large.pixels[0, 0, :, :9, :9])


def test_what_is_kept_does_not_grow_with_the_samples():
    sizes = set()
    for num_samples in (10, 200):
        values, images = torch.rand(num_samples, 3, 9), torch.rand(num_samples, 3, 6, 6)
        sizes.add(packed(collected(values, [5] * (num_samples // 5), 4, images)).shape)
    assert len(sizes) == 1


# -- what the patches have in common


def test_purity_is_the_share_of_the_most_common_class():
    labels = torch.tensor([[2, 2, 1, 2], [0, 1, 2, 3], [-1, -1, -1, -1], [4, -1, 4, 5]])
    is_shown = torch.tensor([[True] * 4, [True, True, False, False], [True] * 4, [True] * 4])
    classes, counts, share = class_purity(labels, is_shown)
    assert classes.tolist() == [2, 0, -1, 4]
    assert counts.tolist() == [3, 1, 0, 2]
    assert share.tolist()[:2] == [0.75, 0.5]
    assert math.isnan(share[2])
    assert share[3].item() == pytest.approx(2 / 3)


def test_each_class_in_turn_has_its_most_selective_unit():
    classes = torch.tensor([0, 0, 1, 0, 1, -1, 2])
    counts = torch.tensor([9, 8, 7, 9, 6, 0, 5])
    assert selective_order(classes, counts).tolist() == [0, 2, 6, 3, 4, 1, 5]


def test_patches_are_counted_as_kept_if_their_sample_was_there_before():
    before = torch.tensor([[1, 2, 3], [1, 2, 3]])
    now = torch.tensor([[3, 9, 1], [7, 8, 1]])
    is_shown = torch.tensor([[True, True, True], [True, True, False]])
    assert num_kept(now, before, is_shown).tolist() == [2, 0]


def test_concentration_is_zero_for_an_even_map_and_nearly_one_for_a_point():
    values = torch.zeros(1, 3, 25)
    values[0, 0], values[0, 1, 7] = 2.0, -5.0
    even, point, silent = concentration(values)[0].tolist()
    assert even == pytest.approx(0, abs=1e-6)
    assert point == pytest.approx(1 - 1 / 25)
    assert math.isnan(silent)
    assert concentration(torch.ones(2, 2, 1)).isnan().all()
