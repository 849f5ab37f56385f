"""Has the reference list the options that all monitors share, with their types and defaults.

The documentation reads the code without running it, and sees ``**options`` there. The signature
of a running monitor lists what that stands for.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import griffe

import vis_callbacks

_PACKAGES = re.compile(r"\b([a-z_]+\.)+(?=[A-Z])")  # collections.abc.Callable is long to read


class ListedOptions(griffe.Extension):
    """Gives monitors, and what makes them, the parameters of their signature."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Adds them once the package is read."""
        for name in vis_callbacks.__all__:
            public, documented = getattr(vis_callbacks, name), pkg[name].final_target
            if inspect.isfunction(public):
                _list(public, documented)
            elif issubclass(public, vis_callbacks.Monitor):
                _list(public.__init__, documented.members["__init__"])


def _list(function: Any, documented: griffe.Function) -> None:
    known = {parameter.name for parameter in documented.parameters}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in known:
            documented.parameters.add(
                griffe.Parameter(
                    parameter.name,
                    annotation=_PACKAGES.sub("", inspect.formatannotation(parameter.annotation)),
                    kind=griffe.ParameterKind.keyword_only,
                    default=repr(parameter.default),
                )
            )
            if "options" in documented.parameters:
                del documented.parameters["options"]
