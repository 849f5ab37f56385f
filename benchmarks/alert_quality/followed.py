"""Whether following an alert's remedy makes a training of the zoo better.

Nearly all remedies there say to change the learning rate tenfold, and the zoo has each
configuration at such rates: so the training that follows the remedy is on record.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from benchmarks.alert_quality.configurations import CONFIGURATIONS, FACTORS
from benchmarks.alert_quality.outcomes import Outcome, Said
from benchmarks.alert_quality.table import Share

_MOST_OFTEN = 4  # a remedy that says "again" is followed, as in `benchmarks.remedies`


@dataclass(frozen=True)
class Followed:
    """One alert whose remedy was followed.

    Attributes:
        before, after: Scores on data that was kept apart.
        margin: By which a score must be higher, to be better.
    """

    kind: str
    before: float
    after: float
    margin: float

    @property
    def is_better(self) -> bool:
        """Whether the training was better by the task's margin (3 points)."""
        return self.after >= self.before + self.margin


def followed(trainings: Sequence[Outcome]) -> tuple[list[Followed], int]:
    """Returns what came of the first alert of each kind of each training.

    Where the text gives a choice, its first change of the rate is what was done. The score is that
    of the same seed, else the mean over those at that rate.

    Returns:
        The alerts that were followed, and how many could not be: their rate is not on the ladder,
        or the remedy names another change.
    """
    at = defaultdict(list)
    for one in trainings:
        at[one.configuration, one.row["rung"]].append(one)
    done, num_others = list[Followed](), 0
    for one in trainings:
        for said in {said.kind: said for said in reversed(one.said)}.values():
            after = _score_after(one, said, at)
            if math.isnan(after):
                num_others += 1
            else:
                margin = CONFIGURATIONS[one.configuration].task.margin
                done.append(Followed(said.kind, one.score, after, margin))
    return done, num_others


def _score_after(
    one: Outcome, said: Said, at: Mapping[tuple[str, int], Sequence[Outcome]]
) -> float:
    """Returns the score where the remedy leads to; NaN: it leads to no training on record."""
    score, rung, change = math.nan, one.row["rung"], _change(said.remedy)
    for _ in range(_MOST_OFTEN if "again" in said.remedy else 1):
        rung = _rung_of(FACTORS[rung] * change)
        if rung is None:
            break
        alike = at[one.configuration, rung]
        same = [other for other in alike if other.seed == one.seed]
        score = fmean(other.score for other in same or alike)
        if not any(other.kind == said.kind for there in same for other in there.said):
            break
    return score


def lines(done: Iterable[Followed]) -> list[str]:
    """Returns the rows of a table in Markdown, a kind each, and one of all."""
    by_kind = defaultdict(list)
    for one in done:
        by_kind[one.kind].append(one)
    everything = [one for kind in by_kind.values() for one in kind]
    rows = [(f"`{kind}`", by_kind[kind]) for kind in sorted(by_kind)] + [("all", everything)]
    return [
        f"| {name} | {Share(sum(one.is_better for one in of_it), len(of_it))} |"
        f" {median(one.before for one in of_it):.2f}, {median(one.after for one in of_it):.2f} |"
        for name, of_it in rows
    ]


def _change(remedy: str) -> float:
    """Returns the factor that the text's first change of the rate has; NaN: it names none."""
    places = {
        remedy.find(words): factor
        for words, factor in (("a tenth of", 0.1), ("tenfold", 0.1), ("ten times the", 10.0))
        if words in remedy
    }
    return places[min(places)] if places else math.nan


def _rung_of(factor: float) -> int | None:
    near = (rung for rung, known in enumerate(FACTORS) if math.isclose(known, factor, rel_tol=0.1))
    return next(near, None)
