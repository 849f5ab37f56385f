from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from tests.writers.stand_ins import CometLogger, ImageRecorder, MLFlowLogger, noise, picture

from vis_callbacks.report import Embedding, Histogram, Markdown, Picture
from vis_callbacks.writers.media_items import prepare
from vis_callbacks.writers.media_writers import LogImageMedia, media_writer_of


def written(item, step: int = 7) -> list:
    logger = ImageRecorder()
    media_writer_of(logger).write(prepare(item, ""), step=step, patience=1.0)
    return logger.images


def test_a_picture_is_handed_over_as_pixels_under_its_tag_and_step():
    ((key, images, step, options),) = written(picture("filters/conv1", size=32))
    assert (key, step, options) == ("filters/conv1", 7, {})
    (pixels,) = images
    assert (pixels.dtype, pixels.shape) == (np.uint8, (32, 32, 3))
    np.testing.assert_array_equal(pixels, noise(32, 1))


def test_a_caption_goes_along_where_there_is_one():
    ((_, images, _, options),) = written(Picture(tag="a", draw=noise, caption="epoch 3"))
    assert options == {"caption": ["epoch 3"]}
    assert len(images) == len(options["caption"])


@pytest.mark.parametrize(
    "item",
    [
        Markdown(tag="a", text="x"),
        Histogram(tag="a", counts=np.ones(1), edges=np.arange(2.0)),
        Embedding(tag="a", features=np.ones((2, 2))),
    ],
)
def test_what_is_no_picture_is_not_taken(item):
    assert written(item) == []
    assert not isinstance(prepare(item, ""), LogImageMedia.takes)


def test_what_the_logger_raises_is_left_to_the_channel():
    class Refusing(ImageRecorder):
        def log_image(self, key, images, step=None, **kwargs):
            raise ConnectionError("no service")

    with pytest.raises(ConnectionError, match="no service"):
        media_writer_of(Refusing()).write(prepare(picture(), ""), step=0, patience=1.0)


class OwnMLFlowLogger(MLFlowLogger):
    pass


@pytest.mark.parametrize("kind", [MLFlowLogger, OwnMLFlowLogger, CometLogger])
def test_an_experiment_that_has_log_image_is_handed_the_picture(kind):
    logger = kind()
    media_writer_of(logger).write(prepare(picture("a/b", size=32), ""), step=7, patience=1.0)
    (call,) = logger.experiment.calls
    image = call.pop("image")
    np.testing.assert_array_equal(np.asarray(image), noise(32, 1))
    if kind is CometLogger:
        assert isinstance(image, Image.Image)
        assert call == {"name": "a/b", "step": 7}
    else:
        assert image.dtype == np.uint8
        assert call == {"run_id": "run 1", "key": "a/b", "step": 7}
