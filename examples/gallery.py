"""Saves the demo's three runs side by side, as the small PNG files that the documentation shows.

    make gallery

It trains nothing that is there already: the runs of ``make demo`` are used as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from side_by_side import save_figures
from things import RUNS
from things import main as train_all
from vis_callbacks.runs.run import Run


def latest_pictures(run: Path) -> dict[str, bytes]:
    """Returns the latest picture of every tag of a run, as a PNG file."""
    read = Run(run)
    read.refresh()
    latest = {tag: read.picture(tag, kept.steps()[-1]) for tag, kept in read.pictures.items()}
    return {tag: png for tag, png in latest.items() if png is not None}


def save_latest_pictures(run: Path, folder: Path) -> list[Path]:
    """Writes the latest picture of every tag of a run; ``a/b`` becomes ``a-b.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for tag, png in latest_pictures(run).items():
        path = folder / f"{tag.replace('/', '-')}.png"
        path.write_bytes(png)
        paths.append(path)
    return paths


def main(arguments: list[str] | None = None) -> None:
    """Trains where needed, then writes ``<side-by-side>/<monitor>.png``."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--runs", type=Path, default=Path("demo_runs"))
    parser.add_argument("--side-by-side", type=Path, default=Path("docs/images/side_by_side"))
    parser.add_argument(
        "--folder", type=Path, help="also write every picture, to <folder>/<run>/<tag>.png"
    )
    options = parser.parse_args(arguments)
    if not options.runs.exists():
        # How sums are split over threads changes their last bits, and in the end the pictures;
        # with one thread the runs are the same each time on a machine.
        torch.set_num_threads(1)
        train_all(["--output", str(options.runs)])
    runs = {path.name: path for path in sorted(options.runs.iterdir()) if path.is_dir()}
    if options.folder is not None:
        for name, run in runs.items():
            for path in save_latest_pictures(run, options.folder / name):
                print(path)
    if missing := RUNS.keys() - runs:
        print(f"Nothing is put side by side: {options.runs} has no run {sorted(missing)}.")
        return
    pictures = {name: latest_pictures(runs[name]) for name in RUNS}
    for path in save_figures(pictures, options.side_by_side):
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
