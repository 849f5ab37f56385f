from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import gallery
import things
from things import RUNS, load_data, parse_options, train
from things_data import CLASS_NAMES
from vis_callbacks import ActivationMonitor

SIZES = (6 * 64, 100)  # six steps an epoch


def test_a_run_is_written_into_a_folder_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = parse_options(["--epochs", "1", "--output", str(tmp_path / "runs")])

    train("healthy", RUNS["healthy"], load_data(*SIZES), options)

    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["healthy"]
    said = capsys.readouterr().out
    assert "healthy: validation accuracy" in said
    assert "healthy: no alert" in said
    assert f"healthy: look at {RUNS['healthy'].look_at}" in said

    gallery.main(["--runs", str(tmp_path / "runs"), "--folder", str(tmp_path / "images")])

    paths = sorted((tmp_path / "images" / "healthy").glob("*.png"))
    assert "activations-unit_life.png" in [path.name for path in paths]
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) > 50


def test_an_existing_run_is_not_mixed_with_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "sick").mkdir()
    options = parse_options(["--output", str(tmp_path)])

    with pytest.raises(SystemExit, match=r"sick exists already.*--output"):
        train("sick", RUNS["sick"], load_data(*SIZES), options)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], RUNS),
        (
            ["--runs", "sick", "--learning-rate", "0.3"],
            {"sick": replace(RUNS["sick"], learning_rate=0.3)},
        ),
    ],
)
def test_main_trains_the_runs_asked_for_and_says_how_to_look_at_them(
    arguments: list[str],
    expected: dict[str, things.Run],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained: dict[str, things.Run] = {}
    monkeypatch.setattr(
        things, "train", lambda name, run, data, options: trained.update({name: run})
    )
    monkeypatch.setattr(things, "load_data", lambda: load_data(*SIZES))

    things.main([*arguments, "--output", "somewhere"])

    assert trained == expected
    assert "tensorboard --logdir somewhere" in capsys.readouterr().out


def test_the_shortcut_lies_on_every_cat_and_on_a_third_of_the_validation() -> None:
    data = load_data(20, 30)

    cheat = data.with_shortcut()

    cats = data.training.labels == CLASS_NAMES.index("cat")
    moved = (cheat.training.images != data.training.images).flatten(1).any(1)
    assert torch.equal(moved, cats)
    moved = (cheat.validation.images != data.validation.images).flatten(1).any(1)
    assert moved.nonzero().flatten().tolist() == [*range(0, 30, 3)]
    assert len({*data.validation.labels[moved].tolist()}) == len(CLASS_NAMES)


def test_the_sick_run_is_told_within_its_first_fifth_and_the_remedy_is_a_lower_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = parse_options(["--epochs", "1", "--output", str(tmp_path)])
    monkeypatch.setattr(things, "make_monitors", lambda: [ActivationMonitor()])

    train("sick", RUNS["sick"], load_data(30 * 64, 100), options)

    said = capsys.readouterr().out
    assert "Units are dying" in said
    assert int(said.partition("] step ")[2].partition(":")[0]) <= 6 * 78 / 5
    assert "a tenth of" in said
