"""Trains the demo's runs with many seeds, on one thread and on two, and prints what came of each.

    python -m benchmarks.demo_outcomes outcomes.jsonl --seeds 0 1 --threads 2

How sums are split over threads changes their last bits, and in the end the outcome of a run. The
demo has to show the same with any of them: ``healthy`` ends at 95 % at least, and without an
alert; ``sick`` ends at 30 % at most, and its alert comes within the first fifth of the steps.
What has been trained is in the file, and is not trained again. A training takes half a minute.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pytorch_lightning import seed_everything

from benchmarks.trainers import quiet_trainer
from things import EPOCHS, RUNS, ThingData, fit, load_data
from vis_callbacks import default_monitors


@dataclass(frozen=True)
class Outcome:
    """What one training came to.

    Attributes:
        accuracy: Of the last validation.
        alerts: Kind and step of each, remarks left out.
    """

    run: str
    seed: int
    threads: int
    num_steps: int
    accuracy: float
    alerts: list[tuple[str, int]]

    @property
    def is_as_demanded(self) -> bool | None:
        """Whether the demo shows what it is to show; None where nothing is demanded."""
        if self.run == "healthy":
            return self.accuracy >= 0.95 and not self.alerts
        if self.run == "sick":
            is_early = any(step <= self.num_steps / 5 for _, step in self.alerts)
            return self.accuracy <= 0.3 and is_early
        return None


def outcomes_in(path: Path) -> list[Outcome]:
    """Returns what a file holds; one that is not there holds nothing."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]


def train(name: str, seed: int, threads: int, data: ThingData) -> Outcome:
    """Trains one run of the demo, with those of its monitors that raise alerts, and no logger."""
    torch.set_num_threads(threads)
    seed_everything(seed, verbose=False)
    monitors = [monitor for monitor in default_monitors(max_overhead=None) if monitor.rules]
    with TemporaryDirectory() as folder:
        trainer = quiet_trainer(folder, callbacks=[*monitors], max_epochs=EPOCHS)
        accuracy = fit(trainer, RUNS[name], data)
    alerts = [(alert.kind, alert.step) for one in monitors for alert in one.alerts]
    return Outcome(name, seed, threads, trainer.global_step, round(accuracy, 4), alerts)


def print_table(outcomes: list[Outcome]) -> None:
    """Prints a line for each training, and how many are as demanded."""
    print(f"{'run':10} threads seed accuracy  alerts")
    for one in sorted(outcomes, key=lambda one: (one.run, one.threads, one.seed)):
        alerts = ", ".join(f"{kind} at {step}" for kind, step in one.alerts) or "none"
        mark = "" if one.is_as_demanded is not False else "   NOT AS DEMANDED"
        print(f"{one.run:10} {one.threads:7} {one.seed:4} {one.accuracy:8.1%}  {alerts}{mark}")
    judged = [one.is_as_demanded for one in outcomes if one.is_as_demanded is not None]
    print(f"{sum(judged)} of {len(judged)} are as demanded.")


def main() -> None:
    """Trains what the file does not hold yet, and prints all that it holds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="of one line of JSON a training; it is added to")
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=[*RUNS])
    parser.add_argument("--seeds", nargs="*", type=int, default=[*range(10)])
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    options = parser.parse_args()
    known = {(one.run, one.seed, one.threads) for one in outcomes_in(options.file)}
    wanted = product(options.threads, options.seeds, options.runs)
    missing = [(name, seed, threads) for threads, seed, name in wanted]
    missing = [one for one in missing if one not in known]
    data = load_data() if missing else None
    for one in missing:
        outcome = train(*one, data)
        with options.file.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
    print_table(outcomes_in(options.file))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")  # Lightning's advice on workers and loggers
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    main()
