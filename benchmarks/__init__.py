"""What the monitors cost, as ratios on this machine: ``python -m benchmarks``."""
