"""Prints what a snapshot of `OcclusionMonitor` costs: ``python -m benchmarks.occlusion``."""

from __future__ import annotations

from benchmarks.observed import print_costs
from vis_callbacks import OcclusionMonitor

VARIANTS = {
    "defaults: 8 images x 169 positions": OcclusionMonitor,
    "coarse to fine": lambda: OcclusionMonitor(coarse_to_fine=True),
    "2 images": lambda: OcclusionMonitor(num_samples=2),
}


if __name__ == "__main__":
    print_costs(VARIANTS)
