"""What `Guard.optional` does, under the name of before."""

from collections.abc import Iterator
from contextlib import contextmanager

from vis_callbacks.guard import Guard


class Extras:
    """Leaves out what fails, and logs each once."""

    def __init__(self, owner: str) -> None:
        self._guard = Guard(owner)

    @contextmanager
    def contain(self, what: str, remedy: str = "") -> Iterator[None]:
        """Leaves ``what`` out where the block fails."""
        with self._guard.optional(what, remedy):
            yield
