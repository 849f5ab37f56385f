"""Every `Monitor` subclass that the contracts are run over."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from tests.contracts.dummies import DUMMIES

import vis_callbacks
from vis_callbacks import Monitor


def shipped() -> list[type[Monitor]]:
    """Returns the concrete monitors of the package by name, however deep they are derived."""
    for name in vis_callbacks.__all__:
        getattr(vis_callbacks, name)
    concrete = (
        cls
        for cls in _descendants(Monitor)
        if cls.__module__.startswith("vis_callbacks.") and not inspect.isabstract(cls)
    )
    return sorted(concrete, key=lambda cls: cls.__name__)  # subclasses come in order of import


def _descendants(cls: type[Monitor]) -> Iterator[type[Monitor]]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


SHIPPED = shipped()
EVERY_MONITOR = [*SHIPPED, *DUMMIES]
