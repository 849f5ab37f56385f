"""Names of layers: how they are made, and how a user's globs select among them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Hashable, Iterable
from fnmatch import fnmatchcase
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vis_callbacks.engine.probe import LayerInfo

if TYPE_CHECKING:
    from vis_callbacks.engine.capture import CapturedActivation

# Modules of exactly these types call nothing that is captured: a capture can do without them.
_LEAF_TYPES: frozenset[type[nn.Module]] = frozenset(
    {
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm),
        *(nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d),
        *(nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity),
    }
)


def named_modules(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Returns each module with its name as in its method, without what torch.compile adds.

    The root has a name too (its class name, made unique), since functional calls in the
    root's own ``forward`` are named after it. A module held twice has its first name.
    """
    names = [(module, strip_compiled(name)) for name, module in model.named_modules()]
    taken = {name for _, name in names}
    root = type(model).__name__
    while root in taken:
        root = f"{root}_"
    return [(module, name or root) for module, name in names]


def module_names(model: nn.Module) -> list[str]:
    """Returns the names of all modules; see `named_modules`."""
    return [name for _, name in named_modules(model)]


class ModelNames:
    """What is known of a model's modules and parameters, worked out once for several captures.

    A module that joins the model later has no name here: what it calls is its owner's.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = {id(module): (module, name) for module, name in named_modules(model)}
        self.root = self.of(model)
        self.parameters = {id(p): name for name, p in model.named_parameters()}
        self.weighted_calls: dict[Hashable, Any] = {}  # of a `WeightSearch`, by what they call

    def of(self, module: nn.Module) -> str:
        """Returns the module's name. Raises KeyError for one that is not the model's."""
        return self._modules[id(module)][1]

    def to_hook(self, watched: Iterable[str] = ()) -> frozenset[int]:
        """Returns the ids of all modules but leaves, and of those that are watched."""
        return frozenset(
            key
            for key, (module, name) in self._modules.items()
            if (type(module) not in _LEAF_TYPES or name in watched)
            and not isinstance(module, torch.jit.ScriptModule)
        )


_Key = tuple[str, str]  # site and name, as a capture gives them


class LayerNames:
    """Gives each layer its name, and keeps what is known of it.

    Two calls from ``training_step`` may share a name and yet be different layers; the number of
    units tells. But a head that grows is the same layer with another number of units. So a number
    that is new takes the name over from one that this occasion has not met, and only a number that
    comes back after that has a name of its own. Its ``trace`` are the layers in the order in which
    they were met, by name. What goes *into* a module is no layer and has the module's name.
    """

    def __init__(self) -> None:
        self.trace: dict[str, LayerInfo] = {}
        self._names: dict[_Key, dict[int, str]] = {}  # by number of units
        self._replaced: dict[_Key, set[int]] = {}
        self._met: dict[_Key, set[int]] = {}

    def start_occasion(self) -> None:
        """Begins another step or evaluation: within one, no name changes its layer."""
        self._met.clear()

    def note(self, captured: CapturedActivation) -> str:
        """Returns the layer's name, and puts one that is met for the first time into the trace."""
        key = (captured.site, captured.name)
        num_units = captured.values.shape[captured.unit_axis]
        names = self._names.setdefault(key, {})
        met = self._met.setdefault(key, set())
        if num_units not in names:
            self._name(key, num_units, names, met)
            if captured.site == "output":
                self._put_into_trace(names[num_units], captured, num_units)
        met.add(num_units)
        return names[num_units]

    def _name(self, key: _Key, num_units: int, names: dict[int, str], met: set[int]) -> None:
        replaced = self._replaced.setdefault(key, set())
        earlier = [other for other in names if other not in met]
        if earlier and num_units not in replaced:
            names[num_units] = names.pop(earlier[0])
            replaced.add(earlier[0])
            return
        taken = {*self.trace, *names.values()} if key[0] == "output" else {*names.values()}
        free = (nth_call(key[1], call) for call in count())
        names[num_units] = next(name for name in free if name not in taken)

    def _put_into_trace(self, name: str, captured: CapturedActivation, num_units: int) -> None:
        weighted = captured.weighted
        self.trace[name] = LayerInfo(
            name=name,
            kind=captured.kind,
            shape=tuple(captured.values.shape),
            num_units=num_units,
            weight_name=weighted.weight_name if weighted else None,
            is_gate=captured.is_gate,
            touches_input=bool(weighted and weighted.touches_input),
        )


def strip_compiled(name: str) -> str:
    """Returns the name without the ``_orig_mod`` parts that ``torch.compile`` puts in."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def nth_call(name: str, call: int) -> str:
    """Returns the name of the ``call``-th call in one forward: ``name``, ``name-1``, ..."""
    return f"{name}-{call}" if call else name


def matches(name: str, globs: Iterable[str]) -> bool:
    """Whether one of the globs is or matches the name."""
    return any(name == glob or fnmatchcase(name, glob) for glob in globs)


def no_such_layer(glob: str, names: Collection[str], option: str = "layers") -> str:
    """Returns the words for a glob that matches nothing: what there is, and what is near."""
    message = f'{option}="{glob}" matches none of the model\'s {len(names)} layers'
    near = nearest(glob, names)
    if not near:
        return f"{message}. vis_callbacks.summary(model, inputs) lists them."
    listed = ", ".join(f'"{name}"' for name in near)
    return (
        f'{message}; nearest: {listed}. Use "{near[0]}", or see '
        "vis_callbacks.summary(model, inputs) for all of them."
    )


def nearest(wanted: str, names: Iterable[str]) -> list[str]:
    """Returns up to three names that look like the wanted one, the nearest first."""
    bare = wanted.strip("*").strip(".")
    holding = [name for name in names if bare and bare.lower() in name.lower()]
    alike = difflib.get_close_matches(wanted, list(names), n=3, cutoff=0.5)
    return list(dict.fromkeys([*holding, *alike]))[:3]
