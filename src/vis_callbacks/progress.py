"""A bar for what takes long, where there is a terminal to show it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist
from tqdm import tqdm  # whose bars make room for Lightning's: they are tqdm's, too

_SECONDS_BEFORE_IT_SHOWS = 5.0


@contextmanager
def progress_bar(total: int, what: str) -> Iterator[Callable[[int], object]]:
    """Yields a function that is told of steps done; a bar appears after five seconds.

    It appears on rank 0 and in a terminal only, goes away in the end, and leaves alone the
    display of a terminal that Rich holds, which another bar would tear.

    Args:
        total: How many steps there are.
        what: Before the bar.
    """
    is_first = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
    is_rich = type(sys.stderr).__module__.startswith("rich.")
    with tqdm(
        total=total,
        desc=what,
        leave=False,
        delay=_SECONDS_BEFORE_IT_SHOWS,
        disable=None if is_first and not is_rich else True,
    ) as bar:
        yield bar.update
