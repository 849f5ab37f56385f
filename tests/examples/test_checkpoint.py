from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import checkpoint
from things import ThingClassifier

NAMES = {"saliency.png", "occlusion.png", "filters.png"}


def test_without_a_checkpoint_it_trains_saves_and_draws(tmp_path):
    checkpoint.main(["--output", str(tmp_path), "--steps", "3"])
    assert {path.name for path in tmp_path.iterdir()} == NAMES | {"things.ckpt"}
    for name in NAMES:
        assert np.asarray(Image.open(tmp_path / name)).std() > 10, name


def test_a_given_checkpoint_is_looked_at_and_left_alone(tmp_path):
    torch.manual_seed(1)
    model = ThingClassifier(learning_rate=0.1)
    path = tmp_path / "given.ckpt"
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    before = path.read_bytes()
    checkpoint.main(["--checkpoint", str(path), "--output", str(tmp_path / "out"), "--steps", "1"])
    assert {found.name for found in (tmp_path / "out").iterdir()} == NAMES
    assert path.read_bytes() == before


def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        checkpoint.main(["--checkpoint", str(tmp_path / "nowhere.ckpt"), "--steps", "1"])
