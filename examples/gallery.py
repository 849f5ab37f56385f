"""Saves the pictures of the demo's runs as the small PNG files that the documentation shows.

    make gallery

It trains nothing that is there already: the runs of ``make demo`` are used as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from photo_patches import main as train_both


def save_latest_pictures(run: Path, folder: Path) -> list[Path]:
    """Writes the latest picture of every tag of a run; ``a/b`` becomes ``a-b.png``."""
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for tag in events.Tags()["images"]:
        path = folder / f"{tag.replace('/', '-')}.png"
        path.write_bytes(events.Images(tag)[-1].encoded_image_string)
        paths.append(path)
    return paths


def main(arguments: list[str] | None = None) -> None:
    """Trains where needed, then writes ``<folder>/<run>/<tag>.png``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("demo_runs"))
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    options = parser.parse_args(arguments)
    if not options.runs.exists():
        train_both(["--output", str(options.runs)])
    for run in sorted(path for path in options.runs.iterdir() if path.is_dir()):
        for path in save_latest_pictures(run, options.folder / run.name):
            print(path)


if __name__ == "__main__":
    main()
