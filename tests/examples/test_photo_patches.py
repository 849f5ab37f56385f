from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image

import gallery
import photo_patches
from photo_patches import LEARNING_RATES, load_data, parse_options, train
from vis_callbacks import ActivationMonitor

PATCHES = 32  # of each photograph: six steps an epoch


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a short healthy run, and what was printed."""
    folder = tmp_path_factory.mktemp("runs")
    options = parse_options(["--epochs", "1", "--output", str(folder)])
    with redirect_stdout(StringIO()) as said:
        train("healthy", LEARNING_RATES["healthy"], load_data(PATCHES), options)
    return folder, said.getvalue()


def test_a_run_is_written_into_a_folder_of_its_name(healthy: tuple[Path, str]) -> None:
    folder, said = healthy

    assert [path.name for path in folder.iterdir()] == ["healthy"]
    assert list((folder / "healthy").glob("events.out.tfevents.*"))
    assert "healthy: validation accuracy" in said
    assert "healthy: no alert" in said


def test_an_existing_run_is_not_mixed_with_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "sick").mkdir()
    options = parse_options(["--output", str(tmp_path)])

    with pytest.raises(SystemExit, match=r"sick exists already.*--output"):
        train("sick", 0.1, load_data(PATCHES), options)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], LEARNING_RATES),
        (["--learning-rate", "0.3"], {"learning_rate_0.3": 0.3}),
    ],
)
def test_main_trains_the_runs_asked_for_and_says_how_to_look_at_them(
    arguments: list[str],
    expected: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained: dict[str, float] = {}
    monkeypatch.setattr(
        photo_patches, "train", lambda name, rate, data, options: trained.update({name: rate})
    )

    photo_patches.main([*arguments, "--output", "somewhere"])

    assert trained == expected
    assert "tensorboard --logdir somewhere" in capsys.readouterr().out


def test_gallery_saves_every_picture_of_a_run(healthy: tuple[Path, str], tmp_path: Path) -> None:
    gallery.main(["--runs", str(healthy[0]), "--folder", str(tmp_path)])

    paths = sorted((tmp_path / "healthy").glob("*.png"))
    assert "activations-unit_life.png" in [path.name for path in paths]
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) > 50


@pytest.mark.slow
def test_the_sick_run_is_told_within_its_first_epoch_and_the_remedy_is_the_healthy_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other monitors change nothing of the run, and take most of its time.
    monkeypatch.setattr(photo_patches, "make_monitors", lambda data: [ActivationMonitor()])
    options = parse_options(["--epochs", "1", "--output", str(tmp_path)])

    train("sick", LEARNING_RATES["sick"], load_data(), options)

    said = capsys.readouterr().out
    assert "Units are dying" in said
    assert f"learning rate {LEARNING_RATES['healthy']:g} (a tenth of" in said
