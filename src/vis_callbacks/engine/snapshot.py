"""One occasion of measuring, as the values a monitor's ``observe`` is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from vis_callbacks.engine.isolation import (
    IsolatedForward,
    forked_rng,
    kept_modes,
    swapped_buffers,
)
from vis_callbacks.engine.layers import strip_compiled
from vis_callbacks.engine.probe import LayerInfo, Values, WeightInfo
from vis_callbacks.guard import NothingToShow

if TYPE_CHECKING:
    from vis_callbacks.engine.isolation import ForwardFn
    from vis_callbacks.engine.references import References


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Group:
    """One parameter group of one optimizer.

    The norms are L2 norms over a fixed strided selection of the group's values (at most 65,536),
    of the weights before and of this step's change; None where the update was not measured.
    """

    name: str  # "Adam", or "Adam/1" where there are several groups
    kind: str  # class name of the optimizer
    parameter_names: tuple[str, ...]
    lr: float
    momentum: float | None = None
    weight_decay: float = 0.0
    weight_norm: Tensor | None = None
    update_norm: Tensor | None = None
    place: int = 0  # of the optimizer among those of the run


class Weights(Mapping[str, Tensor]):
    """The model's weights by name, read only, as the forward pass would use them.

    A parametrised weight (weight norm, pruning, quantisation-aware) is found under its own
    name and read as its effective value.
    """

    def __init__(self, model: nn.Module) -> None:
        """Reads from ``model``, at each access anew."""
        self._model = model

    @cached_property
    def _names(self) -> Mapping[str, str]:  # at each snapshot of a large model this would tell
        return {strip_compiled(name): name for name, _ in self._model.named_parameters()}

    def __getitem__(self, name: str) -> Tensor:
        value = self._find(name)
        if value is None:
            value = self._find(self._names.get(name, name))
        if not isinstance(value, Tensor):
            raise KeyError(name)
        return value.detach()

    def _find(self, name: str) -> Any:
        path, _, attribute = name.rpartition(".")
        with suppress(AttributeError):
            return _read(self._model.get_submodule(path), attribute)
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _read(module: nn.Module, attribute: str) -> Any:
    """Returns an attribute; a parametrised one without the trace that computing it may leave.

    Spectral norm, for one, moves its buffers each time that its weight is read in training.
    """
    if not is_parametrized(module, attribute):
        return getattr(module, attribute)
    with torch.no_grad(), kept_modes(module), swapped_buffers(module), forked_rng():
        return getattr(module, attribute)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What was read at one step. A test builds one from plain values.

    Attributes:
        step: The x-axis of the user's own ``self.log``.
        trace: The layers in the order of the forward pass.
        weighted: The weights in the order in which the run's first pass met them.
        values: By probe, layer and name: merged over calls, micro-batches and ranks; on the
            device. A probe that was not due is missing.
        num_samples: By probe, the number of samples its values rest on (all ranks).
        weights: The weights after the step's update, read only; within a burst those of its end.
        loss: The step's loss, or None where the loop returns none.
        metrics: A copy of ``trainer.callback_metrics``, likewise of the burst's end.
        input_stats: "share_constant", "mean" and "std" of the batch's inputs, on the device.
        forward: An isolated forward pass, alive only inside ``observe``; None unless needed.
        wants_pictures: False where this snapshot is for numbers only.
        is_reference: This snapshot lies before the first update of the run.
        made: See `once`.
    """

    step: int
    planned_steps: int | None = None  # None where the loop has no end that is known
    epoch: int = 0
    stage: str = "fit"
    trace: tuple[LayerInfo, ...] = ()
    weighted: tuple[WeightInfo, ...] = ()
    values: Mapping[str, Values] = field(default_factory=dict)
    num_samples: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    loss: float | Tensor | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    input_stats: Mapping[str, Tensor] = field(default_factory=dict)
    optimizer: tuple[Group, ...] = ()
    references: References | None = None
    forward: ForwardFn | None = None
    read_layers: Callable[..., Mapping[str, Tensor]] | None = None
    wants_pictures: bool = True
    is_reference: bool = False
    made: dict[str, Any] = field(default_factory=dict, repr=False)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Returns what ``make`` returns, made once for all of a monitor's snapshots of a burst.

        They are looked at together at its end, so what depends on the weights alone is the
        same for all of them.
        """
        if name not in self.made:
            self.made[name] = make()
        return cast("T", self.made[name])

    def layer(self, name: str) -> LayerInfo:
        """Returns what is known of one layer. Raises KeyError for one that was not met."""
        return {info.name: info for info in self.trace}[name]

    def own_passes(self, purpose: str) -> tuple[References, IsolatedForward]:
        """Returns the reference samples and the forward pass of a monitor that needs both.

        Raises:
            NothingToShow: One is missing; ``purpose`` says in its words what for ("to explain").
            TypeError: The forward pass gives scores alone.
        """
        if self.references is None or self.forward is None:
            raise NothingToShow(
                f"there are no reference samples {purpose}: no batch was understood. "
                "Write input_fn=lambda batch: ... that returns the images."
            )
        if not isinstance(self.forward, IsolatedForward):
            raise TypeError(
                f"forward is a {type(self.forward).__name__}, whose layers cannot be read. Use the "
                "forward pass of `isolated(model)`."
            )
        return self.references, self.forward
