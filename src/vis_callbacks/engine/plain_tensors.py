"""Which tensors arithmetic of ours may touch, and what to write where one is of another kind."""

from __future__ import annotations

import torch
from torch import Tensor

# Of other types (complex, quantised, float8, unsigned of more than a byte) much is not
# implemented, or ends the process.
_TYPES = frozenset(
    {
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    }
)


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds real numbers of its own, one after the other.

    Not so are quantised, sparse, nested and complex tensors, those that only stand for others
    (fake, meta, of a ``torch.func`` transform), and subclasses that do their own arithmetic. A
    subclass that only carries more along, such as MONAI's ``MetaTensor``, is plain inside.
    """
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return False
    with torch._C.DisableTorchFunctionSubclass():  # no code of a subclass is run
        return (
            tensor.dtype in _TYPES
            and tensor.layout is torch.strided
            and not tensor.is_nested
            and tensor.device.type != "meta"
            and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        )


def plain(tensor: Tensor) -> Tensor:
    """Returns the same numbers without their graph, and without what a subclass adds."""
    if type(tensor) is Tensor and not tensor.requires_grad:
        return tensor
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.detach().as_subclass(Tensor)


def how_to_make_plain(tensor: Tensor) -> str:
    """Returns what a tensor that is not plain is, and the options that would give a plain one.

    To be read after "the inputs are".
    """
    with torch._C.DisableTorchFunctionSubclass():
        kind, there, back = _ways_of(tensor)
    words = f"{kind}. Write input_fn=lambda batch: {there}" if there else kind
    return f"{words} and forward_fn=lambda module, inputs: module({back})" if back else words


def _ways_of(tensor: Tensor) -> tuple[str, str, str]:
    """Returns the kind of tensor, how it is made plain, and how it is made again."""
    if tensor.is_complex():
        return "complex", "torch.view_as_real(batch[0])", "torch.view_as_complex(inputs)"
    if tensor.is_quantized:
        return "quantised", "batch[0].dequantize()", _requantised(tensor)
    if tensor.is_nested:
        return "a nested tensor", "batch[0].to_padded_tensor(0.0)", ""
    if tensor.layout is not torch.strided:
        is_mkldnn = tensor.layout is torch._mkldnn  # type: ignore[attr-defined]
        back = "to_mkldnn()" if is_mkldnn else f"to_sparse(layout={tensor.layout})"
        return "sparse", "batch[0].to_dense()", f"inputs.{back}"
    if tensor.dtype not in _TYPES:
        kind = f"{str(tensor.dtype).removeprefix('torch.')}, of which little can be computed"
        return kind, "batch[0].float()", f"inputs.to({tensor.dtype})"
    return f"a {type(tensor).__name__} on {tensor.device} without numbers of its own", "", ""


def _requantised(tensor: Tensor) -> str:
    if tensor.qscheme() is not torch.per_tensor_affine:
        return ""
    scale, zero = tensor.q_scale(), tensor.q_zero_point()
    return f"torch.quantize_per_tensor(inputs, {scale:.6g}, {zero}, {tensor.dtype})"
