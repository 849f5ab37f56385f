"""`Monitor`, the base of all callbacks: Lightning's hooks, and nothing else."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, Unpack, cast, final

from vis_callbacks._lightning import LightningCallback, trainer_of
from vis_callbacks.guard import Catch
from vis_callbacks.observer import Observer
from vis_callbacks.options import MonitorOptions, described_options
from vis_callbacks.session import Session, session_of

Hook = TypeVar("Hook", bound=Callable[..., None])


def _guarded(hook: Hook) -> Hook:
    """Catches what fails in one of Lightning's hooks."""

    @wraps(hook)
    def guarded(self: Monitor, *args: Any, **kwargs: Any) -> None:
        with Catch() as caught:  # cheaper than guard.catch, and this runs at every step
            hook(self, *args, **kwargs)
        if caught.error is not None:
            self.guard.record(hook.__name__, caught.error)

    return cast("Hook", guarded)


def _driven(name: str) -> Callable[..., None]:
    """Makes the hook by which the driver has the session act, once for all monitors."""

    def hook(self: Monitor, trainer: Any, pl_module: Any, *args: Any) -> None:
        session = self._session
        if session is not None and session.driver is self:
            getattr(session, name)(trainer, *args)

    hook.__name__ = name
    hook.__doc__ = f"Calls the session's `{name}`."
    return _guarded(hook)


class Monitor(Observer, LightningCallback):
    """Looks at a network while it trains, and says what it sees.

    A monitor declares what it needs to read (`probes`), and makes a `Report` from it (`observe`).
    All else is the same for all monitors and is done here: when snapshots are taken, how
    activations are read without changing the run, how values of several ranks are merged, where
    reports are written and what an alert causes. Lightning's hooks are therefore final. If you
    need one, add a plain Callback to the Trainer.

    Nothing is put into ``trainer.callback_metrics``: use ``on_alert`` instead of an
    ``EarlyStopping`` on our numbers.

    Args:
        every_n_train_steps: Take a snapshot at the steps 0, n, 2n, ... Steps are those of the
            x-axis of ``self.log``.
        every_n_epochs: Take a snapshot at the end of every n-th epoch. Cannot be combined with
            the former. Without either, each monitor has its own schedule.
        on_alert: ``"warn"`` logs a warning; ``"stop"`` also ends the training after the step;
            ``"raise"`` raises `AlertRaisedError`; a function is called with the `Alert` on rank 0,
            once when it begins and once when it is over (``alert.state`` is then ``"resolved"``).
            If it sets ``trainer.should_stop`` or raises `AlertRaisedError`, all ranks do. Or a
            dictionary of these by kind of alert, by ``"warning"`` and ``"critical"``, and
            ``"default"``: ``{"dying_units": "stop", "default": "warn"}``.
        enabled_alerts: The kinds of alerts wanted; None means all of the monitor's.
        tag_prefix: Put before each tag. Two monitors of one class in a Trainer need different
            prefixes.
        max_overhead: The share of the training time so far that all monitors of the Trainer
            together may take. Pictures of step 0 and of the end are always drawn, and have one
            second besides. Other pictures that exceed the share wait, and show the latest state
            once there is time. If the numbers alone exceed it, those that are only shown are
            written less often. What alerts need never waits. ``"auto"`` is 0.03, but with
            ``every_n_train_steps`` nothing waits, so that the run shows the same each time.
            None: nothing waits.
        all_cards: Have TensorBoard draw a card for every number and picture. By default it draws
            the most important ones, at most 30 for two runs of `default_monitors`. The Health tab
            and other loggers always have the rest, too.
        save_images: Write pictures as PNG files where no logger takes pictures.
        verbose: Log one line for each snapshot.
        num_samples: How many reference samples are kept, for monitors that show inputs.
        input_fn: Returns the input tensor of a batch. By default it is found in a tensor, a tuple
            or list, a dict, a dataclass or a named tuple.
        label_fn: Returns the labels of a batch; the default is found in the same way.
        forward_fn: ``(model, inputs) -> scores`` for extra passes; needed if the module has no
            ``forward``.
        outputs: What the model returns: ``"classes"``, scores of classes; ``"values"``, anything
            else (embeddings, a regression, a picture); ``"auto"`` decides from labels and
            outputs together, see `Outputs`.
        class_names: Names of the classes, by index. Giving them says that the outputs are classes.
        mean: What was subtracted from the inputs, one number per channel; it is added back for
            showing them.
        std: What the inputs were then divided by; needs ``mean``.

    Raises:
        TypeError, ValueError: An option is wrong.
    """

    def __init__(self, **options: Unpack[MonitorOptions]) -> None:
        super().__init__(**options)
        self._state_key = self._generate_state_key(
            tag_prefix=self.options.tag_prefix, schedule=repr(self.schedule)
        )
        self._session: Session | None = None
        self._model: weakref.ref[Any] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__doc__ = described_options(cls.__doc__, Monitor.__doc__)
        if not cls.stem:
            cls.stem = _snake_case(cls.__name__)
        for old, new in (("state", "state_dict"), ("restore", "load_state_dict")):
            if callable(vars(cls).get(old)):
                raise TypeError(
                    f"{cls.__name__} defines {old}(), which nothing calls. Use {new}()."
                )
        hooks = [name for name in vars(cls) if is_hook(name)]
        if hooks:
            raise TypeError(
                f"{cls.__name__} defines {', '.join(hooks)}, which Monitor implements itself. "
                "Declare what to read in probes(), and compute results in observe(). For any "
                "other hook, add a plain Callback to the Trainer."
            )

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
        if self._session.driver is self:
            self._session.announce(trainer)

    on_train_start = _driven("on_train_start")

    # The next four run at every step, mostly for nothing and with cold caches: no call more
    # than is needed.

    @final
    @_guarded
    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Opens a capture where a snapshot is due."""
        session = self._session
        if session is not None and session.driver is self:
            session.on_train_batch_start(trainer, batch)

    @final
    @_guarded
    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """Reads by an extra pass where the user's own pass must not be touched."""
        session = self._session
        if session is not None and session.has_work and session.driver is self:
            session.on_before_backward(trainer)

    @final
    @_guarded
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Reads the gradients that the optimizer is about to use."""
        session = self._session
        if session is not None and session.has_work and session.driver is self:
            session.on_before_optimizer_step(trainer, optimizer)

    @final
    @_guarded
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the snapshot, after the optimizer's update."""
        session = self._session
        if session is not None and session.driver is self:
            session.note_loss(trainer, outputs)
            if session.has_work:
                session.on_train_batch_end(trainer, outputs)

    on_train_epoch_end = _driven("on_train_epoch_end")
    on_validation_start = on_test_start = _driven("on_validation_start")
    on_validation_batch_start = on_test_batch_start = _driven("on_validation_batch_start")
    on_validation_batch_end = on_test_batch_end = _driven("on_validation_batch_end")
    on_validation_end = on_test_end = _driven("on_validation_end")
    on_train_end = _driven("on_train_end")

    @final
    @_guarded
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Takes everything off: on an exception Lightning calls no ``teardown``."""
        session = self._session
        with self.guard.catch("the last snapshots"):  # they may tell what the exception came of
            if session is not None and session.driver is self:
                session.break_off(trainer)
        self._leave()

    @final
    @_guarded
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Takes everything off, and lets go of the run."""
        self._leave()

    @final
    def catch_up(self) -> None:
        """Looks at what a burst that is not over has read so far."""
        if self._session is not None and self._model is not None:
            self._session.catch_up(trainer_of(self._model()))

    def _leave(self) -> None:
        with self.guard.catch("leaving"):
            if self._session is not None:
                self._session.leave(self)
        self._session = None
        # Lightning binds these to the module: a callback that is kept would keep the model.
        vars(self).pop("log", None)
        vars(self).pop("log_dict", None)

    def __getstate__(self) -> dict[str, Any]:
        kept = {k: v for k, v in super().__getstate__().items() if k not in ("log", "log_dict")}
        return kept | {"_session": None, "_model": None}


def is_hook(name: str) -> bool:
    """Whether a name is one of Lightning's hooks, which no subclass may define."""
    is_named_so = name.startswith("on_") or name in ("setup", "teardown", "state_key")
    return is_named_so and hasattr(LightningCallback, name)


def _snake_case(name: str) -> str:
    words = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+", name)
    return "_".join(word.lower() for word in words if word != "Monitor") or name.lower()
