"""wandb's own alerts, through a run that takes exactly what ``wandb.Run.alert`` takes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.alerts.reading import read_alerts
from tests.writers.stand_ins import ImageRecorder, alert

from vis_callbacks.writers.writer import Writer


class Run:
    """The signature and the checks of ``wandb.Run.alert`` (0.31)."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []

    def alert(
        self,
        title: str,
        text: str,
        level: str | None = None,
        wait_duration: int | float | timedelta | None = None,
    ) -> None:
        if level not in ("INFO", "WARN", "ERROR"):
            raise ValueError("level must be one of 'INFO', 'WARN', or 'ERROR'")
        wait = wait_duration or 60.0  # as wandb has it: 0 is a minute
        self.alerts.append({"title": title, "text": text, "level": level, "wait": wait})


class WandbLogger(ImageRecorder):
    def __init__(self) -> None:
        super().__init__()
        self.experiment = Run()


class OfTheUsersOwn(WandbLogger):
    pass


def writing(logger: Any, folder: Path) -> Writer:
    return Writer(loggers=[logger], alert_folder=folder, is_global_zero=True, save_images=False)


@pytest.mark.parametrize("kind", [WandbLogger, OfTheUsersOwn])
def test_an_alert_is_sent_once_with_what_to_do_and_so_is_its_end(kind, tmp_path):
    logger = kind()
    writer = writing(logger, tmp_path)
    found = [alert(), alert(severity="warning", kind="other"), alert(severity="info")]
    writer.write_alerts(found, active=2, log_step=300, epoch=0)
    over = alert(state="resolved", step=400)
    writer.write_alerts([over], active=1, log_step=400, epoch=0)
    first, second, third = logger.experiment.alerts
    assert [first["level"], second["level"], third["level"]] == ["ERROR", "WARN", "INFO"]
    assert first["title"] == "critical: dead_units at step 300"
    assert first["text"].splitlines() == [
        "60 of 64 units never fire",
        "Where: net.2, net.4",
        "Since: step 250",
        "Evidence: share = 0.9375, samples = 160",
        "Could also be: a schedule that falls",
        "What to do: restart with lr 0.01 instead of 0.1",
    ]
    assert third["title"] == "resolved: dead_units at step 400"
    # wandb drops what comes with the same title within the time to wait.
    assert {one["wait"] for one in logger.experiment.alerts} == {0.001}


def test_a_title_keeps_to_the_length_that_wandb_takes(tmp_path):
    logger = WandbLogger()
    writing(logger, tmp_path).write_alerts([alert(kind="k" * 99)], 1, log_step=3, epoch=0)
    assert len(logger.experiment.alerts[0]["title"]) < 64


@pytest.mark.contained
def test_a_service_that_fails_costs_no_alert_elsewhere(tmp_path):
    logger = WandbLogger()
    del logger.experiment
    writer = writing(logger, tmp_path)
    writer.write_alerts([alert()], 1, log_step=3, epoch=0)
    assert writer.failures.total() == 1
    assert len(read_alerts(tmp_path / "alerts.jsonl").alerts) == 1


def test_other_loggers_are_left_alone(tmp_path):
    logger = ImageRecorder()
    logger.experiment = Run()
    writing(logger, tmp_path).write_alerts([alert()], 1, log_step=3, epoch=0)
    assert logger.experiment.alerts == []
