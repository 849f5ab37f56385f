"""What holds for every monitor, whatever it looks at."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from tests.contracts.every_monitor import EVERY_MONITOR, SHIPPED
from tests.identity import assert_identical, digest, fingerprint
from tests.tiny import NUM_STEPS, fullest, required, smallest, tiny_fit, tiny_module
from tests.writers.reading import read

import vis_callbacks
from vis_callbacks import Monitor, Report, Snapshot
from vis_callbacks.cards import CARDS, pattern_of
from vis_callbacks.options import Options

every_monitor = pytest.mark.parametrize("cls", EVERY_MONITOR, ids=lambda cls: cls.__name__)
every_shipped_monitor = pytest.mark.parametrize("cls", SHIPPED, ids=lambda cls: cls.__name__)

# Written by the wiring for every monitor.
SHARED_TAGS = ("overhead/<monitor>_percent", "alerts/active", "alerts/text")
OF_THE_USER = {"loss", "val_loss", "epoch"}


class AtEachStep(Callback):
    """Does something with the monitor while the run is on."""

    def __init__(self, act: Any) -> None:
        self.act = act
        self.results: list[Any] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.results.append(self.act(trainer))


def state_of(trainer) -> dict[str, str]:
    return fingerprint(trainer) | {
        "losses": digest(trainer.lightning_module.losses),
        "metrics": digest({k: v for k, v in trainer.callback_metrics.items() if k in OF_THE_USER}),
        "steps": str(trainer.global_step),
        "epochs": str(trainer.current_epoch),
    }


def plain(value: Any) -> Any:
    """Returns what must be equal in a copy of a monitor."""
    return value.options, type(value.schedule), digest(value.state_dict())


@every_shipped_monitor
def test_it_is_public(cls):
    assert getattr(vis_callbacks, cls.__name__) is cls


@every_shipped_monitor
def test_it_can_be_made_without_an_argument_or_says_which_it_needs(cls):
    needed = required(cls)
    if needed:
        with pytest.raises(TypeError, match=".*".join(needed)):
            cls()
    assert isinstance(cls(**needed), Monitor)


@every_shipped_monitor
def test_its_docstring_names_every_option_and_what_it_raises(cls):
    own = [name for name in vars(cls)["__init__"].__annotations__ if name != "return"]
    assert own
    missing = [name for name in own if not re.search(rf"^ +\**{name}\b", cls.__doc__, re.MULTILINE)]
    assert not missing


@every_shipped_monitor
@pytest.mark.parametrize("on_alert", ["stop", {"critical": "stop", "default": "warn"}], ids=str)
def test_it_goes_through_yaml(cls, on_alert):
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--monitor", type=Callback)
    given = {"every_n_train_steps": 7, "on_alert": on_alert, "tag_prefix": "a/", **required(cls)}
    path = f"{vis_callbacks.__name__}.{cls.__name__}"
    parsed = parser.parse_object({"monitor": {"class_path": path, "init_args": given}})
    again = parser.parse_string(parser.dump(parsed))
    monitor = parser.instantiate(again).monitor
    assert type(monitor) is cls
    assert monitor.options == cls(**given).options


@every_shipped_monitor
def test_its_signature_and_its_help_list_every_option(cls):
    listed = inspect.signature(cls).parameters
    made = cls(**required(cls))
    for name, value in vars(Options()).items():
        assert listed[name].default == vars(made.options)[name]
        assert f"\n    {name}: " in inspect.getdoc(cls)
        assert value == listed[name].default or name in cls.default_options
    assert not any(one.kind is one.VAR_KEYWORD for one in listed.values())


@every_shipped_monitor
def test_the_command_lines_help_describes_every_option(cls):
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(cls, "m")
    described = {action.dest: action.help for action in parser._actions}
    for name in inspect.signature(cls).parameters:
        assert described[f"m.{name}"].partition("(type:")[0].strip(), name


@every_monitor
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_it_is_copied_before_during_and_after_a_run(cls, copied, tmp_path):
    monitor = smallest(cls)
    assert plain(copied(monitor)) == plain(monitor)
    during = AtEachStep(lambda trainer: plain(copied(monitor)) == plain(monitor))
    tiny_fit(tmp_path, [monitor, during])
    assert during.results == [True] * NUM_STEPS
    assert plain(copied(monitor)) == plain(monitor)


@every_monitor
def test_a_pickle_holds_no_model(cls, tmp_path):
    monitor = smallest(cls)
    home = type(tiny_module()).__module__.encode()
    during = AtEachStep(lambda trainer: pickle.dumps(monitor))
    tiny_fit(tmp_path, [monitor, during])
    assert home in pickle.dumps(tiny_module())
    assert len(during.results) == NUM_STEPS
    assert not any(home in dumped for dumped in (*during.results, pickle.dumps(monitor)))


@every_monitor
def test_a_copy_works_in_a_run_of_its_own(cls, tmp_path):
    monitor = smallest(cls)
    tiny_fit(tmp_path, [monitor])
    other = copy.deepcopy(monitor)
    tiny_fit(tmp_path, [other])
    assert other.last_report is not None


@every_monitor
def test_its_state_is_plain_at_every_stage_and_comes_back(cls, tmp_path):
    def loaded(trainer: Any = None) -> dict[str, Any]:
        file = io.BytesIO()
        torch.save(monitor.state_dict(), file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    monitor = smallest(cls)
    fresh = loaded()
    during = AtEachStep(loaded)
    tiny_fit(tmp_path, [monitor, during])
    for state in (fresh, *during.results, loaded()):
        other = smallest(cls)
        other.load_state_dict(state)
        assert digest(other.state_dict()) == digest(state)
    assert len(during.results) == NUM_STEPS


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory) -> dict[str, str]:
    """The state after a run without monitors; two of them agree, or nothing is proven."""
    states = [state_of(tiny_fit(tmp_path_factory.mktemp("plain"))) for _ in range(2)]
    assert_identical(*states)
    return states[0]


@every_monitor
def test_it_changes_no_bit_of_the_run(cls, unwatched, tmp_path):
    monitor = fullest(cls)
    trainer = tiny_fit(tmp_path, [monitor])
    assert monitor.last_report is not None
    assert_identical(unwatched, state_of(trainer))


def test_all_together_change_no_bit_of_the_run(unwatched, tmp_path):
    monitors = [smallest(cls) for cls in EVERY_MONITOR]
    trainer = tiny_fit(tmp_path, monitors)
    assert all(monitor.last_report is not None for monitor in monitors)
    assert_identical(unwatched, state_of(trainer))


@every_monitor
@pytest.mark.contained
def test_a_failure_inside_is_reported_once_and_counted(
    cls, unwatched, contained, monkeypatch, tmp_path
):
    monitor, calls = smallest(cls), []

    def failing(snapshot: Snapshot) -> Report:
        calls.append(snapshot.step)
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(monitor, "observe", failing)
    trainer = tiny_fit(tmp_path, [monitor])
    assert_identical(unwatched, state_of(trainer))
    assert calls
    assert monitor.guard.counts == {"observe: RuntimeError: broken on purpose": len(calls)}
    assert len(contained.reports) == 1
    assert cls.__name__ in contained.reports[0]


@every_monitor
def test_it_writes_the_tags_that_it_documents_and_no_others(cls, tmp_path):
    monitor = fullest(cls)
    trainer = tiny_fit(tmp_path, [monitor], logger=TensorBoardLogger(tmp_path))
    written = tags_of(trainer.logger.log_dir) - OF_THE_USER - {"hp_metric"}
    assert written
    documented = {tag: pattern_of(tag) for tag in (*cls.tags, *SHARED_TAGS)}
    undocumented = [t for t in written if not any(p.fullmatch(t) for p in documented.values())]
    assert not undocumented
    unwritten = [t for t in cls.tags if not any(documented[t].fullmatch(w) for w in written)]
    assert not unwritten
    if cls in SHIPPED:
        assert set(cls.tags) <= set(CARDS)


def tags_of(folder: str) -> set[str]:
    accumulator = read(folder)
    found = accumulator.Tags()
    tags = {t for kind in ("scalars", "images", "histograms") for t in found[kind]}
    tags |= {t.removesuffix("/text_summary") for t in found["tensors"]}
    return tags | projector_tags(folder)


def projector_tags(folder: str) -> set[str]:
    config = Path(folder) / "projector_config.pbtxt"
    if not config.exists():
        return set()
    return {
        name.rsplit(":", 1)[0] for name in re.findall(r'tensor_name: "(.*)"', config.read_text())
    }
