"""Which trainings the zoo has, and running those that are missing."""

from __future__ import annotations

import fcntl
import gzip
import json
import logging
import multiprocessing
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from benchmarks.alert_quality.configurations import CONFIGURATIONS, FACTORS
from benchmarks.alert_quality.training import Job, run

USUAL_SEEDS = range(6)  # at the best rate and a third of it
ODD_SEEDS = range(2)  # at a tenth and less, and at ten times and more
# Rates by their ratio to the best one; rungs are no whole factors of ten from each other.
USUAL_FROM, USUAL_TO = 0.25, 1.1
TOO_LOW, TOO_HIGH = 0.11, 9.0
Row = dict[str, Any]


class Runs:
    """A folder with the results of the trainings so far: it is gone on with after a break."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def rows(self) -> list[Row]:
        """Outcomes of all trainings, without their histories."""
        path = self.folder / "runs.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def add(self, row: Row) -> None:
        """Keeps the result of one training."""
        histories = row.pop("histories")
        path = self._history(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(json.dumps(histories).encode()))
        with (self.folder / "runs.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def histories(self, row: Row) -> dict[str, Any]:
        """Returns what each monitor has remembered of a training."""
        return dict(json.loads(gzip.decompress(self._history(row).read_bytes())))

    def _history(self, row: Row) -> Path:
        return self.folder / "histories" / f"{job_of(row).key}.json.gz"


def job_of(row: Row) -> Job:
    """Returns the training that a row is the result of."""
    return Job(row["configuration"], row["rung"], row["seed"])


def best_rung(rows: Iterable[Row]) -> int:
    """Returns the rung of one configuration's ladder with the highest mean score.

    Of equal ones the middle: where everything is learned, each of them is usual.
    """
    scores = defaultdict(list)
    for row in rows:
        scores[row["rung"]].append(row["score"])
    means = {rung: fmean(values) for rung, values in scores.items()}
    best = sorted(rung for rung, mean in means.items() if mean >= max(means.values()) - 1e-9)
    return best[len(best) // 2]


def first_jobs() -> list[Job]:
    """Returns one training for each rung of all ladders, those of the tuning part first."""
    middle = len(FACTORS) // 2
    rungs = sorted(range(len(FACTORS)), key=lambda rung: abs(rung - middle))
    names = sorted(CONFIGURATIONS, key=lambda name: CONFIGURATIONS[name].part == "test")
    return [Job(name, rung, 0) for name in names for rung in rungs]


def more_jobs(rows: Sequence[Row]) -> list[Job]:
    """Returns the trainings with other seeds, once the ladder of a configuration is known."""
    ladders = defaultdict(list)
    for row in rows:
        if row["seed"] == 0:
            ladders[row["configuration"]].append(row)
    jobs = []
    for name, ladder in ladders.items():
        if len(ladder) < len(FACTORS):
            continue
        best = best_rung(ladder)
        for rung, factor in enumerate(FACTORS):
            of_best = factor / FACTORS[best]
            is_usual, is_odd = USUAL_FROM < of_best < USUAL_TO, not TOO_LOW < of_best < TOO_HIGH
            seeds = USUAL_SEEDS if is_usual else ODD_SEEDS if is_odd else range(1)
            jobs += [Job(name, rung, seed) for seed in seeds[1:]]
    return sorted(jobs, key=lambda job: (job.seed, job))


def train(runs: Runs, *, workers: int, lock: Path | None = None, part: str = "") -> None:
    """Runs what is missing: first all ladders, then other seeds."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _be_quiet, (lock,)) as pool:
        for jobs_of in (lambda rows: first_jobs(), more_jobs):
            rows = runs.rows
            known = {job_of(row) for row in rows}
            missing = [
                job
                for job in jobs_of(rows)
                if job not in known and job.configuration.startswith(part)
            ]
            bar = tqdm(total=len(missing), unit="trainings")
            for job, row in _results(pool, missing):
                runs.add(row)
                bar.update()
                bar.set_postfix_str(f"{job.key} {row['score']:.2f}")
            bar.close()


def _results(pool: ProcessPoolExecutor, jobs: Sequence[Job]) -> Iterator[tuple[Job, Row]]:
    waiting = {pool.submit(_run_alone, job): job for job in jobs}
    for done in as_completed(waiting):
        yield waiting.pop(done), done.result()


_lock: Path | None = None


def _be_quiet(lock: Path | None) -> None:
    global _lock
    _lock = lock
    os.environ["OMP_NUM_THREADS"] = "1"
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)


def _run_alone(job: Job) -> Row:
    with _shared(_lock):
        return run(job)


@contextmanager
def _shared(path: Path | None) -> Iterator[None]:
    """Holds a file's lock with others that train, so that who measures times can wait for all."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield
