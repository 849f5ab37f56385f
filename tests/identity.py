"""Whether two runs are the same, bit for bit.

``fingerprint`` hashes bytes, so -0.0 differs from 0.0 and NaN equals the same NaN. Before two
fingerprints prove anything, two plain runs must be shown to agree.
"""

from __future__ import annotations

import functools
import hashlib
import random
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.callback import callback_handler
from torch.nn.modules import module as torch_module

HOOK_DICTIONARIES = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def fingerprint(
    subject: Any,
    *,
    optimizers: Iterable[torch.optim.Optimizer] = (),
    schedulers: Iterable[Any] = (),
    scaler: Any = None,
) -> dict[str, str]:
    """Returns a digest of each part of a run's state, by a name that says what it is.

    ``subject`` is a module, or a Trainer: then its module, optimizers, schedulers and scaler
    are read from it. Hooks are told apart by their names and order, since their keys count up
    through the whole process.
    """
    if not isinstance(subject, nn.Module):
        trainer = subject
        subject = trainer.lightning_module
        optimizers = trainer.optimizers
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        scaler = getattr(trainer.precision_plugin, "scaler", None)
    parts: dict[str, Any] = {}
    parts.update(_parts_of_module(subject))
    for index, optimizer in enumerate(optimizers):
        parts[f"optimizer {index}"] = optimizer.state_dict()
    for index, scheduler in enumerate(schedulers):
        parts[f"scheduler {index}"] = scheduler.state_dict()
    if scaler is not None:
        parts["scaler"] = scaler.state_dict()
    parts.update(_random_states())
    parts.update(_global_flags())
    return {name: digest(value) for name, value in parts.items()}


def num_hooks() -> int:
    """Returns how many hooks lie around every module's call, and before the compiler's work."""
    everywhere = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    return sum(map(len, everywhere)) + len(callback_handler.start_callbacks)


def num_hooks_on(model: nn.Module) -> int:
    """Returns how many hooks lie before and behind the forward passes of a model's modules."""
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def assert_identical(first: Mapping[str, str], second: Mapping[str, str]) -> None:
    """Fails, naming every part in which two fingerprints differ."""
    assert first, "an empty fingerprint proves nothing"
    odd = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    assert not odd, f"{len(odd)} parts differ: {', '.join(odd)}"


def digest(value: Any) -> str:
    """Returns a digest of the bytes of tensors, arrays, numbers and containers of them."""
    state = hashlib.blake2b(digest_size=12)
    _feed(state, value)
    return state.hexdigest()


def _parts_of_module(module: nn.Module) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    for name, parameter in module.named_parameters():
        parts[f"parameter {name}"] = parameter
        parts[f"grad {name}"] = parameter.grad
        parts[f"requires_grad {name}"] = parameter.requires_grad
    for name, buffer in module.named_buffers():
        parts[f"buffer {name}"] = buffer
    for name, child in module.named_modules():
        parts[f"training {name}"] = child.training
        parts[f"hooks {name}"] = [
            [_name_of(hook) for hook in getattr(child, dictionary).values()]
            for dictionary in HOOK_DICTIONARIES
        ]
    return parts


def _random_states() -> dict[str, Any]:
    states = {
        "rng torch": torch.get_rng_state(),
        "rng numpy": np.random.get_state(),
        "rng python": random.getstate(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["rng cuda"] = torch.cuda.get_rng_state_all()
    return states


def _global_flags() -> dict[str, Any]:
    return {
        "flag grad mode": torch.is_grad_enabled(),
        "flag inference mode": torch.is_inference_mode_enabled(),
        "flag anomaly mode": torch.is_anomaly_enabled(),
        "flag autocast": [
            (torch.is_autocast_enabled(kind), str(torch.get_autocast_dtype(kind)))
            for kind in ("cpu", "cuda")
        ],
        "flag autocast cache": torch.is_autocast_cache_enabled(),
        "flag deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
        ),
        "flag matmul precision": torch.get_float32_matmul_precision(),
        "flag default dtype": str(torch.get_default_dtype()),
        "flag default device": str(torch.get_default_device()),
        "flag threads": torch.get_num_threads(),
    }


def _name_of(hook: Any) -> str:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return f"{getattr(hook, '__module__', '')}.{getattr(hook, '__qualname__', type(hook).__name__)}"


def _feed(state: Any, value: Any) -> None:
    """Adds a value to a hash so that different values add different bytes."""
    if isinstance(value, Tensor):
        _feed_tensor(state, value.detach())
    elif isinstance(value, np.ndarray):
        _add(state, f"array {value.dtype} {value.shape}", np.ascontiguousarray(value).tobytes())
    elif isinstance(value, bool | int | str | bytes | type(None)):
        _add(state, type(value).__name__, repr(value).encode())
    elif isinstance(value, float):
        _add(state, "float", struct.pack("<d", value))
    elif isinstance(value, Mapping):
        _add(state, "mapping", str(len(value)).encode())
        for key, item in value.items():
            _feed(state, key)
            _feed(state, item)
    elif isinstance(value, list | tuple):
        _add(state, type(value).__name__, str(len(value)).encode())
        for item in value:
            _feed(state, item)
    else:
        _add(state, f"{type(value).__module__}.{type(value).__qualname__}", _plain(value))


def _feed_tensor(state: Any, tensor: Tensor) -> None:
    if tensor.layout != torch.strided:
        dense = tensor.to_dense()
        _add(state, str(tensor.layout), b"")
        _feed_tensor(state, dense)
        return
    raw = tensor.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    header = f"tensor {tensor.dtype} {tuple(tensor.shape)} {tensor.device.type}"
    _add(state, header, raw.numpy().tobytes())


def _plain(value: Any) -> bytes:
    """Returns the bytes of a value that is no tensor: its number, or what it holds."""
    if isinstance(value, np.generic):
        return value.tobytes()
    if isinstance(value, set | frozenset):
        return repr(sorted(map(repr, value))).encode()
    return digest(vars(value)).encode() if hasattr(value, "__dict__") else repr(value).encode()


def _add(state: Any, kind: str, content: bytes) -> None:
    head = kind.encode()
    state.update(struct.pack("<qq", len(head), len(content)) + head + content)
