"""Do maps lie where the network must look? Methods scored by the known masks of the demo's things.

    python -m benchmarks.attribution_masks --networks /tmp/networks      about three minutes

Two questions are asked of every method, ours and captum's, on the same networks:

* The *healthy* network tells the class by the thing, for there is nothing else to tell it by. How
  much of the map lies on the thing, and is the map's strongest place on it?
* The *shortcut* network calls everything "cat" that carries a yellow square. Of the score of "cat",
  on validation images with the square: how much of the map lies on the square?
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from captum import attr
from torch import Tensor, nn

from benchmarks.saliency import of_captum, of_ours
from benchmarks.steps import one_thread
from benchmarks.things_networks import demo_data, demo_network
from vis_callbacks.monitors.occlusion.plan import plan_occlusion
from vis_callbacks.monitors.occlusion.science import baseline_images, occlude
from vis_callbacks.monitors.saliency.methods import METHODS
from vis_callbacks.monitors.saliency.science import saliency_maps, share_in_mask

BATCH = 20
CAM_LAYER = "features.9"  # the last with positions


class Case(NamedTuple):
    """A network, what it is asked about, and where the answer must lie."""

    name: str
    network: nn.Module
    images: Tensor
    targets: Tensor  # the class that is explained of each image
    masks: Tensor  # (samples, height, width), bool

    def parts(self) -> Iterator[Case]:
        """Yields the case a few images at a time: captum keeps all steps of a method at once."""
        for part in torch.arange(len(self.images)).split(BATCH):
            picked = (values[part] for values in (self.images, self.targets, self.masks))
            yield Case(self.name, self.network, *picked)


class Scores(NamedTuple):
    """How well maps lie in masks, and how often their strongest place does."""

    mass: float
    pointing: float


def cases(folder: Path, num_images: int) -> Iterator[Case]:
    """Yields both networks with the images that they get right, or wrong by the square."""
    from things_data import CLASS_NAMES, SQUARE

    for name in ("healthy", "shortcut"):
        network, cat = demo_network(name, folder), CLASS_NAMES.index("cat")
        data = demo_data().validation
        if name == "shortcut":
            data = demo_data().with_shortcut().validation
        chosen = torch.arange(len(data))[:: 3 if name == "shortcut" else 1]
        images = torch.stack([data[int(index)][0] for index in chosen])
        labels, masks = data.labels[chosen], data.masks[chosen]
        if name == "shortcut":
            labels, masks = torch.full_like(labels, cat), torch.zeros_like(masks)
            masks[:, *SQUARE] = True
        with torch.no_grad():
            is_right = network(images).argmax(1) == labels
        picked = is_right.nonzero()[:num_images, 0]
        yield Case(name, network, images[picked], labels[picked], masks[picked])


def maps_of(name: str, case: Case, side: str) -> Tensor:
    """Returns what a method gives to each place, (samples, height, width), by one of two sides."""
    if name == "occlusion":
        return our_occlusion(case) if side == "ours" else captum_occlusion(case)
    way = (of_ours if side == "ours" else of_captum)(name, CAM_LAYER, case.targets)
    inputs = case.images.clone().requires_grad_(side == "captum")
    values = way(case.network, inputs).detach()
    return saliency_maps(values, is_signed=METHODS[name].times_input)


def our_occlusion(case: Case) -> Tensor:
    """Returns how far the probability falls, by where the square's centre is."""
    plan = plan_occlusion(tuple(case.images.shape[2:]), len(case.images))

    def probability(inputs: Tensor, owners: Tensor) -> Tensor:
        return case.network(inputs).softmax(1).gather(1, case.targets[owners, None])

    maps = occlude(probability, case.images, plan)
    falls = (maps.whole[:, None, None, 0] - maps.values[..., 0]).clamp(min=0)
    rows, columns = (
        (torch.arange(length)[:, None] + 0.5 - torch.tensor(centres)).abs().argmin(1)
        for length, centres in zip(plan.image_size, plan.centres, strict=True)
    )
    return falls[:, rows[:, None], columns]


@torch.no_grad()
def captum_occlusion(case: Case) -> Tensor:
    """Returns the mean fall of the probability over all squares that hide a pixel."""
    plan = plan_occlusion(tuple(case.images.shape[2:]), len(case.images))
    channels = case.images.shape[1]
    found = attr.Occlusion(lambda images: case.network(images).softmax(1)).attribute(
        case.images,
        (channels, *plan.window),
        (channels, plan.stride, plan.stride),
        baselines=baseline_images(case.images, "mean", plan.window_size).expand_as(case.images),
        target=case.targets,
    )
    return found.mean(1).clamp(min=0)


def scores(maps: Tensor, masks: Tensor) -> Scores:
    """Returns the mean share of mass inside, and the share of maps that are largest inside.

    Where several places are equally strong, the share of them that lie inside counts. Maps that are
    0 everywhere point nowhere, and have no mass.
    """
    sizes = maps.abs().double()
    highest = sizes.flatten(1).amax(1)
    is_highest = sizes == highest[:, None, None]
    pointing = share_in_mask(is_highest.double(), masks) * (highest > 0)
    return Scores(
        mass=share_in_mask(sizes, masks).nan_to_num(0).mean().item(),
        pointing=pointing.mean().item(),
    )


def main(arguments: list[str] | None = None) -> None:
    """Prints a line for each network and method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=Path, required=True, help="the folder that keeps them")
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", module="captum")
    for case in cases(options.networks, options.images):
        area = case.masks.double().mean().item()
        print(f"\n{case.name}: {len(case.images)} images; the masks are {area:.1%} of them")
        for name in [*METHODS, "occlusion"]:
            cells = []
            for side in ("ours", "captum"):
                maps = [maps_of(name, part, side) for part in case.parts()]
                found = scores(torch.cat(maps), case.masks)
                cells.append(f"{side}: mass {found.mass:.2f} pointing {found.pointing:.2f}")
            print(f"{name:<22} {'   '.join(cells)}", flush=True)


if __name__ == "__main__":
    with one_thread():
        main()
