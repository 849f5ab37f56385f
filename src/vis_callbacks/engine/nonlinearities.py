"""The table of nonlinearities: which calls they are, where they are flat, whether units can die.

The functions are those that ``torch.overrides.TorchFunctionMode`` sees: a Python function of
``torch.nn.functional`` is seen as itself, and what it calls inside is not seen again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[..., Any]


def _called(*names: str) -> tuple[Function, ...]:
    """Returns the functions and methods of these names, with their in-place forms."""
    return tuple(
        getattr(place, form)
        for name in names
        for place in (F, torch, Tensor)
        for form in (name, f"{name}_")
        if hasattr(place, form)
    )


@dataclass(frozen=True, kw_only=True)
class Nonlinearity:
    """What the statistics need to know of one nonlinearity.

    Attributes:
        kind: PyTorch's name of its function, also the name of a functional layer (``owner/relu``).
        module: A module of this type *is* its nonlinearity, and the layer has the module's name.
        has_flat_zero: It is exactly 0, with no gradient, on an interval: a unit can be dead.
        is_nonnegative: It is never below 0, so that a sum of 0 means that nothing fired.
        is_gate_like: Sigmoid-like: on an (N, C, 1, 1) tensor it scales channels
            (squeeze-and-excite) and is not counted as a layer.
        flat_output_below, flat_output_above: The output's ends, where hardly any gradient is left.
        flat_input_below: The same, told from the input: GELU and SiLU are not monotonic, and
            their output near 0 does not tell on which side of the dip it lies.
    """

    kind: str
    module: type[nn.Module] | None = None
    has_flat_zero: bool = False
    is_nonnegative: bool = False
    is_gate_like: bool = False
    flat_output_below: float | None = None
    flat_output_above: float | None = None
    flat_input_below: float | None = None

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        """The callables that are this nonlinearity."""
        return _called(self.kind) + ((torch.special.expit,) if self.kind == "sigmoid" else ())

    @cached_property
    def saturates(self) -> bool:
        """Whether a flat share can be told for it."""
        ends = (self.flat_output_below, self.flat_output_above, self.flat_input_below)
        return any(end is not None for end in ends)


RELU = Nonlinearity(kind="relu", module=nn.ReLU, has_flat_zero=True, is_nonnegative=True)
RELU6 = Nonlinearity(kind="relu6", module=nn.ReLU6, has_flat_zero=True, is_nonnegative=True)
HARDTANH = Nonlinearity(kind="hardtanh", module=nn.Hardtanh)
THRESHOLD = Nonlinearity(kind="threshold", module=nn.Threshold)

# Where the flat parts begin is the choice made when these shares were measured on trainings
# of small networks with the learning rate from far too low to far too high.
NONLINEARITIES: tuple[Nonlinearity, ...] = (
    RELU,
    RELU6,
    HARDTANH,
    THRESHOLD,
    Nonlinearity(kind="gelu", module=nn.GELU, flat_input_below=-3.0),
    Nonlinearity(kind="silu", module=nn.SiLU, flat_input_below=-6.0),
    Nonlinearity(kind="mish", module=nn.Mish),
    Nonlinearity(kind="hardswish", module=nn.Hardswish),
    Nonlinearity(kind="elu", module=nn.ELU, flat_output_below=math.expm1(-4.0)),
    Nonlinearity(kind="selu", module=nn.SELU),
    Nonlinearity(kind="celu", module=nn.CELU),
    Nonlinearity(kind="leaky_relu", module=nn.LeakyReLU, flat_output_below=0.0),
    Nonlinearity(kind="rrelu", module=nn.RReLU),
    Nonlinearity(kind="prelu", module=nn.PReLU),
    Nonlinearity(kind="tanh", module=nn.Tanh, flat_output_below=-0.99, flat_output_above=0.99),
    Nonlinearity(
        kind="sigmoid",
        module=nn.Sigmoid,
        is_nonnegative=True,
        is_gate_like=True,
        flat_output_below=0.01,
        flat_output_above=0.99,
    ),
    Nonlinearity(kind="hardsigmoid", module=nn.Hardsigmoid, is_nonnegative=True, is_gate_like=True),
    Nonlinearity(kind="softplus", module=nn.Softplus, is_nonnegative=True),
    Nonlinearity(kind="softsign", module=nn.Softsign),
    Nonlinearity(kind="lstm", module=nn.RNNBase),
    Nonlinearity(kind="gru"),
    Nonlinearity(kind="rnn_tanh"),
    Nonlinearity(kind="rnn_relu", has_flat_zero=True, is_nonnegative=True),
)

MODULE_TYPES: tuple[type[nn.Module], ...] = tuple(n.module for n in NONLINEARITIES if n.module)

_BY_FUNCTION = {function: n for n in NONLINEARITIES for function in n.functions}

# ``clamp(min=0)`` is a ReLU in disguise. Every other clamp is no nonlinearity.
_CLAMPS = frozenset(_called("clamp", "clip", "clamp_min"))

FUNCTIONS: frozenset[Function] = frozenset({*_BY_FUNCTION, *_CLAMPS})  # all that `classify` knows


def classify(
    function: Function, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Nonlinearity | None:
    """Returns the nonlinearity that this call is, or None.

    ``clamp`` is a ReLU where it clamps at 0 and from below only, ``hardtanh`` a ReLU6 where its
    lower end is 0 (``nn.ReLU6`` calls it so), ``threshold`` a ReLU where both its numbers are 0.
    """

    def argument(position: int, name: str, default: Any = None) -> Any:
        return args[position] if len(args) > position else kwargs.get(name, default)

    found = _BY_FUNCTION.get(function)
    if found is HARDTANH:
        return RELU6 if argument(1, "min_val", -1.0) == 0 else HARDTANH
    if found is THRESHOLD:
        is_relu = argument(1, "threshold") == 0 and argument(2, "value") == 0
        return RELU if is_relu else THRESHOLD
    if found is None and function in _CLAMPS:
        low, high = argument(1, "min"), argument(2, "max")
        # Comparing a tensor would wait for the device.
        is_relu = high is None and not isinstance(low, Tensor) and low == 0
        return RELU if is_relu else None
    return found


def as_real(values: Tensor) -> Tensor:
    """Returns the values in the type that they are summed in: half precision would overflow."""
    if values.is_complex():
        values = values.abs()
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def magnitudes(values: Tensor, nonlinearity: Nonlinearity | None) -> Tensor:
    """Returns the sum of abs(h) over positions: (samples, units, positions) -> (samples, units)."""
    values = as_real(values.detach())
    is_nonnegative = nonlinearity is not None and nonlinearity.is_nonnegative
    sizes = values if is_nonnegative else values.abs()
    return sizes[:, :, 0] if values.shape[2] == 1 else sizes.sum(2)
