from __future__ import annotations

import socket

import pytest
import torch

from things_data import CLASS_NAMES, MEAN, SIDE, STD, YELLOW, Things, make_things


@pytest.fixture(scope="module")
def things() -> Things:
    return make_things(300, seed=0, is_training=True)


def test_photographs_are_read_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a photograph was looked for outside of the wheels")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("skimage.data._fetchers._image_fetcher", None)

    assert len(make_things(10, seed=0, is_training=False)) == 10


def test_the_same_seed_makes_the_same_images_and_another_makes_others(things: Things) -> None:
    again = make_things(20, seed=0, is_training=True)
    other = make_things(20, seed=1, is_training=True)

    assert torch.equal(again.images, things.images[:20])
    assert torch.equal(again.masks, things.masks[:20])
    assert not torch.equal(other.images, again.images)


def test_classes_take_turns(things: Things) -> None:
    assert things.labels[: len(CLASS_NAMES)].tolist() == [*range(len(CLASS_NAMES))]
    assert set(things.labels.bincount().tolist()) == {30}


def test_the_mask_is_a_part_of_the_image_of_the_size_of_a_thing(things: Things) -> None:
    shares = things.masks.float().mean(dim=(1, 2))

    assert 0.02 < shares.min() < shares.max() < 0.6
    rows = things.masks.any(dim=2).sum(dim=1)
    columns = things.masks.any(dim=1).sum(dim=1)
    assert torch.maximum(rows, columns).float().mean() == pytest.approx(0.53 * SIDE, rel=0.1)


def test_images_are_normalised_by_their_own_statistics(things: Things) -> None:
    images = torch.stack([things[index][0] for index in range(len(things))])

    assert images.shape == (300, 3, SIDE, SIDE)
    assert images.mean(dim=(0, 2, 3)).abs().max() < 0.1
    assert (images.std(dim=(0, 2, 3)) - 1).abs().max() < 0.1
    red = things.images[5, 0, 7, 9] / 255
    assert things[5][0][0, 7, 9] == pytest.approx((float(red) - MEAN[0]) / STD[0], rel=1e-5)


def test_the_square_lies_on_the_chosen_samples_of_a_copy(things: Things) -> None:
    chosen = things.labels == 3

    marked = things.with_square(chosen)

    changed = (marked.images != things.images).any(dim=1)
    assert not changed[~chosen].any()
    assert marked.images[3, :, 4, 11].tolist() == [*YELLOW]
    assert int(changed[chosen].sum(dim=(1, 2)).max()) <= 64
    outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    outside[4:12, 4:12] = False
    assert not changed[:, outside].any()
