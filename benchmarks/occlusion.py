"""Prints what a snapshot of `OcclusionMonitor` costs: ``python -m benchmarks.occlusion``."""

from __future__ import annotations

from benchmarks.nets import BENCHMARKS
from benchmarks.observed import snapshot_cost
from benchmarks.steps import one_thread
from vis_callbacks import OcclusionMonitor

VARIANTS = {
    "defaults: 8 images x 169 positions": OcclusionMonitor,
    "coarse to fine": lambda: OcclusionMonitor(coarse_to_fine=True),
    "2 images": lambda: OcclusionMonitor(num_samples=2),
}


def main() -> None:
    """Prints a line for each variant, of the small convolutional network."""
    benchmark = next(b for b in BENCHMARKS if b.name == "cnn")
    with one_thread():
        for name, make in VARIANTS.items():
            print(f"{benchmark.name:<12} {name:<44} {snapshot_cost(benchmark, make)}", flush=True)


if __name__ == "__main__":
    main()
