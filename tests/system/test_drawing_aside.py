"""Pictures are drawn while training goes on, which changes neither the run nor the pictures."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tests.identity import digest
from tests.system.models import LIGHTNING_CHATTER, Net, mlp, trainer_of, vectors
from tests.writers import reading
from torch.utils.data import DataLoader

from vis_callbacks.monitor import Monitor
from vis_callbacks.report import Picture, Report
from vis_callbacks.writers import drawing, writer

pytestmark = [
    *(pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER),
    pytest.mark.filterwarnings("ignore:Consider setting `persistent_workers=True`"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

DRAWN_BY: list[str] = []


def draw_step(step: int, seconds: float = 0.0, fails_from: float = float("inf")) -> np.ndarray:
    DRAWN_BY.append(threading.current_thread().name)
    if step >= fails_from:
        raise OSError("no ink")
    time.sleep(seconds)
    return np.full((4, 4, 3), step, dtype=np.uint8)


class StepMonitor(Monitor):
    """Shows a picture of every step, all in its grey."""

    def __init__(self, **how: float) -> None:
        super().__init__(every_n_train_steps=1, all_cards=True)
        self.how = how

    def probes(self):
        return ()

    def observe(self, snapshot):
        draw = partial(draw_step, snapshot.step, **self.how)
        return Report(step=snapshot.step, items=(Picture(tag="step", draw=draw),))


@pytest.fixture(autouse=True)
def nobody_has_drawn(monkeypatch):
    monkeypatch.setattr(drawing, "_DRAWN_BEFORE", set())
    DRAWN_BY.clear()


def fit(folder, monitors=(), callbacks=(), max_epochs=2, ckpt_path=None, **loading):
    torch.manual_seed(3)
    model = Net(mlp())
    loader = DataLoader(vectors(), batch_size=8, shuffle=True, **loading)
    trainer = trainer_of(folder, [*monitors, *callbacks], max_epochs=max_epochs)
    trainer.fit(model, loader, ckpt_path=ckpt_path)
    return digest(dict(model.state_dict())), torch.get_rng_state().tolist()


def shown(folder):
    return {step: int(image[0, 0, 0]) for step, image in reading.images(folder, "step").items()}


# The second epoch forks while pictures are drawn; processes that are spawned take long to begin.
@pytest.mark.parametrize(
    ("context", "epochs"), [("fork", 2), pytest.param("spawn", 1, marks=pytest.mark.slow)]
)
def test_with_workers_that_load_the_run_is_the_same_and_every_picture_arrives(
    tmp_path, context, epochs
):
    loading = {"num_workers": 2, "multiprocessing_context": context, "max_epochs": epochs}
    plain = fit(tmp_path / "plain", **loading)
    watched = fit(tmp_path / "watched", [StepMonitor(seconds=0.01)], **loading)
    assert watched == plain
    pictures = shown(tmp_path / "watched")
    assert pictures == {step: step for step in range(len(pictures))}
    assert len(pictures) > 2
    assert DRAWN_BY[0] == threading.current_thread().name
    assert set(DRAWN_BY[1:]) == {"vis_callbacks draws pictures"}


def test_a_later_run_of_the_process_draws_its_first_picture_aside_too(tmp_path):
    fit(tmp_path / "one", [StepMonitor()])
    of_first = len(DRAWN_BY)
    fit(tmp_path / "other", [StepMonitor()])
    assert len(DRAWN_BY) == 2 * of_first
    assert set(DRAWN_BY[of_first:]) == {"vis_callbacks draws pictures"}
    assert shown(tmp_path / "other") == shown(tmp_path / "one")


@pytest.mark.contained
def test_what_fails_in_the_thread_is_reported_once_and_the_monitor_goes_on(tmp_path, contained):
    plain = fit(tmp_path / "plain")
    assert fit(tmp_path / "watched", [StepMonitor(fails_from=2)]) == plain
    assert [report for report in contained.reports if "no ink" in report] == contained.reports
    assert len(contained.reports) == 1
    assert all(isinstance(error, OSError) for error in contained.errors)
    assert shown(tmp_path / "watched") == {0: 0, 1: 1}
    assert len(reading.scalars(tmp_path / "watched", "overhead/step_percent")) > 3


class Stop(pl.Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 7:
            raise LookupError("the user's own")


def test_an_exception_of_the_run_loses_no_picture_that_was_asked_for(tmp_path):
    with pytest.raises(LookupError, match="the user's own"):
        fit(tmp_path, [StepMonitor(seconds=0.05)], [Stop()])
    assert shown(tmp_path) == {step: step for step in range(7)}
    assert not [t for t in threading.enumerate() if t.name.startswith("vis_callbacks")]


class Save(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 5:
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_a_run_that_is_resumed_in_the_same_process_begins_with_nothing_left_to_draw(tmp_path):
    monitors, saved = [StepMonitor(seconds=0.05)], tmp_path / "saved.ckpt"
    with pytest.raises(LookupError, match="the user's own"):
        fit(tmp_path / "broken", monitors, [Save(saved), Stop()])
    of_broken = shown(tmp_path / "broken")
    assert of_broken == {step: step for step in range(7)}
    fit(tmp_path / "resumed", monitors, ckpt_path=saved)
    of_resumed = shown(tmp_path / "resumed")
    # The step at whose start it was saved counts as taken.
    assert of_resumed == {step: step for step in range(6, 6 + len(of_resumed))}
    assert len(of_resumed) > 2
    assert shown(tmp_path / "broken") == of_broken


def test_a_picture_that_hangs_holds_the_end_up_for_a_bounded_time_and_this_is_said(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(writer, "_PATIENCE_FOR_PICTURES", 0.05)
    is_open = threading.Event()

    class Hanging(StepMonitor):
        def observe(self, snapshot):
            report = super().observe(snapshot)
            (shown,) = report.items
            draw = partial(_draw_when, is_open if snapshot.step else None, shown.draw)
            return Report(step=report.step, items=(Picture(tag="step", draw=draw),))

    fit(tmp_path, [Hanging()])
    is_open.set()
    said = [r.getMessage() for r in caplog.records if "is left out" in r.getMessage()]
    assert len(said) == 1
    assert '"step" of step 1 is left out, because it was not drawn 0.05 seconds' in said[0]
    assert shown(tmp_path) == {0: 0}
    for thread in threading.enumerate():
        if thread.name.startswith("vis_callbacks"):
            thread.join(30)


def _draw_when(is_open, draw):
    if is_open is not None:
        assert is_open.wait(30)
    return draw()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import pytorch_lightning as pl
    from tests.system.test_drawing_aside import StepMonitor, fit

    class Kill(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 12:
                os.kill(os.getpid(), signal.SIGKILL)

    fit(Path(sys.argv[1]), [StepMonitor()], [Kill()])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_killed_process_loses_the_pictures_that_wait_and_no_more(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
    ended = subprocess.run(command, check=False, capture_output=True, timeout=240)
    assert ended.returncode == -signal.SIGKILL
    pictures = shown(tmp_path)
    assert pictures == {step: step for step in range(len(pictures))}
    assert pictures
    (file,) = tmp_path.glob("events*")
    assert reading.num_torn_bytes(file) == 0
