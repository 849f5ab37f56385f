"""What is true of a training, by how it ended, and what was said of it while it ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from benchmarks.alert_quality.configurations import CONFIGURATIONS, FACTORS
from benchmarks.alert_quality.published import RULES
from benchmarks.alert_quality.zoo import (
    TOO_HIGH,
    TOO_LOW,
    USUAL_FROM,
    USUAL_TO,
    Row,
    best_rung,
)

LEAST_SCORE = 0.05  # at the best rate; below it nothing is learned, and no rate is too high


@dataclass(frozen=True)
class Said:
    """An alert, or the verdict of a published rule."""

    kind: str
    severity: str
    share: float  # of the training that was over by then
    remedy: str = ""


@dataclass(frozen=True)
class Outcome:
    """One training, its truth and what was said of it.

    Attributes:
        of_best: Its rate / the best one of its configuration.
        is_sick: Its score is lower than the mean at the best rate by the task's margin (3 points),
            and so is the mean over the seeds at its own rate: an unlucky seed is not sick.
    """

    configuration: str
    seed: int
    of_best: float
    score: float
    best_score: float
    is_sick: bool
    said: tuple[Said, ...]
    published: tuple[Said, ...]
    row: Row

    @property
    def part(self) -> str:
        """Whether thresholds may be taken from it: "tune", or "test"."""
        return CONFIGURATIONS[self.configuration].part

    @property
    def is_usual(self) -> bool:
        """Whether its rate is the best one, or a third of it."""
        return USUAL_FROM < self.of_best < USUAL_TO

    @property
    def is_too_high(self) -> bool:
        """Whether it is sick at ten times the best rate or more."""
        return self.is_sick and self.of_best > TOO_HIGH

    @property
    def is_too_low(self) -> bool:
        """Whether it is sick at a tenth of the best rate or less."""
        return self.is_sick and self.of_best < TOO_LOW


def outcomes(
    rows: Iterable[Row],
    said_of: Callable[[Row], tuple[Sequence[Said], Sequence[Said]]],
) -> list[Outcome]:
    """Returns the trainings of configurations that learn, and whose ladder is complete.

    Args:
        rows: Results of trainings.
        said_of: Result -> what our rules say, and what the published ones do.
    """
    by_configuration = defaultdict(list)
    for row in rows:
        by_configuration[row["configuration"]].append(row)
    found = []
    for name, of_it in by_configuration.items():
        if len({row["rung"] for row in of_it}) < len(FACTORS):
            continue
        margin, best = CONFIGURATIONS[name].task.margin, best_rung(of_it)
        means = {
            rung: fmean(row["score"] for row in of_it if row["rung"] == rung)
            for rung in range(len(FACTORS))
        }
        if means[best] < LEAST_SCORE:
            continue
        for row in of_it:
            highest = max(row["score"], means[row["rung"]])
            ours, theirs = said_of(row)
            found.append(
                Outcome(
                    configuration=name,
                    seed=row["seed"],
                    of_best=FACTORS[row["rung"]] / FACTORS[best],
                    score=row["score"],
                    best_score=means[best],
                    is_sick=highest < means[best] - margin,
                    said=tuple(ours),
                    published=tuple(theirs),
                    row=row,
                )
            )
    return found


def published_said(row: Mapping[str, Any]) -> list[Said]:
    """Returns what the published rules say of a training."""
    steps = {name: rule(row["looks"]) for name, rule in RULES.items()}
    return [
        Said(name, "alarm", step / row["steps"]) for name, step in steps.items() if step is not None
    ]
