"""One module of the tests, run as two ranks of one gloo group."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RANKS = (0, 1)
# Of the group. A busy machine must not reach it, and the limit of a test must not come before.
TIMEOUT_S = 120
# As in the other tests, nothing waits for room in a budget, which depends on the clock.
_RUN = """
import runpy, sys
from vis_callbacks import options
options.DEFAULT_SHARE = None
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run_in_two_ranks(module: str, folder: Path) -> None:
    """Runs ``python -m module folder`` as ranks 0 and 1; fails with what rank 0 wrote.

    A rank that another one keeps waiting dies when the group's time-out is over, so that both
    end well shows that none was kept waiting.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", _RUN, module, str(folder)]
    processes = []
    for rank in RANKS:
        with (folder / f"log.{rank}").open("w") as log:
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(
                subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
            )
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], (folder / "log.0").read_text()[-2000:]
