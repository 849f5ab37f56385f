"""The options that all monitors share: one table of their types, defaults and checks."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, Unpack, get_args, get_type_hints

from torch import Tensor, nn

from vis_callbacks.engine.layers import nearest
from vis_callbacks.engine.outputs import OutputKind
from vis_callbacks.on_alert import OnAlert, check_on_alert
from vis_callbacks.report import tag


def check_count(name: str, value: object) -> None:
    """Raises unless ``value`` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        kind = type(value).__name__
        raise TypeError(f"{name}={value!r} is a {kind}. Use a whole number of at least 1.")
    if value < 1:
        raise ValueError(f"{name}={value} is too small. Use a whole number of at least 1.")


def check_period(name: str, value: object) -> None:
    """Raises unless ``value`` is None or a whole number of at least 1."""
    if value is not None:
        check_count(name, value)


def check_flag(name: str, value: object) -> None:
    """Raises unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} is not a bool. Use True or False.")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises unless ``value`` is one of the choices."""
    if value not in choices:
        listed = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{name}={value!r} is none of the choices. Use {listed}.")


def check_names(name: str, value: object, *, allow_empty: bool = True) -> None:
    """Raises unless ``value`` is None or a sequence of strings that is no string itself."""
    if value is None:
        return
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f'{name}={value!r} is not a list of names. Use ["{value}"].')
    for item in value:
        if not isinstance(item, str):
            raise TypeError(f"{name} holds {item!r}, which is not a string. Use names only.")
    if not value and not allow_empty:
        raise ValueError(f"{name}={value!r} holds no name. Use None for the default.")


def check_numbers(name: str, value: object) -> None:
    """Raises unless ``value`` is None or a sequence of finite numbers, at least one."""
    if value is None:
        return
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or not value:
        raise TypeError(f"{name}={value!r} is not a list of numbers. Use a list, one per channel.")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | float) or not math.isfinite(item):
            raise TypeError(
                f"{name} holds {item!r}, which is not a finite number. Use numbers only."
            )


def _check_function(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{name}={value!r} cannot be called. Give a function.")


def _check_prefix(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f'{name}={value!r} is a {type(value).__name__}. Use "run_a/".')
    folder = value.rstrip("/")
    if value and tag(folder) != folder:
        raise ValueError(
            f"{name}={value!r} holds characters that loggers or paths would change. "
            'Use letters, digits and "_.-/", such as "run_a/".'
        )


def _check_share(name: str, value: object) -> None:
    if value is None or (isinstance(value, str) and value == "auto"):
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={value!r} is a {type(value).__name__}. Use a number such as 0.03.")
    if not 0 < value <= 1:
        raise ValueError(f"{name}={value} is not in 0 to 1. Use 0.03 for three percent.")


class _Option(NamedTuple):
    """The default of an option, and the check of what is given for it."""

    default: Any
    check: Callable[..., None]


# Of ``max_overhead="auto"``: what is left on in every training must not be felt.
DEFAULT_SHARE = 0.03


class MonitorOptions(TypedDict, total=False):
    """What every monitor takes as keyword; `Monitor` describes them."""

    every_n_train_steps: Annotated[int | None, _Option(None, check_period)]
    every_n_epochs: Annotated[int | None, _Option(None, check_period)]
    on_alert: Annotated[OnAlert, _Option("warn", check_on_alert)]
    enabled_alerts: Annotated[Sequence[str] | None, _Option(None, check_names)]
    tag_prefix: Annotated[str, _Option("", _check_prefix)]
    max_overhead: Annotated[float | Literal["auto"] | None, _Option("auto", _check_share)]
    all_cards: Annotated[bool, _Option(False, check_flag)]
    save_images: Annotated[bool, _Option(False, check_flag)]
    verbose: Annotated[bool, _Option(False, check_flag)]
    num_samples: Annotated[int, _Option(8, check_count)]
    input_fn: Annotated[Callable[[Any], Tensor] | None, _Option(None, _check_function)]
    label_fn: Annotated[Callable[[Any], Tensor] | None, _Option(None, _check_function)]
    forward_fn: Annotated[Callable[[nn.Module, Any], Any] | None, _Option(None, _check_function)]
    outputs: Annotated[
        OutputKind, _Option("auto", partial(check_choice, choices=get_args(OutputKind)))
    ]
    class_names: Annotated[Sequence[str] | None, _Option(None, check_names)]
    mean: Annotated[Sequence[float] | None, _Option(None, check_numbers)]
    std: Annotated[Sequence[float] | None, _Option(None, check_numbers)]


_OPTIONS: dict[str, _Option] = {
    name: get_args(hint)[1]
    for name, hint in get_type_hints(MonitorOptions, include_extras=True).items()
}


def list_options(function: Callable[..., Any], defaults: Mapping[str, Any]) -> None:
    """Has a function's signature list the shared options that its ``**options`` stand for.

    ``help()``, `inspect.signature` and jsonargparse then see each with its type and default.
    """
    signature = inspect.signature(function)
    listed = dict(signature.parameters)
    rest = next((p for p in listed.values() if p.kind is p.VAR_KEYWORD), None)
    if rest is None or MonitorOptions.__name__ not in str(rest.annotation):
        return
    del listed[rest.name]
    for name, hint in get_type_hints(MonitorOptions).items():
        default = defaults.get(name, _OPTIONS[name].default)
        option = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint
        )
        listed.setdefault(name, option)
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*listed.values()]
    )


def described_options(docstring: str | None, shared: str | None) -> str:
    """Returns a docstring with what ``shared`` says of the options behind its ``**options``."""
    own, described = inspect.cleandoc(docstring or ""), inspect.cleandoc(shared or "")
    entries = re.search(r"^Args:\n(.*?)(?=\n\n\S|\Z)", described, re.DOTALL | re.MULTILINE)
    place = re.search(r"^ +\*\*options:.*(?:\n {5,}.*)*", own, re.MULTILINE)
    if entries is None or place is None:
        return own
    return f"{own[: place.end()]}\n{entries[1]}{own[place.end() :]}"


class Options(SimpleNamespace):
    """The shared options of a monitor as given, known to be right; each of them has a value.

    Args:
        owner: The monitor's class, which an error names.
        **options: As a user gives them.

    Raises:
        TypeError, ValueError: An option is unknown or wrong; the message says what to write.
    """

    def __init__(self, owner: type | None = None, /, **options: Unpack[MonitorOptions]) -> None:
        for name in options:
            if name not in _OPTIONS:
                known = inspect.signature(owner).parameters if owner else _OPTIONS
                near = nearest(name, known) or sorted(known)
                raise TypeError(
                    f"{owner.__name__ if owner else 'a monitor'} has no option {name!r}. "
                    f"Nearest: {', '.join(near)}."
                )
        values = {name: options.get(name, option.default) for name, option in _OPTIONS.items()}
        for name, option in _OPTIONS.items():
            option.check(name, values[name])
        super().__init__(**values)
        if self.every_n_train_steps is not None and self.every_n_epochs is not None:
            raise ValueError(
                f"every_n_train_steps={self.every_n_train_steps} and "
                f"every_n_epochs={self.every_n_epochs} exclude each other. Give one of them."
            )
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: only one is given. Give both of them.")
        if self.mean is not None and len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} numbers and std {len(self.std)}. "
                "Give one of each per channel."
            )
        if self.std is not None and any(value <= 0 for value in self.std):
            raise ValueError(
                f"std={list(self.std)} has a number that is not positive. Use numbers above 0."
            )

    @property
    def overhead_limit(self) -> float | None:
        """The share that ``max_overhead`` stands for: "auto" leaves a fixed schedule alone."""
        if self.max_overhead != "auto":
            return None if self.max_overhead is None else float(self.max_overhead)
        return None if self.every_n_train_steps else DEFAULT_SHARE
