"""What the rules ask about the whole run (loss, inputs, learning rate), and words for numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.metric_names import (
    COLUMN_MEAN,
    COLUMN_STD,
    CONSTANT_INPUTS,
    COUNTS_ROWS,
    FIRST_OCCURRENCES,
    INPUT_MEAN,
    INPUT_STD,
    LEARNING_RATE,
    LOSS,
    NUM_WEIGHTS,
    PLANNED_STEPS,
    TARGET_SPREAD,
    WEIGHT_NORM,
)

FIRST_JUDGED_STEP = 150
FIRST_JUDGED_SHARE = 0.15  # of the planned steps

# A rate three times that of the snapshot before is a jump: a linear warm-up grows by less from
# its third snapshot on, and no usual schedule does it later.
_JUMP = 3.0
_WARM_UP_SNAPSHOTS = 3

MAX_CONSTANT_SHARE = 0.5  # of the inputs: above it they are blank, and units are not judged
_RAW_INPUT = 10.0  # normalised inputs have mean 0 and standard deviation 1; 0-255 has 90 and 80


def has_broken_down(history: History) -> bool:
    """Whether there ever was a NaN or an infinity: no other verdict means anything after it."""
    return any(history.first_occurrence(metric) is not None for metric in FIRST_OCCURRENCES)


def constant_share(history: History) -> float:
    """Returns the share of constant inputs in the latest snapshot, 0 where it is not known."""
    share = history.latest(CONSTANT_INPUTS)
    return 0.0 if math.isnan(share) else share


def loss_level(history: History) -> float:
    """Returns the smoothed loss / the first loss; NaN where there is none or it is not positive."""
    first = history.first(LOSS)
    return history.smoothed(LOSS) / first if first > 0 else math.nan


def weight_growth(history: History, layer: str) -> float:
    """Returns the norm of a layer's weights / at the first snapshot; NaN where none are left.

    Weights that were pruned, or have left with their units, count at neither time, as if any of
    the first ones had been taken away.
    """
    first = history.first(WEIGHT_NORM, layer)
    num_first, num_left = history.first(NUM_WEIGHTS, layer), history.latest(NUM_WEIGHTS, layer)
    if not first > 0 or num_left == 0:
        return math.nan
    share_left = num_left / num_first if num_left < num_first else 1.0
    return history.latest(WEIGHT_NORM, layer) / (first * math.sqrt(share_left))


def counted(history: History, layer: str) -> str:
    """Returns what the sample sizes of a layer count, in a word: "samples", or "rows"."""
    return "rows" if history.latest(COUNTS_ROWS, layer) > 0 else "samples"


def input_scale(history: History) -> str:
    """Returns "mean 90, standard deviation 80" if the inputs look raw, else ""."""
    return _if_raw(history.latest(INPUT_MEAN), history.latest(INPUT_STD))


def raw_columns(history: History) -> str:
    """Returns the same of the largest mean and deviation of any column of the inputs."""
    return _if_raw(history.latest(COLUMN_MEAN), history.latest(COLUMN_STD))


def to_normalise(history: History) -> str:
    """Returns what is out of scale, in words: ``"the inputs (mean 90, standard deviation 80)"``.

    Targets count too: a regression of prices was mended by normalising these, not the inputs.
    """
    scale, spread = raw_columns(history), history.latest(TARGET_SPREAD)
    raw = [f"the inputs ({scale})"] if scale else []
    raw += [f"the targets (standard deviation {spread:.3g})"] if spread > _RAW_INPUT else []
    return " and ".join(raw)


# A deep chain of ReLUs was mended by it, not by BatchNorm and hardly by a lower rate.
KAIMING = (
    "Use ReLU or GELU in place of sigmoid, tanh or softmax in hidden layers, and initialise their"
    ' weights with Kaiming\'s method (nn.init.kaiming_normal_(weight, nonlinearity="relu")).'
)


def sentence(words: str) -> str:
    """Returns the words with a capital at their beginning."""
    return words[:1].upper() + words[1:]


def normalise(what: str) -> str:
    """Returns how to normalise what `to_normalise` names, as one sentence."""
    return (
        f"Normalise {what}: subtract the mean of each column and divide by its standard deviation."
    )


def _if_raw(mean: float, std: float) -> str:
    is_raw = abs(mean) > _RAW_INPUT or std > _RAW_INPUT
    return f"mean {mean:.3g}, standard deviation {std:.3g}" if is_raw else ""


def judged_from(history: History) -> float:
    """Returns the step from which on slow learning is told from none."""
    planned = history.latest(PLANNED_STEPS)
    share_of_run = 0.0 if math.isnan(planned) else FIRST_JUDGED_SHARE * planned
    return max(FIRST_JUDGED_STEP, share_of_run)


@dataclass(frozen=True)
class Rate:
    """The learning rate up to now; NaN where the history does not know it.

    Attributes:
        latest: At the latest snapshot.
        highest: At any snapshot that the history still has.
        jump: Step, rate before and rate after the steepest rise that no warm-up explains.
    """

    latest: float
    highest: float
    jump: tuple[int, float, float] | None = None

    @property
    def is_falling(self) -> bool:
        """Whether a schedule has lowered it already."""
        return self.latest < 0.999 * self.highest

    @property
    def tenth(self) -> str:
        """A tenth of the highest rate in words: ``"0.01 instead of 0.1"``; "" if not known."""
        if math.isnan(self.highest):
            return ""
        return f"{self.highest / 10:.3g} instead of {self.highest:.3g}"

    @property
    def tenfold(self) -> str:
        """Ten times the highest rate, likewise."""
        if math.isnan(self.highest):
            return ""
        return f"{10 * self.highest:.3g} instead of {self.highest:.3g}"


def learning_rate(history: History) -> Rate:
    """Returns what the history tells of the learning rate."""
    series = zip(history.steps, history.series(LEARNING_RATE), strict=True)
    known = [(step, rate) for step, rate in series if not math.isnan(rate)]
    if not known:
        return Rate(math.nan, math.nan)
    pairs = zip(known[_WARM_UP_SNAPSHOTS - 1 :], known[_WARM_UP_SNAPSHOTS:], strict=False)
    jumps = [
        (after / before, (step, before, after))
        for (_, before), (step, after) in pairs
        if before > 0 and after >= _JUMP * before
    ]
    highest = max(rate for _, rate in known)
    return Rate(known[-1][1], highest, max(jumps)[1] if jumps else None)


def whole(value: float) -> int | None:
    """Returns a number that counts something, None where it is not known."""
    return int(value) if math.isfinite(value) else None


def share(value: float) -> str:
    """Returns a share in words: ``"37 %"``; ``"0.4 %"`` and ``"99.75 %"`` are not 0 and 100."""
    digits = ".2g" if 0 < value < 0.01 else ".4g" if 0.99 < value < 1 else ".0f"
    return f"{100 * value:{digits}} %"


def quoted(layers: tuple[str, ...]) -> str:
    """Returns the names of some layers in words: ``"'a', 'b', 'c' and 2 more"``."""
    names = ", ".join(map(repr, layers[:3]))
    return f"{names} and {len(layers) - 3} more" if len(layers) > 3 else names
