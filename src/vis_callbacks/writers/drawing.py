"""Pictures drawn beside training: a thread draws and encodes them, and writes nothing.

Loggers are not made for two threads, so what is finished goes back to the training thread. A
thread exists only while there is something to draw.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import thread_time

from vis_callbacks.guard import Catch
from vis_callbacks.report import Embedding, Histogram, LayerTable, Markdown, Picture
from vis_callbacks.writers.media_items import Media, prepare

Shown = Picture | Markdown | Histogram | Embedding | LayerTable
# A report has up to some forty pictures, and four monitors may report at one step.
_CAPACITY = 160
_PATIENCE_OF_A_FORK = 1.0


@dataclass(frozen=True)
class Order:
    """An item to be drawn, and what is needed to write it afterwards.

    Attributes:
        item: Its arrays are on the host.
        prefix: Of its tag.
        step: On the x-axis.
        spend: Is told the seconds that drawing took of a core.
    """

    item: Shown
    prefix: str
    step: int
    spend: Callable[[float], object]

    @property
    def tag(self) -> str:
        """The tag that it is written under."""
        return self.prefix + self.item.tag


@dataclass(frozen=True)
class Drawn:
    """An order that was carried out: the media, or the error that drawing ended with."""

    order: Order
    seconds: float
    media: Media | None
    error: Exception | None

    def result(self) -> Media:
        """Returns the media, or raises the error."""
        if self.media is None:
            raise self.error or RuntimeError("drawing gave nothing")
        return self.media


class Drawing:
    """Draws what it is given in a thread of its own, in order; all methods are the caller's.

    Processes are forked without the thread: the locks of the libraries it is in would stay
    locked in the child for ever. So a fork waits for the picture that is being drawn.
    """

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._waiting: deque[Order] = deque()
        self._current: Order | None = None
        self._thread: threading.Thread | None = None
        self._is_paused = False
        self.finished: deque[Drawn] = deque()
        _DRAWINGS.add(self)

    def put(self, order: Order) -> Order | None:
        """Has an item drawn; returns the waiting one that was dropped for want of room."""
        with self._lock:
            dropped = None
            if len(self._waiting) >= self._capacity:
                older = (one for one in self._waiting if one.tag == order.tag)
                dropped = next(older, self._waiting[0])
                self._waiting.remove(dropped)
            self._waiting.append(order)
            self._start()
        return dropped

    def take(self) -> list[Drawn]:
        """Returns what is finished, in order."""
        return [self.finished.popleft() for _ in range(len(self.finished))]

    def end(self, patience: float) -> list[Order]:
        """Waits until all is drawn, ``patience`` seconds at most; returns what was not."""
        self._join(patience)
        with self._lock:
            left = [*filter(None, [self._current]), *self._waiting]
            self._waiting.clear()
            self._current = None
        return left

    def pause(self, patience: float) -> None:
        """Ends the thread behind the picture it is at; what waits goes on waiting."""
        with self._lock:
            self._is_paused = True
        self._join(patience)

    def resume(self) -> None:
        """Goes on after a pause."""
        with self._lock:
            self._is_paused = False
            self._start()

    def forget(self) -> None:
        """Lets go of everything, in a process that has just been forked."""
        self._lock = threading.Lock()
        self._waiting.clear()
        self.finished.clear()
        self._current = self._thread = None

    def _start(self) -> None:
        is_drawing = self._thread is not None and self._thread.is_alive()
        if self._waiting and not self._is_paused and not is_drawing:
            # A daemon: a picture that is never finished does not hold up the end of the process.
            self._thread = threading.Thread(
                target=self._draw_all, name="vis_callbacks draws pictures", daemon=True
            )
            self._thread.start()

    def _join(self, patience: float) -> None:
        thread = self._thread
        if thread is not None:
            thread.join(patience)

    def _draw_all(self) -> None:
        while (order := self._next()) is not None:
            drawn = _drawn(order)
            with self._lock:
                if self._current is order:  # else nobody waits for it any more
                    self.finished.append(drawn)
                    self._current = None

    def _next(self) -> Order | None:
        with self._lock:
            if self._waiting and not self._is_paused:
                self._current = self._waiting.popleft()
                return self._current
            self._thread = None
            return None


def may_be_drawn_aside(item: object) -> bool:
    """Returns whether it is a picture, and this process was asked for one of its kind before.

    The first one imports what it is drawn with, and an import changes the filters of warnings
    for a moment, which the user's own thread must not see.
    """
    if not isinstance(item, Picture):
        return False
    draw = getattr(item.draw, "func", item.draw)
    code = getattr(draw, "__code__", type(draw))
    was_known = code in _DRAWN_BEFORE
    _DRAWN_BEFORE.add(code)
    return was_known


def _drawn(order: Order) -> Drawn:
    began = thread_time()
    media = None
    with Catch() as caught:
        media = prepare(order.item, order.prefix)
    return Drawn(order, thread_time() - began, media, caught.error)


_DRAWN_BEFORE: set[object] = set()  # the code of functions that draw
_DRAWINGS: weakref.WeakSet[Drawing] = weakref.WeakSet()


def _before_fork() -> None:
    for drawing in list(_DRAWINGS):
        drawing.pause(_PATIENCE_OF_A_FORK)


def _after_fork() -> None:
    for drawing in list(_DRAWINGS):
        drawing.resume()


def _in_the_child() -> None:
    for drawing in list(_DRAWINGS):
        drawing.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_the_child
    )
