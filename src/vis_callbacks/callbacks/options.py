"""The options that all monitors share: one table, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from vis_callbacks.engine.batch_reader import BatchReader
from vis_callbacks.engine.outputs import OutputKind
from vis_callbacks.engine.user_functions import harmless
from vis_callbacks.report import tag

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vis_callbacks.alerts.alert import Alert

OnAlert = Literal["warn", "stop", "raise"]


class MonitorOptions(TypedDict, total=False):
    """What every monitor takes as keyword; `Monitor` describes them."""

    every_n_train_steps: int | None
    every_n_epochs: int | None
    on_alert: OnAlert | Callable[[Alert], object]
    enabled_alerts: Sequence[str] | None
    tag_prefix: str
    max_overhead: float | None
    save_images: bool
    verbose: bool
    num_samples: int
    input_fn: Callable[[Any], Tensor] | None
    label_fn: Callable[[Any], Tensor] | None
    forward_fn: Callable[[nn.Module, Any], Any] | None
    outputs: OutputKind
    class_names: Sequence[str] | None
    mean: Sequence[float] | None
    std: Sequence[float] | None


@dataclass(frozen=True, kw_only=True)
class CheckedOptions:
    """The shared options as given, known to be right.

    Raises:
        TypeError, ValueError: A wrong option; the message says what to write instead.
    """

    every_n_train_steps: int | None = None
    every_n_epochs: int | None = None
    on_alert: OnAlert | Callable[[Alert], object] = "warn"
    enabled_alerts: Sequence[str] | None = None
    tag_prefix: str = ""
    max_overhead: float | None = None
    save_images: bool = False
    verbose: bool = False
    num_samples: int = 8
    input_fn: Callable[[Any], Tensor] | None = None
    label_fn: Callable[[Any], Tensor] | None = None
    forward_fn: Callable[[nn.Module, Any], Any] | None = None
    outputs: OutputKind = "auto"
    class_names: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_period("every_n_train_steps", self.every_n_train_steps)
        check_period("every_n_epochs", self.every_n_epochs)
        if self.every_n_train_steps is not None and self.every_n_epochs is not None:
            raise ValueError(
                f"every_n_train_steps={self.every_n_train_steps} and "
                f"every_n_epochs={self.every_n_epochs} exclude each other. Give one of them."
            )
        if not callable(self.on_alert) and self.on_alert not in ("warn", "stop", "raise"):
            raise ValueError(
                f"on_alert={self.on_alert!r} is none of the reactions. "
                'Use "warn", "stop", "raise" or a function that takes the alert.'
            )
        check_names("enabled_alerts", self.enabled_alerts)
        check_choice("outputs", self.outputs, get_args(OutputKind))
        check_names("class_names", self.class_names)
        _check_type("tag_prefix", self.tag_prefix, str, '"run_a/"')
        _check_prefix(self.tag_prefix)
        _check_type("save_images", self.save_images, bool, "True or False")
        _check_type("verbose", self.verbose, bool, "True or False")
        check_count("num_samples", self.num_samples)
        if self.max_overhead is not None:
            check_share("max_overhead", self.max_overhead, "0.03 for three percent")
        for name in ("input_fn", "label_fn", "forward_fn"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise TypeError(f"{name}={function!r} cannot be called. Give a function.")
        _check_statistics(self.mean, self.std)

    @cached_property
    def reader(self) -> BatchReader:
        """How inputs and labels are found in a batch."""
        return BatchReader(harmless(self.input_fn), harmless(self.label_fn))

    @property
    def of_inputs(self) -> Callable[[Any], Tensor]:
        """How the input is found in a batch."""
        return self.reader.inputs

    @property
    def of_labels(self) -> Callable[[Any], Tensor | None]:
        """How the labels are found in a batch."""
        return self.reader.labels


def check_options(monitor: str, options: Mapping[str, Any]) -> CheckedOptions:
    """Returns the checked options. Raises TypeError for a keyword that no monitor has."""
    known = CheckedOptions.__dataclass_fields__
    for name in options:
        if name not in known:
            from vis_callbacks.engine.layers import nearest  # only for the words of an error

            near = nearest(name, known) or sorted(known)
            raise TypeError(f"{monitor} has no option {name!r}. Nearest: {', '.join(near)}.")
    return CheckedOptions(**options)


def check_period(name: str, value: object) -> None:
    """Raises unless ``value`` is None or a whole number of at least 1."""
    if value is None:
        return
    check_count(name, value)


def check_count(name: str, value: object) -> None:
    """Raises unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}. Use a whole number of at least 1."
        )
    if value < 1:
        raise ValueError(f"{name}={value} is too small. Use a whole number of at least 1.")


def check_flag(name: str, value: object) -> None:
    """Raises unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} is no bool. Use True or False.")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises unless ``value`` is one of the choices."""
    if value not in choices:
        listed = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{name}={value!r} is none of the choices. Use {listed}.")


def check_share(name: str, value: object, example: str) -> None:
    """Raises unless ``value`` is a number above 0 and at most 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}. Use a number: {example}.")
    if not 0 < value <= 1:
        raise ValueError(f"{name}={value} is not a share above 0 and up to 1. Use {example}.")


def check_names(name: str, value: object, *, allow_empty: bool = True) -> None:
    """Raises unless ``value`` is None or a sequence of strings that is no string itself."""
    if value is None:
        return
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f'{name}={value!r} is no list of names. Use ["{value}"].')
    for item in value:
        if not isinstance(item, str):
            raise TypeError(f"{name} holds {item!r}, which is no string. Use names only.")
    if not value and not allow_empty:
        raise ValueError(f"{name}={value!r} holds no name. Use None for the default.")


def _check_type(name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}. Use {example}.")


def _check_prefix(prefix: str) -> None:
    folder = prefix.rstrip("/")
    if prefix and tag(folder) != folder:
        raise ValueError(
            f"tag_prefix={prefix!r} holds what loggers change or a path would swallow. "
            'Use letters, digits and "_.-/", such as "run_a/".'
        )


def check_numbers(name: str, value: object) -> None:
    """Raises unless ``value`` is None or a sequence of finite numbers, at least one."""
    if value is None:
        return
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not value:
        raise TypeError(f"{name}={value!r} is no list of numbers. Use a list, one a channel.")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | float) or not math.isfinite(item):
            raise TypeError(f"{name} holds {item!r}, which is no finite number. Use numbers only.")


def _check_statistics(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    check_numbers("mean", mean)
    check_numbers("std", std)
    if (mean is None) != (std is None):
        raise ValueError("mean and std belong together: only one is given. Give both or none.")
    if mean is None or std is None:
        return
    if len(mean) != len(std):
        raise ValueError(
            f"mean has {len(mean)} numbers and std {len(std)}. Give one of each a channel."
        )
    if any(value <= 0 for value in std):
        raise ValueError(f"std={list(std)} has a number that is not positive. Use those above 0.")
