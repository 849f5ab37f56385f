"""Prints what a snapshot of `ActivationMaximizationMonitor` costs.

python -m benchmarks.activation_maximization
"""

from __future__ import annotations

from benchmarks.nets import BENCHMARKS
from benchmarks.observed import snapshot_cost
from benchmarks.steps import one_thread
from vis_callbacks import ActivationMaximizationMonitor

VARIANTS = {
    "defaults: 12 classes, 32 steps": ActivationMaximizationMonitor,
    'preset "simonyan"': lambda: ActivationMaximizationMonitor(preset="simonyan"),
    "4 units": lambda: ActivationMaximizationMonitor(units=[f"7:{i}" for i in range(4)]),
}


def main() -> None:
    """Prints a line for each variant, of the small convolutional network."""
    benchmark = next(b for b in BENCHMARKS if b.name == "cnn")
    with one_thread():
        for name, make in VARIANTS.items():
            print(f"{benchmark.name:<12} {name:<44} {snapshot_cost(benchmark, make)}", flush=True)


if __name__ == "__main__":
    main()
