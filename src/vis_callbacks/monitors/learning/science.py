"""What outputs, targets and losses of a batch are reduced to: tensors in, tensors out.

Everything is summed in float64, so that sums of squares tell spreads of a millionth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vis_callbacks.engine.loss_calls import LossCall, LossInputs
from vis_callbacks.engine.plain_tensors import is_plain, plain
from vis_callbacks.engine.probe import Batch
from vis_callbacks.engine.ranks import Merge
from vis_callbacks.engine.scores import find_scores

_MAX_VALUES = 2**17  # of a batch's outputs; of more, evenly spread rows are read
_MAX_COLUMNS = 1024  # of its inputs
_KEPT_VALUES = 256  # of its targets, of which a median is told
_ROUNDING = 1e-12  # of a mean square: the variance of targets that are all the same
_MIN_SAME = 8  # rows of one class that are no chance
_OF_LABELS = ("label_counts", "predicted_counts", "hits")
_OF_DIFFERENCES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
_EPSILON = 1e-7  # as Keras has it: programs that were translated from it clip so

# What is summed over the rows of a batch, and how it merges over batches and ranks.
OUTPUT_SUMS: Mapping[str, Merge] = {
    "rows": "sum",
    "low": "min",
    "high": "max",
    "sum": "sum",
    "squares": "sum",
    "zeros": "sum",
    "row_sum_error": "max",
    "shapes_differ": "max",
    "label_counts": "sum",
    "predicted_counts": "sum",
    "hits": "sum",
    "target_low": "min",
    "target_high": "max",
    "target_sum": "sum",
    "target_squares": "sum",
    "target_values": "concat",
    "by_formula": "sum",
    "input_rows": "sum",
    "input_sum": "sum",
    "input_squares": "sum",
}


@dataclass(frozen=True, eq=False)
class Pair:
    """Outputs (rows, outputs) beside what they are to be: classes (rows,), or values likewise.

    ``kind`` is the name of torch's loss, "" where another one made the loss of them.
    """

    kind: str
    outputs: Tensor
    classes: Tensor | None = None
    values: Tensor | None = None
    shapes_differ: bool = False


def measure(inputs: LossInputs, batch: Batch) -> dict[str, dict[str, Tensor]]:
    """Returns, by the kind of the loss, the sums of one batch; nothing where that is not clear."""
    pair = pair_of(inputs, batch)
    if pair is None:
        return {}
    sums = _of_outputs(pair)
    if pair.classes is not None:
        sums |= _of_classes(pair.classes, pair.outputs)
    if pair.values is not None:
        sums |= _of_values(pair.values)
        if pair.outputs.shape[1] == pair.values.shape[1] == 1:
            sums |= _of_two_classes(pair.values, pair.outputs)
    if inputs.calls and "label_counts" in sums:
        are_labels = ~_are_own_targets(inputs.calls[0], batch)
        sums |= {name: sums[name] * are_labels for name in _OF_LABELS}
    by_formula = _by_formula(pair)
    sums["by_formula"] = torch.stack(by_formula) * len(pair.outputs)
    return {pair.kind: sums | _of_inputs(batch.inputs, pair.outputs.device)}


def pair_of(inputs: LossInputs, batch: Batch) -> Pair | None:
    """Returns what the loss is computed from, None where several losses, or no outputs, are met."""
    if len(inputs.calls) > 1:
        return None
    if inputs.calls:
        call = inputs.calls[0]
        readable = is_plain(call.outputs) and is_plain(call.targets) and call.outputs.dim() > 0
        return _thinned(_of_call(call)) if readable and call.outputs.numel() else None
    for returned in reversed(inputs.returned):
        with suppress(TypeError):  # a loss or a metric has no row for each sample
            outputs = find_scores(returned, batch.num_samples)
            is_read = is_plain(outputs) and outputs.numel() > 0
            return _thinned(_of_batch(plain(outputs), batch)) if is_read else None
    return None


def _are_own_targets(call: LossCall, batch: Batch) -> Tensor:
    """Whether a loss compares with what the step has made, which is no label of a sample.

    Such are the rewards of an agent, and class 0 for all where the first score is to be the highest
    one, as in contrastive learning with a queue. Where a step makes classes of labels, as the
    question whether it is class 3, they differ from row to row.
    """
    targets, labels = plain(call.targets).reshape(-1), batch.labels
    if labels is not None and is_plain(labels) and labels.numel() == targets.numel():
        differ = (plain(labels).to(targets.device).reshape(-1) != targets).any()
    else:
        differ = torch.ones((), dtype=torch.bool, device=targets.device)
    if call.kind in _OF_DIFFERENCES:
        return differ
    is_enough = len(targets) >= _MIN_SAME and call.outputs.dim() <= 2
    return differ & (targets == targets[:1]).all() & is_enough


def _of_call(call: LossCall) -> Pair:
    outputs, targets = plain(call.outputs), plain(call.targets)
    if call.kind == "ctc_loss":
        return Pair(call.kind, outputs.reshape(-1, outputs.shape[-1]))
    if call.kind in ("cross_entropy", "nll_loss"):
        rows = _rows(outputs)
        if targets.is_floating_point():
            return Pair(call.kind, rows, values=_rows(targets))
        classes = targets.reshape(-1).long()  # padding, say, is no class
        return Pair(call.kind, rows, classes=classes.masked_fill(classes == call.ignored, -1))
    differ = outputs.shape != targets.shape
    is_alike = outputs.numel() == targets.numel()
    values = targets.reshape(len(outputs), -1) if is_alike else None
    return Pair(call.kind, outputs.reshape(len(outputs), -1), values=values, shapes_differ=differ)


def _of_batch(outputs: Tensor, batch: Batch) -> Pair:
    """Lays the model's outputs beside the labels, or beside the inputs where these are as large."""
    labels, shape = batch.labels, outputs.shape
    if labels is not None and labels.numel() == outputs.numel():
        values = labels.reshape(shape[0], -1)
        return Pair("", outputs.reshape(shape[0], -1), values=values)
    is_whole = labels is not None and not labels.is_floating_point()
    if labels is not None and is_whole and labels.shape == (shape[0], *shape[2:]):
        return Pair("", _rows(outputs), classes=labels.reshape(-1))
    inputs = batch.inputs
    if labels is None and inputs is not None and inputs.shape == shape:
        return Pair("", outputs.reshape(shape[0], -1), values=inputs.reshape(shape[0], -1))
    return Pair("", outputs.reshape(shape[0], -1) if outputs.dim() == 2 else _rows(outputs))


def _rows(outputs: Tensor) -> Tensor:
    """Returns (samples, outputs, ...) as (rows, outputs)."""
    return outputs[None] if outputs.dim() == 1 else outputs.movedim(1, -1).flatten(0, -2)


def _thinned(pair: Pair) -> Pair:
    stride = max(1, -(-pair.outputs.numel() // _MAX_VALUES))
    columns = max(1, -(-pair.outputs.shape[1] // _MAX_VALUES))  # one picture may be larger
    if pair.classes is not None:
        columns = 1
    values, classes = pair.values, pair.classes
    return Pair(
        pair.kind,
        pair.outputs[::stride, ::columns].double(),
        None if classes is None else classes[::stride],
        None if values is None else values[::stride, ::columns].double(),
        pair.shapes_differ,
    )


def _of_outputs(pair: Pair) -> dict[str, Tensor]:
    outputs = pair.outputs
    return {
        "rows": _number(len(outputs), outputs),
        "low": outputs.amin(0),
        "high": outputs.amax(0),
        "sum": outputs.sum(0),
        "squares": outputs.square().sum(0),
        "zeros": (outputs == 0).sum().double(),
        "row_sum_error": (outputs.sum(1) - 1).abs().amax(),
        "shapes_differ": _number(pair.shapes_differ, outputs),
    }


def _of_classes(classes: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    num_classes, predicted = outputs.shape[1], outputs.argmax(1)
    known = (classes >= 0) & (classes < num_classes)  # others are left out of a loss
    zeros, places = outputs.new_zeros(num_classes), classes.long().clamp(0, num_classes - 1)
    return {
        "label_counts": zeros.scatter_add(0, places, known.double()),
        "predicted_counts": zeros.scatter_add(0, predicted, known.double()),
        "hits": ((predicted == classes) & known).sum().double(),
    }


def _of_two_classes(values: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    """Returns the same of one output for two classes; it counts no row unless all are 0 or 1."""
    is_known = ((values == 0) | (values == 1)).all()
    are_probabilities = ((outputs >= 0) & (outputs <= 1)).all()
    predicted = outputs[:, 0] > torch.where(are_probabilities, 0.5, 0.0)
    is_one = values[:, 0] == 1
    return {
        "label_counts": torch.stack([(~is_one).sum(), is_one.sum()]).double() * is_known,
        "predicted_counts": torch.stack([(~predicted).sum(), predicted.sum()]).double() * is_known,
        "hits": (predicted == is_one).sum().double() * is_known,
    }


def _of_values(values: Tensor) -> dict[str, Tensor]:
    stride = max(1, -(-values.numel() // _KEPT_VALUES))
    return {
        "target_low": values.amin(),
        "target_high": values.amax(),
        "target_sum": values.sum(0),
        "target_squares": values.square().sum(0),
        "target_values": values[::stride] if values.shape[1] == 1 else values[:0, :1],
    }


def _of_inputs(inputs: Tensor | None, device: torch.device) -> dict[str, Tensor]:
    """Returns the sums of each input's columns; of inputs that are looked up none."""
    rows = torch.zeros(0, 1, device=device)
    if inputs is not None and is_plain(inputs) and inputs.is_floating_point() and inputs.dim() > 1:
        rows = plain(inputs).flatten(1).to(device)
        rows = rows[:, :: max(1, -(-rows.shape[1] // _MAX_COLUMNS))]
    rows = rows.double()
    return {
        "input_rows": _number(len(rows), rows),
        "input_sum": rows.sum(0),
        "input_squares": rows.square().sum(0),
    }


# -- which formula makes the loss of outputs and targets


def _clipped(probabilities: Tensor) -> Tensor:
    return probabilities.clamp(_EPSILON, 1 - _EPSILON)


def _cross_entropy(outputs: Tensor, hot: Tensor) -> Tensor:
    return -(hot * outputs.log_softmax(1)).sum(1).mean()


def _log_likelihood(outputs: Tensor, hot: Tensor) -> Tensor:
    return -(hot * outputs).sum(1).mean()


def _of_probabilities(outputs: Tensor, hot: Tensor) -> Tensor:
    shares = outputs / outputs.sum(1, keepdim=True)
    return -(hot * _clipped(shares).log()).sum(1).mean()


def _binary(outputs: Tensor, hot: Tensor) -> Tensor:
    clipped = _clipped(outputs)
    return -(hot * clipped.log() + (1 - hot) * (1 - clipped).log()).mean()


def _all_pairs(outputs: Tensor, values: Tensor) -> Tensor:
    """Returns what the squared differences become when (N, 1) is broadcast against (N,)."""
    of_means = (outputs.mean() - values.mean()).square()
    return outputs.var(correction=0) + values.var(correction=0) + of_means


Formula = Callable[[Tensor, Tensor], Tensor]

FORMULAS: Mapping[str, Formula] = {
    "cross_entropy": _cross_entropy,
    "nll_loss": _log_likelihood,
    "cross_entropy_of_probabilities": _of_probabilities,
    "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
    "binary_cross_entropy": _binary,
    "mse_loss": F.mse_loss,
    "l1_loss": F.l1_loss,
    "smooth_l1_loss": F.smooth_l1_loss,
    "mse_of_all_pairs": _all_pairs,
}
_OF_ROWS = ("cross_entropy", "nll_loss", "cross_entropy_of_probabilities")


def _by_formula(pair: Pair) -> list[Tensor]:
    """Returns what each of `FORMULAS` makes of a batch, NaN where it does not apply."""
    outputs, targets = pair.outputs, pair.values
    nothing = torch.full((), math.nan, dtype=torch.float64, device=outputs.device)
    rows_for_one: Tensor | float = 1.0  # of those that count: torch takes the mean over these
    if pair.classes is not None:
        places = pair.classes.long()
        known = (places >= 0) & (places < outputs.shape[1])
        hot = F.one_hot(places.clamp(0, outputs.shape[1] - 1), outputs.shape[1]).double()
        targets, rows_for_one = hot * known[:, None], 1 / known.double().mean()
    if targets is None or targets.shape != outputs.shape:
        return [nothing] * len(FORMULAS)
    kind = "smooth_l1_loss" if pair.kind == "huber_loss" else pair.kind
    values = []
    for name, formula in FORMULAS.items():
        applies = name == kind or (not kind and (name not in _OF_ROWS or outputs.shape[1] > 1))
        if kind == "mse_loss" and name == "mse_of_all_pairs":
            applies = pair.shapes_differ
        if name == "mse_of_all_pairs":
            applies = applies and outputs.shape[1] == 1 and len(outputs) > 1
        scale = rows_for_one if name in _OF_ROWS else 1.0
        values.append(formula(outputs, targets) * scale if applies else nothing)
    return values


def constant_losses(totals: Mapping[str, Tensor]) -> list[Tensor]:
    """Returns, for each of `FORMULAS`, the loss of the best output that knows no input.

    Args:
        totals: Of the targets that the run has shown so far: as `measure` has them.
    """
    some = next(iter(totals.values()))
    nothing = torch.full((), math.nan, dtype=torch.float64, device=some.device)
    losses = dict.fromkeys(FORMULAS, nothing)
    if "target_sum" in totals:
        shares, squares = (
            totals[name] / totals["rows"] for name in ("target_sum", "target_squares")
        )
        variances = squares - shares.square()
        variances = variances * (variances > _ROUNDING * squares)
        values = totals["target_values"]
        distances = nothing
        if values.numel():
            away = values - values.quantile(0.5) if len(values) < 2**20 else values
            distances = away.abs().mean()
            losses["smooth_l1_loss"] = F.smooth_l1_loss(away, torch.zeros_like(away))
    elif "label_counts" in totals:
        shares = totals["label_counts"] / totals["label_counts"].sum()
        variances, distances = shares * (1 - shares), torch.minimum(shares, 1 - shares)
    else:
        return list(losses.values())
    rows = torch.special.entr(shares).sum()  # a class that never comes adds nothing
    both = (torch.special.entr(shares) + torch.special.entr(1 - shares)).mean()
    losses |= dict.fromkeys(_OF_ROWS, rows)
    losses |= {"binary_cross_entropy": both, "binary_cross_entropy_with_logits": both}
    losses |= {"mse_loss": variances.mean(), "mse_of_all_pairs": variances.mean()}
    losses["l1_loss"] = distances.mean()
    return [losses[name].clamp_min(0) for name in FORMULAS]


def spreads(total: Tensor, squares: Tensor, rows: Tensor) -> Tensor:
    """Returns the standard deviation of each column, from its sums."""
    mean = total / rows
    return (squares / rows - mean.square()).clamp_min(0).sqrt()


def _number(value: float, like: Tensor) -> Tensor:
    return torch.full((), float(value), dtype=torch.float64, device=like.device)
