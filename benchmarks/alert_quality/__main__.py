"""How often the alerts are right, on a zoo of more than a thousand small trainings.

    python -m benchmarks.alert_quality train --workers 2     under an hour on two cores
    python -m benchmarks.alert_quality judge                 the table, in a minute or two

A training that was broken off is gone on with. What is learned of each training is kept, so that
rules can be changed and judged again without training anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from benchmarks.alert_quality import table
from benchmarks.alert_quality.configurations import Part
from benchmarks.alert_quality.followed import followed
from benchmarks.alert_quality.outcomes import Outcome, Said, outcomes, published_said
from benchmarks.alert_quality.page import page, summary
from benchmarks.alert_quality.replay import replayed
from benchmarks.alert_quality.zoo import Row, Runs, train

RESULTS = Path(__file__).parent / "results.csv"
PAGE = Path(__file__).parents[2] / "docs" / "alert_quality.md"
ALERTS = PAGE.with_name("alerts.md")
BEGIN, END = "<!-- made by make zoo -->", "<!-- end -->"  # of the table there


def judged(runs: Runs, part: str = "") -> list[Outcome]:
    """Returns the trainings with their truth, and what today's rules say of them."""

    def said(row: Row) -> tuple[list[Said], list[Said]]:
        alerts = replayed(runs.histories(row))
        ours = [Said(a.kind, a.severity, a.step / row["steps"], a.remedy) for a in alerts]
        return ours, published_said(row)

    rows = [row for row in runs.rows if row["configuration"].startswith(part)]
    return outcomes(rows, said)


def main(arguments: list[str] | None = None) -> None:
    """Trains, or judges what was trained."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["train", "judge"])
    parser.add_argument("--runs", type=Path, default=Path("zoo_runs"), help="where they are kept")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time")
    parser.add_argument("--lock", type=Path, help="a file whose lock is shared while one trains")
    parser.add_argument("--part", default="", choices=["", *get_args(Part)])
    options = parser.parse_args(arguments)
    runs = Runs(options.runs)
    if options.what == "train":
        train(runs, workers=options.workers, lock=options.lock, part=options.part)
        return
    trainings = judged(runs, options.part)
    found = [*table.lines(trainings)]
    if not options.part:
        table.write(RESULTS, found)
        PAGE.write_text(page(trainings, found, *followed(trainings)))
        text = ALERTS.read_text()
        head, _, rest = text.partition(BEGIN)
        ALERTS.write_text(f"{head}{BEGIN}\n{summary(found)}\n{END}{rest.partition(END)[2]}")
    print(*table.markdown(found), sep="\n")


if __name__ == "__main__":
    main()
