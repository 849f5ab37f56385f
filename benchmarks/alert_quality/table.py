"""Precision, recall, false alarms and delay of each rule, with Wilson's intervals."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.alert_quality.outcomes import Outcome, Said

ANY = "any"
HEAD = (
    *("part", "rule", "severity", "raised", "right", "precision", "false among healthy"),
    *("found of too high", "found of too low", "delay"),
)


class Share(NamedTuple):
    """So many of so many."""

    count: int
    total: int

    def interval(self, z: float = 1.959964) -> tuple[float, float]:
        """Returns Wilson's interval at 95 % (Wilson 1927)."""
        if not self.total:
            return 0.0, 1.0
        share, spread = self.count / self.total, z * z / self.total
        middle = share + spread / 2
        half = z * math.sqrt(share * (1 - share) / self.total + spread / self.total / 4)
        return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))

    def __str__(self) -> str:
        """Returns ``".97 (.91-.99), 88 of 91"``."""
        if not self.total:
            return "-"
        low, high = self.interval()
        numbers = (self.count / self.total, low, high)
        share, *ends = (f"{number:.2f}".removeprefix("0") for number in numbers)
        return f"{share} ({ends[0]}-{ends[1]}), {self.count} of {self.total}"


@dataclass(frozen=True)
class Line:
    """How often one rule, at one severity, was right.

    Attributes:
        precision: Sick trainings among those it spoke in.
        false: Healthy trainings at usual rates that it spoke in.
        too_high, too_low: Trainings it spoke in among the sick ones at ten times the best rate or
            more, and at a tenth or less.
        delay: Median share of the training that was over when it first spoke rightly.
    """

    part: str
    rule: str
    severity: str
    precision: Share
    false: Share
    too_high: Share
    too_low: Share
    delay: float

    def cells(self) -> list[str]:
        """Returns the line of the table."""
        raised, right = self.precision.total, self.precision.count
        shares = [str(each) for each in (self.precision, self.false, self.too_high, self.too_low)]
        counts = [str(raised), str(right)]
        return [
            self.part,
            self.rule,
            self.severity,
            *counts,
            *shares,
            "-" if math.isnan(self.delay) else f"{self.delay:.2f}",
        ]


def lines(outcomes: Sequence[Outcome]) -> Iterator[Line]:
    """Yields a line for each rule and severity, ours and published, of each part."""
    for part in sorted({outcome.part for outcome in outcomes}, reverse=True):
        of_part = [outcome for outcome in outcomes if outcome.part == part]
        said = {(s.kind, s.severity) for o in of_part for s in o.said}
        names = [(ANY, ANY), (ANY, "critical"), *sorted(said)]
        for rule, severity in names:
            yield _line(of_part, rule, severity, lambda outcome: outcome.said)
        for rule in sorted({s.kind for o in of_part for s in o.published}):
            yield _line(of_part, rule, ANY, lambda outcome: outcome.published)


def _line(
    outcomes: Sequence[Outcome],
    rule: str,
    severity: str,
    said_of: Callable[[Outcome], Iterable[Said]],
) -> Line:
    first: dict[int, float] = {}
    for index, outcome in enumerate(outcomes):
        shares = [
            said.share
            for said in said_of(outcome)
            if rule in (ANY, said.kind) and severity in (ANY, said.severity)
        ]
        if shares:
            first[index] = min(shares)

    def share(is_meant: Callable[[Outcome], bool]) -> Share:
        meant = [index for index, outcome in enumerate(outcomes) if is_meant(outcome)]
        return Share(sum(index in first for index in meant), len(meant))

    right = [first[index] for index in first if outcomes[index].is_sick]
    return Line(
        part=outcomes[0].part,
        rule=rule,
        severity=severity,
        precision=Share(len(right), len(first)),
        false=share(lambda outcome: outcome.is_usual and not outcome.is_sick),
        too_high=share(lambda outcome: outcome.is_too_high),
        too_low=share(lambda outcome: outcome.is_too_low),
        delay=median(right) if right else math.nan,
    )


def write(path: Path, found: Iterable[Line]) -> None:
    """Writes the table as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEAD)
        writer.writerows(line.cells() for line in found)


def markdown(found: Iterable[Line]) -> Iterator[str]:
    """Yields the lines of the table for the documentation."""
    yield f"| {' | '.join(HEAD)} |"
    yield f"|{'---|' * len(HEAD)}"
    for line in found:
        yield f"| {' | '.join(line.cells())} |"
