"""Looks at a saved checkpoint: saliency, occlusion and filters, without any Trainer.

    python examples/checkpoint.py                       trains a minute's worth, saves, looks
    python examples/checkpoint.py --checkpoint my.ckpt  looks at one of things.py's network

Three pictures are written: which pixels drive a class and a unit, where hiding a square costs
the class, and what the first layer looks for. What is needed for your own network are the
functions `saliency`, `occlusion` and `filters`: they take a module and tensors.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from things import ThingClassifier, ThingData, load_data
from things_data import CLASS_NAMES, MEAN, STD
from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.score_functions import class_score, unit_score
from vis_callbacks.engine.scores import Unit
from vis_callbacks.monitors.filters.pictures import filter_pictures
from vis_callbacks.monitors.filters.science import as_filters
from vis_callbacks.monitors.occlusion.pictures import OcclusionFacts, draw_views
from vis_callbacks.monitors.occlusion.plan import plan_occlusion
from vis_callbacks.monitors.occlusion.science import occlude
from vis_callbacks.monitors.saliency.pictures import map_table, map_tile
from vis_callbacks.monitors.saliency.science import attribute, saliency_maps
from vis_callbacks.pictures.inputs import input_pictures
from vis_callbacks.pictures.tiles import Tile, TileRow, tile_grid

UNIT = Unit.parse("features.7:5")  # channel 5 of the last ReLU; `summary` lists the layers


def saliency(model: nn.Module, images: Tensor, labels: Tensor, shown: np.ndarray) -> np.ndarray:
    """Returns each image beside what drives its class, by two methods, and what drives a unit."""
    with isolated(model) as forward:  # evaluation mode; nothing of the model changes
        of_class, of_unit = class_score(forward, labels), unit_score(forward, UNIT)
        found = {
            "gradient": attribute("gradient", of_class, images),
            "SmoothGrad": attribute("smoothgrad", of_class, images),
            f"unit {UNIT}": attribute("gradient", of_unit, images),
        }
    maps = {title: saliency_maps(part.values).numpy() for title, part in found.items()}
    rows = [
        TileRow(
            tiles=[
                Tile(picture=image, title="image", lines=[CLASS_NAMES[label]]),
                *(map_tile(of_all[i], image, title) for title, of_all in maps.items()),
            ]
        )
        for i, (image, label) in enumerate(zip(shown, labels.tolist(), strict=True))
    ]
    every_map = [one for of_all in maps.values() for one in of_all]
    return map_table(rows, every_map, ["which pixels drive the class, and a unit"])


def occlusion(model: nn.Module, images: Tensor, labels: Tensor, **statistics: Any) -> np.ndarray:
    """Returns each image beside its class's probability while a square hides a part of it."""
    plan = plan_occlusion(tuple(images.shape[-2:]), len(images))

    def measure(occluded: Tensor, owners: Tensor) -> Tensor:
        shares = model(occluded).softmax(1)
        of_class = shares.gather(1, labels[owners, None])
        return torch.cat([of_class, shares.argmax(1, keepdim=True)], dim=1)

    maps = occlude(measure, images, plan)
    arrays = [part.numpy() for part in (images, maps.values, maps.whole, labels)]
    facts = OcclusionFacts(plan=plan, names=CLASS_NAMES, source="unseen images", **statistics)
    return draw_views(*arrays, facts=facts)


def filters(model: nn.Module) -> np.ndarray:
    """Returns the filters of the first convolution."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    weights = as_filters(first.weight.detach(), "conv2d", first.groups, ())
    pictures = filter_pictures(weights.numpy(), "filter", 42, 390, 780)
    return tile_grid(
        [Tile(picture=picture) for picture in pictures], ["filters of the first layer"]
    )


def train(path: Path, data: ThingData, num_steps: int) -> None:
    """Trains the network of things.py for a short while and saves it."""
    torch.manual_seed(0)
    model = ThingClassifier(learning_rate=0.001)
    optimizer = model.configure_optimizers()
    loader = iter(DataLoader(data.training, batch_size=64, shuffle=True, drop_last=True))
    for _ in range(num_steps):
        images, labels = next(loader)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": model.state_dict()}, path)


def load(path: Path) -> nn.Module:
    """Returns the network of a Lightning checkpoint, ready to be looked at."""
    model = ThingClassifier(learning_rate=0.0)
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    return model.eval()


def first_of_each(data: ThingData, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns the first unseen image of each of these classes, and its label."""
    # Classes take turns in the data, so that sample number n is of class n.
    return torch.stack([data.validation[label][0] for label in classes]), torch.tensor(classes)


def main(arguments: list[str] | None = None) -> None:
    """Writes the three pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--output", type=Path, default=Path("checkpoint_pictures"))
    parser.add_argument("--steps", type=int, default=600, help="of training, without a checkpoint")
    options = parser.parse_args(arguments)
    path = options.checkpoint or options.output / "things.ckpt"
    data = load_data(64 * options.steps, len(CLASS_NAMES))
    if options.checkpoint is None and not path.exists():
        train(path, data, options.steps)
    model = load(path)
    images, labels = first_of_each(data, classes=(0, 1, 3, 4, 7, 8))
    shown = input_pictures(images.numpy(), MEAN, STD).images
    options.output.mkdir(parents=True, exist_ok=True)
    for name, picture in {
        "saliency": saliency(model, images, labels, shown),
        "occlusion": occlusion(model, images, labels, mean=MEAN, std=STD),
        "filters": filters(model),
    }.items():
        Image.fromarray(picture).save(options.output / f"{name}.png")
        print(options.output / f"{name}.png")


if __name__ == "__main__":
    main()
