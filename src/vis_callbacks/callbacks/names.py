"""Two monitors of a class need names of their own: tags and states are found by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vis_callbacks._lightning import SetUpError
from vis_callbacks.guard import IntendedError

if TYPE_CHECKING:
    from vis_callbacks.callbacks.monitor import Monitor


class SameNameError(IntendedError, SetUpError):  # type: ignore[valid-type, misc]
    """Two monitors of a class would write the same tags."""


def check_names(monitors: Sequence[Monitor]) -> None:
    """Raises where two monitors of a class would write the same tags.

    Raises:
        SameNameError: The message says what to write.
    """
    known: set[tuple[type, str]] = set()
    for monitor in monitors:
        kind = type(monitor).__name__
        if (type(monitor), monitor.name) in known:
            raise SameNameError(
                f"two {kind}s of this Trainer have tag_prefix={monitor.options.tag_prefix!r} and "
                "would write the same tags. Give one of them a prefix of its own, such as "
                f'{kind}(tag_prefix="second/"), or leave one out.'
            )
        known.add((type(monitor), monitor.name))
