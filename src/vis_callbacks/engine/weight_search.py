"""Which weight feeds an activation, and which weights touch the model's input."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vis_callbacks.engine.layers import ModelNames
from vis_callbacks.engine.nonlinearities import MODULE_TYPES
from vis_callbacks.engine.probe import WeightInfo

# The calls that multiply with a weight, as ``TorchFunctionMode`` sees them.
Functions = frozenset[Callable[..., Any]]
LINEAR: Functions = frozenset({F.linear})
CONVOLUTIONS: Functions = frozenset(
    {F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d}
)
TRANSPOSED: Functions = frozenset(
    {
        *(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
        *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
    }
)

# The weight that feeds a unit is a few calls back; the longest way is through a block's
# parallel branches (57 convolutions lie in all of an Inception network).
_REMEMBERED_CALLS = 64
_MAX_KEPT_VALUES = 2**22  # of a weight that touches the input: 16 MiB


class WeightedCall(NamedTuple):
    """A call that multiplied with a weight."""

    block: str  # the name of the module whose ``forward`` it belongs to
    weight_name: str | None
    kind: str
    groups: int
    num_outputs: int
    unit_axis: int  # of its output: 1 for convolutions, -1 for linear layers
    touches_input: bool


class WeightSearch:
    """Remembers the latest weighted calls of a pass, and follows its input to the first of them.

    ``weights`` takes each weight that is met, by its module's name; None: they are known.
    """

    def __init__(
        self, model: nn.Module, names: ModelNames, weights: dict[str, WeightInfo] | None
    ) -> None:
        self._model, self._names, self._weights = model, names, weights
        self.calls: deque[WeightedCall] = deque(maxlen=_REMEMBERED_CALLS)  # the last one last
        # The input and what calls without weights have made of it. The tensors themselves are
        # kept: an id alone could be given to another tensor.
        self.followed: dict[int, Tensor] = {}

    def note(
        self, owner: nn.Module, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> None:
        """Takes a weighted call that the module ``owner`` has made."""
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if not isinstance(weight, Tensor):
            return
        key = (id(owner), function, id(weight))
        call = self._names.weighted_calls.get(key)
        if call is None or self.followed:
            call = self._call(owner, function, weight, args, kwargs)
            if id(weight) in self._names.parameters:  # else it is computed anew at each call
                self._names.weighted_calls[key] = call
            self._note_weight(owner, weight, call)
        self.calls.append(call)

    def _call(
        self,
        owner: nn.Module,
        function: Callable[..., Any],
        weight: Tensor,
        args: Any,
        kwargs: dict[str, Any],
    ) -> WeightedCall:
        given = args[0] if args else kwargs.get("input")
        groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
        block, name = self._names.of(owner), self._names.parameters.get(id(weight))
        # Never getattr: reading a parametrised weight computes it, and may move buffers.
        is_computed = name is None and "weight" in {*dir(type(owner)), *vars(owner)}
        places = (owner._parameters, owner._buffers)
        has_own_weight = is_computed or any(p.get("weight") is weight for p in places)
        return WeightedCall(
            block=block.rpartition(".")[0] if has_own_weight else block,
            weight_name=f"{block}.weight" if is_computed else name,
            kind=function.__name__,
            groups=groups,
            num_outputs=weight.shape[1] * groups if function in TRANSPOSED else weight.shape[0],
            unit_axis=-1 if function in LINEAR else 1,
            touches_input=id(given) in self.followed,
        )

    def _note_weight(self, owner: nn.Module, weight: Tensor, call: WeightedCall) -> None:
        if self._weights is None:
            return
        layer, weight_name = self._names.of(owner), call.weight_name
        known = self._weights.get(layer)
        # A discriminator is called with what was made before it is called with the input.
        if known is not None and (known.touches_input or not call.touches_input):
            return
        own = owner._parameters.get("weight")
        if weight_name is None and own is not None and own.shape == weight.shape:
            # Rounded on the way (quantisation-aware): what learns is the module's own.
            weight_name, weight = f"{layer}.weight", own
        is_kept = call.touches_input and weight.numel() <= _MAX_KEPT_VALUES
        self._weights[layer] = WeightInfo(
            layer=layer,
            weight_name=weight_name,
            kind=call.kind,
            groups=call.groups,
            touches_input=call.touches_input,
            initial=weight.detach().clone() if is_kept else None,
        )

    def feeding(self, module: nn.Module, values: Tensor) -> WeightedCall | None:
        """Returns the last weighted call before, in the same or an enclosing block.

        It must have as many outputs as the activation has units; what lies between
        (normalisation, dropout, an addition) is passed over.
        """
        if isinstance(module, nn.RNNBase):
            return None
        block = self._names.of(module)
        if isinstance(module, MODULE_TYPES):
            block = block.rpartition(".")[0]
        for call in reversed(self.calls):
            is_whole_model = call.block in ("", self._names.root)
            if (is_whole_model or f"{block}.".startswith(f"{call.block}.")) and (
                values.shape[call.unit_axis] == call.num_outputs
            ):
                return call
        return None

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Follows the way of these tensors to the first weights they meet."""
        self.followed.update((id(tensor), tensor) for tensor in tensors)

    def spread(self, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        """Follows the input through a call without weights."""
        given = [*_flat(args), *kwargs.values()]
        followed = [item for item in given if id(item) in self.followed]
        if not followed or self._mixes(given):
            return
        made = [item for item in _flat((result,)) if isinstance(item, Tensor)]
        # A matrix that is learned and a new shape: an embedding, a recurrent layer, ``x @ w``.
        if any(id(i) in self._names.parameters and i.dim() > 1 for i in given):
            made = [tensor for tensor in made if tensor.shape == followed[0].shape]
        self.follow(made)

    def _mixes(self, given: Sequence[Any]) -> bool:
        """Whether the input meets what a weight may have made of it: a skip connection."""
        return bool(self.calls) and any(
            isinstance(item, Tensor)
            and item.dim() > 1
            and item.is_floating_point()
            and id(item) not in self.followed
            and id(item) not in self._names.parameters
            and not any(item is buffer for buffer in self._model.buffers())
            for item in given
        )


def _flat(items: Iterable[Any]) -> Iterable[Any]:
    for item in items:
        if isinstance(item, tuple | list):
            yield from item
        else:
            yield item
