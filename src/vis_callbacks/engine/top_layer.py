"""Passes with a random top layer: does a saliency map depend on what the network has learned?

A map that stays the same when the weights of the top layer are replaced by random ones shows the
input's edges and not the network's reasons (Adebayo et al. 2018, "Sanity checks for saliency
maps").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vis_callbacks.engine.weight_search import CONVOLUTIONS, LINEAR

_WEIGHTED = LINEAR | CONVOLUTIONS


class WeightedCalls(TorchFunctionMode):
    """Counts calls of linear layers and convolutions; every ``random_call``-th gets random weights.

    With the ``count`` of one forward pass this is the top layer; 0 leaves all weights as they are.
    The weights are drawn from a normal distribution with the mean and the standard deviation of the
    layer's own (where these are all equal, with the spread of an untrained layer). The bias stays,
    and no parameter is touched: the call gets another weight, in every pass the same one.
    """

    def __init__(self, random_call: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.count: int = 0
        self._random_call = random_call
        self._seed = seed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict[str, Any](kwargs or {})
        if func in _WEIGHTED:
            self.count += 1
            if self._random_call and self.count % self._random_call == 0:
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
