from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning.loggers import CSVLogger
from tests.contracts.dummies import FiltersDummy, SaliencyDummy
from tests.identity import digest
from tests.tiny import NUM_STEPS, TinyModule, smallest, tiny_loader, tiny_module, tiny_trainer
from torch import nn

from vis_callbacks import ActivationMonitor, SaliencyMonitor
from vis_callbacks.options import MonitorOptions, Options

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=5)), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from([object(), print, len, torch.zeros(3), ("a", "b"), {"a"}]),
)


def is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def is_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def is_prefix(value: Any) -> bool:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789_.-/"
    return isinstance(value, str) and set(value.lower()) <= set(letters)


def is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) in (int, float) for v in value)


# What may be right at all; which strings are good prefixes, and more, has tests of its own.
MAY_BE: dict[str, Callable[[Any], bool]] = {
    "every_n_train_steps": lambda v: v is None or is_count(v),
    "every_n_epochs": lambda v: v is None or is_count(v),
    "on_alert": lambda v: callable(v) or v == {} or v in ("warn", "stop", "raise"),
    "enabled_alerts": lambda v: v is None or v in ([], ()),
    "tag_prefix": is_prefix,
    "max_overhead": lambda v: v is None or v == "auto" or (type(v) in (int, float) and 0 < v <= 1),
    "all_cards": lambda v: isinstance(v, bool),
    "save_images": lambda v: isinstance(v, bool),
    "verbose": lambda v: isinstance(v, bool),
    "num_samples": is_count,
    "input_fn": lambda v: v is None or callable(v),
    "label_fn": lambda v: v is None or callable(v),
    "forward_fn": lambda v: v is None or callable(v),
    "outputs": lambda v: v in ("auto", "classes", "values"),
    "class_names": lambda v: v is None or is_names(v),
    "mean": lambda v: v is None,
    "std": lambda v: v is None,
    "layers": lambda v: v is None or (is_names(v) and len(v) > 0),
    "map_layers": lambda v: v is None or is_names(v),
    "max_maps": is_count,
    "histograms": lambda v: isinstance(v, bool),
}


def refusal(**options: Any) -> str | None:
    """Returns what the constructor says against the options, None if it takes them."""
    try:
        ActivationMonitor(**options)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def test_every_option_is_tried():
    own = set(ActivationMonitor.__init__.__annotations__) - {"return", "options"}
    assert set(MAY_BE) == set(MonitorOptions.__annotations__) | own
    assert set(vars(Options())) == set(MonitorOptions.__annotations__)


@pytest.mark.parametrize("name", MAY_BE)
@settings(max_examples=100, deadline=None)
@given(value=ANYTHING)
def test_a_wrong_value_is_refused_by_name_with_what_to_write(name, value):
    words = refusal(**{name: value})
    if words is None:
        assert MAY_BE[name](value)
    else:
        assert name in words
        assert any(word in words for word in ("Use ", "Give ", "has "))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("layer", "layers"), ("histogram", "histograms"), ("class_name", "class_names")],
)
def test_an_unknown_option_is_answered_with_the_nearest_of_the_monitor(wrong, right):
    with pytest.raises(TypeError, match=rf"ActivationMonitor has no option '{wrong}'.*\b{right}\b"):
        ActivationMonitor(**{wrong: None})


def test_a_subclass_that_passes_other_keywords_on_is_left_as_it_is():
    class Own(FiltersDummy):
        """Does something.

        Args:
            **options: Of its own.
        """

        def __init__(self, own: int = 3, **options: Any) -> None:
            super().__init__(**options)

    assert list(inspect.signature(Own).parameters) == ["own", "options"]
    assert Own(num_samples=3).options.num_samples == 3


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"every_n_train_steps": 5, "every_n_epochs": 1}, ValueError, "exclude each other"),
        ({"every_n_train_steps": 0}, ValueError, "every_n_train_steps=0 is too small.*at least 1"),
        ({"every_n_epochs": 1.0}, TypeError, r"every_n_epochs=1\.0 is a float.*whole number"),
        ({"every_n_epochs": True}, TypeError, "every_n_epochs=True is a bool"),
        ({"on_alert": "explode"}, ValueError, 'on_alert=\'explode\'.*"warn", "stop", "raise"'),
        (
            {"on_alert": {"dying_units": "explode"}},
            ValueError,
            r"on_alert\['dying_units'\]='explode'",
        ),
        (
            {"on_alert": {"dying_unit": "stop"}},
            ValueError,
            "on_alert holds 'dying_unit', which ActivationMonitor.*Nearest: dying_units",
        ),
        ({"on_alert": {1: "stop"}}, ValueError, "on_alert holds 1, which"),
        ({"on_alert": {"info": "stop"}}, ValueError, "on_alert holds 'info', which"),
        ({"enabled_alerts": "nan"}, TypeError, r'enabled_alerts=\'nan\'.*Use \["nan"\]'),
        ({"enabled_alerts": ["ded"]}, ValueError, "enabled_alerts holds 'ded'.*dying_units"),
        ({"max_overhead": 5}, ValueError, "max_overhead=5.*0.03 for three percent"),
        ({"max_overhead": float("nan")}, ValueError, "max_overhead=nan"),
        ({"max_overhead": "3%"}, TypeError, "max_overhead='3%' is a str. Use a number such as"),
        ({"num_samples": 0}, ValueError, "num_samples=0 is too small"),
        ({"input_fn": "x"}, TypeError, "input_fn='x' cannot be called"),
        ({"mean": [0.5]}, ValueError, "mean and std belong together"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, ValueError, "mean has 1 numbers and std 2"),
        ({"mean": [0.5], "std": [0.0]}, ValueError, "std=.*not positive.*above 0"),
        ({"mean": 0.5, "std": 0.5}, TypeError, "mean=0.5 is not a list of numbers"),
        ({"mean": [float("nan")], "std": [1.0]}, TypeError, "mean holds nan"),
        ({"mean": torch.zeros(3), "std": [1.0]}, TypeError, "mean=.* is not a list of numbers"),
        ({"tag_prefix": "run #1/"}, ValueError, "tag_prefix='run #1/'.*letters, digits"),
        ({"tag_prefix": "../up/"}, ValueError, "tag_prefix='../up/'"),
        ({"layers": "fc*"}, TypeError, r'layers=\'fc\*\' is not a list of names. Use \["fc\*"\]'),
        ({"layers": []}, ValueError, r"layers=\[\] holds no name. Use None"),
        ({"layers": [1]}, TypeError, "layers holds 1"),
        ({"max_maps": 0}, ValueError, "max_maps=0 is too small"),
        ({"histograms": "yes"}, TypeError, "histograms='yes' is not a bool"),
        (
            {"every_n_train_step": 5},
            TypeError,
            "no option 'every_n_train_step'.*every_n_train_steps",
        ),
    ],
    ids=str,
)
def test_the_words_of_an_error_say_what_would_be_right(options, error, words):
    with pytest.raises(error, match=words):
        ActivationMonitor(**options)


def test_options_are_kept_as_given():
    names = ["cat", "dog"]
    options = Options(class_names=names, every_n_epochs=2)
    assert options.class_names is names
    assert options.every_n_epochs == 2


@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b/", "run_a.1-2/"])
def test_good_prefixes_are_taken(prefix):
    assert ActivationMonitor(tag_prefix=prefix).options.tag_prefix == prefix


# -- what only a run can tell


def fit(tmp_path, monitor, module=None, loader=None, **options):
    trainer = tiny_trainer(tmp_path, [monitor], **options)
    loader = loader or tiny_loader()
    trainer.fit(module or tiny_module(), loader, tiny_loader() if module is None else None)
    assert trainer.global_step == NUM_STEPS
    return trainer


@pytest.mark.contained
def test_a_glob_without_a_layer_is_reported_once_with_the_nearest_names(tmp_path, contained):
    monitor = smallest(ActivationMonitor, layers=["hiden*", "relu"])
    fit(tmp_path, monitor)
    (report,) = contained.reports
    assert 'layers="hiden*" matches none of the model\'s 8 layers; nearest: "hidden"' in report
    assert "vis_callbacks.summary" in report
    assert len(monitor.history) == NUM_STEPS  # the other name is read all the same


class Sealed:
    """A batch whose parts nobody finds who does not know it."""

    __slots__ = ("parts",)

    def __init__(self, parts: Any) -> None:
        self.parts = parts


class SealedBatches(TinyModule):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch.parts, batch_idx)


class SealedLoader:
    def __iter__(self):
        return map(Sealed, tiny_loader())

    def __len__(self):
        return 2


def test_a_batch_that_is_not_understood_is_remarked_once_with_what_to_write(tmp_path, caplog):
    caplog.set_level("INFO", "vis_callbacks")
    monitors = [smallest(ActivationMonitor), smallest(SaliencyMonitor)]
    trainer = tiny_trainer(tmp_path, monitors)
    trainer.fit(SealedBatches(), SealedLoader())
    assert len(monitors[0].history) == NUM_STEPS
    words = "no input tensor was found in the batch, which looks like Sealed"
    (remark,) = [message for message in caplog.messages if words in message]
    assert "Write input_fn=lambda batch: ..." in remark


def test_an_input_fn_makes_any_batch_understood(tmp_path):
    monitor = smallest(ActivationMonitor, input_fn=lambda batch: batch.parts[0])
    fit(tmp_path, monitor, SealedBatches(), SealedLoader())
    assert len(monitor.history) == NUM_STEPS


@pytest.mark.contained
@pytest.mark.parametrize("sanity", [0, 1])
def test_an_input_fn_that_returns_no_tensor_is_reported_once(tmp_path, contained, sanity):
    monitor = smallest(ActivationMonitor, input_fn=lambda batch: None)
    fit(tmp_path, monitor, num_sanity_val_steps=sanity)
    (report,) = contained.reports
    assert (
        "input_fn returned NoneType for a batch that looks like list(Tensor(4, 3, 6, 6)" in report
    )


def fails(*args):
    raise KeyError("image")


@pytest.mark.parametrize("sanity", [0, 1])
@pytest.mark.parametrize("option", ["input_fn", "label_fn", "forward_fn"])
def test_a_given_function_that_raises_on_the_first_batch_fails_at_once(tmp_path, option, sanity):
    module = tiny_module()
    monitor = smallest(ActivationMonitor, **{option: fails})
    trainer = tiny_trainer(tmp_path, [monitor], num_sanity_val_steps=sanity)
    with pytest.raises(ValueError, match=rf"{option} raised KeyError\('image'\)") as caught:
        trainer.fit(module, tiny_loader(), tiny_loader())
    words = str(caught.value)
    assert ("first validation batch" if sanity else "first training batch") in words
    assert "Tensor(4, 3, 6, 6) float32" in words
    assert f"Write {option}=lambda" in words
    assert not module.losses


@pytest.mark.contained
@pytest.mark.parametrize("option", ["input_fn", "label_fn"])
def test_a_given_function_that_raises_later_is_contained(tmp_path, option):
    num_calls = []

    def fails_later(batch):
        num_calls.append(1)
        if len(num_calls) > 1:
            raise KeyError("image")
        return batch[option == "label_fn"]

    fit(tmp_path, smallest(ActivationMonitor, **{option: fails_later}))
    assert len(num_calls) > 1


def test_given_functions_are_tried_once_and_change_nothing(tmp_path):
    calls = []

    def forward_fn(model, inputs):
        calls.append(len(inputs))
        return model(inputs)

    runs = []
    for kinds in ((), (FiltersDummy, SaliencyDummy)):
        module = tiny_module()
        monitors = [kind(forward_fn=forward_fn) for kind in kinds]
        tiny_trainer(tmp_path, monitors, max_steps=1).fit(module, tiny_loader(), tiny_loader())
        runs.append(digest([module.losses, *module.state_dict().values(), torch.rand(3)]))
    assert runs[0] == runs[1]
    assert calls[0] == 4  # tried on the first batch; what follows is its ordinary use
    assert 2 <= len(calls) <= 4


class Linear(TinyModule):
    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(108, 3)

    def forward(self, x):
        return self.only(x.flatten(1))


def test_a_model_without_nonlinearities_is_remarked_once_with_what_to_write(tmp_path, caplog):
    caplog.set_level("INFO", "vis_callbacks")
    fit(tmp_path, smallest(ActivationMonitor), Linear())
    (remark,) = [message for message in caplog.messages if "no nonlinearity was seen" in message]
    assert "ActivationMonitor(layers=[" in remark


def test_a_linear_model_is_read_by_name(tmp_path):
    monitor = smallest(ActivationMonitor, layers=["only"])
    fit(tmp_path, monitor, Linear())
    assert len(monitor.history) == NUM_STEPS


def test_without_a_logger_for_pictures_the_numbers_go_on_and_one_line_says_what_to_add(
    tmp_path, caplog
):
    trainer = fit(tmp_path, smallest(ActivationMonitor), logger=CSVLogger(tmp_path))
    (advice,) = [m for m in caplog.messages if "no logger takes them" in m]
    assert "CSVLogger" in advice
    assert "save_images=True" in advice
    assert "dead_fraction/total" in (tmp_path / trainer.logger.log_dir / "metrics.csv").read_text()
    assert not list(tmp_path.rglob("*.png"))


def test_save_images_writes_png_files_where_no_logger_takes_pictures(tmp_path, caplog):
    fit(tmp_path, smallest(ActivationMonitor, save_images=True), logger=CSVLogger(tmp_path))
    assert list(tmp_path.rglob("*.png"))
    assert not [m for m in caplog.messages if "no logger takes them" in m]


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({}, 0.03),
        ({"every_n_epochs": 2}, 0.03),
        ({"every_n_train_steps": 10}, None),
        ({"every_n_train_steps": 10, "max_overhead": 0.1}, 0.1),
        ({"max_overhead": None}, None),
    ],
    ids=str,
)
@pytest.mark.budget
def test_the_budget_is_on_unless_the_user_fixes_the_steps_or_switches_it_off(options, limit):
    assert Options(**options).overhead_limit == limit
