from __future__ import annotations

import io
import sys
import time

import pytest

from vis_callbacks import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class RichTerminal(Terminal):
    """Stands in for what Rich puts in the place of a terminal that it draws on."""


RichTerminal.__module__ = "rich.file_proxy"


def shown_on(stream: io.StringIO, monkeypatch) -> str:
    # Not in a fixture: pytest puts its own stream back between set-up and test.
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.progress_bar(10, "occlusion") as told:
        for _ in range(2):
            time.sleep(0.11)  # tqdm draws at most ten times a second
            told(5)
    return stream.getvalue()


@pytest.fixture
def at_once(monkeypatch) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BEFORE_IT_SHOWS", 1e-9)


def test_what_is_short_shows_no_bar(monkeypatch):
    assert shown_on(Terminal(), monkeypatch) == ""


@pytest.mark.usefixtures("at_once")
def test_what_is_long_shows_a_bar_and_takes_it_away(monkeypatch):
    shown = shown_on(Terminal(), monkeypatch)
    assert "occlusion" in shown
    assert shown.rpartition("\r")[0].rpartition("\r")[2].strip() == ""


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("stream", [io.StringIO, RichTerminal])
def test_a_file_and_a_terminal_that_rich_holds_are_left_alone(stream, monkeypatch):
    assert shown_on(stream(), monkeypatch) == ""


@pytest.mark.usefixtures("at_once")
def test_other_ranks_show_no_bar(monkeypatch):
    monkeypatch.setattr(progress.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(progress.dist, "get_rank", lambda: 1)
    assert shown_on(Terminal(), monkeypatch) == ""
