"""Passes with a random top layer: does a saliency map depend on what the network has learned?

A map that stays the same when the weights of the top layer are replaced by random ones shows the
input's edges and not the network's reasons (Adebayo et al. 2018, "Sanity checks for saliency
maps").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vis_callbacks.analysis.weighted_calls import CONVOLUTIONS, LINEAR

_WEIGHTED = LINEAR | CONVOLUTIONS


def count_weighted_calls(run: Callable[[], object]) -> int:
    """Returns how many linear layers and convolutions a forward pass calls."""
    calls = WeightedCalls()
    with torch.no_grad(), calls:
        run()
    return calls.count


def random_top_layer(num_calls: int, seed: int = 0) -> WeightedCalls:
    """Returns a context whose passes run as if the last weighted call had random weights.

    The weights are drawn from a normal distribution with the mean and the standard deviation of
    the layer's own (where these are all equal, with the spread of an untrained layer). The bias
    stays. No parameter is touched: the call gets another weight.

    Args:
        num_calls: Of one forward pass, see `count_weighted_calls`.
        seed: Of a generator of its own. Every pass gets the same weights.

    Raises:
        ValueError: There is no such call.
    """
    if num_calls < 1:
        raise ValueError(
            "the forward pass calls no linear layer and no convolution, so there is no top layer "
            "to randomise. Leave the sanity check off."
        )
    return WeightedCalls(num_calls, seed)


class WeightedCalls(TorchFunctionMode):
    """Counts the calls of linear layers and convolutions inside the context.

    Args:
        num_calls: Each ``num_calls``-th call gets random weights; 0 means none.
        seed: Of these weights.
    """

    def __init__(self, num_calls: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.count: int = 0
        self._num_calls = num_calls
        self._seed = seed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict[str, Any](kwargs or {})
        if func in _WEIGHTED:
            self.count += 1
            if self._num_calls and self.count % self._num_calls == 0:
                given = list(args[:2])
                given += [kwargs.pop(name) for name in ("input", "weight") if name in kwargs]
                inputs, weight = given
                return func(inputs, _random_like(weight, self._seed), *args[2:], **kwargs)
        return func(*args, **kwargs)


def _random_like(weight: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(weight.device).manual_seed(seed)
    weight = weight.detach()
    drawn = torch.randn(weight.shape, generator=generator, dtype=weight.dtype, device=weight.device)
    spread = weight.std()
    # A head that was initialised with zeros must not stay one.
    spread = torch.where(spread > 0, spread, weight[0].numel() ** -0.5)
    return weight.mean() + spread * drawn
