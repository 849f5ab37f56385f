"""One engine a Trainer: reads activations once, however many monitors ask for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from vis_callbacks.engine.batch_parts import tensors_in
from vis_callbacks.engine.capture import (
    Capture,
    ModelNames,
    Seen,
    Sink,
    Site,
    remove_inert_modes,
)
from vis_callbacks.engine.isolation import (
    IsolatedForward,
    call_resolved,
    is_compiled,
    isolated,
)
from vis_callbacks.engine.layer_names import LayerNames
from vis_callbacks.engine.layers import matches, module_names, no_such_layer
from vis_callbacks.engine.planned_capture import Plan, PlannedCapture, Planner
from vis_callbacks.engine.probe import Activation, Batch, LayerInfo, Probe, WeightInfo
from vis_callbacks.engine.ranks import Gathered, RanksError, gather, merge_two
from vis_callbacks.engine.state_watch import StateWatch
from vis_callbacks.guard import Catch, Guard, NothingToShow

_SEPARATOR = "\x1f"

Forward = Callable[[nn.Module, Any], Any]


@dataclass(eq=False, kw_only=True)
class Subscription:
    """A probe, whose it is, and what has been read for it so far.

    Attributes:
        guard: Of the monitor that asked; a failing reduction is its failure alone.
        batch_of: The user's batch to the tensors that a reduction may look at.
        forward: What an isolated pass calls, with the model and the inputs.
        failure: Why there are no values this time; None while all is well.
        spend: Is told of the seconds that reading has taken.
    """

    probe: Probe
    guard: Guard
    batch_of: Callable[[Any], Batch]
    forward: Forward
    values: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    num_samples: int = 0
    failure: str | None = None
    spend: Callable[[float], object] = abs

    def wants(self, seen: Seen) -> bool:
        """Whether the probe asks for this activation."""
        if seen.site != self.probe.site:
            return False
        if self.probe.layers is None:
            is_layer = seen.nonlinearity is not None and not seen.is_outside
            return is_layer and not seen.is_gate
        return matches(seen.name, self.probe.layers)

    def fail(self, stage: str, error: Exception) -> None:
        """Gives up this snapshot's values for a failure of the monitor's own."""
        self.miss(f"{stage}: {type(error).__name__}")
        self.guard.record(stage, error)

    def miss(self, why: str) -> None:
        """Gives up this snapshot's values for something that is not the monitor's failure."""
        self.failure = why
        self.values = {}

    @contextmanager
    def containing(self, stage: str) -> Iterator[None]:
        """Makes a failure of the block the failure of this subscription alone."""
        with Catch() as caught:
            yield
        if caught.error is not None:
            self.fail(stage, caught.error)

    def reset(self) -> None:
        """Forgets what was read."""
        self.values = {}
        self.num_samples = 0
        self.failure = None


@dataclass(frozen=True)
class EngineGuards:
    """Contain failures of what all monitors share.

    The user's own passes may be read although extra passes fail, and the other way round.
    """

    of_captures: Guard = field(default_factory=lambda: Guard("reading activations"))
    of_passes: Guard = field(default_factory=lambda: Guard("an extra forward pass"))

    def __iter__(self) -> Iterator[Guard]:
        yield from (self.of_captures, self.of_passes)


class Engine:
    """Opens one capture a step for all that is due, and merges what it reads.

    Args:
        model: The module whose layers are read (not its DDP wrapper).
        forward_context: Autocast as in the user's own passes, for isolated ones.
        wrapped_root: See `Capture`.
        guards: Take failures of what all monitors share, which are no monitor's own.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        guards: EngineGuards | None = None,
        forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        wrapped_root: bool = False,
    ) -> None:
        self.model = model
        self._forward_context = forward_context
        self._watch = StateWatch()
        self._wrapped_root = wrapped_root
        self._subscriptions: list[Subscription] = []
        self._capture: Capture | PlannedCapture | None = None
        self._due: list[Subscription] = []
        self._batch: Any = None
        self._layers = LayerNames()
        self._weights: dict[str, WeightInfo] = {}
        self._names_checked: set[int] = set()
        self._guards = guards or EngineGuards()
        self._batches_of: dict[int, Batch] = {}
        self._num_rows = 0  # of the batch, where its number of samples is not known
        self._reduced_seconds = 0.0
        self._names: ModelNames | None = None
        self._planner: Planner | None = None
        self._plan: Plan | None = None
        self._can_plan = True

    # -- what is asked for

    def subscribe(
        self,
        probe: Probe,
        *,
        guard: Guard,
        batch_of: Callable[[Any], Batch],
        forward: Forward | None = None,
        spend: Callable[[float], object] = abs,
    ) -> Subscription:
        """Registers a probe; nothing is attached before it is due."""
        subscription = Subscription(
            probe=probe,
            guard=guard,
            batch_of=batch_of,
            forward=forward or call_resolved,
            spend=spend,
        )
        self._subscriptions.append(subscription)
        return subscription

    @property
    def trace(self) -> tuple[LayerInfo, ...]:
        """The layers met so far, in the order of the forward pass."""
        return tuple(self._layers.trace.values())

    @property
    def weights(self) -> tuple[WeightInfo, ...]:
        """The weights that the run's first pass met, in the order of the forward pass."""
        return tuple(self._weights.values())

    # -- one occasion

    @property
    def can_read_live(self) -> bool:
        """Whether a capture may be opened over the user's own training step.

        Not where anything was compiled: a function mode over a compiled function would compile
        a second graph. The counter belongs to the process; an unrelated compiled function only
        costs isolated passes. Where the compiler begins its work under an open capture, the
        capture takes itself off before a graph is made; see `gave_way`.
        """
        return not _was_compiled() and not any(map(is_compiled, self.model.modules()))

    def take_hook_seconds(self) -> float:
        """Returns what hooks and mode have taken since the last time, reductions left out."""
        if self._capture is None:
            return 0.0
        seconds = self._capture.hooks.seconds - self._reduced_seconds
        self._capture.hooks.seconds = self._reduced_seconds = 0.0
        return max(seconds, 0.0)

    def miss_what_was_interrupted(self, why: str) -> bool:
        """Gives up the occasion where the open capture has taken itself off for the compiler."""
        is_interrupted = self._capture is not None and self._capture.was_interrupted
        for subscription in self._due if is_interrupted else ():
            subscription.miss(why)
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

    @property
    def reads_live(self) -> bool:
        """Whether a capture is open now."""
        return self._capture is not None and self._capture.is_open

    def forget_names(self) -> None:
        """Has the next capture look for the model's modules anew: some may have joined."""
        self._names = None

    def begin(self, due: Sequence[Subscription], *, live: bool, in_burst: bool = False) -> None:
        """Starts an occasion for these subscriptions.

        Args:
            due: Are read.
            live: Open a capture over the user's training step.
            in_burst: A capture of another step follows soon that looks at everything, so here
                what it has seen the last time may be read by less costly means.
        """
        for subscription in due:
            subscription.reset()
        self._layers.start_occasion()
        self.resume(due, live=live, in_burst=in_burst)

    def resume(self, due: Sequence[Subscription], *, live: bool, in_burst: bool = False) -> None:
        """Goes on with an occasion that another one has interrupted."""
        self.end()
        self._due = list(due)
        is_resting = (
            self._guards.of_captures.is_resting if live else self._guards.of_passes.is_resting
        )
        if is_resting:
            for subscription in self._due:
                subscription.miss("reading activations has failed too often")
        if not live or not self._due or is_resting:
            return
        if in_burst and self._plan is not None and not self._asks_for_others():
            plan = self._plan
            self._open(lambda: PlannedCapture(self.model, plan, *self._sink_and_fail(self._due)))
        else:
            self._planner = Planner()
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
        if self._capture is None or not self._capture.is_open:
            self._keep_inputs()
            return
        self._capture.start_batch()
        if isinstance(self._capture, Capture) and not self._weights:
            self._capture.follow(t for t in tensors_in(batch) if t.dim() > 1)

    @property
    def inputs(self) -> Tensor | None:
        """The inputs of the batch that is being read, as one of the monitors finds them."""
        found = (batch.inputs for batch in self._batches_of.values())
        return next((inputs for inputs in found if inputs is not None), None)

    def _keep_inputs(self) -> None:
        """Copies the inputs that an extra pass will run on: the user's step may write to them."""
        for key, batch in self._batches_of.items():
            if batch.inputs is not None:
                self._batches_of[key] = replace(batch, inputs=batch.inputs.detach().clone())

    def pause(self) -> None:
        """Lets functional calls pass unseen until the next batch: its forward passes are over."""
        if self._capture is not None:
            self._capture.pause()

    def count_batch(self) -> None:
        """Adds the batch's samples, once its forward passes are over."""
        for subscription in self._due:
            if subscription.failure is None:
                with subscription.containing("reading the batch"):
                    num_samples = self._batch_for(subscription).num_samples
                    subscription.num_samples += num_samples or self._num_rows
        self._batches_of = {}

    def read_isolated(self, *, training: bool) -> None:
        """Reads the current batch by an extra pass that leaves no trace."""
        for group in _grouped(self._due):
            lead = group[0]
            with Catch() as caught:
                inputs = self._batch_for(lead).inputs
                if inputs is None:
                    raise NothingToShow("no input was found in the batch to run the model on")
                capture = self._new_capture(group, is_users_pass=False, follow=inputs)
                with (
                    isolated(
                        self.model,
                        forward=lead.forward,
                        forward_context=self._forward_context,
                        training=training,
                        grad=False,
                        watch=self._watch,
                    ) as forward,
                    capture,
                ):
                    forward.run(inputs)
            if caught.error is not None:
                self._guards.of_passes.record("running the model", caught.error)
                for subscription in group:
                    subscription.miss("the extra forward pass failed")

    def open_over_evaluation(self) -> None:
        """Opens a capture over one of the user's evaluation batches, where that is neutral.

        ``nn.TransformerEncoder`` and ``nn.MultiheadAttention`` leave their fused path as soon
        as a function mode is active, which moves the user's metrics; then, and in compiled
        runs, the batch is read by an extra pass instead.
        """
        if self.can_read_live and not _has_fused_path(self.model):
            self._open_capture()

    def collect(
        self, read: Sequence[Subscription], shared: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Merges what was read over the ranks: the subscriptions' values in place.

        Every rank comes here, whatever failed before. A subscription that failed on one rank
        has failed on all. Returns ``shared`` summed over the ranks.
        """
        return merge_ranks(read, shared)

    def isolated_forward(self, forward: Forward) -> AbstractContextManager[IsolatedForward]:
        """Returns the context in which a monitor may run the model without a trace."""
        return isolated(
            self.model,
            forward=forward,
            forward_context=self._forward_context,
            watch=self._watch,
        )

    def end_capture(self) -> None:
        """Closes the capture; what was read stays. Harmless where none is open."""
        remove_inert_modes()
        capture, self._capture = self._capture, None
        planner, self._planner = self._planner, None
        if capture is None:
            return
        capture.close()
        if capture.was_interrupted:
            self._plan = None
        elif isinstance(capture, PlannedCapture):
            if not capture.fits:
                self._give_up_planning()
        elif planner is not None and self._can_plan:
            self._plan = planner.plan(capture.outermost, capture.inner)

    def _give_up_planning(self) -> None:
        """Leaves out what was read by a plan that did not fit: the steps of this run differ."""
        self._plan, self._can_plan = None, False
        for subscription in self._due:
            if subscription.failure is None:
                subscription.miss("the step was not the planned one")

    def end(self) -> None:
        """Closes the capture and lets go of the batch."""
        self.end_capture()
        self._batch = None
        self._batches_of = {}

    def check_names(self, read: Sequence[Subscription]) -> None:
        """Reports, once, the globs of these subscriptions that no layer answered to."""
        for subscription in read:
            globs = subscription.probe.layers
            if globs is None or subscription.failure or id(subscription) in self._names_checked:
                continue
            if not subscription.probe.must_match:
                continue
            self._names_checked.add(id(subscription))
            for glob in globs:
                if not any(matches(name, (glob,)) for name in subscription.values):
                    names = [*self._layers.trace, *module_names(self.model)]
                    error = ValueError(no_such_layer(glob, list(dict.fromkeys(names))))
                    subscription.guard.record("finding layers", error)

    def close(self) -> None:
        """Takes off whatever is attached and forgets the model's layers."""
        self.end()
        self._due = []
        self._subscriptions.clear()

    def read_layers(
        self, names: Sequence[str], inputs: Tensor, forward: Forward, *, site: Site = "output"
    ) -> dict[str, Tensor]:
        """Returns copies of the named layers' activations for some inputs, as the model has them.

        An isolated pass in evaluation mode. Names that are not met are missing; at the site
        "input" it is what the modules of these names are given.
        """
        kept: dict[str, Tensor] = {}

        def keep(seen: Seen) -> None:
            if seen.name in names and seen.site == site and seen.name not in kept:
                kept[seen.name] = torch.movedim(seen.values, seen.unit_axis, 1).clone()

        with (
            isolated(
                self.model,
                forward=forward,
                forward_context=self._forward_context,
                grad=False,
                watch=self._watch,
            ) as run,
            Capture(self.model, keep, watched=self._watched(site, names)),
        ):
            run.run(inputs)
        return kept

    def _open_capture(self) -> None:
        self._open(lambda: self._new_capture(self._due, is_users_pass=True))

    def _open(self, make: Callable[[], Capture | PlannedCapture]) -> None:
        """Opens a capture; where that fails, on one rank say, all that is due has failed."""
        with Catch() as caught:
            self._capture = make()
            self._capture.__enter__()
        if caught.error is not None:
            self._guards.of_captures.record("opening the capture", caught.error)
            for subscription in self._due:
                subscription.miss("opening the capture failed")

    def _asks_for_others(self) -> bool:
        """Whether something is asked for that may be no nonlinearity's output."""
        return any(s.probe.layers is not None or s.probe.site != "output" for s in self._due)

    def _sink_and_fail(
        self, due: Sequence[Subscription]
    ) -> tuple[Sink, Callable[[Exception], object]]:
        """Returns what takes activations, and what takes failures outside of reductions."""
        return partial(self._read, due=due), partial(self._give_up, due)

    def _give_up(self, due: Sequence[Subscription], error: Exception) -> None:
        """Drops what was read: after a failure in the hooks, layers may have wrong names."""
        self._guards.of_captures.record("seeing an activation", error)
        for subscription in due:
            subscription.miss("seeing an activation failed")

    # -- inside the hook

    def _new_capture(
        self, due: Sequence[Subscription], *, is_users_pass: bool, follow: Any = None
    ) -> Capture:
        globs: dict[Site, list[str]] = {"output": [], "input": []}
        is_first_pass = not self._weights
        self._names = self._names or ModelNames(self.model)
        for subscription in due:
            globs[subscription.probe.site].extend(subscription.probe.layers or ())
        sink, fail = self._sink_and_fail(due)
        return Capture(
            self.model,
            sink,
            watched={
                site: names
                for site, wanted in globs.items()
                for names in self._watched(site, wanted).values()
            },
            is_users_pass=is_users_pass,
            wrapped_root=is_users_pass and self._wrapped_root,
            fail=fail,
            follow=[follow] if isinstance(follow, Tensor) else (),
            on_weight=self._note_weight if is_first_pass else None,
            names=self._names,
        )

    def _watched(self, site: Site, globs: Sequence[str]) -> dict[Site, list[str]]:
        names = module_names(self.model) if globs else ()
        return {site: [name for name in names if matches(name, globs)]}

    def _read(self, seen: Seen, due: Sequence[Subscription]) -> None:
        if self._planner is not None:
            self._planner.note(seen)
        wanting = [s for s in due if s.failure is None and s.wants(seen)]
        if seen.nonlinearity is None and not wanting:
            return
        if seen.is_outside and not wanting:
            return
        name = self._layers.note(seen)
        self._num_rows = max(self._num_rows, len(seen.values))
        reduced: dict[Any, Mapping[str, Tensor]] = {}
        for subscription in wanting:
            started = perf_counter()
            with Catch() as caught:
                batch = self._batch_for(subscription)
                make = subscription.probe.reduce
                if make not in reduced:
                    reduced[make] = make(self._activation(name, seen, batch), batch)
                _merge_into(subscription, name, reduced[make])
            if caught.error is not None:
                subscription.fail("reading activations", caught.error)
            seconds = perf_counter() - started
            subscription.spend(seconds)
            self._reduced_seconds += seconds

    def _activation(self, name: str, seen: Seen, batch: Batch) -> Activation:
        values, inputs, axis = seen.values, seen.inputs, seen.unit_axis
        if inputs is not None:
            same_shape = inputs.shape == values.shape
            inputs = (
                samples_units_positions(inputs, axis, batch.num_samples) if same_shape else None
            )
        return Activation(
            layer=name,
            values=samples_units_positions(values, axis, batch.num_samples),
            nonlinearity=seen.nonlinearity,
            inputs=inputs,
            shape=tuple(values.shape),
        )

    def _note_weight(self, info: WeightInfo) -> None:
        known = self._weights.get(info.layer)
        # A discriminator is called with what was made before it is called with the input.
        if known is None or (info.touches_input and not known.touches_input):
            self._weights[info.layer] = info

    def _batch_for(self, subscription: Subscription) -> Batch:
        key = id(subscription.batch_of)
        if key not in self._batches_of:
            batch, first = subscription.batch_of(self._batch), subscription.num_samples
            self._batches_of[key] = replace(batch, first_index=first) if first else batch
        return self._batches_of[key]


def samples_units_positions(values: Tensor, unit_axis: int, num_samples: int) -> Tensor:
    """Returns a view (samples, units, positions) of an activation, of a copy only if it must.

    Tokens before samples, (tokens, samples, units), are recognised by the batch size. Where
    a multiple of the batch size comes first (windows, frames) they are positions of their
    sample; where nothing fits, each row counts as a sample of its own for the sums, while
    the number of samples is always the batch's.
    """
    axis = unit_axis % values.dim()
    rows = values.shape[0]
    if axis == 1 and rows == num_samples > 0:  # nearly always
        return values.flatten(2) if values.dim() > 2 else values.unsqueeze(2)
    if values.dim() == 3 and axis == 2 and rows != num_samples == values.shape[1]:
        values, rows = values.transpose(0, 1), num_samples
    if rows == 0:
        return values.movedim(axis, 1).reshape(0, values.shape[axis], 1)
    units_second = values.movedim(axis, 1).flatten(2) if values.dim() > 2 else values.unsqueeze(2)
    if num_samples > 0 and rows > num_samples and rows % num_samples == 0:
        shape = (num_samples, rows // num_samples, *units_second.shape[1:])
        return units_second.reshape(shape).transpose(1, 2).flatten(2)
    return units_second


def _merge_into(subscription: Subscription, layer: str, values: Mapping[str, Tensor]) -> None:
    known = subscription.values.get(layer)
    if known is None:
        subscription.values[layer] = dict(values)
        return
    for name, value in values.items():
        known[name] = merge_two(known[name], value, subscription.probe.merge[name])


def merge_ranks(
    subscriptions: Sequence[Subscription], shared: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Merges values over the ranks; see `Engine.collect`.

    What has failed on some rank is left out on every rank before values are exchanged, so a
    monitor that fails on one of them takes no other monitor down.
    """
    failed = torch.tensor([s.failure is not None for s in subscriptions], dtype=torch.int64)
    states = gather(None, {"failed": failed, "samples": _counts(subscriptions)})
    if len(states.statuses) == 1:
        return dict(shared)
    for i, subscription in enumerate(subscriptions):
        if any(bool(part["failed"][i]) for part in states.values):
            if subscription.failure is None:
                subscription.fail("merging over ranks", RanksError("it failed on another rank"))
            subscription.values = {}
        subscription.num_samples = int(sum(part["samples"][i] for part in states.values))
    flat: _Flat = {("shared", "", name): value for name, value in shared.items()}
    for i, subscription in enumerate(subscriptions):
        for layer, named in subscription.values.items():
            flat |= {(str(i), layer, name): value for name, value in named.items()}
    gathered = _gathered(flat)
    if not gathered.values and not any(gathered.statuses):  # so say all ranks, or none
        flat = _read_everywhere(flat, subscriptions)
        gathered = _gathered(flat)
    if gathered.problem is not None:
        for subscription in subscriptions:
            if subscription.failure is None:
                subscription.fail("merging over ranks", RanksError(gathered.problem))
        return {}
    total: dict[str, Tensor] = {}
    for key in flat:
        place, layer, name = key
        parts = [part[_SEPARATOR.join(key)] for part in gathered.values]
        if place == "shared":
            total[name] = sum(parts[1:], start=parts[0])
        elif (subscription := subscriptions[int(place)]).failure is None:
            with subscription.containing("merging over ranks"):
                merge = partial(merge_two, how=subscription.probe.merge[name])
                subscription.values[layer][name] = reduce(merge, parts)
    return total


_Flat = dict[tuple[str, str, str], Tensor]  # by subscription, layer and name


def _gathered(flat: _Flat) -> Gathered:
    return gather(None, {_SEPARATOR.join(key): value for key, value in flat.items()})


def _read_everywhere(flat: _Flat, subscriptions: Sequence[Subscription]) -> _Flat:
    """Returns what every rank has read, and drops the other layers.

    An expert may be called on one rank alone.
    """
    names = "\n".join(_SEPARATOR.join(key) for key in flat).encode()
    parts = gather(None, {"names": torch.tensor(list(names), dtype=torch.uint8)}).values
    by_rank = [set(bytes(part["names"].tolist()).decode().split("\n")) for part in parts]
    everywhere = set.intersection(*by_rank) if by_rank else set()
    missing = [key for key in flat if _SEPARATOR.join(key) not in everywhere]
    layers = {key[:2] for key in missing if key[0] != "shared"}
    for place, layer in layers:
        subscriptions[int(place)].values.pop(layer, None)
    kept = [key for key in flat if key not in missing and key[:2] not in layers]
    return {key: flat[key] for key in kept}


def _counts(subscriptions: Sequence[Subscription]) -> Tensor:
    return torch.tensor([s.num_samples for s in subscriptions], dtype=torch.int64)


def _grouped(subscriptions: Sequence[Subscription]) -> Iterator[list[Subscription]]:
    """Yields the subscriptions that one isolated pass can serve together."""
    groups: dict[tuple[int, int], list[Subscription]] = {}
    for subscription in subscriptions:
        if subscription.failure is None:
            key = (id(subscription.batch_of), id(subscription.forward))
            groups.setdefault(key, []).append(subscription)
    yield from groups.values()


def _has_fused_path(model: nn.Module) -> bool:
    return any(
        isinstance(m, nn.TransformerEncoderLayer | nn.MultiheadAttention) for m in model.modules()
    )


def _was_compiled() -> bool:
    """Whether torch.compile has made a graph in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return dynamo is not None and dynamo.counters["frames"]["total"] > 0
