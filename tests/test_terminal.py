"""What is logged beside a bar, as a terminal would show it."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.progress import Progress
from tqdm import tqdm

from vis_callbacks import guard
from vis_callbacks.terminal import beside_bars

LINE = "[critical] step 30: Units are dying."


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What stands in each line: a carriage return goes back to its start."""
        shown = []
        for line in self.getvalue().split("\n"):
            cells: list[str] = []
            for part in line.split("\r"):
                cells[: len(part)] = part
            shown.append("".join(cells).rstrip())
        return shown


@contextlib.contextmanager
def a_terminal() -> Iterator[Terminal]:
    """A terminal, and a handler that was made before any bar."""
    # Within the test: pytest puts its own streams back after each fixture.
    terminal = Terminal()
    logger, handler = logging.getLogger("vis_callbacks"), logging.StreamHandler(terminal)
    logger.addHandler(handler)
    try:
        with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal):
            yield terminal
        assert handler.stream is terminal
    finally:
        logger.removeHandler(handler)


def test_a_line_starts_on_its_own_beside_a_bar_of_tqdm():
    with a_terminal() as terminal, tqdm(total=10, file=sys.stdout, ncols=60) as bar:
        bar.mininterval = 0
        bar.update(3)
        guard.log(LINE)
        bar.update(4)
    lines = terminal.lines()
    assert LINE in lines
    assert "7/10" in lines[lines.index(LINE) + 1]


def test_a_line_starts_on_its_own_beside_a_bar_of_rich():
    with a_terminal() as terminal:
        console = Console(file=terminal, force_terminal=True, width=60, color_system=None)
        with Progress(console=console, auto_refresh=False) as bar:
            bar.update(bar.add_task("Epoch 0", total=10), advance=3, refresh=True)
            guard.log(LINE)
    before = terminal.getvalue().partition(LINE)[0]
    assert before.endswith("\r\x1b[2K")  # it has erased the bar's line


def test_a_bar_that_cannot_be_drawn_costs_no_line(monkeypatch, caplog):
    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("the terminal is gone")

    with tqdm(total=10, file=sys.stdout, ncols=60) as bar:
        monkeypatch.setattr(bar, "clear", broken)
        monkeypatch.setattr(bar, "refresh", broken)
        guard.log(LINE)
        monkeypatch.undo()
    assert caplog.messages == [LINE]


def test_an_interrupt_passes_and_leaves_the_bars_usable():
    with pytest.raises(KeyboardInterrupt), beside_bars(logging.getLogger("vis_callbacks")):
        raise KeyboardInterrupt
    with tqdm(total=2, file=sys.stdout) as bar:
        bar.update(2)
