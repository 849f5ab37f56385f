"""The calls that multiply with a weight, as ``TorchFunctionMode`` sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Functions = frozenset[Callable[..., Any]]

LINEAR: Functions = frozenset({F.linear})
CONVOLUTIONS: Functions = frozenset(
    {F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d}
)
TRANSPOSED: Functions = frozenset(
    {
        F.conv_transpose1d,
        F.conv_transpose2d,
        F.conv_transpose3d,
        torch.conv_transpose1d,
        torch.conv_transpose2d,
        torch.conv_transpose3d,
    }
)
