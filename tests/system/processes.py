"""Work in processes of its own, each forked from one server that has imported everything once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from vis_callbacks import options

RANKS = (0, 1)
# Of the group. A busy machine must not reach it, and the limit of a test must not come before.
TIMEOUT_S = 120
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.system.models", "tests.writers.stand_ins"])


def in_child(function: Callable[..., Any], *arguments: object) -> Any:
    """What the function returns in a process of its own, which must end well."""
    receiver, sender = _SERVER.Pipe(duplex=False)
    child = _SERVER.Process(target=_send, args=(sender, function, *map(str, arguments)))
    child.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        result = None
    child.join()
    assert child.exitcode == 0
    return result


def _send(sender: Connection, function: Callable[..., Any], *arguments: str) -> None:
    options.DEFAULT_SHARE = None  # nothing waits, as in the process of the tests
    sender.send(function(*arguments))


def run_in_two_ranks(work: Callable[[Path], None], folder: Path) -> None:
    """Calls ``work(folder)`` as ranks 0 and 1 of a gloo group; fails with what rank 0 wrote.

    A rank that another one keeps waiting dies when the group's time-out is over, so that both
    end well shows that none was kept waiting.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [_SERVER.Process(target=_as_rank, args=(rank, port, work, folder)) for rank in RANKS]
    try:
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
    finally:
        for process in ranks:
            process.kill()
    assert [process.exitcode for process in ranks] == [0, 0], (folder / "log.0").read_text()[-2000:]


def _as_rank(rank: int, port: int, work: Callable[[Path], None], folder: Path) -> None:
    log = os.open(folder / f"log.{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    options.DEFAULT_SHARE = None  # nothing waits, as in the process of the tests
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    work(folder)
