"""What happens to the run, its logs and ours when the disk, a logger or a thread fails."""

import pytest
from tests.alerts.reading import read_alerts
from tests.system.processes import in_child
from tests.writers import faults, reading
from tests.writers.stand_ins import TensorBoardLogger, alert, full_report, picture, report

from vis_callbacks.report import Scalar
from vis_callbacks.writers.writer import Writer

pytestmark = pytest.mark.contained
packages = pytest.mark.parametrize("package", ["torch", "tensorboardX"])


@packages
def test_a_full_disk_pauses_ours_and_leaves_the_users_scalars_alone(package, tmp_path):
    result = in_child(faults.full_disk, package, tmp_path)
    run = tmp_path / "run"
    assert reading.scalars(run, "loss") == {step: float(step) for step in range(60)}
    expected = {*range(20), *range(40, 60)}
    assert set(reading.scalars(run, "sparsity/mean")) == expected
    assert set(reading.texts(run, "layers/table")) == expected
    assert result["files"] == 1
    assert result["left_out"] == {"room": 20 * 4}
    assert len(result["said"]) == 4
    assert all("has room for" in text for text in result["said"])


@packages
def test_a_record_of_ours_that_kills_the_thread_costs_the_user_nothing(package, tmp_path):
    result = in_child(faults.full_disk_unforeseen, package, tmp_path)
    run = tmp_path / "run"
    assert reading.scalars(run, "loss") == {step: float(step) for step in range(30)}
    assert set(reading.read(run).Tags()["images"]) == {"filters/conv1"}
    assert result["files"] == 2
    assert result["left_out"] == {"replaced": 1}
    assert len(result["said"]) == 1
    assert "goes on in a new event file" in result["said"][0]


def test_a_half_record_gives_its_room_back(tmp_path):
    in_child(faults.full_disk_unforeseen, "torch", tmp_path)
    files = sorted((tmp_path / "run").glob("events*"))
    assert len(files) == 2
    assert [reading.num_torn_bytes(path) for path in files] == [0, 0]


@packages
def test_an_alert_survives_a_kill_straight_after(package, tmp_path):
    num_killed = in_child(faults.killed_after_an_alert, package, tmp_path)
    runs = sorted(tmp_path.iterdir())
    assert len(runs) == num_killed
    for run in runs:
        log = read_alerts(run / "alerts" / "alerts.jsonl")
        assert (len(log.alerts), log.num_torn) == (1, 0)
        assert "60 of 64 units" in reading.texts(run / "run", "alerts/text")[50]
        assert reading.scalars(run / "run", "alerts/active") == {50: 1.0}
        assert len(reading.scalars(run / "run", "loss")) == 50


def test_a_line_cut_by_a_full_disk_is_closed_and_its_alert_is_written_again(tmp_path):
    result = in_child(faults.short_write, tmp_path)
    assert result["error"] == "OSError"
    assert result["waiting"] == 1
    log = read_alerts(tmp_path / "alerts.jsonl")
    assert [entry.step for entry in log.alerts] == [1, 2, 3]
    assert log.num_torn == 1


def test_without_descriptors_nothing_is_raised_and_no_alert_is_lost(tmp_path):
    result = in_child(faults.no_descriptors, tmp_path)
    log = read_alerts(tmp_path / "alerts" / "alerts.jsonl")
    assert [entry.step for entry in log.alerts] == list(range(10))
    assert {0, 1, 2} <= set(reading.scalars(tmp_path / "run", "sparsity/mean"))
    assert result["said"]


@pytest.mark.parametrize("replacement", ["nothing", "file"])
def test_a_removed_log_folder_stops_ours_without_killing_the_writer(replacement, tmp_path):
    result = in_child(faults.folder_removed, replacement, tmp_path)
    assert result["is_alive"]
    assert result["left_out"]["folder"] > 0
    assert all("is gone" in text for text in result["said"])
    assert not (tmp_path / "run").is_dir()
    log = read_alerts(tmp_path / "alerts" / "alerts.jsonl")
    assert len(log.alerts) == 30


@packages
def test_a_slow_disk_does_not_stall_the_run(package, tmp_path):
    result = in_child(faults.slow_disk, package, tmp_path)
    # Without a limit: 500 records. At half a second each, the second that is saved up at first
    # pays for two and 5 % of the time for the others; the last two may be written on credit.
    assert 0 < result["num_handed_over"] <= 2 + 0.05 * result["seconds"] / 0.5 + 2
    assert result["left_out"]["slow disk"] > 0
    assert len(result["said"]) <= 5
    assert all("does not keep up" in text for text in result["said"])


@pytest.fixture
def logger(tensorboard):
    return tensorboard


def writer_of(logger, tmp_path):
    return Writer(
        loggers=[logger],
        alert_folder=tmp_path / "alerts",
        is_global_zero=True,
        save_images=False,
    )


def test_a_thread_that_died_without_us_is_left_to_the_user(logger, tmp_path, said):
    writer = writer_of(logger, tmp_path)
    writer.write(full_report(), log_step=0, epoch=0)
    worker = logger.experiment.file_writer.event_writer._async_writer._worker
    worker.exception = OSError("the user's own")
    for step in range(1, 10):
        writer.write(full_report(), log_step=step, epoch=0)
        writer.write_alerts([alert()], 1, log_step=step, epoch=0)
    with pytest.raises(OSError, match="the user's own"):
        logger.experiment.add_scalar("loss", 1.0, 1)
    worker.exception = None
    assert sum("writer has stopped working" in text for text in said) == len(
        {text.split(" failed")[0] for text in said if "writer has stopped" in text}
    )
    assert len(read_alerts(tmp_path / "alerts" / "alerts.jsonl").alerts) == 9


def test_a_writer_that_the_user_closed_is_opened_again_as_by_the_users_own_log(
    logger, tmp_path, said
):
    writer = writer_of(logger, tmp_path)
    writer.write(report(picture()), log_step=0, epoch=0)
    logger.experiment.close()
    writer.write(report(Scalar(tag="late", value=1.0)), log_step=1, epoch=0)
    logger.experiment.add_scalar("loss", 1.0, 1)
    logger.experiment.flush()
    assert said == []
    assert len(list((tmp_path / "run").glob("events*"))) == 2


@pytest.mark.parametrize("method", ["add_summary", "get_logdir"])
def test_a_method_of_the_writer_that_always_raises_is_contained(
    logger, tmp_path, said, monkeypatch, method
):
    def fail(*args, **kwargs):
        raise RuntimeError("broken")

    writer = writer_of(logger, tmp_path)
    file_writer = logger.experiment.file_writer
    monkeypatch.setattr(file_writer, method, fail)
    for step in range(10):
        writer.write(full_report(), log_step=step, epoch=0)
        writer.write_alerts([alert()], 1, log_step=step, epoch=0)
    writer.flush()
    monkeypatch.undo()
    assert len(said) == len(set(said))
    assert sum("RuntimeError: broken" in text or "currently not supported" in text for text in said)
    logger.experiment.add_scalar("loss", 1.0, 1)
    logger.experiment.flush()
    assert reading.scalars(tmp_path / "run", "loss") == {1: 1.0}


def test_a_file_in_the_place_of_the_parent_folder_is_said_once_a_guard(tmp_path, said):
    (tmp_path / "taken").write_text("not a folder")
    logger = TensorBoardLogger(tmp_path / "taken", name="run", version="")
    writer = Writer(
        loggers=[logger],
        alert_folder=tmp_path / "taken" / "run",
        is_global_zero=True,
        save_images=True,
    )
    for step in range(10):
        writer.write(full_report(), log_step=step, epoch=0)
        writer.write_alerts([alert()], 1, log_step=step, epoch=0)
    assert said
    assert len(said) == len(set(said))
