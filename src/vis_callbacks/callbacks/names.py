"""Two monitors of a Trainer need names of their own: tags and states are found by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vis_callbacks._lightning import SetUpError
from vis_callbacks.guard import IntendedError

if TYPE_CHECKING:
    from vis_callbacks.callbacks.monitor import Monitor


class SameNameError(IntendedError, SetUpError):
    """Two monitors of a Trainer would write the same tags."""


def check_names(monitors: Sequence[Monitor]) -> None:
    """Raises where two monitors of one Trainer would write the same tags.

    Raises:
        SameNameError: The message says what to write.
    """
    known: dict[str, Monitor] = {}
    for monitor in monitors:
        other = known.setdefault(monitor.name, monitor)
        if other is not monitor:
            kind, prefix = type(monitor).__name__, monitor.options.tag_prefix
            kinds = (
                f"two {kind}s"
                if type(other) is type(monitor)
                else (f"{type(other).__name__} and {kind}")
            )
            raise SameNameError(
                f"{kinds} of this Trainer have tag_prefix={prefix!r} and would write the same "
                f'tags, such as "overhead/{monitor.name}_percent". Give one of them a prefix of '
                f'its own, such as {kind}(tag_prefix="second/"), or leave one out.'
            )
