"""What is read for one probe: over the calls of a layer, the batches of an occasion, and ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from vis_callbacks.engine.capture import CapturedActivation
from vis_callbacks.engine.isolation import call_resolved
from vis_callbacks.engine.layers import matches
from vis_callbacks.engine.probe import Batch, Probe
from vis_callbacks.engine.ranks import Merge, RanksError, gather, merge_two
from vis_callbacks.guard import Catch, Guard


@dataclass(eq=False)
class Subscription:
    """A probe, whose it is, and what has been read for it so far.

    Attributes:
        guard: Of the monitor that asked; a failing reduction is its failure alone.
        batch_of: The user's batch to the tensors that a reduction may look at.
        forward: What an isolated pass calls, with the model and the inputs.
        spend: Is told of the seconds that reading has taken.
        failure: Why there are no values this time; None while all is well.
    """

    probe: Probe
    _: KW_ONLY
    guard: Guard
    batch_of: Callable[[Any], Batch]
    forward: Callable[[nn.Module, Any], Any] = call_resolved
    spend: Callable[[float], object] = abs
    values: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    num_samples: int = 0
    failure: str | None = None

    def wants(self, captured: CapturedActivation) -> bool:
        """Whether the probe asks for this activation."""
        if captured.site != self.probe.site:
            return False
        if self.probe.layers is not None:
            return matches(captured.name, self.probe.layers)
        is_layer = captured.nonlinearity is not None and not captured.is_outside
        return is_layer and not captured.is_gate

    def reduce(self, thing: Any, batch: Batch) -> Mapping[str, Any]:
        """Returns what the probe makes of something that was read.

        With ``precision="bf16-true"`` new tensors are of that type inside the user's pass, in
        which no count goes beyond 256; ours are float32 everywhere.
        """
        usual = torch.get_default_dtype()
        if usual == torch.float32:  # the type is the process's, and other threads see a change
            return self.probe.reduce(thing, batch)
        torch.set_default_dtype(torch.float32)
        try:
            return self.probe.reduce(thing, batch)
        finally:
            torch.set_default_dtype(usual)

    def add(self, layer: str, reduced: Mapping[str, Tensor]) -> None:
        """Merges what one activation was reduced to with what is known of the layer."""
        if layer not in self.values:
            self.values[layer] = dict(reduced)
            return
        known, merge = self.values[layer], self.probe.merge
        for name, value in reduced.items():
            known[name] = merge_two(known[name], value, merge[name])

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
        self.values, self.num_samples, self.failure = {}, 0, None


_Key = tuple[int | str, str, str]  # the subscription's number, layer and name of a value


def merge_ranks(
    subscriptions: Sequence[Subscription], shared: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Merges what was read over the ranks, in place; returns ``shared`` summed over the ranks.

    Every rank comes here, whatever failed before. A subscription that failed on one rank has
    failed on all, and takes no other down. A layer that some rank has not met (an expert may be
    called on one rank alone) is left out.
    """
    facts = [[s.failure is not None, s.num_samples] for s in subscriptions]
    mine: dict[_Key, Tensor] = {("facts", "", ""): torch.tensor(facts, dtype=torch.int64)}
    mine |= {("shared", "", name): value for name, value in shared.items()}
    for i, subscription in enumerate(subscriptions):
        for layer, named in subscription.values.items():
            mine |= {(i, layer, name): value for name, value in named.items()}
    try:
        parts = gather(mine)
    except RanksError as error:  # on all ranks
        for subscription in subscriptions:
            if subscription.failure is None:
                subscription.fail("merging over ranks", error)
        return {}
    facts_of_ranks = torch.stack([part["facts", "", ""] for part in parts])
    for i, subscription in enumerate(subscriptions):
        subscription.num_samples = int(facts_of_ranks[:, i, 1].sum())
        with subscription.containing("merging over ranks"):
            if facts_of_ranks[:, i, 0].any() and subscription.failure is None:
                raise RanksError("it failed on another rank")
            _merge(i, subscription, parts)
    return {
        key[2]: _of_all([part[key] for part in parts], "sum")
        for key in parts[0]
        if key[0] == "shared"
    }


def _merge(number: int, subscription: Subscription, parts: Sequence[Mapping[_Key, Tensor]]) -> None:
    values, subscription.values = subscription.values, {}
    for layer, named in values.items():
        keys = {name: (number, layer, name) for name in named}
        if all(key in parts[0] for key in keys.values()):
            subscription.values[layer] = {
                name: _of_all([part[key] for part in parts], subscription.probe.merge[name])
                for name, key in keys.items()
            }


def _of_all(values: Sequence[Tensor], how: Merge) -> Tensor:
    if len({(value.dtype, value.dim(), value.shape[1:]) for value in values}) > 1:
        raise RanksError("the ranks have read values of different types or shapes")
    return reduce(partial(merge_two, how=how), values)
