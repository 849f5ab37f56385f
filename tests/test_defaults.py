from __future__ import annotations

import inspect
from textwrap import dedent

import pytest
from pytorch_lightning import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from tests.tiny import tiny_fit
from tests.writers.reading import read

from vis_callbacks import (
    ActivationMaximizationMonitor,
    OcclusionMonitor,
    TopPatchesMonitor,
    default_monitors,
)


def test_each_call_makes_monitors_of_its_own():
    first, second = default_monitors(), default_monitors()
    assert [type(monitor) for monitor in first] == [type(monitor) for monitor in second]
    assert not {id(monitor) for monitor in first} & {id(monitor) for monitor in second}


def test_the_expensive_ones_are_not_among_them():
    by_hand = (OcclusionMonitor, ActivationMaximizationMonitor, TopPatchesMonitor)
    monitors = default_monitors()
    assert len({monitor.stem for monitor in monitors}) == len(monitors) == 5
    assert not any(isinstance(monitor, by_hand) for monitor in monitors)


def test_options_reach_every_one_of_them():
    monitors = default_monitors(class_names=["cat", "dog"], every_n_epochs=3)
    for monitor in monitors:
        assert monitor.options.class_names == ["cat", "dog"]
        assert monitor.options.every_n_epochs == 3
    assert len(monitors) == 5


def test_each_of_them_is_given_the_kinds_of_alerts_that_are_its_own():
    monitors = default_monitors(enabled_alerts=["representation_collapse", "saturation"])
    kinds = [[rule.kind for rule in monitor.active_rules] for monitor in monitors]
    assert kinds == [["saturation"], [], ["representation_collapse"], [], []]


def test_what_alerts_cause_is_given_by_kind_to_those_that_raise_them():
    monitors = default_monitors(on_alert={"no_gradient": "stop", "dying_units": "raise"})
    given = [monitor.options.on_alert for monitor in monitors]
    assert given == [{"dying_units": "raise"}, {}, {}, {}, {"no_gradient": "stop"}]
    assert default_monitors(on_alert={"default": "stop"})[1].options.on_alert == {"default": "stop"}


def test_no_kinds_of_alerts_are_none_for_each_of_them():
    assert not any(monitor.active_rules for monitor in default_monitors(enabled_alerts=[]))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"enabled_alerts": ["odd_filter"]}, ValueError, r"'odd_filter'.*Nearest: odd_filters"),
        ({"enabled_alerts": "saturation"}, TypeError, r'Use \["saturation"\]'),
        ({"on_alert": {"odd_filter": "stop"}}, ValueError, r"on_alert.*Nearest: odd_filters"),
        ({"every_n_epochs": 0}, ValueError, "every_n_epochs=0"),
        ({"class_name": ["cat"]}, TypeError, "class_names"),
    ],
)
def test_a_wrong_option_says_what_to_write(options, error, words):
    with pytest.raises(error, match=words):
        default_monitors(**options)


def test_they_watch_one_training_together(tmp_path):
    monitors = default_monitors(every_n_epochs=1)
    tiny_fit(tmp_path, monitors, max_epochs=1)
    assert [monitor.guard.counts for monitor in monitors] == [{}] * 5
    assert all(monitor.last_report and monitor.last_report.items for monitor in monitors)


@pytest.mark.parametrize("all_cards", [False, True])
def test_two_runs_fill_at_most_30_cards_unless_all_are_asked_for(tmp_path, all_cards):
    monitors = default_monitors(all_cards=all_cards, max_overhead=None)
    trainer = tiny_fit(tmp_path, monitors, logger=TensorBoardLogger(tmp_path), log_every_n_steps=1)
    tags = read(trainer.log_dir).Tags()
    num_cards = len(tags["scalars"]) + 2 * len(tags["images"])
    assert (num_cards <= 30) is not all_cards
    groups = sorted({tag.partition("/")[0] for tag in (*tags["scalars"], *tags["images"])})
    assert groups[:2] == ["activations", "alerts"]  # the two that TensorBoard opens unfolded


def test_the_yaml_in_its_docstring_makes_the_same_monitors():
    jsonargparse = pytest.importorskip("jsonargparse")
    text = inspect.getdoc(default_monitors).partition("::")[2].partition("Args:")[0]
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--trainer.callbacks", type=list[Callback])
    monitors = parser.instantiate(parser.parse_string(dedent(text))).trainer.callbacks
    assert list(map(type, monitors)) == list(map(type, default_monitors()))
    assert monitors[-1].options.on_alert == "stop"
