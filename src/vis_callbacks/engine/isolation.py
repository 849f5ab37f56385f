"""Extra forward passes that leave no trace: bit for bit, the run goes on as without them.

Each context manager here restores one thing. They put back the original *objects*: values
written back in place would raise version counters and spoil a backward pass of the user's that
is still to come.
"""

from __future__ import annotations

import functools
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module  # where the hooks on all modules live
from torch.nn.utils.prune import BasePruningMethod

from vis_callbacks.engine.advice import advice_for, networks_in
from vis_callbacks.engine.scores import at_least_float32, find_scores
from vis_callbacks.engine.state_kinds import detached_clone, put_back_mapping
from vis_callbacks.engine.state_watch import KeptState, StateWatch
from vis_callbacks.guard import Catch

Forward = Callable[[nn.Module, Any], Any]
ForwardFn = Callable[..., Tensor]  # (inputs, *, chunk=None) -> scores (samples, classes, ...)


class ExtraPassError(RuntimeError):
    """The user's forward pass failed in an extra pass; the message says what to write."""


@final
@dataclass(eq=False)
class IsolatedForward:
    """A forward pass inside `isolated`; outside of it, it only raises."""

    _module: nn.Module | None
    _forward: Forward
    _forward_context: Callable[[], AbstractContextManager[Any]]
    _kept: KeptState

    def __call__(self, inputs: Tensor, *, chunk: int | None = None) -> Tensor:
        """Returns the scores, of at most ``chunk`` samples at a time, in float32 or more.

        Raises:
            TypeError: The forward pass returned something without scores.
            ValueError: ``chunk`` is below 1.
            RuntimeError: The context is over.
        """
        if chunk is None:
            return self._scores(inputs)
        if chunk < 1:
            raise ValueError(f"chunk={chunk} is too small. Use at least 1 sample at a time.")
        return torch.cat([self._scores(part) for part in torch.split(inputs, chunk)])

    @property
    def module(self) -> nn.Module:
        """The module that is run, for reading its layers. Raises RuntimeError when over."""
        if self._module is None:
            raise RuntimeError(
                "this forward pass works only inside observe (or the `isolated` context it "
                "came from), which has ended. Keep its results, not the function."
            )
        return self._module

    def run(self, inputs: Any) -> Any:
        """Returns what the forward pass returns: for reading activations.

        Raises:
            ExtraPassError: The pass failed, and there is something to write that mends it.
        """
        module, inputs = self.module, _without_inference(inputs)
        with Catch() as caught, self._kept.given(inputs), self._forward_context():
            return self._forward(module, inputs)
        error = caught.error
        assert error is not None  # else the pass has returned
        if advice := advice_for(error, module, inputs):
            raise ExtraPassError(f"{str(error).rstrip('.')}. {advice}") from error
        raise error

    def close(self) -> None:
        """Ends its life, and lets go of the model."""
        self._module = None

    def _scores(self, inputs: Tensor) -> Tensor:
        scores = at_least_float32(find_scores(self.run(inputs), len(inputs)))
        # What lies in the model's own memory is about to be written over again.
        return scores.clone() if self._kept.writes.was_written(scores) else scores


@contextmanager
def isolated(
    model: nn.Module,
    *,
    forward: Forward | None = None,
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    training: bool = False,
    grad: bool = True,
    watch: StateWatch | None = None,
) -> Iterator[IsolatedForward]:
    """Yields a forward pass of the model that leaves no trace in the run.

    Use ``torch.autograd.grad`` inside. All state that hangs on the model is put back, and the
    random generators. What cannot be (an iterator that has moved on, memory that something other
    than PyTorch has written to) ends the extra passes of a run; see `StateWatch`. Out of reach is
    state outside of the model (global variables, files, other processes and threads) and inside
    of objects that are not written in Python.

    Args:
        model: A DDP or ``torch.compile`` wrapper around it is not run.
        forward: ``(module, inputs) -> output``; None takes what `resolve_forward` finds.
        forward_context: Makes the context of each pass, such as autocast.
        training: False puts all modules into evaluation mode; True leaves each as it is.
        grad: Whether gradients are recorded.
        watch: Of the run; None looks at these passes by themselves.

    Raises:
        ExtraPassRefused: An extra pass has changed the run before.
    """
    watch = watch or StateWatch()
    watch.require_harmless()
    module = unwrapped(model)
    with ExitStack() as stack:
        for context in (
            torch.inference_mode(False),  # first: what is cloned in it cannot be differentiated
            torch.enable_grad() if grad else torch.no_grad(),
            eager_stance(),
            uncached_autocast(),
            forked_rng(),
        ):
            stack.enter_context(context)
        kept = stack.enter_context(watch.keeping(module, (training, grad, id(forward))))
        for restored in (
            nullcontext() if training else kept_modes(module),
            swapped_buffers(module),
            kept_gradients(module),
            silenced_hooks(module),
            muted_logging(module),
            kept.writes,
        ):
            stack.enter_context(restored)
        live = IsolatedForward(module, forward or call_resolved, forward_context, kept)
        stack.callback(live.close)
        yield live


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the module in a wrapper whose own forward would wait for other ranks, or compile."""
    while True:
        if is_compiled(model):
            model = cast(nn.Module, model._orig_mod)
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = cast(nn.Module, model.module)
        else:
            return model


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is the wrapper that ``torch.compile`` puts around another."""
    return "_orig_mod" in module._modules


def resolve_forward(module: nn.Module) -> nn.Module:
    """Returns the module to call for an extra pass: itself, or the network that it holds.

    Raises:
        TypeError: It has no ``forward`` of its own and not exactly one child with parameters.
    """
    owner = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    # LightningModule defines a forward that only raises.
    is_bare = owner.__name__ == "LightningModule" and "lightning" in owner.__module__
    if "forward" in vars(module) or (owner is not nn.Module and not is_bare):
        return module
    networks = networks_in(module)
    if len(networks) == 1:
        return next(iter(networks.values()))
    found = ", ".join(networks) or "none"
    raise TypeError(
        f"{type(module).__name__} has no forward, and its children with parameters are: {found}. "
        "Write forward_fn=lambda module, inputs: ... that returns the scores."
    )


def call_resolved(module: nn.Module, inputs: Any) -> Any:
    """Returns the output of what `resolve_forward` finds."""
    return resolve_forward(module)(inputs)


# -- each restores one thing


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Puts every module into evaluation mode, and each back into the mode it had.

    It sets the attribute: ``eval()`` and ``train()`` are overridden where a part of the model
    is to stay frozen, and would then not restore what was.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            if module.training is not mode:
                module.training = mode


@contextmanager
def forked_rng() -> Iterator[None]:
    """Keeps the global random streams: of Python, NumPy, torch and all accelerators in use."""
    streams: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
        (random.getstate, random.setstate),
        (np.random.get_state, np.random.set_state),
        (torch.get_rng_state, torch.set_rng_state),
    ]
    for device in _devices_in_use():
        module = torch.get_device_module(device)
        where = {} if device.type == "mps" else {"device": device}
        get, put_back = module.get_rng_state, module.set_rng_state
        streams.append((functools.partial(get, **where), functools.partial(put_back, **where)))
    saved = [(put_back, get()) for get, put_back in streams]
    try:
        yield
    finally:
        for put_back, state in saved:
            put_back(state)


def _devices_in_use() -> list[torch.device]:
    """Returns the accelerators that may have been drawn from; it begins to use none."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return []
    module = torch.get_device_module(accelerator)
    is_in_use = getattr(module, "is_initialized", module.is_available)()
    return [torch.device(accelerator.type, i) for i in range(module.device_count() * is_in_use)]


@contextmanager
def swapped_buffers(model: nn.Module) -> Iterator[None]:
    """Lets the passes work on clones of the buffers; the original objects come back.

    A buffer that several modules hold is one clone in all of them.
    """
    saved = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    clones: dict[int, Tensor] = {}
    try:
        for live, originals in saved:
            for name, buffer in originals.items():
                if buffer is None or nn.parameter.is_lazy(buffer):
                    continue
                if id(buffer) not in clones:
                    clones[id(buffer)] = detached_clone(buffer)
                live[name] = clones[id(buffer)]
        yield
    finally:
        for live, originals in saved:
            put_back_mapping(live, originals)


@contextmanager
def kept_gradients(model: nn.Module) -> Iterator[None]:
    """Keeps which parameters are frozen, and takes each ``.grad`` out of reach.

    Out of reach, since a ``backward()`` inside would add to them in place. The same objects
    come back.
    """
    saved = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        for parameter, _, grad in saved:
            if grad is not None:
                parameter.grad = None
        yield
    finally:
        for parameter, needs_grad, grad in saved:
            if parameter.requires_grad is not needs_grad:
                parameter.requires_grad_(needs_grad)
            if parameter.grad is not grad:
                parameter.grad = grad


@contextmanager
def _replaced(changes: list[tuple[dict[str, Any], dict[str, Any]]]) -> Iterator[None]:
    """Gives the attributes of objects other values; the original ones come back."""
    saved = [
        (owner, new, {name: owner[name] for name in new if name in owner}) for owner, new in changes
    ]
    try:
        for owner, new in changes:
            owner.update(new)
        yield
    finally:
        for owner, new, originals in saved:
            for name in new.keys() - originals.keys():
                owner.pop(name, None)
            owner.update(originals)


_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_HOOK_DICTIONARIES = (
    *_HOOKS,
    *("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs"),
    "_forward_hooks_always_called",
)
_MODEL_PACKAGES = ("torch.nn.", "torch.ao.", "torch.distributed.fsdp", "torch.distributed.tensor")


def silenced_hooks(model: nn.Module) -> AbstractContextManager[None]:
    """Lets the user's module hooks rest: they must not see passes that are not the user's.

    Hooks that PyTorch itself attaches to make the model (weight norm, spectral norm, pruning,
    quantisation, sharding) go on. The original dictionaries come back, so that what is
    attached inside is gone outside.
    """
    changes = [(vars(module), _model_hooks(vars(module), "")) for module in model.modules()]
    everywhere = vars(torch_module)
    return _replaced([*changes, (everywhere, _model_hooks(everywhere, "_global"))])


def _model_hooks(owner: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Returns copies of hook dictionaries with the hooks that are part of the model."""
    own = {
        key
        for name in _HOOKS
        for key, hook in owner.get(prefix + name, {}).items()
        if _is_of_model(hook)
    }
    names = [prefix + name for name in _HOOK_DICTIONARIES]
    new: dict[str, Any] = {name: OrderedDict() for name in names if name in owner}
    for name in new if own else ():
        new[name].update((key, hook) for key, hook in owner[name].items() if key in own)
    is_full = f"{prefix}_is_full_backward_hook"
    return {**new, is_full: owner[is_full]} if is_full in owner else new


def _is_of_model(hook: Any) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    hook = getattr(hook, "__self__", hook)
    home = getattr(hook, "__module__", None) or ""
    return isinstance(hook, BasePruningMethod) or home.startswith(_MODEL_PACKAGES)


def muted_logging(model: nn.Module) -> AbstractContextManager[None]:
    """Makes ``self.log`` in a forward do nothing: the user's own pass has logged already."""
    names = ("log", "log_dict")  # a module with both is a LightningModule
    return _replaced(
        [
            (vars(module), dict.fromkeys(names, lambda *args, **kwargs: None))
            for module in model.modules()
            if all(callable(getattr(type(module), name, None)) for name in names)
        ]
    )


@contextmanager
def uncached_autocast() -> Iterator[None]:
    """Keeps autocast from sharing its casts of weights between the user's passes and ours.

    A weight that was cast without gradients here would be used in the user's own pass.
    """
    was_cached = torch.is_autocast_cache_enabled()
    try:
        torch.set_autocast_cache_enabled(False)
        yield
    finally:
        torch.set_autocast_cache_enabled(was_cached)


@contextmanager
def eager_stance() -> Iterator[None]:
    """Runs compiled parts of the model as they were written; it makes no graph.

    Nothing to do before anything was compiled: the compiler is not even imported then.
    """
    is_there = "torch._dynamo" in sys.modules
    with torch.compiler.set_stance("force_eager") if is_there else nullcontext():
        yield


def _without_inference(inputs: Any) -> Any:
    """Returns inputs that can be differentiated: clones of tensors made in inference mode."""
    if isinstance(inputs, Tensor):
        return inputs.clone() if inputs.is_inference() else inputs
    if isinstance(inputs, dict):
        return {key: _without_inference(value) for key, value in inputs.items()}
    if type(inputs) in (tuple, list):
        return type(inputs)(_without_inference(value) for value in inputs)
    return inputs
