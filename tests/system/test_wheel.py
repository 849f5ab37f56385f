"""What is built and installed holds all that a training, the command line and the tab need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_wheel_trains_and_reports_in_an_environment_of_its_own(tmp_path):
    def run(*command: object, folder: Path = tmp_path) -> str:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, folder=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "its_own")
    programs = tmp_path / "its_own" / "bin"
    install = ["install", "--no-deps", "--no-index", wheel]
    run(sys.executable, "-m", "pip", "--python", programs / "python", *install)
    # The packages that it needs come from here: torch alone takes minutes to install.
    (packages,) = (tmp_path / "its_own").rglob("site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))

    where = run(programs / "python", "-c", "import vis_callbacks; print(vis_callbacks.__file__)")
    assert Path(where.strip()).is_relative_to(packages)
    page = (ROOT / "docs/quickstart.md").read_text()
    (program,) = re.findall(r'```python title="digits.py"\n(.*?)```', page, re.DOTALL)
    (tmp_path / "digits.py").write_text(program.replace("max_epochs=8", "max_epochs=1"))
    run(programs / "python", "digits.py")
    assert "no alert" in run(programs / "vis-callbacks", "alerts", "lightning_logs")
    run(programs / "vis-callbacks", "report", "lightning_logs/version_0", "--out", "run.html")
    assert "activations/unit_life" in (tmp_path / "run.html").read_text()
