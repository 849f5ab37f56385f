"""Linear probes: how well one linear layer could tell the classes from a layer's features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vis_callbacks.analysis.neighbours import precise

NUM_FOLDS = 5
# Penalties on the squared weights, for a sum over samples: 1 / C of scikit-learn.
_STRENGTHS = (10.0, 1.0, 0.1, 0.01)
_WORTHWHILE = 0.98  # a weaker penalty must bring the loss to this share of the last one
_NUM_ITERATIONS = 20  # from where the stronger penalty ended: more move no accuracy by .02
_NO_VARIANCE = 1e-9
_ROUNDING = 1e-6  # what float32 leaves of a constant feature, in units of its size


def probe_accuracy(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Returns the cross-validated accuracy of multinomial logistic regression.

    Each fifth of the samples, with as much of each class as of the others, is judged by the
    probe fitted to the other four. Of four strengths of the penalty the one with the least loss
    on samples left out counts. Features are standardised; of more features than samples only
    the directions that the samples span matter to the fit, so no others are computed with.
    The step from layer to layer tells more than the height: a wide layer helps any probe.

    A fit of squared errors to one column a class would be several times cheaper, but masks
    classes that lie between others: of three in a row on one feature it never names the middle.

    Args:
        features: (samples, dimensions).
        labels: (samples,) from 0 to ``num_classes - 1``.
        num_classes: Two or more.

    References:
        Alain and Bengio 2016, "Understanding intermediate layers using linear classifier
        probes"; Hastie, Tibshirani and Friedman 2009, "The elements of statistical learning",
        section 4.2, for the masking.
    """
    fits = _Fits(features, labels, num_classes)
    least, accuracy = None, torch.empty(0)
    for strength in _STRENGTHS:
        scores = fits.left_out(strength)
        loss = F.cross_entropy(scores, labels)
        if least is None or bool(loss < least):
            accuracy = (scores.argmax(1) == labels).double().mean()
        if least is not None and not bool(loss < _WORTHWHILE * least):
            break
        least = loss
    return accuracy


class _Fits:
    """The probes of all folds, fitted side by side, each penalty from where the last ended."""

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int) -> None:
        rows, sizes = _axes(_standardised(precise(features)))
        ones = rows.new_ones(len(rows), 1)
        self._rows = torch.cat([rows, ones], 1).float()  # (samples, directions and an intercept)
        self._sizes = torch.cat([sizes, ones.sum(0)]).float()[:, None]
        self._labels = labels
        self._targets = F.one_hot(labels, num_classes).float()
        self._fold = _folds(labels)
        folds = torch.arange(NUM_FOLDS, device=labels.device)
        self._is_fitted = (self._fold != folds[:, None]).float()[:, :, None]
        self._weights = self._rows.new_zeros(NUM_FOLDS, self._rows.shape[1], num_classes)

    def left_out(self, strength: float) -> Tensor:
        """Returns (samples, classes): of each sample the scores by the probe without it."""
        penalty = torch.full_like(self._sizes, strength)
        penalty[-1] = 0  # of the intercept
        # The loss bends by at most half of the squared size along each direction.
        scale = (self._sizes / 2 + penalty).rsqrt()
        scaled = self._weights / scale
        optimizer = torch.optim.LBFGS(
            [scaled], max_iter=_NUM_ITERATIONS, line_search_fn="strong_wolfe", tolerance_grad=1e-3
        )

        def closure() -> Tensor:
            weights = scaled * scale
            logs = (self._rows @ weights).log_softmax(2)  # (folds, samples, classes)
            error = (logs.exp() - self._targets) * self._is_fitted
            # By hand: autograd would keep a graph, and refuses what inference mode has made.
            scaled.grad = (self._rows.T @ error + penalty * weights) * scale
            loss = -(logs * self._targets * self._is_fitted).sum()
            return loss + (penalty * weights.square()).sum() / 2

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        self._weights = scaled * scale
        samples = torch.arange(len(self._labels), device=self._labels.device)
        return (self._rows @ self._weights)[self._fold, samples]


def _folds(labels: Tensor) -> Tensor:
    """Returns (samples,) in which fold each is left out: each class is dealt out over all."""
    folds = torch.empty_like(labels)
    folds[labels.argsort(stable=True)] = torch.arange(len(labels), device=labels.device)
    return folds % NUM_FOLDS


def _standardised(features: Tensor) -> Tensor:
    """Returns features of mean 0 and variance 1; those that are constant become 0."""
    centred = features - features.mean(0)
    deviation = centred.square().mean(0).sqrt()
    varies = deviation > _ROUNDING * features.abs().amax(0)
    return centred / torch.where(varies, deviation, torch.inf)


def _axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the samples along the directions that they span, and their squared sizes there.

    By the eigenvectors of the smaller of the two products: several times faster than an SVD.
    """
    num_samples, num_dimensions = centred.shape
    if num_samples <= num_dimensions:
        sizes, left = torch.linalg.eigh(centred @ centred.T)
        rows = left * sizes.clamp_min(0).sqrt()
    else:
        sizes, right = torch.linalg.eigh(centred.T @ centred)
        rows = centred @ right
    is_spanned = sizes > _NO_VARIANCE * sizes[-1]
    return rows[:, is_spanned], sizes[is_spanned]
