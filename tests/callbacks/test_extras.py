from __future__ import annotations

import gc
import logging
import pickle
import weakref

import pytest

from vis_callbacks.callbacks.extras import Extras


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_an_extra_that_fails_is_left_out_and_that_is_said_once_with_its_remedy(caplog):
    caplog.set_level(logging.DEBUG, "vis_callbacks")
    extras = Extras("SomeMonitor")
    for _ in range(3):
        with extras.contain("the maps", "Write map_layers=[]."):
            raise ValueError("no sample.")
    with extras.contain("the rest"):
        raise UnspeakableError
    first, second = caplog.records
    assert first.levelno == second.levelno == logging.INFO
    assert first.getMessage() == (
        "SomeMonitor leaves out the maps and goes on without: ValueError: no sample. "
        "Write map_layers=[]."
    )
    assert "SomeMonitor leaves out the rest" in second.getMessage()


def test_what_is_no_failure_passes_through():
    with pytest.raises(KeyboardInterrupt), Extras("SomeMonitor").contain("the maps"):
        raise KeyboardInterrupt


def test_the_frames_of_a_failure_are_let_go_of():
    class Model:
        pass

    def fail() -> weakref.ref[Model]:
        model = Model()
        with extras.contain("the maps"):
            raise ValueError(f"of {model}")
        return weakref.ref(model)

    extras = Extras("SomeMonitor")
    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


def test_what_was_said_is_pickled_with_its_owner():
    extras = Extras("SomeMonitor")
    with extras.contain("the maps"):
        raise ValueError
    assert pickle.loads(pickle.dumps(extras))._said == {"the maps"}
