import shutil
from pathlib import Path

import pytest
from tests.alerts.reading import read_alerts
from tests.writers.stand_ins import (
    BrokenLogger,
    CSVLogger,
    DummyLogger,
    Recorder,
    TensorBoardLogger,
    TensorboardXLogger,
    alert,
)

from vis_callbacks.alerts.log import header_line
from vis_callbacks.guard import LeftOutError
from vis_callbacks.writers.alert_log import AlertLog, alert_folder


class ServiceLogger(Recorder):
    """Has a folder, a name and a version, but no log_dir, as WandbLogger."""

    log_dir = None
    save_dir = "/runs"
    name = "project"
    version = "x1"


class RemoteLogger(Recorder):
    log_dir = None
    save_dir = "s3://bucket/runs"


@pytest.mark.parametrize(
    ("loggers", "expected"),
    [
        ([], "/default/vis_callbacks"),
        ([DummyLogger()], "/default/vis_callbacks"),
        ([Recorder()], "/default/vis_callbacks"),
        ([BrokenLogger()], "/default/vis_callbacks"),
        ([RemoteLogger()], "/default/vis_callbacks"),
        ([ServiceLogger()], "/runs/project/x1"),
        ([CSVLogger("/c", name="n", version=3)], "/c/n/version_3"),
        ([BrokenLogger(), CSVLogger("/c", name="n", version=3)], "/c/n/version_3"),
        ([CSVLogger("/c"), TensorBoardLogger("/t", name="n", version=4)], "/t/n/version_4"),
        ([TensorBoardLogger("/t", name="n", version="", sub_dir="s")], "/t/n/s"),
    ],
)
def test_alerts_go_to_the_folder_of_the_first_tensorboard_logger_then_of_any(loggers, expected):
    assert alert_folder(loggers, "/default") == Path(expected)


def test_a_users_logger_named_after_tensorboard_goes_first(tmp_path):
    logger = TensorboardXLogger(tmp_path)
    assert alert_folder([logger], "/default") == tmp_path
    logger.finalize("success")


def test_asking_for_the_folder_makes_nothing(tmp_path):
    alert_folder([TensorBoardLogger(tmp_path), CSVLogger(tmp_path)], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def log(tmp_path):
    return AlertLog(tmp_path / "new" / "folder")


def steps(log):
    return [entry.step for entry in read_alerts(log.path).alerts]


def test_nothing_is_made_before_the_first_alert(log, tmp_path):
    log.add([])
    log.write()
    assert list(tmp_path.iterdir()) == []


def test_the_header_comes_first_and_each_alert_is_a_line(log):
    log.add([alert(step=1), alert(step=2)])
    log.write()
    log.add([alert(step=3)])
    log.write()
    lines = log.path.read_text().splitlines()
    assert lines[0] + "\n" == header_line()
    assert len(lines) == 4
    assert steps(log) == [1, 2, 3]


def test_alerts_are_stamped_with_the_time_unless_they_have_one(log):
    first, second = log.add([alert(), alert(time=5.0)])
    assert first.time > 1e9
    assert second.time == 5.0


def test_a_resumed_run_appends_below_a_torn_line(log, tmp_path):
    log.add([alert(step=1)])
    log.write()
    with log.path.open("a") as file:
        file.write('{"kind": "dea')
    resumed = AlertLog(log.path.parent)
    resumed.add([alert(step=2)])
    resumed.write()
    found = read_alerts(log.path)
    assert [entry.step for entry in found.alerts] == [1, 2]
    assert found.num_torn == 1
    assert found.version == 1


def test_what_could_not_be_written_waits(log, tmp_path):
    (tmp_path / "new").touch()
    log.add([alert(step=1)])
    with pytest.raises(OSError, match="new"):
        log.write()
    log.add([alert(step=2)])
    assert log.num_waiting == 2
    (tmp_path / "new").unlink()
    log.write()
    assert log.num_waiting == 0
    assert steps(log) == [1, 2]


def test_a_folder_removed_in_mid_run_is_not_made_anew(log):
    log.add([alert(step=1)])
    log.write()
    shutil.rmtree(log.path.parent)
    log.add([alert(step=2)])
    with pytest.raises(LeftOutError, match="is gone"):
        log.write()
    assert not log.path.parent.exists()
    assert log.num_waiting == 1
