"""Prints what the monitors cost on this machine.

    python -m benchmarks                            everything, about twenty minutes
    python -m benchmarks --nets cnn --pairs 30      a quick look
    python -m benchmarks --only runs --runs 5000    whole runs of 5,000 steps alone
    python -m benchmarks --device cuda              resnet50 and ViT-B/16 on a GPU, steps alone

Times are of one thread. A step with a snapshot is compared with the step before it in the
same run, a step without one with steps of runs without callbacks that take turns.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from pytorch_lightning import Callback

from benchmarks.defaults import kinds_of, measure, seconds_of
from benchmarks.imports import added_import_seconds
from benchmarks.nets import BENCHMARKS, Benchmark, large_benchmarks
from benchmarks.ratio import paired_ratio
from benchmarks.runs import run_costs
from benchmarks.steps import (
    WARM_UP_STEPS,
    MakeCallbacks,
    idle_pairs,
    idle_python,
    one_thread,
    snapshot_pairs,
    train,
)
from benchmarks.tsne import lines as tsne_lines
from vis_callbacks import ActivationMonitor, FilterMonitor, default_monitors
from vis_callbacks.engine.schedule import EveryNSteps, RunFacts

SNAPSHOT_EVERY = 3
SHARE_STEPS = 2000
FILE_EPOCHS = 10
EPOCHS, EPOCH_STEPS = 50, 500
PARTS = ("steps", "defaults", "runs", "file", "import", "tsne")
Pairs = tuple[list[float], list[float]]
TOO_FAST = 2e-3  # a plain step below this is reported without a limit


@dataclass(frozen=True)
class Row:
    """One line of the table; ``is_kept`` is None where there is no limit."""

    net: str
    what: str
    value: str
    limit: str = "-"
    is_kept: bool | None = None

    def __str__(self) -> str:
        verdict = {True: "kept", False: "EXCEEDED", None: ""}[self.is_kept]
        return f"{self.net:<12} {self.what:<44} {self.value:<24} {self.limit:<10} {verdict}"


BURST = 3  # snapshots, as with batches of 64


class BurstsOfThree(EveryNSteps):
    """Snapshots of which every third one ends a burst, and looks at those before it as well."""

    def ends_burst(self, step: int, facts: RunFacts) -> bool:
        """Returns whether this is the third of three."""
        return (step // self.n) % BURST == BURST - 1


def snapshots() -> list[Callback]:
    """Returns the monitor with many bursts and, after the first, no pictures."""
    monitor = ActivationMonitor(every_n_train_steps=SNAPSHOT_EVERY)
    monitor.schedule = BurstsOfThree(SNAPSHOT_EVERY)
    return [monitor]


def resting() -> list[Callback]:
    """Returns the monitor, with nothing to do after step 0."""
    return [ActivationMonitor(every_n_train_steps=10**9)]


def at_defaults() -> list[Callback]:
    """Returns the monitors as a user adds them."""
    return [*default_monitors()]


def step_rows(benchmark: Benchmark, num_pairs: int) -> Iterator[Row]:
    """Yields what single steps of one network cost."""
    watched, plain = _snapshot_pairs(benchmark, snapshots, BURST * num_pairs)
    plain_seconds = statistics.median(plain)
    yield Row(benchmark.name, "a plain step", f"{plain_seconds * 1e3:.2f} ms")
    within, ending = _by_place(watched, plain)
    ratio = paired_ratio(*within)
    limit = None if plain_seconds < TOO_FAST else benchmark.max_ratio
    yield _row(benchmark, "step with a snapshot / plain", str(ratio), ratio.median, limit, "x")
    yield Row(benchmark.name, "the last one of a burst / plain", str(paired_ratio(*ending)))
    for what, pairs in (("a snapshot", within), ("the last one of a burst", ending)):
        yield Row(benchmark.name, f"{what} adds", f"{1e3 * _median_difference(*pairs):.2f} ms")
    idle = paired_ratio(*idle_pairs(benchmark, resting, num_pairs=num_pairs))
    yield Row(benchmark.name, "step without a snapshot / plain", str(idle))
    python = idle_python(benchmark, resting)
    yield _row(
        benchmark, "our Python, no snapshot", f"{python * 1e6:.1f} us", python * 1e6, 30, " us"
    )
    share = default_share(
        benchmark,
        extra=_median_difference(*within),
        extra_at_end=_median_difference(*ending),
        idle=python,
        plain=plain_seconds,
    )
    yield _row(
        benchmark,
        f"share of {SHARE_STEPS} steps at defaults (computed)",
        f"{share:.2%}",
        share * 100,
        0.5 if limit else None,
        " %",
    )


def default_share(
    benchmark: Benchmark, *, extra: float, extra_at_end: float, idle: float, plain: float
) -> float:
    """Returns (snapshots x extra + steps x idle) / training time, from the schedule itself.

    Two whole runs would scatter by more than the difference that is looked for.
    """
    facts = RunFacts(planned_steps=SHARE_STEPS, batch_size=benchmark.batch_size)
    schedule = ActivationMonitor().schedule
    due = [step for step in range(SHARE_STEPS) if schedule.due(step, facts)]
    num_ends = sum(schedule.ends_burst(step, facts) for step in due)
    snapshots_cost = (len(due) - num_ends) * extra + num_ends * extra_at_end
    return (snapshots_cost + SHARE_STEPS * idle) / (SHARE_STEPS * plain)


def default_rows(benchmark: Benchmark) -> Iterator[Row]:
    """Yields the share of all default monitors in a long training, and of each in its parts."""
    long = {"epochs": EPOCHS, "steps_per_epoch": EPOCH_STEPS}
    total = first = training = 0.0
    for monitor in default_monitors():
        costs = measure(benchmark, type(monitor))
        name = type(monitor).__name__
        shown = ", ".join(
            f"{kind} {1e3 * getattr(costs, kind):.1f} ms"
            for kind in ("numbers", "shown", "pictures", "epoch_end")
            if getattr(costs, kind)
        )
        yield Row(benchmark.name, f"{name}, a snapshot", shown)
        training = EPOCHS * EPOCH_STEPS * costs.plain
        total += seconds_of(costs, monitor, **long)
        first += seconds_of(costs, monitor, until=EPOCH_STEPS, **long)
        if isinstance(monitor, FilterMonitor):
            facts = RunFacts(planned_steps=EPOCH_STEPS, steps_per_epoch=EPOCH_STEPS)
            num_snapshots = len(kinds_of(monitor, facts, EPOCH_STEPS))
            part = 100 * num_snapshots * costs.shown / (EPOCH_STEPS * costs.plain)
            what = f"its numbers, share of {EPOCH_STEPS} steps (computed)"
            yield _row(benchmark, what, f"{part:.2f} %", part, 0.3, " %")
    part = 100 * total / training
    what = f"all defaults, {EPOCHS} epochs of {EPOCH_STEPS} (computed)"
    yield _row(benchmark, what, f"{part:.2f} %", part, 3, " %")
    first_share = first / (training / EPOCHS)
    yield Row(benchmark.name, "the same, of the first epoch", f"{first_share:.2%}")


def file_row(benchmark: Benchmark, steps_an_epoch: int) -> Row:
    """Returns the growth of the event file in a training at the default schedules."""
    sizes = []
    for make in (at_defaults, list):
        with TemporaryDirectory() as folder:
            train(
                benchmark,
                make(),
                num_steps=steps_an_epoch,
                num_epochs=FILE_EPOCHS,
                folder=Path(folder),
            )
            sizes.append(sum(path.stat().st_size for path in Path(folder).glob("events*")))
    megabytes = (sizes[0] - sizes[1]) / FILE_EPOCHS / 1e6
    what = f"event file, an epoch of {steps_an_epoch} steps"
    return _row(benchmark, what, f"{megabytes:.2f} MB", megabytes, 1, " MB")


def import_row() -> Row:
    """Returns what the import adds."""
    seconds = added_import_seconds()
    return Row("", "import, beyond Lightning's", f"{seconds:.2f} s", "<= 0.3 s", seconds <= 0.3)


def run_rows(nets: list[str], lengths: list[int]) -> Iterator[Row]:
    """Yields what the default monitors cost over whole runs."""
    for cost in run_costs(nets, lengths):
        is_kept = cost.excess <= cost.limit
        yield Row(cost.net, f"{cost.what} / plain", str(cost), cost.limit_words, is_kept)


def tsne_rows() -> Iterator[Row]:
    """Yields how fast t-SNE is beside others."""
    for line in tsne_lines():
        yield Row("", line.what, line.value, line.limit, line.is_kept)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Yields the table, line by line as it is measured."""
    if options.device != "cpu":
        for benchmark in large_benchmarks(options.device):
            yield from step_rows(benchmark, options.pairs)
        return
    cnn = next(benchmark for benchmark in BENCHMARKS if benchmark.name == "cnn")
    chosen = [benchmark for benchmark in BENCHMARKS if benchmark.name in options.nets]
    parts: dict[str, Callable[[], Iterable[Row]]] = {
        "steps": lambda: chain(*(step_rows(one, options.pairs) for one in chosen)),
        "defaults": lambda: default_rows(cnn),
        "runs": lambda: run_rows(options.nets, options.runs),
        "file": lambda: [file_row(cnn, options.steps_an_epoch)],
        "import": lambda: [import_row()],
        "tsne": tsne_rows,
    }
    for name in options.only:
        yield from parts[name]()


def _snapshot_pairs(benchmark: Benchmark, make_callbacks: MakeCallbacks, num_pairs: int) -> Pairs:
    return snapshot_pairs(benchmark, make_callbacks, num_pairs=num_pairs, every=SNAPSHOT_EVERY)


def _by_place(watched: Sequence[float], plain: Sequence[float]) -> tuple[Pairs, Pairs]:
    """Returns the pairs of snapshots within bursts, and of those that end one."""
    first = -(-WARM_UP_STEPS // SNAPSHOT_EVERY)  # the number of the first snapshot that is timed
    places = [(first + i) % BURST == BURST - 1 for i in range(len(watched))]
    within, ending = (
        tuple([t for t, ends in zip(side, places, strict=True) if ends == wanted] for side in pair)
        for wanted, pair in ((False, (watched, plain)), (True, (watched, plain)))
    )
    return within, ending


def _median_difference(watched: Sequence[float], plain: Sequence[float]) -> float:
    return statistics.median(a - b for a, b in zip(watched, plain, strict=True))


def _row(
    benchmark: Benchmark, what: str, shown: str, value: float, limit: float | None, unit: str
) -> Row:
    if limit is None:
        return Row(benchmark.name, what, shown)
    return Row(benchmark.name, what, shown, f"<= {limit:g}{unit}", value <= limit)


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = [benchmark.name for benchmark in BENCHMARKS]
    parser.add_argument("--nets", nargs="+", choices=names, default=names)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for large networks there")
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--runs", nargs="+", type=int, default=[300, 1000])
    parser.add_argument("--steps-an-epoch", type=int, default=500)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns 1 where a limit is exceeded."""
    options = parse_options(arguments)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    # A network that learns from noise gives cause for alerts; nobody asks for them here.
    for package in ("pytorch_lightning", "lightning.pytorch", "vis_callbacks"):
        logging.getLogger(package).setLevel(logging.ERROR)
    all_kept = True
    with one_thread():
        for row in rows(options):
            print(row, flush=True)
            all_kept = all_kept and row.is_kept is not False
    return 0 if all_kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
