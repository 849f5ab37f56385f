"""What the monitors cost, as ratios on this machine: ``python -m benchmarks``."""

import sys
from pathlib import Path

# The networks and data of the examples are measured as well.
sys.path.append(str(Path(__file__).parents[1] / "examples"))
