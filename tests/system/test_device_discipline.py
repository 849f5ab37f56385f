"""How often each monitor waits for the device, counted on a device in software.

A wait costs what is queued on the device, so a snapshot may have one: the transfer of its report.
Reductions, which run within the user's own passes, have none.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contracts.every_monitor import SHIPPED
from tests.simulated_device import (
    DEVICE,
    SimulatedDevice,
    StepCount,
    on_simulated_device,
    simulated_device,
)
from tests.tiny import fullest, tiny_loader, tiny_module, tiny_trainer
from torch.utils._pytree import tree_leaves

from vis_callbacks import Monitor
from vis_callbacks.monitors.activation_maximization import monitor as activation_maximization
from vis_callbacks.monitors.activations import monitor as activations
from vis_callbacks.monitors.embedding import samples as embedding
from vis_callbacks.monitors.filters import numbers as filters
from vis_callbacks.monitors.learning import monitor as learning
from vis_callbacks.monitors.occlusion import monitor as occlusion
from vis_callbacks.monitors.saliency import questions as saliency
from vis_callbacks.monitors.top_patches import reader as top_patches

NUM_EPOCHS = 3  # of two steps
# By then all tables are known that are sent to the device once: those of the units' places, and
# of receptive fields, which are measured in the first evaluation and used in the second.
SETTLED = range(4, 2 * NUM_EPOCHS)

TRANSFER = {"report._to_host": 1}
# Only until it is known whether the outputs are classes: scores and labels cross.
LEARNS = {"outputs.Outputs.learn": 2}
# What the last snapshot of a run, with all its pictures, waits for. Monitors with passes of their
# own may ask the host how to go on: once a question or an axis, but not once a sample or pass.
WAITS: dict[str, dict[str, int]] = {
    "activations": TRANSFER,
    "learning": TRANSFER,
    "filters": TRANSFER,
    "top_patches": TRANSFER,
    "saliency": TRANSFER
    | LEARNS
    | {
        "questions.answer_to": 4,  # of which samples the second answer is another one
        "scores.resolve_targets": 1,  # whether a label is not a class, which the caption says
    },
    "occlusion": TRANSFER
    | LEARNS
    | {
        "science.occlude": 4,  # places of the window, along two axes, coarse and fine
        "scores.resolve_targets": 1,
    },
    "activation_maximization": TRANSFER
    | LEARNS
    | {
        "monitor.ActivationMaximizationMonitor.observe": 2,  # rows of the strip
        "monitor.MaximizedTargets._numbers_on": 1,
        "science.maximize": 1,  # whether any image is to begin anew from a real one
        "basis.principal_colours": 1,  # an ascent: whether they were found
        "moves.turned_maps": 1,  # an ascent: all turns of its steps are sent at once
    },
    # Neighbours, probes and trustworthiness are of libraries of the host. One wait for each of
    # two layers, three probes and nine facts of a sample, at the end of an evaluation.
    "embedding": TRANSFER
    | {
        "maps.EmbeddingMaps._pictures": 4,
        "maps._laid_out": 4,
        "probing.ProbeCurves.items": 2,
        "samples.Samples.at": 4,
        "samples._chosen": 6,
        "samples.samples_of": 8,
        "science._shape": 2,
        "science.class_agreement": 4,
        "science.clouds_of": 6,
        "science.trustworthiness": 2,
    },
}
BY_STEM = {kind.stem: kind for kind in SHIPPED}


@pytest.fixture(autouse=True)
def _choice_of_algorithms_put_back():
    yield
    torch.use_deterministic_algorithms(False)


def watched(stem: str, folder: Path, **options: Any) -> tuple[Monitor, SimulatedDevice]:
    """Trains on the device; returns the monitor, and the device with its waits by step."""
    # A generator of random numbers cannot be made for this device.
    options |= {"sanity_check": False} if stem == "saliency" else {}
    with simulated_device() as device:
        monitor = fullest(BY_STEM[stem], **options)
        trainer = tiny_trainer(
            folder,
            [StepCount(device), monitor],
            max_epochs=NUM_EPOCHS,
            deterministic=True,
            **on_simulated_device(),
        )
        trainer.fit(tiny_module(), tiny_loader(), tiny_loader())
    return monitor, device


def check(monitor: Monitor, device: SimulatedDevice, waits: dict[str, int]) -> None:
    assert monitor.guard.counts == {}
    assert len(monitor.history) > 1
    snapshots = [step for step in SETTLED if device.by_function([step])]
    assert [wait for wait in device.waits if wait.step in SETTLED and wait.in_reduction] == []
    assert device.by_function(snapshots[-1:]) == waits


@pytest.mark.parametrize("stem", BY_STEM)
def test_a_monitor_waits_for_the_device_as_often_as_said_and_mixes_nothing_in(stem, tmp_path):
    check(*watched(stem, tmp_path), WAITS[stem])


# A function of each monitor's that every snapshot comes by: reductions where it has some.
REDUCTIONS = {
    "activations": (activations, "measure"),
    "learning": (learning, "measure"),
    "filters": (filters, "split_learned"),
    "top_patches": (top_patches, "top_patches"),
    "saliency": (saliency, "_attribution"),
    "occlusion": (occlusion, "occlude"),
    "activation_maximization": (activation_maximization, "maximize"),
    "embedding": (embedding, "fingerprints"),
}


def first_tensor(*given: Any) -> torch.Tensor:
    """Returns the first tensor on the device among the arguments of a reduction."""
    flat = tree_leaves([vars(x) if is_dataclass(x) else x for x in given])
    return next(x for x in flat if isinstance(x, torch.Tensor) and x.device == DEVICE)


def waiting(tensor: torch.Tensor) -> None:
    tensor.sum().item()


def mixing(tensor: torch.Tensor) -> None:
    tensor.flatten()[:1] + torch.ones(1)


@pytest.mark.contained
@pytest.mark.parametrize("mistake", [waiting, mixing])
@pytest.mark.parametrize("stem", BY_STEM)
def test_a_mistake_in_a_reduction_is_seen(stem, mistake, tmp_path, monkeypatch):
    module, name = REDUCTIONS[stem]
    reduction = getattr(module, name)

    def mistaken(*args: Any, **kwargs: Any) -> Any:
        mistake(first_tensor(*args, *kwargs.values()))
        return reduction(*args, **kwargs)

    monkeypatch.setattr(module, name, mistaken)
    monitor, device = watched(stem, tmp_path)
    assert ("on the same device" in str(monitor.guard.counts)) == (mistake is mixing)
    with pytest.raises(AssertionError):
        check(monitor, device, WAITS[stem])
