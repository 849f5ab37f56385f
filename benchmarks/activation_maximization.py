"""Prints what a snapshot of `ActivationMaximizationMonitor` costs.

python -m benchmarks.activation_maximization
"""

from __future__ import annotations

from benchmarks.observed import print_costs
from vis_callbacks import ActivationMaximizationMonitor

VARIANTS = {
    "defaults: 12 classes, 32 steps": ActivationMaximizationMonitor,
    'preset "simonyan"': lambda: ActivationMaximizationMonitor(preset="simonyan"),
    "4 units": lambda: ActivationMaximizationMonitor(units=[f"7:{i}" for i in range(4)]),
}


if __name__ == "__main__":
    print_costs(VARIANTS)
