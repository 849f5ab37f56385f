"""Seconds of single training steps in real Trainer runs, with and without callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.nets import Benchmark
from benchmarks.trainers import quiet_trainer

MakeCallbacks = Callable[[], list[Callback]]

WARM_UP_STEPS = 6  # allocator, thread pool and the Trainer's own first steps
_STEP_HOOKS = ("on_train_batch_start", "on_before_backward", "on_train_batch_end")


@dataclass(eq=False)
class StepClock:
    """Times each step from before the first callback to behind the last one.

    What a step has queued on an accelerator belongs to it, so the clock waits for that to end.

    Attributes:
        device: Kind of the device that is trained on.
        seconds: Of each step.
        tails: Of each epoch's end, from its last step on: the validation and what follows.
    """

    device: str = "cpu"
    seconds: list[float] = field(default_factory=list)
    tails: list[float] = field(default_factory=list)
    _started: float = 0.0
    _ended: float = 0.0

    def now(self) -> float:
        """Returns the time at which all that was queued is done."""
        if self.device != "cpu":
            torch.get_device_module(self.device).synchronize()
        return perf_counter()

    def around(self, callbacks: Sequence[Callback]) -> list[Callback]:
        """Returns the callbacks between the two ends of the clock."""
        return [_Start(self), *callbacks, _Stop(self)]


class _Start(Callback):
    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    def on_train_batch_start(self, *args: Any) -> None:
        self.clock._started = self.clock.now()


class _Stop(Callback):
    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    def on_train_batch_end(self, *args: Any) -> None:
        self.clock._ended = self.clock.now()
        self.clock.seconds.append(self.clock._ended - self.clock._started)

    def on_train_epoch_end(self, *args: Any) -> None:
        self.clock.tails.append(self.clock.now() - self.clock._ended)


class Training(LightningModule):
    """Plain supervised training of a network by SGD."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the class scores."""
        return self.net(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss."""
        inputs, labels = batch
        return F.cross_entropy(self(inputs), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the loss, for the monitors that look at evaluations."""
        inputs, labels = batch
        self.log("val_loss", F.cross_entropy(self(inputs), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns SGD at a rate that noise cannot blow up."""
        return torch.optim.SGD(self.parameters(), lr=1e-4, momentum=0.9)


def train(
    benchmark: Benchmark,
    callbacks: Sequence[Callback],
    *,
    num_steps: int,
    folder: Path,
    num_epochs: int = 1,
    num_validation_batches: int = 1,
    clock: StepClock | None = None,
) -> list[float]:
    """Trains a fresh network and returns the seconds of each step.

    Every step sees the same batch, so that loading data takes no time.
    """
    torch.manual_seed(0)
    clock = clock or StepClock(benchmark.device)
    batch = [part.to(benchmark.device) for part in benchmark.batch()]
    trainer = quiet_trainer(
        folder,
        accelerator=benchmark.device,
        devices=1,
        callbacks=clock.around(callbacks),
        max_epochs=num_epochs,
        logger=TensorBoardLogger(folder, name="", version=""),
        log_every_n_steps=10,
    )
    trainer.fit(
        Training(benchmark.make()),
        DataLoader([batch] * num_steps, batch_size=None),
        DataLoader([batch] * num_validation_batches, batch_size=None),
    )
    return clock.seconds


def snapshot_pairs(
    benchmark: Benchmark, make_callbacks: MakeCallbacks, *, num_pairs: int, every: int
) -> tuple[list[float], list[float]]:
    """Returns the seconds of steps with a snapshot, and those of the step before each.

    Args:
        benchmark: What is trained.
        make_callbacks: Makes monitors that take a snapshot at the steps 0, ``every``, ...
        num_pairs: How many of each.
        every: 3 or more, so that the step before a snapshot does not itself follow one and
            find its caches cold.
    """
    if every < 3:
        raise ValueError(f"every={every} pairs a snapshot with the step behind one. Use 3 or more.")
    num_steps = WARM_UP_STEPS + (num_pairs + 1) * every
    with TemporaryDirectory() as folder:
        seconds = train(benchmark, make_callbacks(), num_steps=num_steps, folder=Path(folder))
    first = -(-WARM_UP_STEPS // every) * every
    steps = range(first, num_steps, every)[:num_pairs]
    return [seconds[step] for step in steps], [seconds[step - 1] for step in steps]


def idle_pairs(
    benchmark: Benchmark, make_callbacks: MakeCallbacks, *, num_pairs: int, steps_a_run: int = 10
) -> tuple[list[float], list[float]]:
    """Returns seconds of steps with resting callbacks and without any, from short runs in turn.

    The order changes from run to run, so that a drift of the machine falls on both.
    """
    watched: list[float] = []
    plain: list[float] = []
    while len(plain) < num_pairs:
        sides = [(watched, make_callbacks), (plain, list)]
        if (len(plain) // steps_a_run) % 2:
            sides.reverse()
        for seconds, make in sides:
            with TemporaryDirectory() as folder:
                steps = WARM_UP_STEPS + steps_a_run
                run = train(benchmark, make(), num_steps=steps, folder=Path(folder))
            seconds += run[WARM_UP_STEPS:]
    return watched[:num_pairs], plain[:num_pairs]


class _Empty(Callback):
    """Does nothing in the hooks of a step: what is left is the harness's own time."""

    def on_train_batch_start(self, *args: Any) -> None: ...

    def on_before_backward(self, *args: Any) -> None: ...

    def on_train_batch_end(self, *args: Any) -> None: ...


def idle_python(
    benchmark: Benchmark, make_callbacks: MakeCallbacks, *, num_steps: int = 200
) -> float:
    """Returns the seconds that the callbacks' hooks take in a step without a snapshot.

    Beyond what hooks take that do nothing: timing them costs some microseconds itself.
    """
    ours, empty = (
        _seconds_in_hooks(benchmark, make(), num_steps)
        for make in (make_callbacks, lambda: [_Empty()])
    )
    return ours - empty


def _seconds_in_hooks(benchmark: Benchmark, callbacks: Sequence[Callback], num_steps: int) -> float:
    spent: list[float] = []
    for callback in callbacks:
        for hook in _STEP_HOOKS:
            setattr(callback, hook, _timed(getattr(callback, hook), spent))
    with TemporaryDirectory() as folder:
        train(benchmark, callbacks, num_steps=WARM_UP_STEPS + num_steps, folder=Path(folder))
    calls_a_step = len(callbacks) * len(_STEP_HOOKS)
    per_step = torch.tensor(spent).view(-1, calls_a_step).sum(dim=1)
    return float(per_step[WARM_UP_STEPS:].median())


def _timed(hook: Callable[..., None], spent: list[float]) -> Callable[..., None]:
    def timed(*args: Any, **kwargs: Any) -> None:
        start = perf_counter()
        hook(*args, **kwargs)
        spent.append(perf_counter() - start)

    return timed


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one thread, as many threads of few cores make timings scatter."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
