from __future__ import annotations

from pathlib import Path

from tests.runs.stand_ins import ALERT, event_file, number, record, table

from vis_callbacks.alerts.log import append_alerts
from vis_callbacks.runs.log_folder import LogFolder, find_runs, is_watched

LOSS = record(number("loss", 1.0), step=1)


def test_runs_are_found_and_named_as_tensorboard_does(tmp_path: Path) -> None:
    event_file(tmp_path, LOSS)
    event_file(tmp_path / "b" / "version_0", LOSS)
    append_alerts(tmp_path / "a" / "alerts.jsonl", ALERT)
    (tmp_path / "none").mkdir()
    assert [name for name, _ in find_runs(tmp_path)] == [".", "a", "b/version_0"]


def test_folders_that_are_linked_to_are_not_entered(tmp_path: Path) -> None:
    event_file(tmp_path / "elsewhere", LOSS)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "link").symlink_to(tmp_path / "elsewhere")
    assert list(find_runs(tmp_path / "logs")) == []


def test_only_runs_that_were_found_can_be_asked_for(tmp_path: Path) -> None:
    event_file(tmp_path / "logs" / "a", LOSS)
    event_file(tmp_path / "secret", LOSS)
    folder = LogFolder({"": tmp_path / "logs"})
    assert folder.run("a") is folder.run("a")
    for name in ("../secret", str(tmp_path / "secret"), "a/../a", "", "a\0", "b"):
        assert folder.run(name) is None
        assert folder.alerts(name) is None


def test_several_folders_keep_their_names_apart(tmp_path: Path) -> None:
    event_file(tmp_path / "one", LOSS)
    event_file(tmp_path / "two" / "run", LOSS)
    folder = LogFolder({"x": tmp_path / "one", "y": tmp_path / "two"})
    assert folder.names() == ["x", "y/run"]


def test_a_run_is_watched_once_a_monitor_has_written(tmp_path: Path) -> None:
    event_file(tmp_path / "a", LOSS)
    assert not is_watched(tmp_path / "a")
    event_file(tmp_path / "a", record(table({"m": [0.5]}, ["fc"]), step=1))
    assert is_watched(tmp_path / "a")
    append_alerts(tmp_path / "b" / "alerts.jsonl", ALERT)
    assert is_watched(tmp_path / "b")
