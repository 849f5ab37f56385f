"""t-SNE by scikit-learn: Barnes-Hut, for more points than all pairs can be afforded of."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor

_MIN_ITERATIONS = 250  # scikit-learn's least


def barnes_hut_tsne(
    features: Tensor, start: Tensor, *, perplexity: float = 30.0, is_warm: bool = False
) -> Tensor:
    """Returns a map (points, 2) by scikit-learn, on the host; the same at each call.

    With a start of its own (``init="pca"``) it ends the whole process on constant features, so
    look at the cloud first (`CloudShape.obstacle`), and give it a start.

    Args:
        features: (points, dimensions), finite and not all equal.
        start: (points, 2), as for `vis_callbacks.analysis.tsne.tsne`.
        perplexity: Less than the number of points.
        is_warm: ``start`` is the last map: no early exaggeration, and no more iterations than
            scikit-learn insists on.
    """
    from sklearn.manifold import TSNE  # half a second that only this backend needs

    options: dict[str, float] = {}
    if is_warm:
        # Its name before scikit-learn 1.5: this can go when that is the least version.
        is_new = "max_iter" in inspect.signature(TSNE).parameters
        options = {
            "early_exaggeration": 1.0,
            "max_iter" if is_new else "n_iter": _MIN_ITERATIONS,
        }
    solver = TSNE(
        perplexity=perplexity,
        init=start.detach().cpu().numpy().astype("float32"),
        random_state=0,
        **options,
    )
    points = solver.fit_transform(features.detach().float().cpu().numpy())
    return torch.from_numpy(points).to(start.device)
