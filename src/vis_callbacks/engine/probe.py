"""What a monitor asks the engine to read, and what a reduction is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from vis_callbacks.engine.nonlinearities import magnitudes

if TYPE_CHECKING:
    from torch import Tensor

    from vis_callbacks.engine.nonlinearities import Nonlinearity
    from vis_callbacks.engine.schedule import Schedule

MergeName = Literal["sum", "max", "min", "concat"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The batch that passes by while an activation is read."""

    inputs: Tensor | None
    labels: Tensor | None
    num_samples: int
    first_index: int = 0  # running index of the batch's first sample within the occasion


@dataclass(frozen=True, kw_only=True)
class Activation:
    """One activation as it is seen, inside the hook: reduce it, never keep it.

    ``values`` is (samples, units, positions): spatial places or tokens are positions.
    An in-place successor may overwrite it after the reduction has returned.
    """

    layer: str
    values: Tensor
    nonlinearity: Nonlinearity | None  # None: a module that is none (read by name)
    inputs: Tensor | None  # what went into the nonlinearity, same shape; None if overwritten
    shape: tuple[int, ...]  # as the model has it, batch first

    @cached_property
    def magnitudes(self) -> Tensor:
        """(samples, units): sum over positions of abs(h), made once for all who reduce this."""
        return magnitudes(self.values, self.nonlinearity)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What to read: reduced inside the hook, and merged wherever samples come together.

    Attributes:
        name: Key of the result in ``Snapshot.values``.
        reduce: Activation and batch to named tensors, on the device, without a host sync.
        merge: How two of them become one, by name: over reused calls, micro-batches, an
            evaluation's batches and ranks.
        layers: Globs over names of modules and functional nonlinearities; None: all of these.
        site: ``"input"`` reads what a module is given (features: the last Linear's input). Three
            sites are no activations: ``"loss"`` is what the loss is computed from (`LossInputs`),
            ``"losses"`` are those of all steps since the last snapshot, with the steps, and
            ``"parameters"`` gradients and updates (`ParameterWatch`). There ``reduce`` is given
            that in place of an activation, and returns named tensors by layer.
        occasion: ``"train_step"``, or ``"evaluation"``: fit's validation, trainer.validate,
            trainer.test.
        schedule: None takes the monitor's.
        must_match: Whether a glob that no layer answers to is reported as a mistake.
    """

    name: str
    reduce: Callable[[Any, Batch], Mapping[str, Any]]
    merge: Mapping[str, MergeName | Callable[[Tensor, Tensor], Tensor]]
    layers: Sequence[str] | None = None
    site: Literal["output", "input", "loss", "losses", "parameters"] = "output"
    occasion: Literal["train_step", "evaluation"] = "train_step"
    schedule: Schedule | None = None
    must_match: bool = True


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """One layer as the forward pass met it."""

    name: str
    kind: str  # "relu", "gelu", ... or the class name of a module that is no nonlinearity
    shape: tuple[int, ...]  # of the activation, batch first
    num_units: int
    weight_name: str | None = None  # parameter whose rows feed the units; None: not known
    is_gate: bool = False
    touches_input: bool = False


@dataclass(frozen=True, kw_only=True)
class WeightInfo:
    """One weight as the forward pass met it, in the pass that found the layers.

    ``initial`` is what the pass multiplied with, before the step's update: the effective values of
    a parametrised weight. None where it does not touch the input, or is too large to keep.
    """

    layer: str  # name of the module that multiplied with it
    weight_name: str | None  # key in `Snapshot.weights`; None: no parameter, and computed of none
    kind: str  # "linear", "conv2d", "conv_transpose2d", ...
    groups: int = 1
    touches_input: bool = False  # no other weight lies between it and the model's input
    initial: Tensor | None = None


Values = Mapping[str, Mapping[str, Any]]  # layer -> name -> tensor
