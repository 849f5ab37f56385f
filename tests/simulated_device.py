"""An accelerator in software: its tensors say that they are elsewhere, and must be waited for.

The device is called ``meta``, which autograd serves without a driver, but its numbers are there,
so whole trainings can be run. As on a GPU, a tensor of the host may not be mixed in, and what
brings numbers to the host, or from it, waits for the device. Each wait is recorded with the
function of this library that asked for it.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from pytorch_lightning import Callback
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

import vis_callbacks
from vis_callbacks.engine.plain_tensors import is_plain

DEVICE = torch.device("meta")
_HOST = torch.device("cpu")
_PACKAGE = Path(vis_callbacks.__file__).parent
_COPIES = frozenset({"_to_copy", "copy_", "copy"})
_INDEXED = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"})
# On a GPU these look at the status of the solver before they return.
_CHECKED = frozenset({"_linalg_eigh", "_linalg_svd", "_linalg_solve_ex", "linalg_cholesky_ex"})
# What torch.use_deterministic_algorithms refuses on CUDA, as far as a monitor could call it.
_REFUSED = frozenset(
    {
        *("kthvalue", "kthvalue.values", "median.dim", "nanmedian.dim", "histc", "put_", "resize_"),
        *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
        *("adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward"),
        *("avg_pool3d_backward", "max_pool3d_with_indices_backward"),
        *("upsample_linear1d_backward", "upsample_bicubic2d_backward"),
        "upsample_trilinear3d_backward",
    }
)
_DISPATCHERS = frozenset({"__torch_function__", "__torch_dispatch__"})


class Wait(NamedTuple):
    """One wait for the device."""

    step: int
    function: str  # "module.function" of this library that asked for it; "": somebody else
    operation: str
    in_reduction: bool  # while an activation passed by


class SimulatedTensor(Tensor):
    """A tensor on the simulated device, and its numbers."""

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: Tensor) -> SimulatedTensor:
        return Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=DEVICE,
        )

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def as_subclass(self, cls: type) -> Tensor:
        return self  # it stands for a plain tensor

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} was called where the simulated device is closed")


class SimulatedDevice(TorchDispatchMode):
    """The device while it is open: ``waits`` are all there were, ``step`` is what they are of."""

    def __init__(self) -> None:
        super().__init__()
        self.step = -1
        self.waits: list[Wait] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, spec = tree_flatten((args, kwargs or {}))
        tensors = [x for x in flat if isinstance(x, Tensor)]
        ours = {id(x.numbers): x for x in tensors if isinstance(x, SimulatedTensor)}
        asked = (kwargs or {}).get("device")
        name = func._schema.name.removeprefix("aten::")
        is_ours = torch.device(asked) == DEVICE if asked is not None else bool(ours)
        if name == "copy_":
            is_ours = isinstance(tensors[0], SimulatedTensor)
        self._check(func, name, args, tensors, is_ours)
        args, kwargs = tree_unflatten([_on_host(x) for x in flat], spec)
        made = func(*args, **kwargs)
        if not is_ours:
            return made
        # What was written in place is the tensor that it was.
        return tree_map_only(
            Tensor, lambda x: ours[id(x)] if id(x) in ours else SimulatedTensor(x), made
        )

    def by_function(self, steps: Iterable[int]) -> dict[str, int]:
        """Returns how often each function of this library waited in these steps."""
        wanted = [w.function for w in self.waits if w.step in steps and w.function]
        return {function: wanted.count(function) for function in sorted(set(wanted))}

    def _check(self, func: Any, name: str, args: Any, tensors: list[Tensor], is_ours: bool) -> None:
        are_ours = [isinstance(x, SimulatedTensor) for x in tensors]
        if name in _COPIES:
            if is_ours != are_ours[-1]:
                self._wait(name)
            return
        if not any(are_ours):
            return
        is_sum = name.startswith("cumsum") and tensors[0].is_floating_point()
        full_name = str(func).removeprefix("aten.").removesuffix(".default")
        if torch.are_deterministic_algorithms_enabled() and (is_sum or full_name in _REFUSED):
            raise RuntimeError(f"{name} does not have a deterministic implementation.")
        # A single number of the host goes along with the call.
        has_host = any(x.dim() for x, own in zip(tensors, are_ours, strict=True) if not own)
        if name in _INDEXED:
            masks = (torch.bool, torch.uint8)
            waits = has_host or any(x is not None and x.dtype in masks for x in args[1])
        elif has_host:
            raise RuntimeError(f"{name}: expected all tensors to be on the same device.")
        else:
            waits = torch.Tag.dynamic_output_shape in func.tags
        if waits or torch.Tag.data_dependent_output in func.tags or name in _CHECKED:
            self._wait(name)

    def _wait(self, operation: str) -> None:
        function, in_reduction, frame = "", False, sys._getframe(2)
        while frame is not None:
            code = frame.f_code
            if Path(code.co_filename).is_relative_to(_PACKAGE):
                module = Path(code.co_filename).stem
                if not function and code.co_name not in _DISPATCHERS:
                    function = f"{module}.{code.co_qualname.partition('.<locals>')[0]}"
                in_reduction |= code.co_qualname == "Engine._read"
            frame = frame.f_back
        self.waits.append(Wait(self.step, function, operation, in_reduction))


def _on_host(value: Any) -> Any:
    if isinstance(value, SimulatedTensor):
        return value.numbers
    return _HOST if isinstance(value, torch.device) and value == DEVICE else value


class _MadeOfLists(TorchFunctionMode):
    """Has tensors of lists made on the host and moved: on ``meta`` torch forgets the numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.new_tensor:
            like, *args = args
            kwargs = {"device": like.device, "dtype": like.dtype} | kwargs
            func = torch.tensor
        if func not in (torch.tensor, torch.as_tensor):
            return func(*args, **kwargs)
        device = kwargs.pop("device", None)
        made = func(*args, **kwargs)
        return made if device is None else made.to(device)


@contextmanager
def simulated_device() -> Iterator[SimulatedDevice]:
    """Opens a device; the library takes its tensors for plain ones."""
    names = [m.name for m in pkgutil.walk_packages(vis_callbacks.__path__, "vis_callbacks.")]
    modules = [importlib.import_module(name) for name in names]

    def is_plain_here(tensor: Tensor) -> bool:
        return isinstance(tensor, SimulatedTensor) or is_plain(tensor)

    with ExitStack() as stack:
        for module in modules:
            if hasattr(module, "is_plain"):
                stack.enter_context(mock.patch.object(module, "is_plain", is_plain_here))
        stack.enter_context(_MadeOfLists())
        yield stack.enter_context(SimulatedDevice())


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None: ...


def on_simulated_device() -> dict[str, Any]:
    """Returns the arguments of a Trainer that trains on the device."""
    strategy = SingleDeviceStrategy(device=DEVICE, accelerator=_Accelerator())
    return {"accelerator": "auto", "strategy": strategy}


class StepCount(Callback):
    """Tells the device which step it is, from the end of the batch before on."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device

    def on_train_batch_start(self, *args: Any) -> None:
        self._device.step += 1
