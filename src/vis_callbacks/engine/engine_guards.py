"""The guards of what all monitors of a Trainer share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from vis_callbacks.guard import Guard


@dataclass(frozen=True)
class EngineGuards:
    """Contain failures of what all monitors share; either way of reading may fail by itself."""

    of_captures: Guard = field(default_factory=lambda: Guard("reading activations"))
    of_passes: Guard = field(default_factory=lambda: Guard("an extra forward pass"))

    def __iter__(self) -> Iterator[Guard]:
        yield from (self.of_captures, self.of_passes)
