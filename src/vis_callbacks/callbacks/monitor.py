"""`Monitor`, the base of all callbacks: it wires parts and does none of their work."""

from __future__ import annotations

import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, ParamSpec, Unpack, cast, final

from vis_callbacks._lightning import LightningCallback, trainer_of
from vis_callbacks.alerts.alert import Alert, Rule
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.ledger import Ledger
from vis_callbacks.callbacks.names import check_names
from vis_callbacks.callbacks.options import MonitorOptions, check_options
from vis_callbacks.callbacks.plain import require_plain
from vis_callbacks.callbacks.session import Session, session_of
from vis_callbacks.engine.outputs import Outputs
from vis_callbacks.engine.probe import Probe
from vis_callbacks.engine.references import References
from vis_callbacks.engine.schedule import Decaying, LogSpaced, Schedule, schedule_from_options
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.guard import Attempt, Guard
from vis_callbacks.report import Report

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")

STATE_VERSION = 1


def _guarded(
    hook: Callable[Concatenate[Monitor, P], None],
) -> Callable[Concatenate[Monitor, P], None]:
    """Contains whatever goes wrong in one of Lightning's hooks."""

    @wraps(hook)
    def contained(self: Monitor, *args: P.args, **kwargs: P.kwargs) -> None:
        with Attempt() as attempt:  # cheaper than guard.contain, and this runs at every step
            hook(self, *args, **kwargs)
        if attempt.error is not None:
            self.guard.note(hook.__name__, attempt.error)

    return cast("Callable[Concatenate[Monitor, P], None]", contained)


class Monitor(LightningCallback, ABC):
    """Looks at a network while it trains, and says what it sees.

    A monitor says what it wants to read (`probes`) and makes a `Report` of what was read
    (`observe`). When a snapshot is taken, how activations are read without changing the run,
    how values of several ranks are merged, where reports are written and what an alert causes
    is the same for all monitors and is done here, so Lightning's hooks are final: who needs
    one adds a plain Callback beside the monitor.

    Nothing is put into ``trainer.callback_metrics``: use ``on_alert`` instead of an
    ``EarlyStopping`` on our numbers.

    Args:
        every_n_train_steps: Take a snapshot at the steps 0, n, 2n, ... Steps are those of the
            x-axis of ``self.log``.
        every_n_epochs: Take a snapshot at the end of every n-th epoch. Excludes the former.
            Without either, each monitor has a schedule of its own.
        on_alert: ``"warn"`` logs a warning; ``"stop"`` also ends the training after the step;
            ``"raise"`` raises `AlertRaisedError`; a function is called with the `Alert`, once, on
            rank 0. If it sets ``trainer.should_stop`` or raises `AlertRaisedError`, all ranks do.
        enabled_alerts: The kinds of alerts wanted; None means all of the monitor's.
        tag_prefix: Put before each tag. Two monitors of a class in one Trainer need different
            ones.
        max_overhead: The share of the training time that the monitor may take. Above it,
            pictures are given up first, then bursts of snapshots become rarer. None: no limit.
        save_images: Write pictures as PNG files where no logger takes pictures.
        verbose: Log one line for each snapshot.
        num_samples: How many reference samples are kept, for monitors that look at inputs.
        input_fn: Batch to input tensor. The default understands a tensor, a tuple or list, a
            dict, a dataclass and a named tuple.
        label_fn: Batch to labels; the default likewise.
        forward_fn: ``(model, inputs) -> scores`` for extra passes; needed where the module has
            no ``forward``.
        outputs: What the model returns: ``"classes"``, scores of classes; ``"values"``, anything
            else (embeddings, a regression, a picture); ``"auto"`` decides from labels and
            outputs together, see `Outputs`.
        class_names: Names of the classes, by index. They say that the outputs are classes.
        mean, std: What the inputs were normalised with, a number a channel, to undo it for
            showing.

    Raises:
        TypeError, ValueError: An option is wrong.
    """

    rules: ClassVar[Sequence[Rule]] = ()
    tags: ClassVar[Sequence[str]] = ()
    needs: ClassVar[frozenset[str]] = frozenset()
    stores_references: ClassVar[bool] = True  # in checkpoints; False: others are met on resuming
    stem: ClassVar[str] = ""
    default_schedule: ClassVar[Schedule] = Decaying()
    # Which snapshots draw: the first at or after each step of this one; None: all of them.
    # What must be compared over time is a film strip, and its frames are log-spaced anyway.
    picture_schedule: ClassVar[Schedule | None] = LogSpaced(first=20, per_doubling=3)

    # Batch to masks of its samples, kept with the references by monitors that compare with them.
    mask_fn: Callable[[Any], torch.Tensor] | None = None

    alerts: list[Alert]
    last_report: Report | None

    def __init__(self, **options: Unpack[MonitorOptions]) -> None:
        super().__init__()
        self.options = check_options(type(self).__name__, options)
        self._check_alert_kinds()
        self.schedule = schedule_from_options(
            self.options.every_n_train_steps, self.options.every_n_epochs, self.default_schedule
        )
        self._state_key = self._generate_state_key(
            tag_prefix=self.options.tag_prefix, schedule=repr(self.schedule)
        )
        self.guard = Guard(type(self).__name__)
        self.history = History()
        self.ledger = Ledger(self.name)
        self.alerts = []
        self.last_report = None
        self.references: References | None = None
        self.outputs = Outputs(self.options.outputs, self.options.class_names)
        self._session: Session | None = None
        self._model: weakref.ref[Any] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        hooks = [name for name in vars(cls) if _is_hook(name)]
        if hooks and cls.__module__ != Monitor.__module__:
            raise TypeError(
                f"{cls.__name__} defines {', '.join(hooks)}, which Monitor wires itself. "
                "Say what to read in probes() and what to make of it in observe(); for any "
                "other hook add a plain Callback beside the monitor."
            )
        if not cls.stem:
            cls.stem = _snake_case(cls.__name__)

    # -- what a monitor is

    @abstractmethod
    def probes(self) -> Sequence[Probe]:
        """Returns what to read. Called once a run."""

    @abstractmethod
    def observe(self, snapshot: Snapshot) -> Report:
        """Returns what is to be said of a snapshot. Needs no Trainer."""

    def state(self) -> Mapping[str, Any]:
        """Returns what must survive a restart: plain values and tensors."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes back what `state` returned."""

    # -- Lightning's hooks

    @property
    @final
    def state_key(self) -> str:
        """Tells the states of several monitors of a class apart in a checkpoint.

        Before a run Lightning asks for it only to refuse two that are equal, in words that do not
        help. Until then each has a key of its own, and `setup` says what to write.
        """
        # Lightning asks for it at each hook of each callback.
        return self._state_key if self._model is not None else f"{self._state_key}@{id(self)}"

    @final
    @_guarded
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Joins the monitors of this Trainer."""
        if self._model is not None and self._model() is not pl_module:
            self.forget()
        self._model = weakref.ref(pl_module)
        self._session = session_of(trainer)
        self._session.join(self)
        if self._session.lead is self:
            monitors = [other for other in trainer.callbacks if isinstance(other, Monitor)]
            check_names(monitors)
            self._session.announce(trainer, monitors)

    @final
    @_guarded
    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """Nothing is measured in the sanity check, but its first batch is the reference."""

    @final
    @_guarded
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begins a training."""
        self._lead(lambda session: session.start(trainer))

    # The next three run at every step, mostly for nothing and with cold caches: no call more
    # than is needed.

    @final
    @_guarded
    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Opens a capture where a snapshot is due."""
        session = self._session
        if session is not None and session.lead is self:
            session.train_batch_start(trainer, batch)

    @final
    @_guarded
    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        """Reads by an extra pass where the user's own pass must not be touched."""
        session = self._session
        if session is not None and session.has_work and session.lead is self:
            session.before_backward(trainer)

    @final
    @_guarded
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the snapshot, after the optimizer's update."""
        session = self._session
        if session is not None and session.has_work and session.lead is self:
            session.train_batch_end(trainer, outputs)

    @final
    @_guarded
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Takes the snapshots that belong to epochs."""
        self._lead(lambda session: session.train_epoch_end(trainer))

    @final
    @_guarded
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Begins an evaluation."""
        self._lead(lambda session: session.evaluation_start(trainer))

    @final
    @_guarded
    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Opens a capture over one batch of an evaluation."""
        self._lead(lambda session: session.evaluation_batch_start(trainer, batch, dataloader_idx))

    @final
    @_guarded
    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Closes the capture over one batch of an evaluation."""
        self._lead(lambda session: session.evaluation_batch_end(dataloader_idx))

    @final
    @_guarded
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Takes the snapshot of an evaluation."""
        self._lead(lambda session: session.evaluation_end(trainer))

    on_test_start = on_validation_start
    on_test_batch_start = on_validation_batch_start
    on_test_batch_end = on_validation_batch_end
    on_test_end = on_validation_end

    @final
    @_guarded
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Sums up."""
        self._lead(lambda session: session.finish(trainer))

    @final
    @_guarded
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Takes everything off: on an exception Lightning calls no ``teardown``."""
        with self.guard.contain("the last snapshots"):  # they may tell what the exception came of
            self._lead(lambda session: session.break_off(trainer))
        self._leave()

    @final
    @_guarded
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Takes everything off, and lets go of the run."""
        self._leave()

    @final
    def state_dict(self) -> dict[str, Any]:
        """Returns plain values and tensors; loads with ``weights_only=True``."""
        state: dict[str, Any] = {}
        with self.guard.contain("state_dict"):
            if self._session is not None and self._model is not None:
                self._session.catch_up(trainer_of(self._model()))
            of_monitor = dict(self.state())
            require_plain(of_monitor, "state()")
            state.update(
                version=STATE_VERSION,
                history=self.history.state(),
                ledger=self.ledger.state(),
                monitor=of_monitor,
                outputs=self.outputs.state_dict(),
                # Not a copy: monitors share them, and a checkpoint saves what is shared once.
                references=dict(vars(self.references))
                if self.references and self.stores_references
                else None,
            )
        return state

    @final
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where a checkpoint left off; a state that is not ours starts afresh."""
        with self.guard.contain("load_state_dict", then=self._start_afresh):
            if state_dict.get("version") != STATE_VERSION:
                raise ValueError(
                    f"the checkpoint's state has version {state_dict.get('version')!r}, this "
                    f"library reads {STATE_VERSION}; the history starts afresh"
                )
            self.history.restore(state_dict["history"])
            self.ledger.restore(state_dict["ledger"])
            self.restore(state_dict["monitor"])
            self.outputs.load_state_dict(state_dict.get("outputs", {}))
            if state_dict["references"] is not None:
                self.references = References(**state_dict["references"])
            self.alerts = list(self.ledger.active)

    # -- parts

    @property
    def name(self) -> str:
        """The monitor's name in tags such as ``overhead/<name>_percent``."""
        return f"{self.options.tag_prefix}{self.stem}"

    @property
    def active_rules(self) -> tuple[Rule, ...]:
        """The rules that the user wants."""
        enabled = self.options.enabled_alerts
        return tuple(rule for rule in self.rules if enabled is None or rule.kind in enabled)

    def _lead(self, act: Callable[[Session], object]) -> None:
        """Acts once for all monitors of a Trainer: the first of them drives the session."""
        if self._session is not None and self._session.lead is self:
            act(self._session)

    def _leave(self) -> None:
        with self.guard.contain("leaving"):
            if self._session is not None:
                self._session.leave(self)
        self._session = None
        # Lightning binds these to the module: a callback that is kept would keep the model.
        vars(self).pop("log", None)
        vars(self).pop("log_dict", None)

    def begin_run(self, step: int) -> None:
        """Begins a training at ``step``: a new one, unless it goes on behind what was seen."""
        self.guard.begin_run()
        if max(self.history.steps, default=0) > step:
            self.alerts = []
            self._start_afresh()

    def forget(self) -> None:
        """Drops what was learned from another model."""
        self.alerts = []
        self.last_report = None
        self.references = None
        self.guard = Guard(type(self).__name__)
        self._start_afresh()

    def _start_afresh(self) -> None:
        self.history, self.ledger = History(), Ledger(self.name)
        self.outputs = Outputs(self.options.outputs, self.options.class_names)
        with self.guard.contain("starting afresh"):
            self.restore({})

    def _check_alert_kinds(self) -> None:
        kinds = [rule.kind for rule in self.rules]
        for kind in self.options.enabled_alerts or ():
            if kind not in kinds:
                raise ValueError(
                    f"enabled_alerts holds {kind!r}; {type(self).__name__} has "
                    f"{', '.join(kinds) or 'no alerts'}."
                )

    def __getstate__(self) -> dict[str, Any]:
        kept = {k: v for k, v in vars(self).items() if k not in ("log", "log_dict")}
        return kept | {"_session": None, "_model": None}


def _is_hook(name: str) -> bool:
    return (name.startswith("on_") or name in _OTHER_HOOKS) and hasattr(LightningCallback, name)


_OTHER_HOOKS = frozenset({"setup", "teardown", "state_dict", "load_state_dict", "state_key"})


def _snake_case(name: str) -> str:
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+", name)
    return "_".join(word.lower() for word in words if word != "Monitor") or name.lower()
