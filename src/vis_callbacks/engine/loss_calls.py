"""The table of torch's losses, and what a loss is computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

_IGNORED = -100  # the class that torch leaves out where it is told of no other
_LOSSES: Mapping[Callable[..., Any], str] = {
    F.cross_entropy: "cross_entropy",
    F.nll_loss: "nll_loss",
    F.binary_cross_entropy: "binary_cross_entropy",
    F.binary_cross_entropy_with_logits: "binary_cross_entropy_with_logits",
    F.mse_loss: "mse_loss",
    F.l1_loss: "l1_loss",
    F.smooth_l1_loss: "smooth_l1_loss",
    F.huber_loss: "huber_loss",
    F.kl_div: "kl_div",
    F.ctc_loss: "ctc_loss",
}
LOSSES = frozenset(_LOSSES)
_CLASS_LOSSES = (F.cross_entropy, F.nll_loss)
_PLACE_OF_IGNORED = 4  # among the arguments of these two


@dataclass(frozen=True, eq=False)
class LossCall:
    """What one of torch's losses was given; ``kind`` is PyTorch's name of it.

    Rows whose class is ``ignored`` are no part of the loss.
    """

    kind: str
    outputs: Tensor
    targets: Tensor
    ignored: int = _IGNORED


@dataclass(frozen=True, eq=False)
class LossInputs:
    """What the loss of one micro-batch may have been computed from.

    Attributes:
        calls: Of torch's losses.
        returned: By the modules that no other one called, the latest last: the model, and the loss
            or a metric where these are modules.
    """

    calls: Sequence[LossCall]
    returned: Sequence[Any]


def loss_call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> LossCall | None:
    """Returns what a call of one of `LOSSES` was given, None where that is no pair of tensors."""
    outputs = args[0] if args else kwargs.get("input", kwargs.get("log_probs"))
    targets = args[1] if len(args) > 1 else kwargs.get("target", kwargs.get("targets"))
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return None
    ignored = kwargs.get("ignore_index", _IGNORED)
    if function in _CLASS_LOSSES and len(args) > _PLACE_OF_IGNORED:
        ignored = args[_PLACE_OF_IGNORED]
    return LossCall(_LOSSES[function], outputs, targets, ignored)
