"""The fixtures of the writers' tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.writers.stand_ins import Listener, TensorBoardLogger, TensorboardXLogger


@pytest.fixture
def said() -> Iterator[list[str]]:
    """All lines that are logged, those for debugging apart."""
    listener, logger = Listener(), logging.getLogger("vis_callbacks")
    logger.addHandler(listener)
    yield listener.lines
    logger.removeHandler(listener)


@pytest.fixture
def tensorboard(tmp_path: Path) -> Iterator[TensorBoardLogger]:
    """Lightning's own logger, writing by torch's SummaryWriter into the folder ``run``."""
    logger = TensorBoardLogger(tmp_path, name="run", version="")
    yield logger
    logger.finalize("success")


@pytest.fixture(params=["torch", "tensorboardX"])
def any_tensorboard(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[TensorBoardLogger | TensorboardXLogger]:
    """A logger for each package whose SummaryWriter is known, writing into the folder ``run``."""
    if request.param == "torch":
        logger = TensorBoardLogger(tmp_path, name="run", version="")
    else:
        logger = TensorboardXLogger(tmp_path / "run")
    yield logger
    logger.finalize("success")
