from __future__ import annotations

import socket

import pytest
import torch

from photographs import (
    CLASS_NAMES,
    PhotoPatches,
    channel_statistics,
    load_photographs,
    split_photographs,
)


def test_photographs_are_read_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a photograph was looked for outside of the wheels")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("skimage.data._fetchers._image_fetcher", None)

    photographs = load_photographs()

    assert len(photographs) == len(CLASS_NAMES) == 12
    for photograph in photographs:
        assert photograph.shape[0] == 3
        assert photograph.shape[2] // 5 >= 32  # a patch fits into the right fifth
        assert 0 <= float(photograph.min()) < float(photograph.max()) <= 1


def test_split_shares_no_pixel_and_loses_none() -> None:
    photograph = torch.arange(3 * 4 * 10.0).view(3, 4, 10)

    (left,), (right,) = split_photographs([photograph])

    assert left.shape[-1] == 8
    assert torch.equal(torch.cat([left, right], dim=-1), photograph)


def test_channel_statistics_give_every_photograph_the_same_weight() -> None:
    small, large = torch.zeros(3, 2, 2), torch.ones(3, 20, 20)

    mean, std = channel_statistics([small, large])

    assert mean == (0.5, 0.5, 0.5)
    assert std == (0.5, 0.5, 0.5)


def test_patches_are_normalised_pieces_of_the_labelled_photograph() -> None:
    dark, bright = torch.full((3, 40, 50), 0.25), torch.full((3, 60, 40), 0.75)

    patches = PhotoPatches([dark, bright], 5, mean=(0.5,) * 3, std=(0.25,) * 3)

    assert len(patches) == 10
    for patch, label in (patches[index] for index in range(10)):
        assert torch.equal(patch, torch.full((3, 32, 32), (-1.0, 1.0)[label]))


def test_patches_reach_every_place_of_a_photograph_and_no_further() -> None:
    photograph = torch.zeros(3, 33, 34)

    patches = PhotoPatches([photograph], 200, mean=(0.0,) * 3, std=(1.0,) * 3)

    assert {(top, left) for _, top, left in patches.places} == {
        (top, left) for top in range(2) for left in range(3)
    }


def test_places_depend_on_their_seed_and_not_on_the_global_one() -> None:
    photograph = torch.zeros(3, 100, 100)

    def places(seed: int) -> list[tuple[int, int, int]]:
        return PhotoPatches([photograph], 20, mean=(0.0,) * 3, std=(1.0,) * 3, seed=seed).places

    first = places(seed=3)
    torch.manual_seed(123)
    state = torch.get_rng_state()

    assert places(seed=3) == first != places(seed=4)
    assert torch.equal(torch.get_rng_state(), state)
