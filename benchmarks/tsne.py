"""Our t-SNE beside scikit-learn's and openTSNE's: seconds and quality, from features to map.

python -m benchmarks.tsne      this part alone, about seven minutes
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import openTSNE
import torch
from numpy.typing import NDArray
from skimage.data import lfw_subset
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.manifold import TSNE, trustworthiness
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from benchmarks.ratio import Ratio, paired_ratio
from vis_callbacks.monitors.embedding.science import principal_components, squared_distances
from vis_callbacks.monitors.embedding.tsne import as_start, laid_out_by_tsne

Points = NDArray[np.float32]
Solver = Callable[[Points, Points | None], Points]  # features, the last map or None

PERPLEXITY = 30.0
# How many times as fast at 500 points: from scratch, and from the last map. A busy machine
# slows dense passes more than trees, so what lies near a limit has none.
AT_LEAST = {"scikit-learn": (3.0, 5.0), "openTSNE": (2.5, None)}
NUM_POINTS = (500, 1_000, 2_000, 5_000)
NUM_ROUNDS = {500: 5, 5_000: 1}  # 2 otherwise
# What two good solvers differ by on one set: noise of where each ends.
SLACK_OF_TRUST = 0.005
SLACK_OF_RECALL = 0.02


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    what: str
    value: str
    limit: str = "-"
    is_kept: bool | None = None


def ours(features: Points, last: Points | None) -> Points:
    """Returns a map as the monitor makes it: exact, or by Barnes-Hut of as many iterations."""
    given = torch.from_numpy(features)
    start = as_start(principal_components(given)) if last is None else torch.from_numpy(last)
    is_warm = last is not None
    points = laid_out_by_tsne(
        given, squared_distances(given), start, perplexity=PERPLEXITY, is_warm=is_warm
    )
    return points.numpy().astype(np.float32)


def of_scikit_learn(features: Points, last: Points | None) -> Points:
    """Returns a map by Barnes-Hut; from a last map with the fewest iterations that it takes."""
    warm = {} if last is None else {"init": last, "early_exaggeration": 1.0, "max_iter": 250}
    return TSNE(perplexity=PERPLEXITY, random_state=0, **warm).fit_transform(features)


def of_open_tsne(features: Points, last: Points | None) -> Points:
    """Returns a map by openTSNE's choice; from a last map with as many iterations as ours."""
    warm = (
        {}
        if last is None
        else {"initialization": last.astype(float), "early_exaggeration_iter": 0, "n_iter": 100}
    )
    solver = openTSNE.TSNE(perplexity=PERPLEXITY, n_jobs=1, random_state=0, **warm)
    return np.asarray(solver.fit(features), dtype=np.float32)


PEERS: Mapping[str, Solver] = {"scikit-learn": of_scikit_learn, "openTSNE": of_open_tsne}


def data_sets() -> dict[str, Points]:
    """Returns features of digits, of faces and of cells."""
    cells = load_breast_cancer().data[:500]
    return {
        "digits[:400]": load_digits().data[:400].astype(np.float32),
        "faces": lfw_subset().reshape(200, -1).astype(np.float32),
        "cells[:500]": ((cells - cells.mean(0)) / cells.std(0)).astype(np.float32),
    }


def some_digits(num_points: int) -> Points:
    """Returns digits; more than there are by adding a little noise to the first ones again."""
    features = load_digits().data
    num_copies = -(-num_points // len(features))
    noise = np.random.default_rng(0).normal(size=(num_copies - 1, *features.shape))
    return np.concatenate([features, *(features + noise)])[:num_points].astype(np.float32)


def lines() -> Iterator[Line]:
    """Yields the table, line by line as it is measured."""
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        for num_points in NUM_POINTS:
            yield from speed_lines(num_points, NUM_ROUNDS.get(num_points, 2))
        yield Line("quality", "ours, scikit-learn, openTSNE")
        for name, features in data_sets().items():
            yield from quality_lines(name, features)


def speed_lines(num_points: int, num_pairs: int) -> Iterator[Line]:
    """Yields seconds of all three, cold and warm; the solvers take turns."""
    features = some_digits(num_points)
    last = ours(features, None)
    moved = features + np.random.default_rng(1).normal(size=features.shape).astype(np.float32)
    for is_warm, word in enumerate(("cold", "warm")):
        given = (moved, last) if is_warm else (features, None)
        seconds: dict[str, list[float]] = {}
        for _ in range(num_pairs):
            for name, solve in {"ours": ours, **PEERS}.items():
                began = perf_counter()
                solve(*given)
                seconds.setdefault(name, []).append(perf_counter() - began)
        mine = seconds.pop("ours")
        shown = f"{np.median(mine):.3f} s"
        yield Line(f"t-SNE of {num_points:,}, {word}", shown)
        for name, theirs in seconds.items():
            ratio = paired_ratio(theirs, mine)
            least = AT_LEAST[name][is_warm] if num_points == NUM_POINTS[0] else None
            yield _ratio_line(f"  {name} / ours, {word}", ratio, least)


def quality_lines(name: str, features: Points) -> Iterator[Line]:
    """Yields trustworthiness and recall of all three; ours may not be below both others."""
    found = {
        label: _quality(features, solve(features, None))
        for label, solve in {"ours": ours, **PEERS}.items()
    }
    measures = (("trustworthiness", SLACK_OF_TRUST), ("10-NN recall", SLACK_OF_RECALL))
    for place, (measure, slack) in enumerate(measures):
        values = {label: numbers[place] for label, numbers in found.items()}
        least = min(values[peer] for peer in PEERS) - slack
        shown = " ".join(f"{value:.4f}" for value in values.values())
        kept = values["ours"] >= least
        yield Line(f"  {measure}, {name}", shown, f">= {least:.3f}", kept)


def _quality(features: Points, points: Points) -> tuple[float, float]:
    """Returns trustworthiness, and the share of 10 neighbours that are so on the map as well."""
    nearest, on_map = (
        NearestNeighbors(n_neighbors=10).fit(x).kneighbors_graph() for x in (features, points)
    )
    return trustworthiness(features, points), nearest.multiply(on_map).sum() / nearest.nnz


def _ratio_line(what: str, ratio: Ratio, least: float | None) -> Line:
    if least is None:
        return Line(what, str(ratio))
    return Line(what, str(ratio), f">= {least:g} x", ratio.median >= least)


def main() -> int:
    """Prints the table; returns 1 where a limit is missed."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    all_kept = True
    try:
        for line in lines():
            verdict = {True: "kept", False: "MISSED", None: ""}[line.is_kept]
            print(f"{line.what:<44} {line.value:<28} {line.limit:<10} {verdict}", flush=True)
            all_kept = all_kept and line.is_kept is not False
    finally:
        torch.set_num_threads(num_threads)
    return 0 if all_kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
