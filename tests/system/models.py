"""Small networks, monitors and runs for the tests of whole trainings."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from tests.identity import digest, fingerprint
from tests.writers.reading import read
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vis_callbacks.engine.probe import Probe
from vis_callbacks.engine.schedule import EveryNEpochs, EveryNSteps
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.monitor import Monitor
from vis_callbacks.monitors.activations.monitor import ActivationMonitor
from vis_callbacks.monitors.learning.monitor import LearningMonitor
from vis_callbacks.report import Report, RuleMetrics, Scalar

BATCH = 8
STEPS_AN_EPOCH = 15
NUM_STEPS = 30

# What Lightning says of any small run on a CPU.
LIGHTNING_CHATTER = (
    "ignore:.*does not have many workers",
    "ignore:.*The number of training batches",
    "ignore:.*isinstance.treespec, LeafSpec.*",
)


# -- monitors beside the real one


class ForwardMonitor(Monitor):
    """Asks for extra passes, with random numbers of its own and, if wanted, gradients."""

    needs: ClassVar[frozenset[str]] = frozenset({"forward", "references"})
    default_schedule = EveryNSteps(1)
    tags: ClassVar[Sequence[str]] = ("forward/gradient",)

    def __init__(self, *, gradients: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.gradients = gradients

    def probes(self) -> Sequence[Probe]:
        return ()

    def observe(self, snapshot: Snapshot) -> Report:
        inputs = snapshot.references.inputs
        if inputs.is_floating_point():
            inputs = (inputs + 0.1 * torch.randn_like(inputs)).requires_grad_(self.gradients)
        scores = snapshot.forward(inputs, chunk=2)
        size = scores.square().mean()
        if inputs.requires_grad:
            size = torch.autograd.grad(size, inputs)[0].abs().mean()
        reading = RuleMetrics(metrics=("gradient",), layers=("",), values=size.detach().reshape(1))
        scalar = Scalar(tag="forward/gradient", value=size.detach())
        return Report(step=snapshot.step, items=(reading, scalar))


def _summed(activation: Any, batch: Any) -> dict[str, Tensor]:
    return {"total": activation.values.sum(), "count": torch.tensor(float(batch.num_samples))}


class EvaluationMonitor(Monitor):
    """Reads every nonlinearity as the user's validation batches pass by."""

    default_schedule = EveryNEpochs(1)
    tags: ClassVar[Sequence[str]] = ("evaluation/total",)

    def probes(self) -> Sequence[Probe]:
        merge = {"total": "sum", "count": "sum"}
        return [Probe(name="sums", reduce=_summed, merge=merge, occasion="evaluation")]

    def observe(self, snapshot: Snapshot) -> Report:
        layers = tuple(snapshot.values["sums"])
        totals = torch.stack([named["total"] for named in snapshot.values["sums"].values()])
        reading = RuleMetrics(metrics=("total",), layers=layers, values=totals)
        scalar = Scalar(tag="evaluation/total", value=totals.sum())
        return Report(step=snapshot.step, items=(reading, scalar))


def watchers(*, gradients: bool = True) -> list[Monitor]:
    """Returns monitors that together use all that a session can do, at every step."""
    return [
        ActivationMonitor(every_n_train_steps=1),
        ForwardMonitor(every_n_train_steps=1, gradients=gradients),
        EvaluationMonitor(every_n_epochs=1),
        LearningMonitor(every_n_train_steps=1),
    ]


# -- data


class Drawn(Dataset):
    """Images that exist only while they are looked at."""

    def __init__(self, num_samples: int, size: int = 32) -> None:
        self.num_samples, self.size = num_samples, size

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(index)
        return torch.rand(3, self.size, self.size, generator=generator), index % 4


class CountingData(Dataset):
    """Fixed samples that count how often one is drawn."""

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels
        self.num_drawn = 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.num_drawn += 1
        return self.inputs[index], self.labels[index]


class CountingLoader(DataLoader):
    """Counts how often it is begun."""

    num_begun = 0

    def __iter__(self) -> Any:
        self.num_begun += 1
        return super().__iter__()


def loaders_of(data: CountingData) -> list[CountingLoader]:
    """Returns the loader for training and the one for validation."""
    return [
        CountingLoader(data, batch_size=BATCH, shuffle=True),
        CountingLoader(data, batch_size=2 * BATCH),
    ]


def vectors(num_samples: int = BATCH * STEPS_AN_EPOCH) -> CountingData:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (num_samples,), generator=generator)
    means = torch.randn(4, 12, generator=generator)
    return CountingData(
        means[labels] + 0.5 * torch.randn(num_samples, 12, generator=generator), labels
    )


def pictures(num_samples: int = BATCH * STEPS_AN_EPOCH) -> CountingData:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (num_samples,), generator=generator)
    return CountingData(torch.randn(num_samples, 3, 8, 8, generator=generator), labels)


def tokens(num_samples: int = BATCH * STEPS_AN_EPOCH) -> CountingData:
    """Sequences of 6 token numbers; 0 is padding."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(1, 20, (num_samples, 6), generator=generator)
    lengths = torch.randint(2, 7, (num_samples, 1), generator=generator)
    values[torch.arange(6) >= lengths] = 0
    return CountingData(values, torch.randint(0, 4, (num_samples,), generator=generator))


# -- networks


def mlp(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 16), nn.ReLU(),
                         nn.Linear(16, 4))  # fmt: skip


class Cnn(nn.Module):
    """Convolutions with batch norm and dropout; one ReLU in place, one functional."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(6, 8, 3, stride=2)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(x)))
        x = F.relu(self.second(x)).mean((2, 3))
        return self.head(self.dropout(x))


class Transformer(nn.Module):
    """An encoder over tokens, with the padding masked."""

    def __init__(self, *, norm_first: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8, padding_idx=0)
        layer = nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.1, batch_first=True, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        encoded = self.encoder(self.embedding(x), src_key_padding_mask=x == 0)
        return self.head(encoded.mean(1))  # padded positions count: what is there shows


# -- the module around a network


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)


class Net(pl.LightningModule):
    """A classifier that logs its loss at each step and its validation metrics."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
    ) -> None:
        super().__init__()
        self.network = network
        self.make_optimizer = optimizer

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        scores = self(x)
        self.log_dict({"val_loss": F.cross_entropy(scores, y), "val_mean": scores.mean()})

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self)


# -- runs


class Recorder(pl.Callback):
    """Looks at the run after each step, last of all callbacks."""

    def __init__(self) -> None:
        self.steps: list[dict[str, str]] = []
        self.losses: list[str] = []
        self.end: dict[str, str] = {}
        self.num_snapshots_due = 0
        self.epochs_validated: set[int] = set()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.num_snapshots_due += not trainer.fit_loop._should_accumulate()
        self.losses.append(digest(outputs))
        state = fingerprint(trainer)
        # With accumulated gradients a capture is open over several batches.
        self.steps.append({k: v for k, v in state.items() if not k.startswith("hooks")})

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.epochs_validated.add(trainer.current_epoch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.end = fingerprint(trainer)


@dataclass
class Run:
    """What a training left behind."""

    module: pl.LightningModule
    trainer: pl.Trainer
    folder: Path
    recorder: Recorder
    data: CountingData
    loaders: Sequence[CountingLoader]
    graphs: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """All that must be the same with monitors and without."""
        return {
            **{f"end: {k}": v for k, v in self.recorder.end.items()},
            **{
                f"step {i}: {k}": v
                for i, state in enumerate(self.recorder.steps)
                for k, v in state.items()
            },
            **{f"after: {k}": v for k, v in fingerprint(self.trainer).items()},
            "losses": self.recorder.losses,
            "metrics": digest(self.trainer.callback_metrics),
            "samples drawn": self.data.num_drawn,
            "loaders begun": [loader.num_begun for loader in self.loaders],
            "steps": (self.trainer.global_step, self.trainer.current_epoch),
            "stopped": self.trainer.should_stop,
            "graphs": self.graphs,
            "calls": getattr(self.module, "calls", None),
        }

    def curves(self, tags: Sequence[str]) -> dict[str, list[tuple[int, float]]]:
        """Returns the scalars that stand in the event files under these tags."""
        accumulator = read(self.folder)
        return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in tags}

    @property
    def tags(self) -> list[str]:
        return read(self.folder).Tags()["scalars"]


def forget_graphs() -> None:
    """Makes torch.compile begin anew, and its counters too."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()


def graphs() -> dict[str, dict[str, int]]:
    """Returns what torch.compile has counted of graphs.

    What lies below them is left out: whether inductor finds a kernel in its cache on the disk
    depends on the run before.
    """
    if "torch._dynamo" not in sys.modules:
        return {}
    counters = torch._dynamo.utils.counters
    return {name: dict(counters[name]) for name in ("frames", "stats", "graph_break")}


def trainer_of(folder: Path, callbacks: Sequence[pl.Callback] = (), **options: Any) -> pl.Trainer:
    """Returns a Trainer for a small run on the CPU."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": NUM_STEPS // STEPS_AN_EPOCH,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    if "logger" not in options:
        defaults["logger"] = TensorBoardLogger(folder, name="", version="")
    return pl.Trainer(callbacks=list(callbacks), **{**defaults, **options})


def train(
    make: Callable[[], nn.Module],
    folder: Path,
    monitors: Sequence[Monitor] = (),
    *,
    make_data: Callable[[], CountingData] = vectors,
    callbacks: Callable[[], Sequence[pl.Callback]] = tuple,
    **options: Any,
) -> Run:
    """Runs a training from a fixed seed."""
    forget_graphs()
    pl.seed_everything(3, verbose=False)
    module, recorder, data = make(), Recorder(), make_data()
    loaders = loaders_of(data)
    trainer = trainer_of(folder, [*monitors, *callbacks(), recorder], **options)
    trainer.fit(module, *loaders)
    inner = trainer.lightning_module
    return Run(inner, trainer, folder, recorder, data, loaders, graphs())


def quiet(function: Callable[[], Any], message: str) -> Any:
    """Returns what the function returns, without one warning of the library that it uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=message)
        return function()
