"""One engine a Trainer: reads activations once, however many monitors ask for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from vis_callbacks.engine.batch_parts import tensors_in
from vis_callbacks.engine.capture import FUSED, Capture, CapturedActivation, Plan, Site
from vis_callbacks.engine.engine_guards import EngineGuards
from vis_callbacks.engine.function_mode import remove_inert_modes
from vis_callbacks.engine.isolation import IsolatedForward, is_compiled, isolated
from vis_callbacks.engine.layers import LayerNames, ModelNames, matches, module_names, no_such_layer
from vis_callbacks.engine.module_hooks import was_compiled as _was_compiled
from vis_callbacks.engine.planned_capture import PlannedCapture
from vis_callbacks.engine.probe import Activation, Batch, LayerInfo, WeightInfo
from vis_callbacks.engine.state_watch import StateWatch
from vis_callbacks.engine.subscription import Subscription, merge_ranks
from vis_callbacks.guard import Catch, NothingToShow

Forward = Callable[[nn.Module, Any], Any]
_NO_BATCH = Batch(inputs=None, labels=None, num_samples=0)


class Engine:
    """Opens one capture a step for all that is due, and merges what it reads.

    ``model`` is no DDP wrapper. The guards take failures of what all monitors share, and
    ``forward_context`` makes autocast as in the user's own passes.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        guards: EngineGuards | None = None,
        forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        wrapped_root: bool = False,
    ) -> None:
        self.model, self._wrapped_root = model, wrapped_root
        self._guards = guards or EngineGuards()
        watch = StateWatch()
        self._isolated = partial(isolated, model, forward_context=forward_context, watch=watch)
        self._capture: Capture | PlannedCapture | None = None
        self._due: list[Subscription] = []
        self._batch: Any = None
        self._batches_of: dict[int, Batch] = {}
        self._num_rows = 0  # of the batch, where its number of samples is not known
        self._layers = LayerNames()
        self._weights: dict[str, WeightInfo] = {}
        self._names: ModelNames | None = None
        self._names_checked: set[int] = set()
        self._reduced_seconds = 0.0
        self._plan: Plan | None = None
        self._can_plan = True
        self._is_step = False  # and no evaluation: only of a step a plan is made

    subscribe = staticmethod(Subscription)  # nothing is attached before it is due
    collect = staticmethod(merge_ranks)

    @property
    def trace(self) -> tuple[LayerInfo, ...]:
        """The layers met so far, in the order of the forward pass."""
        return tuple(self._layers.trace.values())

    @property
    def weights(self) -> tuple[WeightInfo, ...]:
        """The weights that the run's first pass met, in the order of the forward pass."""
        return tuple(self._weights.values())

    @property
    def inputs(self) -> Tensor | None:
        """The inputs of the batch that is being read, as one of the monitors finds them."""
        found = (batch.inputs for batch in self._batches_of.values())
        return next((inputs for inputs in found if inputs is not None), None)

    # -- the state of the capture

    @property
    def can_read_live(self) -> bool:
        """Whether a capture may be opened over the user's own training step.

        Not where anything was compiled: a function mode over a compiled function would compile
        a second graph. An unrelated compiled function of the process only costs isolated passes.
        Where the compiler begins under an open capture, that takes itself off; see `gave_way`.
        """
        return not _was_compiled() and not any(map(is_compiled, self.model.modules()))

    @property
    def reads_live(self) -> bool:
        """Whether a capture is open now."""
        return self._capture is not None and self._capture.is_open

    def take_hook_seconds(self) -> float:
        """Returns what hooks and mode have taken since the last time, reductions left out."""
        if self._capture is None:
            return 0.0
        seconds = self._capture.seconds - self._reduced_seconds
        self._capture.seconds = self._reduced_seconds = 0.0
        return max(seconds, 0.0)

    def miss_what_was_interrupted(self, why: str) -> bool:
        """Gives up the occasion where the open capture has taken itself off for the compiler."""
        is_interrupted = self._capture is not None and self._capture.was_interrupted
        if is_interrupted:
            self._miss(self._due, why)
        return is_interrupted

    def gave_way(self) -> bool:
        """Whether the open capture has taken itself off for the compiler, and closes it.

        What it had read of this batch is dropped: an extra pass is to read it.
        """
        if self._capture is None or not self._capture.was_interrupted:
            return False
        self.end_capture()
        for subscription in self._due:
            subscription.values = {}
            if subscription.num_samples:
                subscription.miss("the compiler began in the midst of the step")
        return True

    def forget_names(self) -> None:
        """Has the next capture look for the model's modules anew: some may have joined."""
        self._names = None

    # -- one occasion

    def begin(self, due: Sequence[Subscription], *, live: bool, in_burst: bool = False) -> None:
        """Starts an occasion for these subscriptions.

        ``live`` opens a capture over the user's training step. ``in_burst``: a capture of another
        step follows soon that looks at everything, so here what it has captured the last time may
        be read by less costly means.
        """
        for subscription in due:
            subscription.reset()
        self._layers.start_occasion()
        self.resume(due, live=live, in_burst=in_burst)

    def resume(self, due: Sequence[Subscription], *, live: bool, in_burst: bool = False) -> None:
        """Goes on with an occasion that another one has interrupted."""
        self.end()
        self._due = list(due)
        guard = self._guards.of_captures if live else self._guards.of_passes
        if guard.is_resting:
            self._miss(self._due, "reading activations has failed too often")
        elif live and self._due:
            every_layer = all(s.probe.layers is None and s.probe.site == "output" for s in due)
            self._is_step = True
            self._open_capture(self._plan if in_burst and every_layer else None)

    def open_over_evaluation(self) -> None:
        """Opens a capture over one of the user's evaluation batches, where that is neutral.

        A function mode takes ``nn.TransformerEncoder`` and ``nn.MultiheadAttention`` off their
        fused path, which moves the user's metrics. Then, and in compiled runs, an extra pass
        reads the batch instead.
        """
        if self.can_read_live and not any(isinstance(m, FUSED) for m in self.model.modules()):
            self._open_capture()

    def start_batch(self, batch: Any) -> None:
        """Takes the (micro-)batch that the next forward passes belong to.

        Inputs and labels are found now: the user's step may take them out of the batch.
        """
        self._batch, self._batches_of, self._num_rows = batch, {}, 0
        for subscription in self._due:
            if subscription.failure is None:
                with subscription.containing("reading the batch"):
                    self._batch_for(subscription)
        if self._capture is not None and self._capture.is_open:
            is_first_pass = not self._weights
            tensors = tensors_in(batch) if is_first_pass else ()
            self._capture.start_batch(tensor for tensor in tensors if tensor.dim() > 1)
            return
        for key, found in self._batches_of.items():
            if found.inputs is not None:  # the user's step may write to what an extra pass needs
                self._batches_of[key] = replace(found, inputs=found.inputs.detach().clone())

    def pause(self) -> None:
        """Lets functional calls pass unseen until the next batch: its forward passes are over."""
        if self._capture is not None:
            self._read_loss_inputs(self._due, self._capture)
            self._capture.pause()

    def count_batch(self) -> None:
        """Adds the batch's samples, once its forward passes are over."""
        if self._capture is not None:  # a manual loop was not paused
            self._read_loss_inputs(self._due, self._capture)
        for subscription in self._due:
            if subscription.failure is None:
                with subscription.containing("reading the batch"):
                    num_samples = self._batch_for(subscription).num_samples
                    subscription.num_samples += num_samples or self._num_rows
        self._batches_of = {}

    def read_isolated(self, *, training: bool) -> None:
        """Reads the current batch by an extra pass that leaves no trace.

        One pass serves all subscriptions that find the same inputs and call the same function.
        """
        groups: dict[tuple[int, int], list[Subscription]] = {}
        for subscription in self._due:
            if subscription.failure is None:
                key = (id(subscription.batch_of), id(subscription.forward))
                groups.setdefault(key, []).append(subscription)
        for group in groups.values():
            forward = group[0].forward
            with Catch() as caught:
                inputs = self._batch_for(group[0]).inputs
                if inputs is None:
                    raise NothingToShow("no input was found in the batch to run the model on")
                with (
                    self._isolated(forward=forward, training=training, grad=False) as run,
                    self._new_capture(group, is_users_pass=False) as capture,
                ):
                    capture.start_batch([inputs])
                    run.run(inputs)
                    self._read_loss_inputs(group, capture)
            if caught.error is not None:
                self._guards.of_passes.record("running the model", caught.error)
                self._miss(group, "the extra forward pass failed")

    def read_beside(self, site: Site, thing: Any, due: Sequence[Subscription] = ()) -> None:
        """Hands something of the step that is no activation to the probes that ask for it.

        What is read after the batch's forward passes is given none: it may have been emptied.
        """
        for subscription in due or self._due:
            if subscription.probe.site == site and subscription.failure is None:
                with (
                    subscription.containing(f"reading the {site}"),
                    torch.no_grad(),
                    torch._C.DisableTorchFunction(),  # the capture may be open
                ):
                    batch = self._batches_of.get(id(subscription.batch_of), _NO_BATCH)
                    for layer, values in subscription.reduce(thing, batch).items():
                        subscription.add(layer, values)

    def end_capture(self) -> None:
        """Closes the capture; what was read stays. Harmless where none is open."""
        remove_inert_modes()
        capture, self._capture = self._capture, None
        is_step, self._is_step = self._is_step, False
        if capture is None:
            return
        capture.close()
        if capture.was_interrupted:
            self._plan = None
        elif isinstance(capture, Capture):
            if is_step and self._can_plan:
                self._plan = capture.plan()
        elif not capture.fits:  # the steps of this run differ
            self._plan, self._can_plan = None, False
            self._miss(self._due, "the step was not the planned one")

    def end(self) -> None:
        """Closes the capture and lets go of the batch."""
        self.end_capture()
        self._batch = None
        self._batches_of = {}

    def close(self) -> None:
        """Takes off whatever is attached."""
        self.end()
        self._due = []

    # -- what else may be asked of the model

    def check_names(self, read: Sequence[Subscription]) -> None:
        """Reports, once, the globs of these subscriptions that no layer answered to."""
        for subscription in read:
            is_known = id(subscription) in self._names_checked
            if is_known or subscription.failure or not subscription.probe.must_match:
                continue
            self._names_checked.add(id(subscription))
            for glob in subscription.probe.layers or ():
                if not any(matches(name, (glob,)) for name in subscription.values):
                    names = [*self._layers.trace, *module_names(self.model)]
                    error = ValueError(no_such_layer(glob, list(dict.fromkeys(names))))
                    subscription.guard.record("finding layers", error)

    def isolated_forward(self, forward: Forward) -> AbstractContextManager[IsolatedForward]:
        """Returns the context in which a monitor may run the model without a trace."""
        return self._isolated(forward=forward)

    def read_layers(
        self, names: Sequence[str], inputs: Tensor, forward: Forward, *, site: Site = "output"
    ) -> dict[str, Tensor]:
        """Returns copies of the named layers' activations for some inputs, as the model has them.

        An isolated pass in evaluation mode. Names that are not met are missing; at the site
        "input" it is what the modules of these names are given.
        """
        kept: dict[str, Tensor] = {}

        def keep(captured: CapturedActivation) -> None:
            name = captured.name
            if name in names and captured.site == site and name not in kept:
                kept[name] = captured.values.movedim(captured.unit_axis, 1).clone()

        with (
            self._isolated(forward=forward, grad=False) as run,
            Capture(self.model, keep, watched={site: self._matching(names)}),
        ):
            run.run(inputs)
        return kept

    # -- inside the hooks

    def _open_capture(self, plan: Plan | None = None) -> None:
        """Opens a capture; where that fails, on one rank say, all that is due has failed."""
        with Catch() as caught:
            if plan is None:
                self._capture = self._new_capture(self._due, is_users_pass=True)
            else:
                read, fail = partial(self._read, self._due), partial(self._give_up, self._due)
                self._capture = PlannedCapture(self.model, plan, read, fail)
            self._capture.__enter__()
        if caught.error is not None:
            self._guards.of_captures.record("opening the capture", caught.error)
            self._miss(self._due, "opening the capture failed")

    def _new_capture(self, due: Sequence[Subscription], *, is_users_pass: bool) -> Capture:
        self._names = self._names or ModelNames(self.model)
        wanted = [(s.probe.site, glob) for s in due for glob in s.probe.layers or ()]
        sites: tuple[Site, ...] = ("output", "input")
        globs = {site: [glob for of, glob in wanted if of == site] for site in sites}
        return Capture(
            self.model,
            partial(self._read, due),
            watched={site: self._matching(of_site) for site, of_site in globs.items()},
            is_users_pass=is_users_pass,
            wrapped_root=is_users_pass and self._wrapped_root,
            fail=partial(self._give_up, due),
            weights=None if self._weights else self._weights,
            names=self._names,
        )

    def _read_loss_inputs(
        self, due: Sequence[Subscription], capture: Capture | PlannedCapture
    ) -> None:
        if isinstance(capture, Capture):
            inputs = capture.take_loss_inputs()
            if inputs.calls or inputs.returned:
                self.read_beside("loss", inputs, due)

    def _matching(self, globs: Sequence[str]) -> list[str]:
        return [n for n in module_names(self.model) if matches(n, globs)] if globs else []

    def _give_up(self, due: Sequence[Subscription], error: Exception) -> None:
        """Drops what was read: after a failure in the hooks, layers may have wrong names."""
        self._guards.of_captures.record("seeing an activation", error)
        self._miss(due, "seeing an activation failed")

    def _miss(self, due: Sequence[Subscription], why: str) -> None:
        for subscription in due:
            subscription.miss(why)

    def _read(self, due: Sequence[Subscription], captured: CapturedActivation) -> None:
        """Reduces one activation for all that ask for it, once for those who ask for the same."""
        wanting = [s for s in due if s.failure is None and s.wants(captured)]
        if not wanting and (captured.nonlinearity is None or captured.is_outside):
            return
        layer = self._layers.note(captured)
        self._num_rows = max(self._num_rows, len(captured.values))
        activations: dict[int, Activation] = {}  # by batch
        reduced: dict[Any, Mapping[str, Tensor]] = {}
        for subscription in wanting:
            started = perf_counter()
            with Catch() as caught:
                make = subscription.probe.reduce
                if make not in reduced:
                    batch = self._batch_for(subscription)
                    if id(batch) not in activations:
                        activations[id(batch)] = captured.laid_out(layer, batch.num_samples)
                    reduced[make] = subscription.reduce(activations[id(batch)], batch)
                subscription.add(layer, reduced[make])
            if caught.error is not None:
                subscription.fail("reading activations", caught.error)
            seconds = perf_counter() - started
            subscription.spend(seconds)
            self._reduced_seconds += seconds

    def _batch_for(self, subscription: Subscription) -> Batch:
        key = id(subscription.batch_of)
        if key not in self._batches_of:
            batch, first = subscription.batch_of(self._batch), subscription.num_samples
            self._batches_of[key] = replace(batch, first_index=first) if first else batch
        return self._batches_of[key]
