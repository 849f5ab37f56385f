"""A training that was interrupted in the middle of an epoch goes on, and the monitors with it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from tests.alerts.reading import read_alerts
from tests.contracts.dummies import SaliencyDummy
from tests.identity import digest
from tests.system.models import (
    LIGHTNING_CHATTER,
    NUM_STEPS,
    EvaluationMonitor,
    Net,
    loaders_of,
    mlp,
    trainer_of,
    vectors,
)

from vis_callbacks._lightning import RunView
from vis_callbacks.alerts.alert import Finding, Outcome, Rule
from vis_callbacks.alerts.history import History
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.monitors.activations.monitor import ActivationMonitor
from vis_callbacks.observer import STATE_VERSION
from vis_callbacks.report import Report

pytestmark = [
    *(pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
]

STOP = 20  # in the second epoch of 15 steps
EARLY, LATE = 3, 24


@dataclass(frozen=True)
class From:
    """Finds something at every snapshot from one step on."""

    step: int
    kind: ClassVar[str] = ""
    severity: ClassVar[str] = "warning"

    def check(self, history: History) -> Outcome:
        if history.steps[-1] < self.step:
            return None
        return Finding(message=f"Found from step {self.step} on.", since_step=self.step)


class Early(From):
    kind = "early"


class Late(From):
    kind = "late"


class Watching(ActivationMonitor):
    """The activation monitor, with alerts at known steps."""

    stem = "activations"
    rules: ClassVar[Sequence[Rule]] = (Early(EARLY), Late(LATE))


class Saving(pl.Callback):
    """Writes a checkpoint after some steps; the monitors stand before it."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step in self.steps:
            path = Path(trainer.default_root_dir) / f"{trainer.global_step}.ckpt"
            trainer.save_checkpoint(path)


def fit(
    folder: Path,
    *callbacks: pl.Callback,
    max_steps: int = NUM_STEPS,
    ckpt: Path | None = None,
    make: Callable[[], torch.nn.Module] = mlp,
) -> pl.Trainer:
    pl.seed_everything(3, verbose=False)
    trainer = trainer_of(folder, callbacks, max_steps=max_steps, max_epochs=-1)
    options: dict[str, Any] = {} if ckpt is None else {"ckpt_path": ckpt}
    if "weights_only" in inspect.signature(pl.Trainer.fit).parameters:  # from Lightning 2.6 on
        options["weights_only"] = True
    trainer.fit(Net(make()), *loaders_of(vectors()), **options)
    return trainer


def watching() -> Watching:
    return Watching(every_n_train_steps=1)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watching]:
    """A run that was left after ``STOP`` steps: its folder, and its monitor."""
    folder = tmp_path_factory.mktemp("interrupted")
    monitor = watching()
    fit(folder, monitor, Saving(STOP), max_steps=STOP)
    return folder / f"{STOP}.ckpt", monitor


@pytest.fixture
def resumed(interrupted: tuple[Path, Watching], tmp_path: Path) -> Watching:
    monitor = watching()
    fit(tmp_path, monitor, ckpt=interrupted[0])
    return monitor


def test_the_history_goes_on_where_it_was_left(
    interrupted: tuple[Path, Watching], resumed: Watching
) -> None:
    before = interrupted[1].history
    assert before.steps == tuple(range(STOP))
    assert resumed.history.steps == tuple(range(NUM_STEPS))
    for metric, layer in (("loss", ""), ("sparsity", "network.1"), ("dead_fraction", "network.3")):
        assert digest(resumed.history.series(metric, layer)[:STOP]) == digest(
            before.series(metric, layer)
        )


def test_the_units_keep_their_life(interrupted: tuple[Path, Watching], resumed: Watching) -> None:
    assert resumed.history.latest("reference_step", "network.1") == 0
    windows = resumed.history.series("window_samples", "network.1")
    assert windows[STOP] > windows[STOP - 1] >= windows[0]


def test_the_pictures_show_the_frames_of_both_runs(resumed: Watching) -> None:
    # A pictures-snapshot comes at steps 0 and 20; after a resume the first one is due again.
    films = resumed.state_dict()["monitor"]["films"]["films"]
    assert films
    for film in films.values():
        assert film["steps"][0] == 0
        assert film["steps"][-1] >= STOP
    assert resumed.state_dict()["monitor"]["layers"]["steps"] == list(range(NUM_STEPS))


def test_an_alert_of_before_is_not_raised_again(
    interrupted: tuple[Path, Watching], tmp_path: Path
) -> None:
    first, second = watching(), watching()
    fit(tmp_path, first, Saving(STOP), max_steps=STOP)
    assert [alert.kind for alert in read_alerts(tmp_path / "alerts.jsonl").alerts] == ["early"]
    fit(tmp_path, second, ckpt=tmp_path / f"{STOP}.ckpt")
    written = read_alerts(tmp_path / "alerts.jsonl")
    assert [(a.kind, a.step) for a in written.alerts] == [("early", EARLY), ("late", LATE)]
    assert written.num_torn == 0
    assert [alert.kind for alert in second.tracker.active] == ["early", "late"]
    text = (tmp_path / "alerts.jsonl").read_text()
    assert text.count('"schema"') == 1  # appended, not begun anew


def test_the_alerts_of_before_are_still_the_monitors(resumed: Watching) -> None:
    assert [alert.kind for alert in resumed.alerts] == ["early", "late"]


def test_the_reference_samples_are_not_exchanged(
    interrupted: tuple[Path, Watching], resumed: Watching
) -> None:
    assert digest(vars(resumed.references)) == digest(vars(interrupted[1].references))


class Devices(SaliencyDummy):
    """Notes on which device the reference samples are."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.devices: set[torch.device] = set()

    def observe(self, snapshot: Snapshot) -> Report:
        self.devices.add(snapshot.references.inputs.device)
        return Report(step=snapshot.step)


def test_the_reference_samples_are_on_the_device_of_the_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path, Devices(), Saving(STOP), max_steps=STOP)
    monkeypatch.setattr(RunView, "device", torch.device("meta"))
    monitor = Devices()
    fit(tmp_path, monitor, ckpt=tmp_path / f"{STOP}.ckpt")
    assert monitor.devices == {torch.device("meta")}


def test_reference_samples_that_monitors_share_are_stored_once(tmp_path: Path) -> None:
    checkpoint = None
    for stop in (2, 4):  # a resumed run has loaded as many copies as there are monitors
        monitors = [Devices(tag_prefix=prefix) for prefix in ("a/", "b/", "c/")]
        fit(tmp_path, *monitors, Saving(stop), max_steps=stop, ckpt=checkpoint)
        checkpoint = tmp_path / f"{stop}.ckpt"
        states = torch.load(checkpoint, weights_only=True)["callbacks"].values()
        stored = {s["references"]["inputs"].untyped_storage().data_ptr() for s in states}
        assert (len(states), len(stored)) == (3, 1)
        assert len({monitor.references.inputs.data_ptr() for monitor in monitors}) == 1


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_a_resumed_run_with_monitors_is_the_resumed_run_without(
    interrupted: tuple[Path, Watching], tmp_path: Path
) -> None:
    weights = []
    for monitors in ([], [watching(), EvaluationMonitor()]):
        folder = tmp_path / str(len(monitors))
        trainer = fit(folder, *monitors, ckpt=interrupted[0])
        assert trainer.global_step == NUM_STEPS
        weights.append(digest(list(trainer.lightning_module.parameters())))
    assert weights[0] == weights[1]


def test_a_run_begun_anew_from_an_old_checkpoint_forgets_what_came_after_it(
    tmp_path: Path,
) -> None:
    monitor = watching()
    fit(tmp_path, monitor, Saving(STOP))
    assert monitor.history.steps[-1] == NUM_STEPS - 1
    fit(tmp_path, monitor, max_steps=STOP + 2, ckpt=tmp_path / f"{STOP}.ckpt")
    assert monitor.history.steps == tuple(range(STOP + 2))


# -- states that are not ours


def _drop(state: dict[str, Any], *path: str) -> None:
    for name in path[:-1]:
        state = state[name]
    del state[path[-1]]


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "no history": lambda state: _drop(state, "history"),
    "no version": lambda state: _drop(state, "version"),
    "no references": lambda state: _drop(state, "references"),
    "half a history": lambda state: _drop(state, "history", "columns"),
    "half a monitor": lambda state: _drop(state, "monitor", "dead_units"),
    "half a tracker of units": lambda state: _drop(state, "monitor", "dead_units", "units"),
    "half a reference": lambda state: _drop(state, "references", "inputs"),
    "a history that is a number": lambda state: state.update(history=5),
    "a tracker that is a list": lambda state: state.update(tracker=[1, 2]),
    "a monitor that is text": lambda state: state.update(monitor="text"),
    "a tracker of units that is a tensor": lambda state: state["monitor"].update(
        dead_units=torch.zeros(3)
    ),
    "an older version": lambda state: state.update(version=0),
    "a newer version": lambda state: state.update(version=99),
    "a version that is text": lambda state: state.update(version="1"),
}


def edited(checkpoint: Path, folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Returns a copy of the checkpoint in which the monitor's state is another one."""
    content = torch.load(checkpoint, weights_only=True)
    (key,) = content["callbacks"]
    state = copy.deepcopy(content["callbacks"][key])
    edit(state)
    content["callbacks"][key] = state
    path = folder / "edited.ckpt"
    torch.save(content, path)
    return path


@pytest.mark.contained
@pytest.mark.parametrize("edit", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_state_is_reported_once_and_the_monitor_starts_afresh(
    interrupted: tuple[Path, Watching], tmp_path: Path, contained: Any, edit: Callable[..., object]
) -> None:
    monitor = watching()
    trainer = fit(
        tmp_path, monitor, max_steps=STOP + 2, ckpt=edited(interrupted[0], tmp_path, edit)
    )
    assert trainer.global_step == STOP + 2
    assert monitor.history.steps == (STOP, STOP + 1)
    assert monitor.history.latest("reference_step", "network.1") == STOP
    assert len(contained.errors) == len(contained.reports) == 1
    assert "load_state_dict" in contained.reports[0]


def test_a_state_that_knows_more_than_we_do_is_taken_as_it_is(
    interrupted: tuple[Path, Watching], tmp_path: Path
) -> None:
    def add(state: dict[str, Any]) -> None:
        state.update(more=1)
        state["monitor"].update(more=2)

    monitor = watching()
    fit(tmp_path, monitor, max_steps=STOP + 2, ckpt=edited(interrupted[0], tmp_path, add))
    assert monitor.history.steps == tuple(range(STOP + 2))


def test_the_state_of_another_network_does_not_stop_the_run(
    interrupted: tuple[Path, Watching], tmp_path: Path
) -> None:
    wider = fit(tmp_path / "wider", max_steps=1, make=lambda: mlp(width=24))
    trainer = fit(tmp_path, Saving(STOP), max_steps=STOP, make=lambda: mlp(width=24))
    content = torch.load(tmp_path / f"{STOP}.ckpt", weights_only=True)
    content["callbacks"] = torch.load(interrupted[0], weights_only=True)["callbacks"]
    torch.save(content, tmp_path / "mixed.ckpt")
    monitor = watching()
    trainer = fit(
        tmp_path,
        monitor,
        max_steps=STOP + 2,
        ckpt=tmp_path / "mixed.ckpt",
        make=lambda: mlp(width=24),
    )
    assert wider.global_step == 1
    assert trainer.global_step == STOP + 2
    assert monitor.history.steps[-2:] == (STOP, STOP + 1)
    assert monitor.history.latest("num_units", "network.1") == 24


# -- what a checkpoint holds


class SavingEverywhere(pl.Callback):
    """Writes a checkpoint in each of several hooks."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def save(self, trainer: Any, hook: str) -> None:
        path = Path(trainer.default_root_dir) / f"{len(self.paths)}-{hook}.ckpt"
        trainer.save_checkpoint(path)
        self.paths.append(path)

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.save(trainer, "on_train_start")

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx in (0, 7):
            self.save(trainer, "on_train_batch_start")

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        if trainer.global_step in (1, STOP):
            self.save(trainer, "on_train_batch_end")

    def on_validation_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        if not trainer.sanity_checking:
            self.save(trainer, "on_validation_batch_end")

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        if not trainer.sanity_checking:
            self.save(trainer, "on_validation_end")

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.save(trainer, "on_train_epoch_end")

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.save(trainer, "on_train_end")


def test_every_checkpoint_of_a_run_holds_plain_values_alone(tmp_path: Path) -> None:
    saving = SavingEverywhere()
    fit(tmp_path, watching(), EvaluationMonitor(), saving)
    assert len(saving.paths) > 20
    for path in saving.paths:
        states = torch.load(path, weights_only=True)["callbacks"]
        assert len(states) == 2
        assert all(state["version"] == STATE_VERSION for state in states.values())


def test_a_checkpoint_grows_little_by_a_monitor(interrupted: tuple[Path, Watching]) -> None:
    # A state of numbers, maps of one sample and a byte a unit and snapshot.
    assert interrupted[0].stat().st_size < 200_000
