"""Trainings on a GPU, as on the CPU: the same tests, so that their code is run without one too."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tests.contracts.every_monitor import SHIPPED
from tests.simulated_device import StepCount, on_simulated_device, simulated_device
from tests.system.gpu_ranks import train_twice
from tests.system.models import (
    LIGHTNING_CHATTER,
    NUM_STEPS,
    Cnn,
    Net,
    Run,
    Transformer,
    pictures,
    read,
    tokens,
    train,
)
from tests.system.processes import RANKS, run_in_two_ranks
from tests.system.test_identity import OF_IMAGES
from tests.system.traces import assert_same_run, trace
from tests.tiny import fullest, smallest, tiny_fit, tiny_loader, tiny_module, tiny_trainer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vis_callbacks import ActivationMonitor, FilterMonitor, Monitor
from vis_callbacks.cards import pattern_of

pytestmark = [pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER]


def on_gpu(*values: Any, num_devices: int = 1) -> Any:
    """Returns a case for machines with a GPU."""
    is_missing = torch.cuda.device_count() < num_devices
    reason = f"needs {num_devices} CUDA device(s)"
    marks = [pytest.mark.gpu, pytest.mark.skipif(is_missing, reason=reason)]
    return pytest.param(*values, marks=marks, id="-".join(map(str, values)))


DEVICES = ["cpu", on_gpu("cuda")]


@pytest.fixture(autouse=True)
def _exact_arithmetic() -> Iterator[None]:
    """Has a GPU compute in whole float32, by one kernel alone, and puts the user's choice back."""
    had_tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    with sdpa_kernel(SDPBackend.MATH):  # the other kernels' gradients are not deterministic
        yield
    torch.backends.cudnn.allow_tf32 = had_tf32
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")
    torch.use_deterministic_algorithms(False)


# -- identity

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "cnn": (lambda: Net(Cnn()), pictures),
    "transformer": (lambda: Net(Transformer(norm_first=True)), tokens),
}


def every_monitor(network: str) -> list[Monitor]:
    kinds = [kind for kind in SHIPPED if network == "cnn" or kind.stem not in OF_IMAGES]
    return [smallest(kind, every_n_train_steps=5) for kind in kinds]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "bf16-mixed"),
        *(on_gpu("cuda", precision) for precision in ("32-true", "bf16-mixed", "16-mixed")),
    ],
)
def test_monitors_leave_no_trace(device: str, precision: str, network: str, tmp_path: Path) -> None:
    make, make_data = NETWORKS[network]

    def run(name: str, monitors: Sequence[Monitor] = ()) -> Run:
        options = {"accelerator": device, "precision": precision, "deterministic": True}
        return train(make, tmp_path / name, monitors, make_data=make_data, **options)

    plain, monitors = trace(run("plain")), every_monitor(network)
    assert_same_run(plain, run("again"))
    watched = run("watched", monitors)
    assert_same_run(plain, watched)
    assert len(watched.recorder.steps) == NUM_STEPS
    assert {m.stem: m.guard.counts for m in monitors} == {m.stem: {} for m in monitors}
    assert all(monitor.last_report is not None for monitor in monitors)


# -- what is measured, kept and drawn


def fitted(folder: Path, monitors: Sequence[Monitor], device: str, **options: Any) -> pl.Trainer:
    logger = pl.loggers.TensorBoardLogger(folder, name="", version="")
    return tiny_fit(folder, monitors, accelerator=device, devices=1, logger=logger, **options)


def readings(folder: Path, device: str) -> Mapping[str, Mapping[str, float]]:
    """Returns the numbers of the first step, before the devices' rounding has spread."""
    monitors = [ActivationMonitor(), FilterMonitor()]
    module = tiny_module()
    module.drop.p = 0.0  # devices draw different numbers
    options = {"accelerator": device, "devices": 1, "max_steps": 1, "max_epochs": 1}
    tiny_trainer(folder, monitors, **options).fit(module, tiny_loader(), tiny_loader())
    return {
        f"{monitor.stem} {metric}": dict(values)
        for monitor in monitors
        for metric, values in monitor.last_report.rule_metrics().items()
    }


@pytest.mark.parametrize("device", DEVICES)
def test_the_numbers_are_those_of_the_cpu(device: str, tmp_path: Path) -> None:
    expected = readings(tmp_path / "cpu", "cpu")
    found = readings(tmp_path / "device", device)
    assert found.keys() == expected.keys()
    assert len(found) > 20
    for metric, values in expected.items():
        # Sums in float32 in another order, and what one small step has changed beside a weight.
        assert found[metric] == pytest.approx(values, rel=1e-3, abs=1e-5, nan_ok=True), metric


@pytest.mark.parametrize("device", DEVICES)
def test_every_monitor_draws_its_pictures(device: str, tmp_path: Path) -> None:
    monitors = [fullest(kind) for kind in SHIPPED]
    fitted(tmp_path, monitors, device, max_epochs=1)
    assert {m.stem: m.guard.counts for m in monitors} == {m.stem: {} for m in monitors}
    images = read(tmp_path).Tags()["images"]
    for kind in SHIPPED:
        patterns = [pattern_of(tag) for tag in kind.tags]
        assert any(one.fullmatch(tag) for one in patterns for tag in images), kind


@pytest.mark.parametrize("device", DEVICES)
def test_monitors_go_on_from_a_checkpoint(device: str, tmp_path: Path) -> None:
    first, second = (
        [kind(every_n_train_steps=1) for kind in (ActivationMonitor, FilterMonitor)]
        for _ in range(2)
    )
    trainer = fitted(tmp_path / "first", first, device)
    path = tmp_path / "middle.ckpt"
    trainer.save_checkpoint(path)
    fitted(tmp_path / "second", second, device, max_epochs=4, ckpt_path=path)
    assert {m.stem: m.guard.counts for m in second} == {m.stem: {} for m in second}
    for one, other in zip(first, second, strict=True):
        assert one.history.steps == (0, 1, 2, 3)
        assert other.history.steps == (*range(8),)


# -- what it costs


class Watch(pl.Callback):
    """Has CUDA warn of each wait, from before the first monitor of a step to behind the last."""

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts

    def on_train_batch_start(self, *args: Any) -> None:
        self._caught = warnings.catch_warnings(record=True)
        self._seen = self._caught.__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")


class Unwatch(pl.Callback):
    """Ends what `Watch` began: it stands last."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_train_batch_end(self, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self.watch._caught.__exit__(None, None, None)
        seen = [w for w in self.watch._seen if "synchronizing CUDA operation" in str(w.message)]
        self.watch.counts.append(len(seen))


class Quiet(pl.LightningModule):
    """Trains without a wait of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Cnn()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def waits(device: str, folder: Path, monitors: Sequence[Monitor], num_steps: int) -> list[int]:
    """Returns how often each step waited for the device."""
    loader = tiny_loader(4 * num_steps)
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "log_every_n_steps": 1000}
    torch.manual_seed(0)
    if device == "cuda":
        counts: list[int] = []
        watch = Watch(counts)
        callbacks = [watch, *monitors, Unwatch(watch)]
        options |= {"accelerator": "cuda", "devices": 1}
        tiny_trainer(folder, callbacks, **options).fit(Quiet(), loader)
        return counts
    with simulated_device() as simulated:
        callbacks = [StepCount(simulated), *monitors]
        trainer = tiny_trainer(folder, callbacks, **options, **on_simulated_device())
        trainer.fit(Quiet(), loader)
    of_ours = [wait.step for wait in simulated.waits if wait.function]
    return [of_ours.count(step) for step in range(num_steps)]


@pytest.mark.parametrize("device", ["simulated", on_gpu("cuda")])
def test_a_step_waits_once_where_it_has_a_snapshot_and_else_never(
    device: str, tmp_path: Path
) -> None:
    monitors = [
        ActivationMonitor(every_n_train_steps=3, map_layers=[]),
        FilterMonitor(every_n_train_steps=3),
    ]
    plain = waits(device, tmp_path, [], 12)
    watched = waits(device, tmp_path, monitors, 12)
    assert [len(monitor.history) for monitor in monitors] == [4, 4]
    # Step 0 sends what is sent once, such as the places of the units.
    extra = [ours - theirs for ours, theirs in zip(watched, plain, strict=True)]
    assert extra[1:] == [int(step % 3 == 0) for step in range(1, 12)]


def peak_bytes(folder: Path, monitors: Sequence[Monitor]) -> int:
    """Returns the most memory that tensors took on the GPU during a training."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(64, 3, 64, 64, generator=generator)
    data = torch.utils.data.TensorDataset(images, torch.arange(64) % 4)
    network = nn.Sequential(
        *(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(64, 4),
    )
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer = tiny_trainer(folder, monitors, accelerator="cuda", devices=1, max_epochs=6)
    trainer.fit(Net(network), torch.utils.data.DataLoader(data, batch_size=32))
    return torch.cuda.max_memory_allocated()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_of_memory_is_at_most_a_hundredth_higher(tmp_path: Path) -> None:
    peak_bytes(tmp_path / "first", [])  # what libraries take once
    plain = peak_bytes(tmp_path / "plain", [])
    monitors = [ActivationMonitor(every_n_train_steps=2), FilterMonitor(every_n_train_steps=2)]
    watched = peak_bytes(tmp_path / "watched", monitors)
    assert [len(monitor.history) for monitor in monitors] == [6, 6]
    assert watched <= 1.01 * plain


# -- two processes


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["gloo", on_gpu("nccl", num_devices=2)])
def test_two_processes_read_the_same_and_train_as_without_monitors(
    backend: str, tmp_path: Path
) -> None:
    run_in_two_ranks(partial(train_twice, backend), tmp_path)
    first, second = (torch.load(tmp_path / f"seen.{rank}.pt") for rank in RANKS)
    assert first["failures"] == second["failures"] == {}
    assert first["units"] == second["units"]
    assert first["weights"] == second["weights"] == first["weights of a plain run"]
    assert first["num readings"] > 0
