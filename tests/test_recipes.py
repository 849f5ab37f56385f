"""Every recipe of the documentation runs as it stands there, and shows what it is there for."""

from __future__ import annotations

import http.server
import json
import logging
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.system.models import LIGHTNING_CHATTER

from vis_callbacks import Monitor
from vis_callbacks.runs.run import Run
from vis_callbacks.writers import budget, writer

pytestmark = [
    *(pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER),
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary"),
]

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "recipes.md").read_text()
BLOCK = re.compile(r'```(python|yaml)(?: title="(.+?)")?\n(.*?)```', re.DOTALL)
SECTIONS = {part.partition("\n")[0]: BLOCK.findall(part) for part in PAGE.split("\n## ")[1:]}
((_, BASE, BASE_CODE),) = SECTIONS["The program behind the others"]

LOOKING = {"activations/unit_life", "learning/loss", "saliency/gradient"}
# What each recipe must have written: pictures, by tag.
SHOWN = {
    "A batch of your own": {*LOOKING, "embedding/map/network.4"},
    "Two inputs": LOOKING,
    "Segmentation": LOOKING,
    "Regression": {*LOOKING, "embedding/map/network.4", "occlusion/views"},
    "Text": {*LOOKING, "embedding/map/head"},
    "A GAN with two optimizers": {"activations/unit_life", "saliency/gradient"},
    "A frozen backbone": {*LOOKING, "embedding/map/head"},
    "Several processes": LOOKING,
    "A compiled model": LOOKING,
    "Mixed precision": LOOKING,
    "Going on from a checkpoint": {*LOOKING, "saliency/over_time/gradient"},
    "LightningCLI and YAML": LOOKING,
    "Other loggers": set(),
    "An alert into a chat": set(),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The recipe's folder, with the file that some recipes import."""
    (tmp_path / BASE).write_text(BASE_CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    # A busy machine writes as a slow disk does, for which pictures are left out.
    monkeypatch.setattr(budget.TimeBudget, "remaining", math.inf)
    monkeypatch.setattr(writer, "_PATIENCE", 60.0)
    yield tmp_path
    sys.modules.pop(Path(BASE).stem, None)


def run(code: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Runs a block as a program in this process, and returns its names."""
    names = {**(names or {}), "__name__": "__main__"}
    exec(compile(code, "recipe", "exec"), names)
    return names


def pictures(folder: Path) -> set[str]:
    """Returns the tags of all pictures, those included that TensorBoard has no card for."""
    found: set[str] = set()
    for events in folder.rglob("events.out.tfevents.*"):
        run = Run(events.parent)
        run.refresh()
        found |= set(run.pictures)
    return found


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "vis_callbacks" and record.levelno >= logging.WARNING
    ]


def test_each_recipe_is_listed_here():
    assert set(SECTIONS) == {*SHOWN, "The program behind the others"}


IN_THIS_PROCESS = [title for title, parts in SECTIONS.items() if not parts[0][1]]


@pytest.mark.parametrize("title", [title for title in IN_THIS_PROCESS if SHOWN[title]])
def test_it_runs_and_shows_what_it_is_for(title, folder, caplog, monkeypatch):
    # What the default backend compiles takes half a minute, and shows the same.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    run(SECTIONS[title][0][2])
    torch.compiler.reset()
    assert SHOWN[title] <= pictures(folder)
    assert warned(caplog) == []


QUICKSTART, *MORE = BLOCK.findall((DOCS / "quickstart.md").read_text())  # test_wheel.py runs it
SHORT = [*MORE, *BLOCK.findall((DOCS / "troubleshooting.md").read_text())]


@pytest.mark.parametrize("block", SHORT, ids=lambda block: block[2].split("\n")[0])
def test_the_code_of_other_pages_runs(block, monkeypatch):
    monkeypatch.setattr(logging, "basicConfig", lambda: None)
    run(block[2])


def test_the_quickstart_raises_alerts_where_the_rate_is_as_high_as_it_says():
    code = QUICKSTART[2].replace("max_epochs=8", "max_epochs=2")
    callbacks = run(code.replace("lr=0.001", "lr=0.3"))["monitors"]  # and those of Lightning's own
    assert [alert for one in callbacks if isinstance(one, Monitor) for alert in one.alerts]


@pytest.mark.slow
def test_two_processes_write_one_run(folder):
    ((_, name, code),) = SECTIONS["Several processes"]
    (folder / name).write_text(code)
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, name], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert SHOWN["Several processes"] <= pictures(folder)


def test_the_yaml_makes_its_monitors(folder, monkeypatch, caplog):
    (_, _, code), (_, config, yaml) = SECTIONS["LightningCLI and YAML"]
    (folder / config).write_text(yaml)
    (command,) = re.findall(r"python (\S+) (fit .*)", PAGE)
    monkeypatch.setattr(sys, "argv", [command[0], *command[1].split()])
    run(code)
    assert SHOWN["LightningCLI and YAML"] <= pictures(folder)
    assert warned(caplog) == []


def test_without_a_logger_for_pictures_they_become_files(folder, caplog):
    run(SECTIONS["Other loggers"][0][2])
    assert list(folder.rglob("images/saliency/gradient/step_*.png"))
    assert list(folder.rglob("metrics.csv"))
    assert warned(caplog) == []


@pytest.mark.filterwarnings("ignore")  # these packages warn of much that is none of ours
@pytest.mark.parametrize("index", [1, 2], ids=["wandb", "mlflow"])
def test_other_loggers_take_the_run(index, folder):
    pytest.importorskip(["", "wandb", "mlflow"][index])
    program, other = SECTIONS["Other loggers"][0][2], SECTIONS["Other loggers"][index][2]
    run(program.replace('CSVLogger("lightning_logs")', "logger"), run(other))
    assert list(folder.rglob("*.png"))


class Chat(http.server.BaseHTTPRequestHandler):
    """Takes messages as a chat's webhook does."""

    def do_POST(self) -> None:
        self.server.messages.append(
            json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        )
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


def test_a_chat_is_told_of_an_alert(monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), Chat) as server:
        server.messages = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("CHAT_WEBHOOK", f"http://127.0.0.1:{server.server_port}/")
        try:
            run(SECTIONS["An alert into a chat"][0][2])
        finally:
            server.shutdown()
            thread.join()
    assert any("[critical]" in message["text"] for message in server.messages)
