"""Faults that need a process of their own: they limit, kill or break it.

Each function is one process. It returns what the test is to look at.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def limit_files(size: float) -> None:
    """Lets no file of this process grow beyond ``size`` bytes: EFBIG, as a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))


def _logger(package: str, folder: str):
    from tests.writers.stand_ins import TensorBoardLogger, TensorboardXLogger

    threading.excepthook = lambda arguments: None  # the writer threads' tracebacks
    if package == "torch":
        return TensorBoardLogger(folder, name="run", version="")
    return TensorboardXLogger(Path(folder) / "run")


def _writer(logger, folder: str):
    from vis_callbacks.writers.budget import TimeBudget
    from vis_callbacks.writers.writer import Writer

    return Writer(
        loggers=[logger],
        alert_folder=Path(folder) / "alerts",
        is_global_zero=True,
        save_images=False,
        time_budget=TimeBudget(share=1.0, savings=10.0),
    )


def _event_files(folder: str) -> list[Path]:
    return sorted((Path(folder) / "run").glob("events*"))


def full_disk(package: str, folder: str) -> dict[str, Any]:
    """Pictures at every step, beside the user's scalars, under a limit from step 20 to 40."""
    from tests.writers.stand_ins import full_report, heard_lines

    logger, said = _logger(package, folder), heard_lines()
    writer = _writer(logger, folder)
    for step in range(60):
        if step == 20:
            limit_files(_event_files(folder)[-1].stat().st_size + 40_000)
        if step == 40:
            limit_files(resource.RLIM_INFINITY)
        writer.write(full_report(), log_step=step, epoch=0)
        logger.experiment.add_scalar("loss", step, step)
    writer.flush()
    logger.finalize("success")
    return {"said": said, "left_out": dict(writer.left_out), "files": len(_event_files(folder))}


def full_disk_unforeseen(package: str, folder: str) -> dict[str, Any]:
    """As `full_disk`, but what looks for room sees plenty: the record itself hits the limit."""
    from tests.writers.stand_ins import heard_lines, picture, report

    from vis_callbacks.writers import budget

    budget.room_for = lambda path: 1 << 40
    logger, said = _logger(package, folder), heard_lines()
    writer = _writer(logger, folder)
    for step in range(30):
        if step == 10:
            limit_files(_event_files(folder)[-1].stat().st_size + 10_000)
        writer.write(report(picture()), log_step=step, epoch=0)
        if step == 10:
            limit_files(resource.RLIM_INFINITY)
        logger.experiment.add_scalar("loss", step, step)
    writer.flush()
    logger.finalize("success")
    return {"said": said, "left_out": dict(writer.left_out), "files": len(_event_files(folder))}


def killed_after_an_alert(package: str, folder: str) -> int:
    """Processes that write scalars and an alert and are killed at once; returns how many."""
    from tests.writers.stand_ins import alert

    for number in range(20):
        run = f"{folder}/{number:02d}"
        child = os.fork()
        if child == 0:
            logger = _logger(package, run)
            writer = _writer(logger, run)
            for step in range(50):
                logger.experiment.add_scalar("loss", step, step)
            writer.write_alerts([alert()], 1, log_step=50, epoch=0)
            os.kill(os.getpid(), signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL
    return 20


def short_write(folder: str) -> dict[str, Any]:
    """An alert whose line hits the limit in its middle, then another one."""
    from tests.writers.stand_ins import alert

    from vis_callbacks.writers.alert_log import AlertLog

    log = AlertLog(Path(folder))
    log.add([alert(step=1)])
    log.write()
    limit_files(log.path.stat().st_size + 100)
    log.add([alert(step=2)])
    try:
        log.write()
        error = ""
    except OSError as caught:
        error = type(caught).__name__
    num_waiting = log.num_waiting
    size = log.path.stat().st_size
    limit_files(resource.RLIM_INFINITY)
    log.add([alert(step=3)])
    log.write()
    return {"error": error, "waiting": num_waiting, "size": size}


def no_descriptors(folder: str) -> dict[str, Any]:
    """No file can be opened from step 3 to 5."""
    from tests.writers.stand_ins import alert, full_report, heard_lines

    logger, said = _logger("torch", folder), heard_lines()
    writer = _writer(logger, folder)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    for step in range(10):
        if step == 3:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        if step == 6:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        writer.write(full_report(), log_step=step, epoch=step)
        writer.write_alerts([alert(step=step)], 1, log_step=step, epoch=step)
    writer.flush()
    return {"said": said}


def folder_removed(replacement: str, folder: str) -> dict[str, Any]:
    """The log folder is removed at step 10; monitors go on, the user logs elsewhere."""
    from tests.writers.stand_ins import alert, full_report, heard_lines

    logger, said = _logger("torch", folder), heard_lines()
    writer = _writer(logger, folder)
    run = Path(folder) / "run"
    for step in range(30):
        if step == 10:
            shutil.rmtree(run)
            if replacement == "file":
                run.write_text("not a folder")
        writer.write(full_report(), log_step=step, epoch=0)
        writer.write_alerts([alert(step=step)], 1, log_step=step, epoch=0)
    writer.flush()
    is_alive = logger.experiment.file_writer.event_writer._async_writer._worker.exception is None
    return {"said": said, "is_alive": is_alive, "left_out": dict(writer.left_out)}


def slow_disk(package: str, folder: str) -> dict[str, Any]:
    """Each record takes half a second in the writer's thread."""
    from tests.writers.stand_ins import full_report, heard_lines

    from vis_callbacks.writers.writer import Writer

    logger, said = _logger(package, folder), heard_lines()
    event_writer = logger.experiment.file_writer.event_writer
    handed_over: list[Any] = []
    if package == "torch":
        record_writer = event_writer._async_writer._worker._record_writer
        record_writer.write = _slowed(record_writer.write, handed_over)
    else:
        events_writer = event_writer._ev_writer
        events_writer.write_event = _slowed(events_writer.write_event, handed_over)
    writer = Writer(
        loggers=[logger],
        alert_folder=None,
        is_global_zero=True,
        save_images=False,
    )
    start = time.monotonic()
    for step in range(100):
        writer.write(full_report(), log_step=step, epoch=0)
    return {
        "said": said,
        "seconds": time.monotonic() - start,
        "left_out": dict(writer.left_out),
        "num_handed_over": len(handed_over),
    }


def _slowed(write: Callable[..., None], handed_over: list[Any]) -> Callable[..., None]:
    def slow(data: Any) -> None:
        handed_over.append(data)
        time.sleep(0.5)
        write(data)

    return slow
