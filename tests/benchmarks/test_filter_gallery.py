from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import filter_gallery


def test_a_network_is_trained_and_its_two_pictures_are_saved(tmp_path, monkeypatch, capsys):
    entry = replace(filter_gallery.ENTRIES["linear_on_digits"], steps=60)
    monkeypatch.setitem(filter_gallery.ENTRIES, "linear_on_digits", entry)
    filter_gallery.main(["--folder", str(tmp_path), "--only", "linear_on_digits"])
    names = ["linear_on_digits.png", "linear_on_digits_over_time.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all(np.asarray(Image.open(tmp_path / name)).std() > 20 for name in names)
    assert "linear_on_digits no alert" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["five_channels", "transformer", "resnet18_3x3", "digits_5x5"])
def test_each_network_takes_what_it_is_given(name):
    entry = filter_gallery.ENTRIES[name]
    sample, _ = entry.data()[0]
    scores = entry.network().eval()(sample[None])
    assert scores.shape == (1, filter_gallery.NUM_CLASSES)
    assert torch.isfinite(scores).all()
