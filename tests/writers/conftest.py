"""The fixtures of the writers' tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from tests.writers.stand_ins import Listener


@pytest.fixture
def said() -> Iterator[list[str]]:
    """All lines that are logged, those for debugging apart."""
    listener, logger = Listener(), logging.getLogger("vis_callbacks")
    logger.addHandler(listener)
    yield listener.lines
    logger.removeHandler(listener)
