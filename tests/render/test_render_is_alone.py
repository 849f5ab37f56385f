"""Drawing touches nothing global: neither pyplot nor the user's rcParams."""

from __future__ import annotations

import subprocess
import sys

DRAW_ALL = """
import sys
import matplotlib
import numpy as np
matplotlib.rcParams["font.size"] = 33
before = matplotlib.rcParams.copy()  # a dict() of them would resolve the backend: pyplot
from vis_callbacks.pictures import heat_map, raster
from vis_callbacks.render import film_strip, line_plot, scatter
film_strip.film_strip([np.zeros((4, 4, 3), np.uint8)], [0])
heat_map.heat_map(np.ones((1, 1)), ["a"], [0], [], "share")
line_plot.line_plot({"a": ([0, 1], [0, 1])})
raster.raster(np.zeros((1, 1)), [0], [])
scatter.scatter(np.zeros((1, 2)))
assert matplotlib.rcParams.copy() == before, "rcParams changed"
print(*(name for name in ("matplotlib.pyplot", "torch") if name in sys.modules))
"""


def test_drawing_loads_no_pyplot_and_leaves_rc_params_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRAW_ALL], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
