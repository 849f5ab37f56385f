from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.identity import assert_identical, digest, fingerprint
from torch import nn


class Run:
    """A small model after one step, with all that a run has."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 5)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        self.model(torch.randn(8, 3)).sum().backward()
        self.optimizer.step()
        self.scheduler.step()

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(
            self.model,
            optimizers=[self.optimizer],
            schedulers=[self.scheduler],
            scaler=self.scaler,
        )


def _set(tensor: torch.Tensor, value: float) -> None:
    with torch.no_grad():
        tensor.view(-1)[0] = value


CHANGES = {
    "parameter 0.weight": lambda run: _set(run.model[0].weight, float("nan")),
    "buffer 1.running_mean": lambda run: run.model[1].running_mean.neg_(),
    "training 1": lambda run: run.model[1].eval(),
    "grad 2.weight": lambda run: run.model[2].weight.grad.mul_(2),
    "grad 2.bias": lambda run: setattr(run.model[2].bias, "grad", None),
    "requires_grad 0.bias": lambda run: run.model[0].bias.requires_grad_(False),
    "hooks 0": lambda run: run.model[0].register_forward_hook(lambda *args: None),
    "optimizer 0": lambda run: run.optimizer.param_groups[0].update(lr=0.2),
    "scheduler 0": lambda run: setattr(run.scheduler, "gamma", 0.5),
    "scaler": lambda run: run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": 8.0}),
    "rng torch": lambda run: torch.rand(()),
    "rng numpy": lambda run: np.random.random(),
    "rng python": lambda run: random.random(),
    "flag grad mode": lambda run: torch.set_grad_enabled(False),
    "flag anomaly mode": lambda run: torch.autograd.set_detect_anomaly(True),
    "flag autocast": lambda run: torch.set_autocast_enabled("cpu", True),
    "flag autocast cache": lambda run: torch.set_autocast_cache_enabled(False),
    "flag deterministic": lambda run: torch.use_deterministic_algorithms(True),
    "flag default dtype": lambda run: torch.set_default_dtype(torch.float64),
    "flag default device": lambda run: torch.set_default_device("meta"),
    "flag threads": lambda run: torch.set_num_threads(torch.get_num_threads() + 1),
    "flag matmul precision": lambda run: torch.set_float32_matmul_precision("medium"),
}


@pytest.fixture(autouse=True)
def _flags_put_back():
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_grad_enabled(True)
    torch.autograd.set_detect_anomaly(False)
    torch.set_autocast_enabled("cpu", False)
    torch.set_autocast_cache_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def test_two_fingerprints_of_an_untouched_run_agree():
    run = Run()
    assert_identical(run.fingerprint(), run.fingerprint())


def test_two_equal_runs_have_one_fingerprint():
    np.random.seed(0)
    random.seed(0)
    assert_identical(Run().fingerprint(), Run().fingerprint())


@pytest.mark.parametrize("part", CHANGES)
def test_a_change_is_named(part):
    run = Run()
    before = run.fingerprint()
    CHANGES[part](run)
    after = run.fingerprint()
    torch.set_default_device(None)
    with pytest.raises(AssertionError, match=rf"^1 parts differ: {part}"):
        assert_identical(before, after)


def test_hooks_in_another_order_differ():
    def first(*args):
        return None

    def second(*args):
        return None

    one, other = nn.Linear(1, 1), nn.Linear(1, 1)
    other.load_state_dict(one.state_dict())
    for module, hooks in ((one, (first, second)), (other, (second, first))):
        for hook in hooks:
            module.register_forward_hook(hook)
    with pytest.raises(AssertionError, match="1 parts differ: hooks"):
        assert_identical(fingerprint(one), fingerprint(other))


def test_a_part_that_only_one_has_is_named():
    with pytest.raises(AssertionError, match="1 parts differ: b"):
        assert_identical({"a": "0"}, {"a": "0", "b": "1"})


def test_nothing_compared_is_no_proof():
    with pytest.raises(AssertionError, match="proves nothing"):
        assert_identical({}, {})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor(0.0), torch.tensor(-0.0)),
        (torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 2.0]])),
        (torch.tensor(1, dtype=torch.int32), torch.tensor(1, dtype=torch.int64)),
        (torch.zeros(2, dtype=torch.bfloat16), torch.tensor([0.0, -0.0], dtype=torch.bfloat16)),
        (0.0, -0.0),
        (1, True),
        (None, torch.zeros(1)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (np.float32(0.0), np.float32(-0.0)),
        ({1, 2}, {1, 3}),
        (torch.eye(2).to_sparse(), torch.eye(2)),
    ],
    ids=str,
)
def test_values_that_print_alike_or_compare_equal_are_told_apart(one, other):
    assert digest(one) != digest(other)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.float64]
)
def test_nan_equals_itself(dtype):
    assert digest(torch.tensor(float("nan"), dtype=dtype)) == digest(
        torch.tensor(float("nan"), dtype=dtype)
    )


def test_a_trainer_is_read_whole():
    run = Run()
    trainer = SimpleNamespace(
        lightning_module=run.model,
        optimizers=[run.optimizer],
        lr_scheduler_configs=[SimpleNamespace(scheduler=run.scheduler)],
        precision_plugin=SimpleNamespace(scaler=run.scaler),
    )
    assert_identical(fingerprint(trainer), run.fingerprint())
