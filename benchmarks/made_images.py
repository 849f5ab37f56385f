"""How well what activation maximization makes stands transformations that did not make it.

    python -m benchmarks.made_images --networks /tmp/networks      about five minutes

Each preset's image of each class is sheared, stretched and covered with noise, none of which any
preset uses, and asked for its score again. Scores are in units of the spread of real scores: the
best real image has about 1. *As drawn* is the picture of the monitor, in 8 bits and at its own
contrast, given back to the network: what the reader sees.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import process_time
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.activation_maximization import NUM_REAL, TASKS, Problem, networks
from benchmarks.steps import one_thread
from benchmarks.things_networks import demo_data, demo_network
from vis_callbacks.monitors.activation_maximization.pictures import deviation_pictures
from vis_callbacks.monitors.activation_maximization.science import PRESETS
from vis_callbacks.pictures.tiles import Tile, TileRow, tile_table

NUM_STEPS = 32
NUM_DRAWS = 16
SEEDS = (2, 3, 4)
SHEAR, STRETCH, NOISE = 0.2, 0.25, 0.5  # the noise in units of how far real images deviate


class Outcome(NamedTuple):
    """Means over the classes: scores, the size of z, and the processor's seconds for the ascent."""

    made: float
    moved: float
    drawn: float
    drawn_moved: float
    size: float
    seconds: float


def unseen(z: Tensor, seed: int = 0) -> Tensor:
    """Returns z sheared, stretched and covered with noise, each differently at each seed."""
    generator = torch.Generator().manual_seed(seed)
    shear, stretch = 2 * torch.rand(2, 2, generator=generator) - 1
    across, along = (1 + STRETCH * stretch).tolist()
    x, y = (SHEAR * shear).tolist()
    grid = F.affine_grid(
        torch.tensor([[across, x, 0], [y, along, 0]]).expand(len(z), 2, 3),
        list(z.shape),
        align_corners=False,
    )
    moved = F.grid_sample(z, grid, align_corners=False)
    return moved + NOISE * torch.randn(z.shape, generator=generator)


@torch.no_grad()
def moved_score(problem: Problem, z: Tensor) -> float:
    """Returns the mean score of z under transformations that no preset uses."""
    draws = [problem.score(problem.frame.inputs(unseen(z, seed))) for seed in range(NUM_DRAWS)]
    return torch.stack(draws).mean().item()


def drawn(problem: Problem, z: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns z of the pictures that the monitor draws of z."""
    shift, scale = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    centre = (problem.frame.centre[0] * scale + shift).flatten().numpy()
    pictures = deviation_pictures((z * problem.frame.scale).numpy(), centre, std)
    values = torch.from_numpy(pictures).permute(0, 3, 1, 2)[:, : z.shape[1]] / 255
    return problem.frame.z((values - shift) / scale)


def outcome(
    problem: Problem, preset: str, mean: Sequence[float], std: Sequence[float]
) -> tuple[Outcome, Tensor]:
    """Returns what a preset makes of a problem from the mean image, and z."""
    start = process_time()
    z, scores = problem.ascended(preset, NUM_STEPS, 0)
    seconds = process_time() - start
    shown = drawn(problem, z, mean, std)
    with torch.no_grad():
        shown_score = problem.score(problem.frame.inputs(shown)).mean().item()
    measured = Outcome(
        made=(scores / problem.spread).mean().item(),
        moved=moved_score(problem, z),
        drawn=shown_score,
        drawn_moved=moved_score(problem, shown),
        size=z.square().mean().sqrt().item(),
        seconds=seconds,
    )
    return measured, z


Group = list[tuple[Problem, Sequence[float], Sequence[float]]]


def problems(folder: Path, num_seeds: int) -> Iterator[tuple[str, Group]]:
    """Yields the networks of each task with how their inputs were normalised."""
    from things_data import MEAN, STD

    data = demo_data()
    real = torch.stack([data.validation[index][0] for index in range(NUM_REAL)])
    yield "things", [(Problem(demo_network("healthy", folder), real), MEAN, STD)]
    for task in TASKS:
        samples = task.load()
        channels = samples.images.shape[1]
        # Their statistics are those of the data, near to these; only the drawing depends on them.
        mean, std = (0.45,) * channels, (0.25,) * channels
        trained = [list(networks(task, samples, seed))[-1] for seed in SEEDS[:num_seeds]]
        yield task.name, [(Problem(network.eval(), samples.real), mean, std) for network in trained]


def main(arguments: list[str] | None = None) -> None:
    """Prints a line for each network and preset, and saves what was made of the demo's."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=Path, required=True, help="the folder that keeps them")
    parser.add_argument("--presets", nargs="+", default=[*PRESETS])
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="networks of each small task")
    parser.add_argument("--picture", type=Path, help="of what was made of the demo's network")
    from things_data import THINGS

    options = parser.parse_args(arguments)
    rows = list[TileRow]()
    print(f"{'':<12} {'preset':<22}" + "".join(f"{field:>12}" for field in Outcome._fields))
    for name, group in problems(options.networks, options.seeds):
        for preset in options.presets:
            found = []
            for problem, mean, std in group:
                measured, z = outcome(problem, preset, mean, std)
                found.append(measured)
            means = np.mean(found, axis=0)
            print(
                f"{name:<12} {preset:<22}" + "".join(f"{value:12.2f}" for value in means),
                flush=True,
            )
            if name == "things":
                base = (problem.frame.centre.flatten().numpy() * std + mean).clip(0, 1)
                pictures = deviation_pictures((z * problem.frame.scale).numpy(), base, std)
                rows.append(TileRow(tiles=[Tile(picture=one) for one in pictures], name=preset))
        if name == "things" and options.picture is not None:
            Image.fromarray(tile_table(rows, columns=[*THINGS])).save(options.picture)


if __name__ == "__main__":
    with one_thread():
        main()
