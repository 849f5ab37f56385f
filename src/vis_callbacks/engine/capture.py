"""Capturing every activation of a forward pass: modules, functional calls, reused, in-place.

Module hooks alone miss functional calls and confuse reused modules. So a function mode sees
the nonlinearities where they are called, and hooks keep the stack of running modules that
tells who called.

Modules are told apart by their identity. Their hash and their ``==`` may be the user's: those
of a torchmetrics metric change with its state.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from operator import is_
from typing import Any, Literal, NamedTuple, NoReturn, TypeGuard, final

import torch
from torch import Tensor, nn

from vis_callbacks.engine.function_mode import WEIGHTED, FunctionMode
from vis_callbacks.engine.layers import ModelNames, nth_call
from vis_callbacks.engine.loss_calls import LOSSES, LossCall, LossInputs, loss_call
from vis_callbacks.engine.module_hooks import ModuleHooks, in_backward
from vis_callbacks.engine.nonlinearities import MODULE_TYPES, Nonlinearity, classify
from vis_callbacks.engine.plain_tensors import is_plain, plain
from vis_callbacks.engine.probe import Activation, WeightInfo
from vis_callbacks.engine.unit_axis import samples_units_positions, unit_axis_of
from vis_callbacks.engine.weight_search import WeightedCall, WeightSearch
from vis_callbacks.guard import Contained, Fail

Site = Literal["output", "input", "loss", "losses", "parameters"]


class CapturedActivation(NamedTuple):
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
        """The axis of the units: that of the layer before, else 1 of images, -1 of tokens."""
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
        is_gate_like = self.nonlinearity is not None and self.nonlinearity.is_gate_like
        return is_gate_like and self.values.dim() == 4 and self.values.shape[2:] == (1, 1)

    def laid_out(self, layer: str, num_samples: int) -> Activation:
        """Returns it as reductions are given it, under the layer's name."""
        inputs, axis = self.inputs, self.unit_axis
        if inputs is not None:
            is_as_large = inputs.shape == self.values.shape
            inputs = samples_units_positions(inputs, axis, num_samples) if is_as_large else None
        return Activation(
            layer=layer,
            values=samples_units_positions(self.values, axis, num_samples),
            nonlinearity=self.nonlinearity,
            inputs=inputs,
            shape=tuple(self.values.shape),
        )


_NONE = torch.empty(0)
_MAX_RETURNED = 4  # outputs of outermost modules: behind the model's own, those of loss and metrics
FUSED = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)


class Plan(NamedTuple):
    """What hooks on single modules need to capture a step again; modules by their ids."""

    calls: Mapping[int, Sequence[CapturedActivation]]  # of one forward pass, without tensors
    outermost: frozenset[int]  # their call begins a forward pass


@final
class Capture(ModuleHooks):
    """Captures every activation of the forward passes that run while it is open.

    Args:
        model: The module whose forward passes are captured.
        callback: Is given each activation, inside the hook. It must not keep the tensor.
        watched: Names of modules that are captured though they are no nonlinearity, by site.
        is_users_pass: Of the user's own passes fused paths must stay as they are, so modules that
            take one are not looked into.
        wrapped_root: True where a wrapper's ``forward`` reaches the model's ``training_step``
            by the model's own ``__call__`` (DDP): that outermost call is no forward pass.
        fail: Takes what goes wrong in here or in the callback: it must not be the user's.
        weights: Takes each weight that the passes multiply with, by its module's name.
        names: Of the model, where they are known.
    """

    def __init__(
        self,
        model: nn.Module,
        callback: Callable[[CapturedActivation], object],
        *,
        watched: Mapping[Site, Iterable[str]] | None = None,
        is_users_pass: bool = False,
        wrapped_root: bool = False,
        fail: Fail | None = None,
        weights: dict[str, WeightInfo] | None = None,
        names: ModelNames | None = None,
    ) -> None:
        self._names = names or ModelNames(model)
        self._watched_outputs = frozenset((watched or {}).get("output", ()))
        self._watched_inputs = frozenset((watched or {}).get("input", ()))
        hooked = self._names.to_hook(self._watched_outputs | self._watched_inputs)
        super().__init__(fail or _raise, before=hooked, after=hooked)
        self._model, self._callback = model, callback
        self._is_users_pass, self._wrapped_root = is_users_pass, wrapped_root
        self._search = WeightSearch(model, self._names, weights)
        self._look = Contained(self._look_at, self._fail)
        self._mode: FunctionMode | None = None
        self._fused: nn.Module | None = None  # running, and the mode is off for it
        self._is_in_callback = False
        self._stack: list[nn.Module] = []
        self._calls_in_forward: Counter[tuple[Site, str]] = Counter()
        self._calls_in_step: Counter[tuple[Site, str]] = Counter()
        self._outermost: set[int] = set()  # called by no other module
        self._inner: set[int] = set()
        self._by_module: dict[int, dict[str, CapturedActivation]] = {}
        self._is_modules_only = True
        self._returned: deque[Any] = deque(maxlen=_MAX_RETURNED)
        self._loss_calls: list[LossCall] = []

    def _open(self) -> None:
        super()._open()
        self._open_mode()

    def start_batch(self, follow: Iterable[Tensor] = ()) -> None:
        """Begins the count of calls anew, for the next micro-batch of the step.

        The way of the tensors in ``follow`` is followed to the first weights they meet.
        """
        super().start_batch()
        self._forget_calls()
        self._search.follow(follow)
        if self.is_open and self._mode is None:
            self._open_mode()

    def pause(self) -> None:
        """Captures nothing until the next `start_batch`; hooks stay where they are.

        Under a function mode every access to an attribute of a tensor goes through Python, and
        an optimizer makes many: over backward and update the mode was a third of all the cost.
        And what runs then, such as an optimizer's closure, is not the step's forward pass.
        """
        super().pause()
        self._leave_mode()

    def close(self) -> None:
        """Takes everything off again, in whatever state it is."""
        super().close()
        self.pause()
        self._forget_calls()
        self._search.followed.clear()

    def plan(self) -> Plan | None:
        """Returns a plan to capture the same again; None where hooks on modules would not."""
        is_clear = self._outermost.isdisjoint(self._inner | self._by_module.keys())
        if not self._is_modules_only or not self._by_module or not is_clear:
            return None
        calls = {key: tuple(calls.values()) for key, calls in self._by_module.items()}
        return Plan(calls, frozenset(self._outermost))

    def take_loss_inputs(self) -> LossInputs:
        """Returns what a loss may have been computed from since the last time."""
        taken = LossInputs(self._loss_calls, tuple(self._returned))
        self._loss_calls = []
        self._returned.clear()
        return taken

    def _note_for_plan(self, captured: CapturedActivation) -> None:
        """Takes one activation. Of a later forward pass in the step it is known already."""
        calls = self._by_module.setdefault(id(captured.module), {})
        if captured.nonlinearity is None or not _is_one_call(captured.module):
            self._is_modules_only = False
        elif captured.name not in calls:
            calls[captured.name] = captured._replace(values=_NONE, inputs=None, attached=_NONE)

    def _forget_calls(self) -> None:
        self._calls_in_step.clear()
        self._calls_in_forward.clear()
        self._stack.clear()
        self._search.calls.clear()
        self._fused = None
        self.take_loss_inputs()

    def _open_mode(self) -> None:
        self._mode = FunctionMode(self._look, self._search.followed, self)
        self._mode.__enter__()

    def _leave_mode(self) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.leave()

    def _depth(self) -> int:
        """Returns how many modules run, without a wrapper's call of ``training_step``."""
        outer = self._wrapped_root and bool(self._stack) and self._stack[0] is self._model
        return len(self._stack) - outer

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._depth() == 0:
            self._calls_in_forward.clear()
            self._outermost.add(id(module))
        else:
            self._inner.add(id(module))
        self._stack.append(module)
        if self._is_users_pass and self._mode is not None and takes_fused_path(module):
            self._fused = module
            self._leave_mode()
        if self._watched_inputs and args and isinstance(args[0], Tensor):
            name = self._names.of(module)
            if name in self._watched_inputs:
                self._tell(module, name, args[0], site="input")

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if any(map(is_, self._stack, repeat(module))):
            while self._stack.pop() is not module:
                pass  # a forward that raised may have left inner ones behind
        if self._depth() == 0:
            self._returned.append(output)  # not looked at: the mode would see it
        if self._fused is module:
            self._fused = None
            self._open_mode()
        # The function mode has told of a module that is a nonlinearity.
        if self._watched_outputs and not isinstance(module, MODULE_TYPES):
            name, values = self._names.of(module), _first_tensor(output)
            if values is not None and name in self._watched_outputs:
                self._tell(module, name, values)

    def _look_at(
        self, function: Callable[..., Any], args: Any, kwargs: dict[str, Any], result: Any
    ) -> None:
        """Tells of a call's result if it is an activation of the model's."""
        if self._is_in_callback or in_backward():
            return
        if function in LOSSES:
            # What the user's own pass computes without a graph is a metric that they log.
            call = loss_call(function, args, kwargs)
            if call is not None and not (self._is_users_pass and not result.requires_grad):
                self._loss_calls.append(call)
            return
        owner = self._stack[-1] if self._stack else self._model
        if function in WEIGHTED:
            self._search.note(owner, function, args, kwargs)
            return
        if self._search.followed:
            self._search.spread(args, kwargs, result)
        found, values = classify(function, args, kwargs), _first_tensor(result)
        if found is None or values is None:
            return
        name = self._names.of(owner)
        if not isinstance(owner, MODULE_TYPES):
            name = f"{name}/{found.kind}"
        given = args[0] if args else kwargs.get("input")
        is_overwritten = given is values or _overwrites(function, kwargs)
        self._tell(owner, name, values, None if is_overwritten else given, found)

    def _tell(
        self,
        module: nn.Module,
        name: str,
        values: Tensor,
        inputs: Any = None,
        nonlinearity: Nonlinearity | None = None,
        site: Site = "output",
    ) -> None:
        """Hands one activation to the callback, with no gradient and with its name."""
        if not can_be_read(values):
            return
        depth = self._depth()
        runs_itself = bool(self._stack) and self._stack[-1] is module
        # ``training_step`` may call a reused nonlinearity itself: no forward begins then.
        is_inside = depth > (runs_itself and isinstance(module, MODULE_TYPES))
        calls, key = self._calls_in_forward if is_inside else self._calls_in_step, (site, name)
        number = calls[key] = calls.get(key, -1) + 1
        axis = None
        if site == "output" and nonlinearity is None:
            axis = unit_axis_of(module, name, values, self._search.calls)
        captured = CapturedActivation(
            name=nth_call(name, number),
            site=site,
            values=plain(values),
            inputs=plain(inputs) if can_be_read(inputs) else None,
            nonlinearity=nonlinearity,
            module=module,
            weighted=self._search.feeding(module, values),
            attached=values,
            is_outside=depth == 0,
            axis=axis,
        )
        if depth and self._is_users_pass:
            self._note_for_plan(captured)
        self._is_in_callback = True  # a ReLU that a reduction calls is none of the model's
        with torch.no_grad():
            self._callback(captured)
        self._is_in_callback = False


def can_be_read(output: object) -> TypeGuard[Tensor]:
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
        isinstance(module, FUSED)
        and not module.training
        and not (torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()))
    )


def _is_one_call(module: nn.Module) -> bool:
    """Whether a call of the module is one call of its nonlinearity: torch's own, not recurrent."""
    is_nonlinearity = isinstance(module, MODULE_TYPES) and not isinstance(module, nn.RNNBase)
    return is_nonlinearity and type(module).__module__.startswith("torch.nn.modules.")


def _raise(error: Exception) -> NoReturn:
    raise error


def _overwrites(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    name = getattr(function, "__name__", "")
    return bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__"))


def _first_tensor(output: Any) -> Tensor | None:
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first if isinstance(first, Tensor) else None
