"""What is built and installed, with TensorBoard alone beside it: no torch, no Lightning."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from tests.runs.stand_ins import ALERT, event_file, number, picture, record, table
from tests.system.tensorboard_page import ROOT, started

from vis_callbacks.alerts.log import append_alerts

# Without the packages of this environment: only what stands in PYTHONPATH is found.
PYTHON = (sys.executable, "-S")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked, and links to what TensorBoard needs."""
    folder = tmp_path_factory.mktemp("site")
    wheels = tmp_path_factory.mktemp("wheels")
    code = f"from hatchling.build import build_wheel; build_wheel({str(wheels)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    for name in needed_by("tensorboard"):
        link_files_of(name, folder)
    return folder


def needed_by(name: str) -> set[str]:
    """Returns the distribution and all that it requires, extras left out."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            required = distribution(current).requires or []
            waiting += [re.split(r"[^\w.-]", one)[0] for one in required if "extra ==" not in one]
    return found


def link_files_of(name: str, folder: Path) -> None:
    """Links what a distribution has installed; of a folder that several share, each part."""
    for file in distribution(name).files or ():
        link = folder / file
        if ".." not in file.parts and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(str(file.locate())))


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logs = tmp_path_factory.mktemp("logs")
    values = table({"dead_fraction": [0.5]}, ["fc.1"]), picture("maps"), number("loss", 1.0)
    event_file(logs / "sick", record(*values, step=60))
    append_alerts(logs / "sick" / "alerts.jsonl", ALERT)
    return logs


def environment(site: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(site)}


def command(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    line = [*PYTHON, "-m", "vis_callbacks.cli", *map(str, arguments)]
    return subprocess.run(line, env=environment(site), capture_output=True, text=True)


def test_the_tab_is_shown(site: Path, logs: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with started(logs, python=PYTHON, environment=environment(site)) as address:
        tab = json.load(opener.open(f"{address}/data/plugins_listing"))["vis_callbacks"]
        assert (tab["tab_name"], tab["enabled"]) == ("Health", True)
        plugin = f"{address}/data/plugin/vis_callbacks"
        assert "export function show" in opener.open(f"{plugin}/page.js").read().decode()
        assert json.load(opener.open(f"{plugin}/run?run=sick"))["level"] == "warning"


def test_the_command_line_works(site: Path, logs: Path, tmp_path: Path) -> None:
    alerts = command(site, "alerts", logs, "--fail-on", "warning")
    assert (alerts.returncode, alerts.stderr) == (1, "")
    assert "dying_units" in alerts.stdout
    pictures = command(site, "pictures", logs, "--out", tmp_path)
    assert pictures.stdout.startswith("1 pictures are in"), pictures.stderr
    assert len([*tmp_path.rglob("*.png")]) == 1
    report = command(site, "report", logs, "--out", tmp_path / "report.html")
    assert report.returncode == 0, report.stderr
    assert "dying_units" in (tmp_path / "report.html").read_text()


def test_training_says_which_package_is_missing(site: Path) -> None:
    code = "import vis_callbacks; vis_callbacks.ActivationMonitor"
    line = [*PYTHON, "-c", code]
    done = subprocess.run(line, env=environment(site), capture_output=True, text=True)
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'torch'\n")
