"""Trains the demo's network and saves what EmbeddingMonitor shows of its features.

    python examples/embedding_gallery.py --folder docs/images

About a minute; nothing is downloaded. The pictures are those of the page on embeddings in the
documentation.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from pytorch_lightning import Trainer, seed_everything
from torch.utils.data import DataLoader

from photo_patches import CLASS_NAMES, PatchClassifier, load_data
from vis_callbacks import EmbeddingMonitor
from vis_callbacks import Image as Picture


def save_small(pixels: np.ndarray, path: Path) -> None:
    """Writes a picture with 128 colours: photographs would not be small otherwise."""
    Image.fromarray(pixels).quantize(128).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    """Trains, and writes ``<folder>/embedding_<picture>.png`` of the last epoch."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--patches", type=int, default=400, help="of each photograph")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    seed_everything(0, verbose=False)
    data = load_data(options.patches)
    monitor = EmbeddingMonitor(
        class_names=CLASS_NAMES, mean=data.mean, std=data.std, max_overhead=None
    )
    trainer = Trainer(
        callbacks=[monitor],
        max_epochs=options.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(
        PatchClassifier(len(CLASS_NAMES), learning_rate=0.01),
        DataLoader(data.training, batch_size=64, shuffle=True, drop_last=True),
        DataLoader(data.validation, batch_size=250),
    )
    options.folder.mkdir(parents=True, exist_ok=True)
    for item in monitor.last_report.of(Picture):
        name = item.tag.split("/")[1]
        path = options.folder / f"embedding_{name}.png"
        save_small(item.draw(**item.arrays), path)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
