"""Lines of a log beside the progress bar of a terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from tqdm import tqdm


@contextlib.contextmanager
def beside_bars(logger: logging.Logger) -> Iterator[None]:
    """Has what is logged within start on a line of its own, above a bar of tqdm's or Rich's.

    tqdm's bars are taken away meanwhile. Rich prints what goes to ``sys.stderr`` above its bars,
    but a handler that was made before the bar writes past it, onto the bar's own line.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(Exception):
            stack.enter_context(_without_errors(tqdm.external_write_mode()))
        with contextlib.suppress(Exception):
            _send_through_rich(logger, stack)
        yield


@contextlib.contextmanager
def _without_errors(cleared: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    """Lets no error of drawing the bars again out."""
    cleared.__enter__()
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            cleared.__exit__(None, None, None)


def _send_through_rich(logger: logging.Logger, stack: contextlib.ExitStack) -> None:
    """Has handlers that write to the terminal behind Rich's back write through Rich."""
    behind = getattr(sys.stderr, "rich_proxied_file", None)
    if behind is None or not behind.isatty():
        return
    above: logging.Logger | None = logger
    while above is not None:
        for handler in above.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is behind:
                stack.callback(handler.setStream, behind)
                handler.setStream(sys.stderr)
        above = above.parent if above.propagate else None
