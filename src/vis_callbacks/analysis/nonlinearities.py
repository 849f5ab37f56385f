"""One table of the nonlinearities: which calls they are, where they are flat, what "dead" means.

The functions are listed as ``torch.overrides.TorchFunctionMode`` sees them: a Python function
of ``torch.nn.functional`` is seen as itself, and what it calls inside is not seen again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Nonlinearity:
    """What the statistics must know of one nonlinearity.

    Attributes:
        kind: The field's name for it, also the name of a functional layer (``owner/relu``).
        functions: The callables that are this nonlinearity whatever their arguments.
        has_flat_zero: Exactly 0, with no gradient, on an interval: a unit can be dead.
        is_nonnegative: Never below 0, so that a sum of 0 means that nothing fired.
        is_gate_like: Sigmoid-like: on an (N, C, 1, 1) tensor it scales channels
            (squeeze-and-excite) and is not counted as a layer.
        flat_output_below, flat_output_above: The output's ends, where hardly any gradient is left.
        flat_input_below: The same, told from the input: GELU and SiLU are not monotonic, and
            their output near 0 does not tell on which side of the dip it lies.
    """

    kind: str
    functions: tuple[Function, ...] = ()
    has_flat_zero: bool = False
    is_nonnegative: bool = False
    is_gate_like: bool = False
    flat_output_below: float | None = None
    flat_output_above: float | None = None
    flat_input_below: float | None = None

    @property
    def saturates(self) -> bool:
        """Whether a flat share can be told for it."""
        return not (
            self.flat_output_below is None
            and self.flat_output_above is None
            and self.flat_input_below is None
        )


RELU = Nonlinearity(
    kind="relu",
    functions=(
        F.relu,
        torch.relu,
        torch.relu_,
        Tensor.relu,
        Tensor.relu_,
    ),
    has_flat_zero=True,
    is_nonnegative=True,
)
RELU6 = Nonlinearity(kind="relu6", functions=(F.relu6,), has_flat_zero=True, is_nonnegative=True)
HARDTANH = Nonlinearity(kind="hardtanh")
THRESHOLD = Nonlinearity(kind="threshold")

# Where the flat parts begin is the choice made when these shares were measured on trainings
# of small networks with the learning rate from far too low to far too high.
NONLINEARITIES: tuple[Nonlinearity, ...] = (
    RELU,
    RELU6,
    HARDTANH,
    THRESHOLD,
    Nonlinearity(kind="gelu", functions=(F.gelu,), flat_input_below=-3.0),
    Nonlinearity(kind="silu", functions=(F.silu,), flat_input_below=-6.0),
    Nonlinearity(kind="mish", functions=(F.mish,)),
    Nonlinearity(kind="hardswish", functions=(F.hardswish,)),
    Nonlinearity(kind="elu", functions=(F.elu, F.elu_), flat_output_below=math.expm1(-4.0)),
    Nonlinearity(kind="selu", functions=(F.selu, F.selu_, torch.selu, torch.selu_)),
    Nonlinearity(kind="celu", functions=(F.celu, F.celu_, torch.celu, torch.celu_)),
    Nonlinearity(
        kind="leaky_relu",
        functions=(F.leaky_relu, F.leaky_relu_),
        flat_output_below=0.0,
    ),
    Nonlinearity(kind="rrelu", functions=(F.rrelu, torch.rrelu, torch.rrelu_)),
    Nonlinearity(kind="prelu", functions=(F.prelu, torch.prelu, Tensor.prelu)),
    Nonlinearity(
        kind="tanh",
        functions=(F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_),
        flat_output_below=-0.99,
        flat_output_above=0.99,
    ),
    Nonlinearity(
        kind="sigmoid",
        functions=(
            F.sigmoid,
            torch.sigmoid,
            torch.sigmoid_,
            torch.special.expit,
            Tensor.sigmoid,
            Tensor.sigmoid_,
        ),
        is_nonnegative=True,
        is_gate_like=True,
        flat_output_below=0.01,
        flat_output_above=0.99,
    ),
    Nonlinearity(
        kind="hardsigmoid", functions=(F.hardsigmoid,), is_nonnegative=True, is_gate_like=True
    ),
    Nonlinearity(kind="softplus", functions=(F.softplus,), is_nonnegative=True),
    Nonlinearity(kind="softsign", functions=(F.softsign,)),
    Nonlinearity(kind="lstm", functions=(torch.lstm,)),
    Nonlinearity(kind="gru", functions=(torch.gru,)),
    Nonlinearity(kind="rnn_tanh", functions=(torch.rnn_tanh,)),
    Nonlinearity(
        kind="rnn_relu", functions=(torch.rnn_relu,), has_flat_zero=True, is_nonnegative=True
    ),
)

# A module of one of these types *is* its nonlinearity: the layer has the module's name. Any
# other module only owns the call, and the layer is called ``owner/relu``.
MODULE_TYPES: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.Hardtanh,  # nn.ReLU6 is one
    nn.Threshold,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.LeakyReLU,
    nn.RReLU,
    nn.PReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.RNNBase,
)

_BY_FUNCTION: dict[Function, Nonlinearity] = {
    function: nonlinearity for nonlinearity in NONLINEARITIES for function in nonlinearity.functions
}
_BY_FUNCTION.update(dict.fromkeys((F.hardtanh, F.hardtanh_), HARDTANH))
_BY_FUNCTION.update(dict.fromkeys((F.threshold, torch.threshold, torch.threshold_), THRESHOLD))

# ``clamp(min=0)`` is a ReLU in disguise; every other clamp is none.
_CLAMPS: frozenset[Function] = frozenset(
    {
        torch.clamp,
        torch.clamp_,
        torch.clip,
        torch.clip_,
        Tensor.clamp,
        Tensor.clamp_,
        Tensor.clip,
        Tensor.clip_,
        torch.clamp_min,
        torch.clamp_min_,
        Tensor.clamp_min,
        Tensor.clamp_min_,
    }
)

# What `classify` need be asked about.
FUNCTIONS: frozenset[Function] = frozenset({*_BY_FUNCTION, *_CLAMPS})


def classify(
    function: Function, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Nonlinearity | None:
    """Returns the nonlinearity that this call is, or None.

    Three need their arguments: ``clamp`` is a ReLU where it clamps at 0 and from below only,
    ``hardtanh`` is a ReLU6 where its lower end is 0 (``nn.ReLU6`` calls it so), and
    ``threshold`` is a ReLU where both its numbers are 0.
    """
    found = _BY_FUNCTION.get(function)
    if found is HARDTANH:
        return RELU6 if _argument(args, kwargs, 1, "min_val", -1.0) == 0 else HARDTANH
    if found is THRESHOLD:
        is_relu = (
            _argument(args, kwargs, 1, "threshold", None) == 0
            and _argument(args, kwargs, 2, "value", None) == 0
        )
        return RELU if is_relu else THRESHOLD
    if found is None and function in _CLAMPS:
        return _classify_clamp(args, kwargs)
    return found


def _classify_clamp(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Nonlinearity | None:
    low = _argument(args, kwargs, 1, "min", None)
    high = _argument(args, kwargs, 2, "max", None)
    if high is not None or low is None or isinstance(low, Tensor):
        return None  # comparing a tensor would wait for the device
    return RELU if low == 0 else None


def _argument(
    args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str, default: Any
) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)
