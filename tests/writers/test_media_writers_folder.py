import os
from pathlib import Path

import pytest
from tests.writers.stand_ins import picture

from vis_callbacks.guard import LeftOutError
from vis_callbacks.writers import media_writers
from vis_callbacks.writers.media_items import prepare
from vis_callbacks.writers.media_writers import ImageFolder


def test_a_picture_is_one_file_named_after_tag_and_step(tmp_path):
    media = prepare(picture("filters/conv1"), "")
    ImageFolder(tmp_path).write(media, step=7, patience=1.0)
    path = tmp_path / "images" / "filters" / "conv1" / "step_00000007.png"
    assert path.read_bytes() == media.png


def test_a_picture_that_cannot_be_finished_leaves_no_file(tmp_path, monkeypatch):
    def fail(self, data):
        self.touch()
        raise OSError("full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="full"):
        ImageFolder(tmp_path).write(prepare(picture(), ""), step=0, patience=1.0)
    assert not [name for _, _, files in os.walk(tmp_path) for name in files]


def test_a_full_disk_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(media_writers, "RESERVE_FOR_MEDIA", 1 << 60)
    with pytest.raises(LeftOutError, match="has room for"):
        ImageFolder(tmp_path).write(prepare(picture(), ""), step=0, patience=1.0)
