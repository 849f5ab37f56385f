"""The sanity check of saliency maps: does a map depend on what the network has learned?

A map that stays as it was when the weights of the top layer are replaced by random ones shows
the input's edges and not the reasons of the network (Adebayo et al. 2018, "Sanity checks for
saliency maps").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def random_top_layer(num_calls: int, seed: int = 0) -> Iterator[None]:
    """Runs passes as if the weights of the last linear or convolutional call were random.

    They are drawn from a normal distribution with the mean and the standard deviation of the
    layer's own (where its weights are all equal, with the spread of an untrained layer); the bias
    stays. No parameter is touched: the call gets another weight.

    Args:
        num_calls: Of one forward pass, see `count_weighted_calls`.
        seed: Of a generator of its own; every pass gets the same weights.

    Raises:
        ValueError: There is no such call.
    """
    if num_calls < 1:
        raise ValueError(
            "no linear layer and no convolution was called, so there is no top layer to "
            "randomise. Leave the sanity check off."
        )
    with WeightedCalls(num_calls, seed):
        yield


class WeightedCalls(TorchFunctionMode):
    """Counts weighted calls; each ``num_calls``-th one gets random weights.

    Attributes:
        count: Of the calls so far.
    """

    def __init__(self, num_calls: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.count: int = 0
        self._num_calls = num_calls
        self._seed = seed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _WEIGHTED:
            self.count += 1
            if self._num_calls and self.count % self._num_calls == 0:
                given = (*args[:2], kwargs.get("input"), kwargs.get("weight"))
                inputs, weight = [value for value in given if value is not None]
                kwargs = {n: v for n, v in kwargs.items() if n not in ("input", "weight")}
                return func(inputs, _random_like(weight, self._seed), *args[2:], **kwargs)
        return func(*args, **kwargs)


def _random_like(weight: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(weight.device).manual_seed(seed)
    weight = weight.detach()
    drawn = torch.randn(weight.shape, generator=generator, dtype=weight.dtype, device=weight.device)
    spread = weight.std()
    # A head of zeros, as many are initialised, would stay one.
    spread = torch.where(spread > 0, spread, weight[0].numel() ** -0.5)
    return weight.mean() + spread * drawn
