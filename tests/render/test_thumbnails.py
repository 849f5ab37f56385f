from __future__ import annotations

import numpy as np
import pytest

from vis_callbacks.render.colours import CLASS_COLOURS, NOT_MEASURED
from vis_callbacks.render.thumbnails import grid_cells, thumbnail_map

GREEN = np.array([0, 100, 0], dtype=np.uint8)


def points(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_samples, 2))


def flat(num_samples: int, value: int = 90) -> np.ndarray:
    return np.full((num_samples, 8, 8, 3), value, dtype=np.uint8)


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=2).any())


def test_the_picture_fits_and_is_as_large_however_many_samples_there_are():
    for count in (1, 20, 256, 700):
        picture = thumbnail_map(points(count), flat(count))
        assert picture.shape[1] <= 1_600
        assert picture.dtype == np.uint8


def test_no_two_samples_share_a_cell():
    places = np.random.default_rng(0).random((50, 2)) ** 3
    cells = grid_cells(places, 8)
    assert len({tuple(cell) for cell in cells.tolist()}) == 50
    assert cells.min() >= 0
    assert cells[:, 0].max() < 7
    assert cells[:, 1].max() < 8


def test_samples_on_a_grid_keep_their_cells():
    rows, columns = np.divmod(np.arange(30), 6)
    places = np.stack([(columns + 0.5) / 6, (rows + 0.5) / 5], axis=1)
    assert grid_cells(places, 6).tolist() == np.stack([rows, columns], axis=1).tolist()


def test_what_lies_high_on_the_map_lies_high_in_the_picture():
    images = flat(2)
    images[0], images[1] = 10, 240
    picture = thumbnail_map(np.array([[0.0, 1.0], [0.0, -1.0]]), images)[:, :640]
    dark = np.flatnonzero((picture == 10).all(axis=2).any(axis=1)).mean()
    bright = np.flatnonzero((picture == 240).all(axis=2).any(axis=1)).mean()
    assert dark < bright


def test_edges_have_the_colours_of_the_classes():
    labels = np.array([0, 3, -1, 12])
    picture = thumbnail_map(points(4), flat(4), labels)
    for colour in (CLASS_COLOURS[0], CLASS_COLOURS[3], CLASS_COLOURS[2], NOT_MEASURED):
        assert has_colour(picture, colour)
    assert not has_colour(thumbnail_map(points(4), flat(4)), CLASS_COLOURS[0])


def test_a_point_that_is_not_finite_is_left_out():
    places = points(5)
    places[2] = np.nan
    images = flat(5)
    images[2] = 200
    assert has_colour(thumbnail_map(points(5), images), (200, 200, 200))
    labels = np.zeros(5, dtype=int)
    assert not has_colour(thumbnail_map(places, images, labels), (200, 200, 200))


def test_images_of_any_size_and_points_in_one_place_are_shown():
    images = np.full((6, 40, 10, 3), 50, dtype=np.uint8)
    assert has_colour(thumbnail_map(np.zeros((6, 2)), images), (50, 50, 50))


@pytest.mark.parametrize(
    ("places", "message"),
    [(points(3), "got 4 images for 3 points"), (np.full((4, 2), np.nan), "no point is finite")],
)
def test_what_cannot_be_shown_is_refused(places: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        thumbnail_map(places, flat(4))


def test_the_classes_are_named_below():
    labels = np.array([0, 3, 3, 0])
    plain = thumbnail_map(points(4), flat(4))
    listed = thumbnail_map(points(4), flat(4), labels, class_names=["a", "b", "c", "d"])
    longer = thumbnail_map(points(4), flat(4), labels, class_names=["a", "b", "c", "x" * 90])
    assert listed.shape[0] > plain.shape[0]
    assert not np.array_equal(listed, longer)
    for number in (0, 3):
        assert has_colour(listed[-2 * 16 :], CLASS_COLOURS[number])


def test_classes_that_share_a_colour_bear_their_shape():
    def thumbnail(label: int) -> np.ndarray:
        picture = thumbnail_map(np.zeros((1, 2)), flat(1) + GREEN, np.array([label]))
        picture = picture[:, 640:]  # the grid
        rows, columns = (picture == flat(1)[0, 0, 0] + GREEN).all(axis=2).nonzero()
        return picture[rows.min() : rows.min() + 26, columns.min() : columns.min() + 26]

    tenth, first, eleventh = thumbnail(9), thumbnail(0), thumbnail(10)
    assert not has_colour(first, (255, 255, 255))
    assert not has_colour(tenth, (255, 255, 255))
    assert has_colour(eleventh, (255, 255, 255))
    assert has_colour(eleventh, CLASS_COLOURS[0])
