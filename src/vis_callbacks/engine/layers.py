"""Names of layers: how they are made, and how a user's globs select among them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

_COMPILED = "_orig_mod"  # torch.compile wraps a module as the child `_orig_mod` of another


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


def strip_compiled(name: str) -> str:
    """Returns the name without the ``_orig_mod`` parts that ``torch.compile`` puts in."""
    return ".".join(part for part in name.split(".") if part != _COMPILED)


def nth_call(name: str, call: int) -> str:
    """Returns the name of the ``call``-th call in one forward: ``name``, ``name-1``, ..."""
    return f"{name}-{call}" if call else name


def matches(name: str, globs: Iterable[str]) -> bool:
    """Whether one of the globs is or matches the name."""
    return any(name == glob or fnmatchcase(name, glob) for glob in globs)


def select(names: Collection[str], globs: Sequence[str], option: str = "layers") -> list[str]:
    """Returns the names that a glob matches, in the order of ``names``.

    Raises:
        ValueError: A glob matches nothing; the message says what comes nearest.
    """
    for glob in globs:
        if not any(matches(name, (glob,)) for name in names):
            raise ValueError(no_such_layer(glob, names, option))
    return [name for name in names if matches(name, globs)]


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


def nearest(wanted: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Returns up to ``count`` names that look like the wanted one, the nearest first."""
    bare = wanted.strip("*").strip(".")
    holding = [name for name in names if bare and bare.lower() in name.lower()]
    alike = difflib.get_close_matches(wanted, list(names), n=count, cutoff=0.5)
    return list(dict.fromkeys([*holding, *alike]))[:count]
