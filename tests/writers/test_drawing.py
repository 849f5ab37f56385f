import os
import threading
import warnings

import numpy as np
import pytest
from tests.writers.stand_ins import noise

from vis_callbacks.cards import Card
from vis_callbacks.report import Markdown, Picture
from vis_callbacks.writers.drawing import Drawing, Order
from vis_callbacks.writers.media_items import DrawnImage, prepare


def order(tag="picture", draw=noise, step=0, spend=lambda seconds: None):
    return Order(Picture(tag=tag, draw=draw), "", step, spend)


class Gate:
    """A picture that is not finished before it is opened."""

    def __init__(self):
        self.has_begun, self.is_open = threading.Event(), threading.Event()

    def draw(self):
        self.has_begun.set()
        assert self.is_open.wait(30)
        return noise()


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.is_open.set()


def drawing_threads():
    return [one for one in threading.enumerate() if one.name.startswith("vis_callbacks")]


def test_what_is_drawn_beside_is_what_would_be_drawn_here_and_in_order():
    drawing = Drawing()
    orders = [order(f"picture {number}", step=number) for number in range(5)]
    for one in orders:
        drawing.put(one)
    assert drawing.end(30) == []
    drawn = drawing.take()
    assert [one.order for one in drawn] == orders
    here = prepare(orders[0].item, "")
    there = drawn[0].result()
    assert isinstance(there, DrawnImage)
    assert there.png == here.png
    np.testing.assert_array_equal(there.pixels, here.pixels)
    assert drawing.take() == []


def test_a_failure_is_raised_where_the_result_is_asked_for_and_ends_nothing():
    def fail():
        raise OSError("no ink")

    drawing = Drawing()
    drawing.put(order(draw=fail))
    drawing.put(order())
    drawing.end(30)
    failed, drawn = drawing.take()
    with pytest.raises(OSError, match="no ink"):
        failed.result()
    assert isinstance(drawn.result(), DrawnImage)


def test_without_room_the_older_picture_of_the_same_tag_is_dropped_else_the_oldest(gate):
    drawing = Drawing(capacity=2)
    drawing.put(order(draw=gate.draw))
    assert gate.has_begun.wait(30)
    first, second, third, fourth = order("a"), order("b"), order("b", step=1), order("c")
    assert drawing.put(first) is None
    assert drawing.put(second) is None
    assert drawing.put(third) is second
    assert drawing.put(fourth) is first
    gate.is_open.set()
    drawing.end(30)
    assert [one.order for one in drawing.take()][1:] == [third, fourth]


def test_the_end_does_not_wait_for_a_picture_that_hangs_and_names_what_is_left(gate):
    drawing = Drawing()
    stuck, waiting = order("stuck", gate.draw), order("waiting")
    drawing.put(stuck)
    assert gate.has_begun.wait(30)
    drawing.put(waiting)
    assert drawing.end(0.01) == [stuck, waiting]
    (thread,) = drawing_threads()
    assert thread.daemon
    gate.is_open.set()
    thread.join(30)
    assert not thread.is_alive()
    assert drawing.take() == []
    assert drawing.end(0.01) == []


def test_a_thread_lives_only_while_there_is_something_to_draw():
    drawing = Drawing()
    assert drawing_threads() == []
    drawing.put(order())
    drawing.end(30)
    assert drawing_threads() == []
    drawing.put(order())
    assert drawing.end(30) == []
    assert len(drawing.take()) == 2


def test_the_time_that_is_told_is_that_of_the_core(gate):
    drawing = Drawing()
    drawing.put(order(draw=gate.draw))
    assert gate.has_begun.wait(30)
    threading.Event().wait(0.2)
    gate.is_open.set()
    drawing.end(30)
    (drawn,) = drawing.take()
    assert 0 < drawn.seconds < 0.2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_waits_for_the_picture_and_the_child_inherits_no_work(gate):
    drawing, alive = Drawing(), []
    drawing.put(order(draw=gate.draw))
    assert gate.has_begun.wait(30)
    drawing.put(order())
    threading.Timer(0.1, gate.is_open.set).start()
    with warnings.catch_warnings(action="ignore"):  # from 3.12 on: forking with threads
        child = os.fork()
    if child == 0:
        is_clean = not drawing_threads() and drawing.end(0) == [] and not drawing.finished
        os._exit(0 if is_clean else 1)
    alive = [gate.is_open.is_set()]
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert alive == [True]
    assert drawing.end(30) == []
    assert len(drawing.take()) == 2


def test_other_items_are_prepared_as_well():
    drawing = Drawing()
    drawing.put(Order(Markdown(tag="words", text="hello"), "fit/", 3, lambda seconds: None))
    drawing.end(30)
    (drawn,) = drawing.take()
    assert drawn.result() == Markdown(tag="fit/words", text="hello", card=Card(""))
