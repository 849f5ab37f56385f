"""Whether following an alert's remedy to the letter makes the training better.

    python -m benchmarks.remedies               some six minutes on a free core; prints a table
    python -m benchmarks.remedies --seeds 0 1   with more seeds

Each program of `programs.py` is trained with the default monitors that alert. Of each alert that
is raised (no remark) the remedy's *text* is read, what it says is done to the program, and nothing
else, and the program is trained again. Better means: accuracy, or explained variance, is higher by
3 points on samples that were not learned from. The things that a remedy names are done one after
the other, until it is better; where it says "again", the last one up to four times. Where the text
says to look at something, what is wrong there is mended if that is the mistake.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from pytorch_lightning import LightningModule, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from benchmarks.remedies.programs import (
    PROGRAMS,
    Program,
    by_kaiming,
    initialised,
    normalised,
    of_one_shape,
    of_other_sign,
    of_scores,
    with_last,
    with_rate,
    with_relu,
)
from benchmarks.trainers import quiet_trainer
from vis_callbacks import (
    ActivationMonitor,
    Alert,
    EmbeddingMonitor,
    FilterMonitor,
    LearningMonitor,
    Monitor,
    Picture,
)

BETTER = 0.03
MOST_TIMES = 4
# A fixed schedule, so that what is raised does not depend on how busy the machine is.
WATCHED: Sequence[tuple[type[Monitor], int]] = (
    (ActivationMonitor, 10),
    (LearningMonitor, 10),
    (FilterMonitor, 50),
    (EmbeddingMonitor, 80),
)

SHOWS = {  # how the tag begins of the picture in which an alert is seen; else that of the loss
    "dying_units": "activations/raster",
    "dead_from_start": "activations/raster",
    "no_gradient": "learning/gradients",
    "slow_learning": "learning/updates",
    "constant_outputs": "learning/outputs",
    "representation_collapse": "embedding/map/",
    "hardly_learned": "filters/",
}

Change = Callable[[Program], Program]


def changes_of(remedy: str) -> list[Change]:
    """Returns what a remedy says, in its order, each on top of the one before."""
    found: list[tuple[int, Change]] = []
    for pattern, make in _WORDS:
        match = re.search(pattern, remedy)
        if match:
            found.append((match.start(), make(match)))
    return [change for _, change in sorted(found, key=lambda pair: pair[0])]


def _mended(program: Program) -> Program:
    return program if program.mended is None else replace(program, data=program.mended)


def _normalised(match: re.Match[str]) -> Change:
    words = match[0]
    return lambda program: normalised(program, inputs="inputs" in words, targets="targets" in words)


def _lowered(match: re.Match[str]) -> Change:
    return with_rate(0.1)


def _without_decay(program: Program) -> Program:
    return replace(program, decay=program.decay / 10)


def _instead(program: Program) -> Program:
    """A sigmoid in place of a softmax over one output, or nothing for a regression."""
    return with_last("" if program.score == "r2" else "sigmoid")(program)


_WORDS: Sequence[tuple[str, Callable[[re.Match[str]], Change]]] = (
    (r"Normalise (?:the )?(inputs|targets)[^:]*", _normalised),
    (r"[Uu]se the layers' own initialisation|initialisation of the weights", lambda m: initialised),
    (r"Kaiming's method", lambda m: by_kaiming),
    (r"a tenth of the learning rate|learning rate (?:tenfold|\S+ \(a tenth)", _lowered),
    (r"[Tt]en times the learning rate", lambda m: with_rate(10.0)),
    (r"weight decay (?:from|by 10)", lambda m: _without_decay),
    (r"in place of the softmax for two", lambda m: _instead),
    (r"Use a softmax in place of", lambda m: with_last("softmax")),
    (r"Remove the \w+ (?:at the end|from the output)", lambda m: with_last("")),
    (r"Use a loss that takes scores|use one that takes scores", lambda m: of_scores),
    (r"Remove the minus sign", lambda m: of_other_sign),
    (r"Give both the same shape", lambda m: of_one_shape),
    (r"[Ww]eight the classes", lambda m: lambda program: replace(program, weighs_classes=True)),
    (r"Use ReLU or GELU in place of", lambda m: with_relu),
    (r"[Ll]ook at (?:a|the) (?:batch|labels)", lambda m: _mended),
)


# -- one training


class Training(LightningModule):
    """A program as a LightningModule."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program, self.network = program, nn.Sequential(*program.layers())

    def forward(self, x: Tensor) -> Tensor:
        """Returns the outputs."""
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss."""
        return self.program.loss(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Runs the network, for monitors that read a validation."""
        self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns the optimizer."""
        program = self.program
        return program.optimizer(self.parameters(), lr=program.rate, weight_decay=program.decay)


@dataclass(frozen=True)
class Run:
    """What a training came to."""

    score: float
    alerts: Sequence[Alert] = ()
    pictures: Mapping[str, Picture] = field(default_factory=dict)


def train(program: Program, seed: int, *, is_watched: bool) -> Run:
    """Trains a program once."""
    seed_everything(seed, verbose=False)
    module = Training(program)
    x, y, *_ = program.data()
    _, _, later_x, later_y = (program.mended or program.data)()
    generator = torch.Generator().manual_seed(seed)
    sampler = None
    if program.weighs_classes:
        weights = (1 / y.bincount())[y].tolist()
        sampler = WeightedRandomSampler(weights, len(y), generator=generator)
    loader = DataLoader(
        TensorDataset(x, y), 32, shuffle=sampler is None, sampler=sampler, generator=generator
    )
    watched = [(kind, n) for kind, n in WATCHED if kind.__name__ in program.watched_by]
    monitors = [kind(every_n_train_steps=n) for kind, n in watched] if is_watched else []
    for monitor in monitors:
        monitor.picture_schedule = None  # the last snapshot has them, which are drawn on demand
    later = None
    if is_watched and "EmbeddingMonitor" in program.watched_by:
        later = DataLoader(TensorDataset(later_x, later_y), len(later_x))
    with TemporaryDirectory() as folder:
        trainer = quiet_trainer(
            folder,
            max_steps=program.steps,
            max_epochs=-1,
            callbacks=monitors,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, loader, later)
    with torch.no_grad():
        outputs = module.eval()(later_x)
    alerts = [alert for monitor in monitors for alert in monitor.alerts]
    reports = [monitor.last_report for monitor in monitors if monitor.last_report is not None]
    pictures = {item.tag: item for report in reports for item in report.of(Picture)}
    return Run(score_of(outputs, later_y, program.score), alerts, pictures)


def score_of(outputs: Tensor, targets: Tensor, kind: str) -> float:
    """Returns accuracy or explained variance, at least -1; -1 where outputs are not finite."""
    if not outputs.isfinite().all():
        return -1.0
    if kind == "accuracy":
        found = outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5).long()
        return float((found == targets).float().mean())
    errors = (outputs.reshape(targets.shape) - targets).square().mean()
    return max(-1.0, float(1 - errors / targets.var()))


def followed(program: Program, remedy: str, seed: int, before: float) -> float:
    """Returns the best score while the remedy is followed, one thing after the other."""
    changes = changes_of(remedy)
    if "again" in remedy:
        changes += changes[-1:] * (MOST_TIMES - 1)
    score = -math.inf
    for change in changes:
        program = change(program)
        score = max(score, train(program, seed, is_watched=False).score)
        if score >= before + BETTER:
            break
    return score


# -- all of them


@dataclass(frozen=True)
class Row:
    """One alert and what its remedy came to."""

    program: str
    kind: str
    remedy: str
    before: float
    after: float

    @property
    def is_better(self) -> bool:
        """Whether the training was better by 3 points."""
        return self.after >= self.before + BETTER


def tried(name: str, seed: int, draw_into: Path | None) -> list[Row]:
    """Returns what became of each alert of one program; the first of each kind counts."""
    program, rows = PROGRAMS[name], {}
    run = train(program, seed, is_watched=True)
    known: dict[str, float] = {}
    for alert in run.alerts:
        if alert.kind not in rows:
            if alert.remedy not in known:
                known[alert.remedy] = followed(program, alert.remedy, seed, run.score)
            after = known[alert.remedy]
            rows[alert.kind] = Row(name, alert.kind, alert.remedy, run.score, after)
            if draw_into is not None:
                draw(run, alert, draw_into / f"{alert.kind}.png")
    return list(rows.values())


def draw(run: Run, alert: Alert, path: Path) -> None:
    """Keeps the picture that shows an alert, of the first training that raises it."""
    tag = SHOWS.get(alert.kind, "learning/loss")
    picture = next((one for name, one in run.pictures.items() if name.startswith(tag)), None)
    if picture is not None and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.draw(**picture.arrays)).save(path, optimize=True)


def table(rows: Sequence[Row]) -> str:
    """Returns, in Markdown, how often the remedy of each kind was followed and was better."""
    by_kind: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_kind[row.kind].append(row)
    lines = ["| kind | followed | better | median score before, after |", "|---|---|---|---|"]
    for kind, found in sorted(by_kind.items()):
        before = sorted(row.before for row in found)[len(found) // 2]
        after = sorted(row.after for row in found)[len(found) // 2]
        better = sum(row.is_better for row in found)
        lines.append(f"| `{kind}` | {len(found)} | {better} | {before:.2f}, {after:.2f} |")
    better = sum(row.is_better for row in rows)
    return "\n".join([*lines, f"| all | {len(rows)} | {better} | |"])


def main() -> None:
    """Prints each alert with what its remedy came to, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--draw", type=Path, metavar="DIR", help="keep a picture of each kind")
    parser.add_argument("--programs", nargs="+", default=list(PROGRAMS), metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch", "vis_callbacks"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    rows, started = [], time.monotonic()
    for name in options.programs:
        for seed in options.seeds:
            found = tried(name, seed, options.draw)
            rows += found
            for row in found:
                change = (
                    f"{row.before:.2f} -> {row.after:.2f}{'' if row.is_better else ' NOT better'}"
                )
                print(f"{name}: {row.kind}: {change}: {row.remedy}")
            if not found:
                print(f"{name}: no alert")
            sys.stdout.flush()
    print(f"\n{table(rows)}\n\n{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
