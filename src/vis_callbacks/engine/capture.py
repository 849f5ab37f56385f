"""Seeing every activation of a forward pass: modules, functional calls, reused, in-place.

Module hooks alone miss functional calls and confuse reused modules. So a function mode sees
the nonlinearities where they are called, and hooks keep the stack of running modules that
tells who called.

Modules are told apart by their identity. Their hash and their ``==`` may be the user's: those
of a torchmetrics metric change with its state.
"""

from __future__ import annotations

import os
import weakref
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, NamedTuple, NoReturn, Self

import torch
from torch import Tensor, nn
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,  # no public way to see whose mode is on top
    _pop_mode,
)

from vis_callbacks.analysis.weighted_calls import CONVOLUTIONS, LINEAR, TRANSPOSED
from vis_callbacks.engine.layers import named_modules, nth_call, strip_compiled
from vis_callbacks.engine.module_hooks import ModuleHooks
from vis_callbacks.engine.nonlinearities import (
    FUNCTIONS,
    MODULE_TYPES,
    Nonlinearity,
    classify,
)
from vis_callbacks.engine.plain_tensors import is_plain, plain
from vis_callbacks.engine.probe import WeightInfo
from vis_callbacks.engine.unit_axis import unit_axis_of
from vis_callbacks.guard import Contained, Fail

Site = Literal["output", "input"]


class WeightedCall(NamedTuple):
    """A call that multiplied with a weight, as the search for an activation's weight needs it."""

    block: str  # the name of the module whose ``forward`` it belongs to
    weight_name: str | None
    num_outputs: int
    unit_axis: int  # of its output: 1 for convolutions, -1 for linear layers
    touches_input: bool


class Seen(NamedTuple):
    """One activation at the moment it exists. An in-place successor may overwrite it later."""

    name: str
    site: Site
    values: Tensor
    inputs: Tensor | None
    nonlinearity: Nonlinearity | None
    module: nn.Module
    weighted: WeightedCall | None
    attached: Tensor  # the values with their graph, where the pass records one
    is_outside: bool = False  # called by no module's forward: a part of the loss, say
    axis: int | None = None  # of the units of what a module that is no nonlinearity returned

    @property
    def kind(self) -> str:
        """What it is, in one word: ``"relu"``, or the class name of a module that is none."""
        return self.nonlinearity.kind if self.nonlinearity else type(self.module).__name__

    @property
    def unit_axis(self) -> int:
        """The axis of the units: channels of convolutions, else the last of tokens.

        Where the layer before was a linear one the last axis holds the units even of a
        4-D tensor (transformers of images keep their channels last).
        """
        if self.axis is not None:
            return self.axis
        if self.weighted is not None:
            return self.weighted.unit_axis
        return 1 if self.values.dim() in (2, 4, 5) else -1

    @property
    def is_axis_known(self) -> bool:
        """Whether `unit_axis` is more than a guess."""
        return self.nonlinearity is not None or self.axis is not None

    @property
    def is_gate(self) -> bool:
        """Whether it is a sigmoid-like scaling of channels (squeeze-and-excite)."""
        return (
            self.nonlinearity is not None
            and self.nonlinearity.is_gate_like
            and self.values.dim() == 4
            and self.values.shape[2:] == (1, 1)
        )


Sink = Callable[[Seen], None]

# The weight that feeds a unit is a few calls back; the longest way is through a block's
# parallel branches (57 convolutions lie in all of an Inception network).
_REMEMBERED_CALLS = 64
_WEIGHTED = LINEAR | CONVOLUTIONS | TRANSPOSED
_MAX_KEPT_VALUES = 2**22  # of a weight that touches the input: 16 MiB
_LOOKED_AT = _WEIGHTED | FUNCTIONS
_FUNCTION_TYPES = frozenset(map(type, _LOOKED_AT))  # of these no hash is the user's
# Of exactly these types no module calls what is looked at: who runs need not know of them.
_QUIET: frozenset[type[nn.Module]] = frozenset(
    {
        nn.AdaptiveAvgPool2d,
        nn.AvgPool2d,
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.Dropout,
        nn.Dropout2d,
        nn.Flatten,
        nn.GroupNorm,
        nn.Identity,
        nn.LayerNorm,
        nn.MaxPool2d,
    }
)


class ModelNames:
    """What is known of a model's modules and parameters, worked out once for several captures.

    A module that joins the model later has no name here: what it calls is its owner's.

    Attributes:
        modules: Each module with its name, by the module's id.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = {id(module): (module, name) for module, name in named_modules(model)}
        self.root = self.name_of(model)
        self.parameters = {id(p): name for name, p in model.named_parameters()}
        self.calls: dict[Hashable, WeightedCall] = {}  # by module, function and weight

    def name_of(self, module: nn.Module) -> str:
        """Returns the module's name. Raises KeyError for one that is not the model's."""
        return self.modules[id(module)][1]

    def heard(self, watched: Iterable[str]) -> frozenset[int]:
        """Returns the ids of modules that the stack must know, or that are watched."""
        return frozenset(
            key
            for key, (module, name) in self.modules.items()
            if (type(module) not in _QUIET or name in watched)
            and not isinstance(module, torch.jit.ScriptModule)
        )


class Capture:
    """Sees every activation of the forward passes that run while it is open.

    It may be opened in one hook of a Trainer and closed in another. Entering twice or leaving
    twice is harmless.

    Args:
        model: The module whose forward passes are watched.
        sink: Called with each activation, inside the hook. It must not keep the tensor.
        watched: Names of modules that are no nonlinearity and are read all the same, by site.
        is_users_pass: True where the user's own passes are seen. Their fused paths must stay as
            they are, so modules that take one are not looked into.
        wrapped_root: True where a wrapper's ``forward`` reaches the model's ``training_step``
            by the model's own ``__call__`` (DDP): that outermost call is no forward pass.
        fail: Takes what goes wrong in here or in the sink: it must not be the user's.
        follow: Tensors whose way is followed to the first weights they meet.
        on_weight: Told of each call that multiplies with a weight.
        names: Of the model, where they are known.

    Attributes:
        hooks: Around the modules; they know what looking has taken.
        outermost: The ids of the modules that were called by no other.
        inner: Those of the modules that were.
        was_interrupted: Whether it took itself off because the compiler began to build a graph.
    """

    def __init__(
        self,
        model: nn.Module,
        sink: Sink,
        *,
        watched: Mapping[Site, Iterable[str]] | None = None,
        is_users_pass: bool = False,
        wrapped_root: bool = False,
        fail: Fail | None = None,
        follow: Iterable[Tensor] = (),
        on_weight: Callable[[WeightInfo], object] | None = None,
        names: ModelNames | None = None,
    ) -> None:
        self._model = model
        self._watched = {site: frozenset(names) for site, names in (watched or {}).items()}
        self._is_users_pass = is_users_pass
        self._wrapped_root = wrapped_root
        self._fail = fail or _raise
        self._tell = Contained(partial(self._hand_on, sink), self._fail)
        self._on_weight = on_weight
        self._known = names or ModelNames(model)
        self._parameter_names = self._known.parameters
        self._heard = self._known.heard(frozenset().union(*self._watched.values()))
        self.outermost: set[int] = set()
        self.inner: set[int] = set()
        self.was_interrupted = False
        self.hooks = ModuleHooks(self._before, self._after, self._fail, self._interrupt)
        self._mode: _FunctionMode | None = None
        self._fused: nn.Module | None = None  # running, and the mode is off for it
        self._is_paused = False
        self._stack: list[nn.Module] = []
        self._calls_in_forward: Counter[str] = Counter()
        self._calls_in_step: Counter[str] = Counter()
        self._weighted: deque[WeightedCall] = deque(maxlen=_REMEMBERED_CALLS)
        # The tensors themselves are kept: an id alone could be given to another tensor.
        self._raw: dict[int, Tensor] = {id(tensor): tensor for tensor in follow}

    def __enter__(self) -> Self:
        if self.is_open:
            return self
        try:
            self.hooks.open()
            self._open_mode()
        except BaseException:
            self.close()
            raise
        OPEN_CAPTURES.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether anything is attached."""
        return self.hooks.is_open or self._mode is not None

    def start_batch(self) -> None:
        """Begins the count of calls anew, for the next micro-batch of the step."""
        self._clear()
        self._is_paused = False
        if self.hooks.is_open and self._mode is None:
            self._open_mode()

    def follow(self, tensors: Iterable[Tensor]) -> None:
        """Follows the way of these tensors to the first weights they meet."""
        self._raw.update((id(tensor), tensor) for tensor in tensors)

    def _clear(self) -> None:
        self._calls_in_step.clear()
        self._calls_in_forward.clear()
        self._stack.clear()
        self._weighted.clear()
        self._fused = None

    def pause(self) -> None:
        """Sees nothing until the next `start_batch`; hooks stay where they are.

        Under a function mode every access to an attribute of a tensor goes through Python, and
        an optimizer makes many: over backward and update the mode was a third of all the cost.
        And what runs then is not the step's forward pass: closures that an optimizer calls
        again, the user's own passes.
        """
        self._is_paused = True
        self._leave_mode()

    def close(self) -> None:
        """Takes everything off again, in whatever state it is."""
        self.hooks.close()
        self.pause()
        self._clear()
        self._raw.clear()
        OPEN_CAPTURES.discard(self)

    def _interrupt(self) -> None:
        """Takes off the mode and the hooks, which the compiler would trace or guard on."""
        # What is compiled in backward or update leaves what was read of the forward pass.
        self.was_interrupted = not self._is_paused
        self.hooks.mute()
        self.pause()

    def _open_mode(self) -> None:
        self._mode = _FunctionMode(self._look_at, self._fail, self._raw, self.hooks)
        self._mode.__enter__()

    def _leave_mode(self) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.leave()

    # -- the stack of running modules

    @property
    def _depth(self) -> int:
        """How many modules run, without a wrapper's call of ``training_step``."""
        outer = self._wrapped_root and bool(self._stack) and self._stack[0] is self._model
        return len(self._stack) - outer

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if id(module) not in self._heard or self._is_paused or in_backward():
            return
        if self._depth == 0:
            self._calls_in_forward.clear()
            self.outermost.add(id(module))
        else:
            self.inner.add(id(module))
        self._stack.append(module)
        name = self._known.name_of(module)
        if name in self._watched.get("input", ()) and args and isinstance(args[0], Tensor):
            self._tell(module, name, "input", args[0], None, None)
        if self._is_users_pass and self._mode is not None and takes_fused_path(module):
            self._fused = module
            self._leave_mode()

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if id(module) not in self._heard or self._is_paused or in_backward():
            return
        if any(running is module for running in self._stack):
            while self._stack.pop() is not module:
                pass  # a forward that raised may have left inner ones behind
        name = self._known.name_of(module)
        # The function mode has told of a module that is a nonlinearity.
        if name in self._watched.get("output", ()) and not isinstance(module, MODULE_TYPES):
            values = _first_tensor(output)
            if values is not None:
                self._tell(module, name, "output", values, None, None)
        if self._fused is module:
            self._fused = None
            self._open_mode()

    # -- functional calls

    def _look_at(
        self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Callable[[Any], None] | None:
        """Returns what is to be done with the result of a call of the model's, if anything."""
        if in_backward():
            return None
        if function in _WEIGHTED:
            return lambda result: self._note_weight(function, args, kwargs)
        found = classify(function, args, kwargs)
        if found is None and not self._raw:
            return None
        given = args[0] if args else kwargs.get("input")

        def look(result: Any) -> None:
            if self._raw:
                self._spread_raw(args, kwargs, result)
            values = _first_tensor(result)
            if found is None or values is None:
                return
            owner = self._stack[-1] if self._stack else self._model
            name = self._known.name_of(owner)
            if not isinstance(owner, MODULE_TYPES):
                name = f"{name}/{found.kind}"
            kept = None if given is values or _overwrites(function, kwargs) else given
            self._tell(owner, name, "output", values, kept, found)

        return look

    def _hand_on(
        self,
        sink: Sink,
        module: nn.Module,
        name: str,
        site: Site,
        values: Tensor,
        inputs: Any,
        nonlinearity: Nonlinearity | None,
    ) -> None:
        """Hands one activation to the sink, with no gradient and with its name."""
        if not can_be_read(values):
            return
        with torch.no_grad():
            runs_itself = bool(self._stack) and self._stack[-1] is module
            # ``training_step`` may call a reused nonlinearity itself: no forward begins then.
            is_inside = self._depth > (runs_itself and isinstance(module, MODULE_TYPES))
            calls = self._calls_in_forward if is_inside else self._calls_in_step
            key = f"{site}:{name}"
            call = calls[key]
            calls[key] += 1
            returned = site == "output" and nonlinearity is None
            sink(
                Seen(
                    name=nth_call(name, call),
                    site=site,
                    values=plain(values),
                    inputs=plain(inputs) if can_be_read(inputs) else None,
                    nonlinearity=nonlinearity,
                    module=module,
                    weighted=self._weight_before(module, values),
                    attached=values,
                    is_outside=self._depth == 0,
                    axis=unit_axis_of(module, name, values, self._weighted) if returned else None,
                )
            )

    # -- which weights feed a unit, and which touch the input

    def _note_weight(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if not isinstance(weight, Tensor):
            return
        owner = self._stack[-1] if self._stack else self._model
        key = (id(owner), function, id(weight))
        call = self._known.calls.get(key)
        if call is None or self._raw:
            groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
            given = args[0] if args else kwargs.get("input")
            call = self._weighted_call(owner, function, weight, groups, id(given) in self._raw)
            if id(weight) in self._parameter_names:  # else it is computed anew at each call
                self._known.calls[key] = call
            if self._on_weight is not None:
                self._on_weight(self._weight_info(owner, function, weight, groups, call))
        self._weighted.append(call)

    def _weighted_call(
        self,
        owner: nn.Module,
        function: Callable[..., Any],
        weight: Tensor,
        groups: int,
        touches_input: bool,
    ) -> WeightedCall:
        name = self._parameter_names.get(id(weight))
        # Never getattr: reading a parametrised weight computes it, and may move buffers.
        is_computed = name is None and "weight" in {*dir(type(owner)), *vars(owner)}
        if is_computed:
            name = f"{self._known.name_of(owner)}.weight"
        places = (owner._parameters, owner._buffers)
        has_own_weight = is_computed or any(p.get("weight") is weight for p in places)
        block = self._known.name_of(owner)
        return WeightedCall(
            block=block.rpartition(".")[0] if has_own_weight else block,
            weight_name=name,
            num_outputs=weight.shape[1] * groups if function in TRANSPOSED else weight.shape[0],
            unit_axis=-1 if function in LINEAR else 1,
            touches_input=touches_input,
        )

    def _weight_info(
        self,
        owner: nn.Module,
        function: Callable[..., Any],
        weight: Tensor,
        groups: int,
        call: WeightedCall,
    ) -> WeightInfo:
        layer, name = self._known.name_of(owner), call.weight_name
        own = owner._parameters.get("weight")
        if name is None and own is not None and own.shape == weight.shape:
            # Rounded on the way (quantisation-aware): what learns is the module's own.
            name, weight = f"{layer}.weight", own
        is_kept = call.touches_input and weight.numel() <= _MAX_KEPT_VALUES
        return WeightInfo(
            layer=strip_compiled(layer),
            weight_name=name,
            kind=function.__name__,
            groups=groups,
            touches_input=call.touches_input,
            initial=weight.detach().clone() if is_kept else None,
        )

    def _weight_before(self, module: nn.Module, values: Tensor) -> WeightedCall | None:
        """Returns the last weighted call before, in the same or an enclosing block.

        It must have as many outputs as the activation has units; what lies between
        (normalisation, dropout, an addition) is passed over.
        """
        if isinstance(module, nn.RNNBase):
            return None
        block = self._known.name_of(module)
        if isinstance(module, MODULE_TYPES):
            block = block.rpartition(".")[0]
        root = self._known.root
        for call in reversed(self._weighted):
            enclosing = call.block in ("", root) or f"{block}.".startswith(f"{call.block}.")
            if enclosing and values.shape[call.unit_axis] == call.num_outputs:
                return call
        return None

    def _spread_raw(self, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        """Follows the input through calls without weights."""
        given = [*_flat(args), *kwargs.values()]
        followed = [item for item in given if id(item) in self._raw]
        if not followed or self._mixes(given):
            return
        # A matrix that is learned and a new shape: an embedding, a recurrent layer, ``x @ w``.
        has_matrix = any(id(i) in self._parameter_names and i.dim() > 1 for i in given)
        for tensor in _flat((result,)):
            is_new = isinstance(tensor, Tensor) and tensor.shape != followed[0].shape
            if isinstance(tensor, Tensor) and not (has_matrix and is_new):
                self._raw[id(tensor)] = tensor

    def _mixes(self, given: Sequence[Any]) -> bool:
        """Whether the input meets what a weight may have made of it: a skip connection."""
        return bool(self._weighted) and any(
            isinstance(item, Tensor)
            and item.dim() > 1
            and item.is_floating_point()
            and id(item) not in self._raw
            and id(item) not in self._parameter_names
            and not any(item is buffer for buffer in self._model.buffers())
            for item in given
        )


class _FunctionMode(TorchFunctionMode):
    """Passes each call on, and lets the capture look at it.

    Args:
        look_at: Is given function and arguments before the call; returns what is given the
            result, or None.
        fail: Takes what goes wrong in either. What the function itself raises is the user's.
        followed: While this holds anything, every function is looked at.
        hooks: Are told of the seconds that looking takes.
    """

    def __init__(
        self,
        look_at: Callable[..., Any],
        fail: Fail,
        followed: Mapping[int, Tensor],
        hooks: ModuleHooks,
    ) -> None:
        super().__init__()
        self._look_at: Contained | None = Contained(look_at, fail)
        self._followed = followed
        self._hooks = hooks
        self._below: Any = None

    def __enter__(self) -> Self:
        self._below = _top_mode()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        look_at = self._look_at
        # Most calls are none that we look at: a whole step makes some hundred of them.
        is_known = type(func) in _FUNCTION_TYPES and func in _LOOKED_AT
        if look_at is None or not (is_known or self._followed):
            return func(*args, **(kwargs or {}))
        started = perf_counter()
        look = look_at(func, args, kwargs or {})
        called = perf_counter()
        result = func(*args, **(kwargs or {}))
        returned = perf_counter()
        if look is not None:
            Contained(look, look_at.fail)(result)
        self._hooks.seconds += called - started + perf_counter() - returned
        return result

    def leave(self) -> None:
        """Takes the mode off the stack, or makes it inert where another lies above it.

        A mode that the user opened in between and has not closed yet is on top; our exit
        would pop theirs. The other way round, the exit of a mode that they had opened before
        popped ours, and theirs is still there.
        """
        self._look_at = None
        below, self._below = self._below, None
        stack = _modes()
        if stack and stack[-1] is self:
            self.__exit__(None, None, None)
        elif any(mode is self for mode in stack):
            _INERT.append(self)
        elif stack and stack[-1] is below:
            _pop_mode()  # type: ignore[no-untyped-call]


# Modes that only wait to be taken off.
_INERT: list[_FunctionMode] = []


def remove_inert_modes() -> None:
    """Takes off a mode of ours that could not be closed in its turn and has surfaced."""
    while _INERT and any(_top_mode() is mode for mode in _INERT):
        top = _top_mode()
        top.__exit__(None, None, None)
        _INERT.remove(top)


def _modes() -> list[Any]:
    """Returns the active function modes, the latest last."""
    return list(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


def _top_mode() -> Any:
    modes = _modes()
    return modes[-1] if modes else None


def can_be_read(output: object) -> bool:
    """Whether an output has samples and units, and numbers that can be summed.

    Not read are tensors that only stand for others: fake and meta ones, those of ``torch.func``
    transforms, whatever a trace runs on; and quantised, sparse and nested ones.
    """
    return (
        isinstance(output, Tensor)
        and is_plain(output)
        and output.dim() >= 2
        and output.is_floating_point()
        and torch._C._get_tracing_state() is None
    )


def takes_fused_path(module: nn.Module) -> bool:
    """Whether a call may take PyTorch's fused path, which an active function mode switches off.

    The fused path has other roundings, and writes zeros where there is padding.
    """
    return (
        isinstance(module, _FUSED)
        and not module.training
        and not (torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()))
    )


_FUSED = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)


# A process that is forked during a captured step (a loader's worker) inherits what is open.
OPEN_CAPTURES: weakref.WeakSet[Any] = weakref.WeakSet()


def _close_in_child() -> None:
    for capture in list(OPEN_CAPTURES):
        capture.close()


os.register_at_fork(after_in_child=Contained(_close_in_child, lambda error: None))


def _raise(error: Exception) -> NoReturn:
    raise error


def in_backward() -> bool:
    """Whether autograd is at work: gradient checkpointing runs the forward a second time then."""
    return torch._C._current_graph_task_id() != -1


def _overwrites(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    name = getattr(function, "__name__", "")
    return bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__"))


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    return None


def _flat(items: Iterable[Any]) -> Iterable[Any]:
    for item in items:
        if isinstance(item, tuple | list):
            yield from item
        else:
            yield item
