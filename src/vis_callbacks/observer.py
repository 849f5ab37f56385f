"""`Observer`: what a monitor reads, says and remembers. It knows neither Trainer nor session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, wraps
from typing import Any, ClassVar, Unpack, cast

import torch

from vis_callbacks._lightning import SetUpError
from vis_callbacks.alerts.alert import Alert, Rule
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.tracker import AlertTracker
from vis_callbacks.engine.batch_reader import BatchReader
from vis_callbacks.engine.outputs import Outputs
from vis_callbacks.engine.probe import Probe
from vis_callbacks.engine.references import References
from vis_callbacks.engine.schedule import Decaying, LogSpaced, Schedule, schedule_from_options
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.engine.user_functions import harmless
from vis_callbacks.guard import Catch, Guard, IntendedError
from vis_callbacks.on_alert import check_kinds, kinds_in
from vis_callbacks.options import MonitorOptions, Options, list_options
from vis_callbacks.report import Report

STATE_VERSION = 2


def _with_base_state(
    own: Callable[[Any], Mapping[str, Any]],
) -> Callable[[Any], dict[str, Any]]:
    """Has a subclass's ``state_dict`` return the base's state too, but not to ``super()``."""

    @wraps(own)
    def state_dict(self: Observer) -> dict[str, Any]:
        return dict(own(self)) if self._is_in_own_state else self._saved(own)

    return state_dict


def _after_base_state(
    own: Callable[[Any, Mapping[str, Any]], object],
) -> Callable[[Any, Mapping[str, Any]], None]:
    """Has a subclass's ``load_state_dict`` take its own part alone, after the base took its."""

    @wraps(own)
    def load_state_dict(self: Observer, state_dict: Mapping[str, Any]) -> None:
        if self._is_in_own_state:
            own(self, state_dict)
        else:
            self._load(state_dict)

    return load_state_dict


class Observer(ABC):
    """The part of a `Monitor` that needs no Trainer; see there."""

    rules: ClassVar[Sequence[Rule]] = ()
    tags: ClassVar[Sequence[str]] = ()
    needs: ClassVar[frozenset[str]] = frozenset()
    stores_references: ClassVar[bool] = True  # in checkpoints; False: others are met on resuming
    stem: ClassVar[str] = ""
    default_options: ClassVar[MonitorOptions] = {}  # where they are not those of every monitor
    default_schedule: ClassVar[Schedule] = Decaying()
    # Which snapshots draw: the first at or after each step of this one; None: all of them.
    # What must be compared over time is a film strip, and its frames are log-spaced anyway.
    picture_schedule: ClassVar[Schedule | None] = LogSpaced(first=20, per_doubling=3)
    # Where they take more than those of others: the first ones wait until the budget has this room.
    first_drawing_seconds: ClassVar[float] = 0.0

    # Batch to masks of its samples, kept with the references by monitors that compare with them.
    mask_fn: Callable[[Any], torch.Tensor] | None = None

    last_report: Report | None
    _is_in_own_state = False  # while a subclass saves or loads its own part

    def __init__(self, **options: Unpack[MonitorOptions]) -> None:
        super().__init__()
        given = cast("MonitorOptions", {**self.default_options, **options})
        self.options = Options(type(self), **given)
        kinds, owner = [rule.kind for rule in self.rules], type(self).__name__
        check_kinds("enabled_alerts", self.options.enabled_alerts or (), kinds, owner)
        check_kinds("on_alert", kinds_in(self.options.on_alert), kinds, owner)
        self.schedule = schedule_from_options(
            self.options.every_n_train_steps, self.options.every_n_epochs, self.default_schedule
        )
        self.references: References | None = None
        self.last_report = None
        self.guard = Guard(type(self).__name__)
        self._begin_memory()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            list_options(cls.__init__, cls.default_options)
        if "state_dict" in vars(cls):
            cls.state_dict = _with_base_state(cls.state_dict)  # type: ignore[method-assign]
        if "load_state_dict" in vars(cls):
            cls.load_state_dict = _after_base_state(  # type: ignore[method-assign]
                cls.load_state_dict
            )

    # -- what a subclass says

    def probes(self) -> Sequence[Probe]:
        """Returns what to read, by default nothing. Called once a run."""
        return ()

    @abstractmethod
    def observe(self, snapshot: Snapshot) -> Report:
        """Returns what is to be said of a snapshot. Needs no Trainer."""

    @_with_base_state
    def state_dict(self) -> Mapping[str, Any]:
        """Returns what must survive a restart: plain values and tensors.

        A subclass returns its own part alone; history, alerts and reference samples are added.
        What goes on in a checkpoint loads with ``weights_only=True``.
        """
        return {}

    @_after_base_state  # noqa: B027 - it has nothing of its own to take back
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes back what `state_dict` returned: a subclass its own part, {} to begin anew."""

    # -- what the session uses

    @property
    def name(self) -> str:
        """The monitor's name in tags such as ``overhead/<name>_percent``."""
        return f"{self.options.tag_prefix}{self.stem}"

    @property
    def alerts(self) -> list[Alert]:
        """The alerts that have begun to fire or became graver so far."""
        return self.tracker.alerts

    @property
    def active_rules(self) -> tuple[Rule, ...]:
        """The rules that the user wants."""
        enabled = self.options.enabled_alerts
        return tuple(rule for rule in self.rules if enabled is None or rule.kind in enabled)

    @property
    def functions(self) -> tuple[Any, Any, Any]:
        """How the user finds inputs and labels in a batch, and runs the model."""
        options = self.options
        return options.input_fn, options.label_fn, options.forward_fn

    @cached_property
    def reader(self) -> BatchReader:
        """Finds inputs and labels in a batch."""
        return BatchReader(harmless(self.options.input_fn), harmless(self.options.label_fn))

    def begin_run(self, step: int) -> None:
        """Begins a training at ``step``: a new one, unless it goes on behind what was seen."""
        self.guard.begin_run()
        if max(self.history.steps, default=0) > step:
            self._start_afresh()

    def forget(self) -> None:
        """Drops what was learned from another model."""
        self.last_report = None
        self.references = None
        self.guard = Guard(type(self).__name__)
        self._start_afresh()

    def catch_up(self) -> None:  # noqa: B027 - there may be nothing to catch up with
        """Looks at what was read and waits, before the state is saved."""

    # -- the state

    def _saved(self, own: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
        """Returns the whole state; what fails is left out of it."""
        state: dict[str, Any] = {}
        with self.guard.catch("state_dict"):
            self.catch_up()
        with self.guard.catch("state_dict"):
            references = self.references if self.stores_references else None
            state = {
                "version": STATE_VERSION,
                "history": self.history.state_dict(),
                "tracker": self.tracker.state_dict(),
                "outputs": self.outputs.state_dict(),
                # Not a copy: monitors share them, and a checkpoint saves what is shared once.
                "references": dict(vars(references)) if references else None,
            }
        with self.guard.catch("state_dict"), self._own_state():
            of_monitor = dict(own(self))
            require_plain(of_monitor, "state_dict()")
            state["monitor"] = of_monitor
        return state

    def _load(self, state: Mapping[str, Any]) -> None:
        """Takes a whole state back; with {}, or one that is not ours, everything begins anew."""
        with Catch() as caught:
            if not state:
                self._start_afresh()
                return
            if state.get("version") != STATE_VERSION:
                raise ValueError(
                    f"the checkpoint's state has version {state.get('version')!r}, this "
                    f"library reads {STATE_VERSION}; the history starts afresh"
                )
            self.history.load_state_dict(state["history"])
            self.tracker.load_state_dict(state["tracker"])
            with self._own_state():
                self.load_state_dict(state.get("monitor", {}))
            self.outputs.load_state_dict(state["outputs"])
            if state["references"] is not None:
                self.references = References(**state["references"])
        if caught.error is not None:
            self.guard.record("load_state_dict", caught.error)
            self._start_afresh()

    def _start_afresh(self) -> None:
        self._begin_memory()
        with self.guard.catch("starting afresh"), self._own_state():
            self.load_state_dict({})

    def _begin_memory(self) -> None:
        self.history, self.tracker = History(), AlertTracker(self.name)
        self.outputs = Outputs(self.options.outputs, self.options.class_names)

    @contextmanager
    def _own_state(self) -> Iterator[None]:
        """Has ``state_dict`` and ``load_state_dict`` mean the subclass's own part."""
        before, self._is_in_own_state = self._is_in_own_state, True
        try:
            yield
        finally:
            self._is_in_own_state = before

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "reader"}


class SameNameError(IntendedError, SetUpError):  # type: ignore[valid-type, misc]
    """Two monitors of a class would write the same tags."""


def check_names(monitors: Sequence[Observer]) -> None:
    """Raises where two monitors of a class have one name: tags and states are found by it.

    Raises:
        SameNameError: The message says what to write.
    """
    known: set[tuple[type, str]] = set()
    for monitor in monitors:
        kind = type(monitor).__name__
        if (type(monitor), monitor.name) in known:
            raise SameNameError(
                f"two {kind}s of this Trainer have tag_prefix={monitor.options.tag_prefix!r} and "
                "would write the same tags. Give one of them a prefix of its own, such as "
                f'{kind}(tag_prefix="second/"), or leave one out.'
            )
        known.add((type(monitor), monitor.name))


# Exactly these: a NumPy float is a float and a str-Enum a str, and neither loads.
_LEAVES = frozenset({bool, int, float, complex, str, bytes, type(None), torch.Tensor})


def require_plain(value: Any, where: str) -> None:
    """Raises unless the value is made of numbers, strings, tensors and plain containers.

    Anything else would be saved without complaint and make the resume fail, which loads with
    ``weights_only=True``.

    Raises:
        TypeError: The message says what lies where.
    """
    kind = type(value)
    if kind is dict:
        for key, item in value.items():
            require_plain(key, f"a key of {where}")
            require_plain(item, f"{where}[{key!r}]")
    elif kind in (list, tuple, set):
        for index, item in enumerate(value):
            require_plain(item, f"{where}[{index}]")
    elif kind not in _LEAVES:
        raise TypeError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}, with which no checkpoint can be "
            "resumed. Use numbers, strings, tensors, lists, tuples, sets and dicts of them."
        )
