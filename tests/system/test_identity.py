"""A run with monitors is, bit for bit, the run without them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import StochasticWeightAveraging
from tests.contracts.every_monitor import SHIPPED
from tests.identity import digest
from tests.system.models import (
    LIGHTNING_CHATTER,
    NUM_STEPS,
    STEPS_AN_EPOCH,
    Cnn,
    Net,
    Transformer,
    mlp,
    pictures,
    quiet,
    tokens,
    train,
    watchers,
)
from tests.system.traces import (
    LiveReads,
    Scenario,
    Trace,
    assert_same_run,
    assert_watched,
    trace,
)
from tests.tiny import Threes, smallest
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vis_callbacks.monitors.activations.monitor import ActivationMonitor
from vis_callbacks.session import session_of

pytestmark = [
    *(pytest.mark.filterwarnings(text) for text in LIGHTNING_CHATTER),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True"),
]


# -- networks and modules of the user's


class Checkpointed(nn.Module):
    """Runs a block a second time, in the backward pass."""

    def __init__(self, *, use_reentrant: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 4)
        self.block = nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 16), nn.ReLU())
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(self.block, self.first(x), use_reentrant=self.use_reentrant)
        return self.last(x)


def weight_normed() -> nn.Module:
    network = mlp()
    network[0] = quiet(lambda: nn.utils.weight_norm(network[0]), ".*weight_norm.*deprecated")
    return network


def spectrally_normed(normalise: Callable[[nn.Module], nn.Module]) -> nn.Module:
    network = mlp()
    network[0] = normalise(network[0])
    return network


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 4, 3),
            norm=nn.BatchNorm2d(4),
            relu=nn.ReLU(),
            dropout=nn.Dropout(0.3),
            flatten=nn.Flatten(),
            head=nn.LazyLinear(4),
        )
    )


class FrozenNorm(Net):
    """Trains, but for its batch norm."""

    def on_train_epoch_start(self) -> None:
        self.network.norm.eval()
        for parameter in self.network.norm.parameters():
            parameter.requires_grad_(False)


class Hooked(Net):
    """Counts the calls of its own hooks and of its forward, and logs inside of it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.calls: Counter[str] = Counter()
        self.num_forwards = 0
        first = network[0]
        first.register_forward_pre_hook(lambda *args: self.count("before"))
        first.register_forward_hook(lambda *args: self.count("after"))
        network[1].register_full_backward_hook(lambda *args: self.count("backward"))
        first.weight.register_hook(lambda grad: self.count("grad"))

    def count(self, name: str) -> None:
        self.calls[name] += 1

    def forward(self, x: Tensor) -> Tensor:
        self.num_forwards += 1
        scores = super().forward(x)
        self.log("largest_score", scores.max())
        return scores

    def on_train_end(self) -> None:
        self.calls["forward"] = self.num_forwards


class Gan(pl.LightningModule):
    """Two networks, two optimizers, several forward passes a step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 12))
        self.critic = nn.Sequential(nn.Linear(12, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.critic(x)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        of_critic, of_generator = self.optimizers()
        fake = self.generator(torch.randn(len(batch[0]), 4))
        critic_loss = (F.softplus(self(fake.detach())) + F.softplus(-self(batch[0]))).mean()
        of_critic.zero_grad()
        self.manual_backward(critic_loss)
        of_critic.step()
        loss = F.softplus(-self(fake)).mean()
        of_generator.zero_grad()
        self.manual_backward(loss)
        of_generator.step()
        self.log_dict({"critic_loss": critic_loss, "generator_loss": loss})

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_score", self(batch[0]).mean())

    def configure_optimizers(self) -> Any:
        return [
            torch.optim.Adam(self.critic.parameters(), 1e-3),
            torch.optim.SGD(self.generator.parameters(), 1e-2),
        ]


def lbfgs(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(module.parameters(), lr=0.1, max_iter=3)


class SometimesNone(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 5 == 3 else loss


class EndsEpochsEarly(Net):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 10 else None


# -- the table


def _cnn(**options: Any) -> Scenario:
    return Scenario(lambda: Net(Cnn()), pictures, options=options)


def _with(network: Callable[[], nn.Module], **kwargs: Any) -> Scenario:
    return Scenario(lambda: Net(network()), **kwargs)


SCENARIOS = {
    "mlp": _with(mlp),
    "cnn": _cnn(),
    "transformer, norm last": _with(partial(Transformer, norm_first=False), make_data=tokens),
    "transformer, norm first": _with(partial(Transformer, norm_first=True), make_data=tokens),
    "frozen batch norm": Scenario(lambda: FrozenNorm(Cnn()), pictures),
    "checkpointing": _with(partial(Checkpointed, use_reentrant=False)),
    # PyTorch itself takes no gradient for inputs alone through a reentrant checkpoint.
    "reentrant checkpointing": _with(partial(Checkpointed, use_reentrant=True), gradients=False),
    "weight norm": _with(weight_normed),
    "spectral norm": _with(partial(spectrally_normed, nn.utils.spectral_norm)),
    "parametrised spectral norm": _with(
        partial(spectrally_normed, nn.utils.parametrizations.spectral_norm)
    ),
    "hooks of the user": Scenario(lambda: Hooked(mlp())),
    "hooks of the user, convolutional": Scenario(lambda: Hooked(convolutional()), pictures),
    "gan": Scenario(Gan),
    "accumulation": _cnn(accumulate_grad_batches=3, max_epochs=6),
    "clipping": _cnn(gradient_clip_val=0.1),
    "lbfgs": Scenario(lambda: Net(mlp(), lbfgs)),
    "bf16-mixed": _cnn(precision="bf16-mixed"),
    "bf16-true": _cnn(precision="bf16-true"),
    "64-true": _cnn(precision="64-true"),
    "steps without a loss": Scenario(lambda: SometimesNone(mlp())),
    "epochs that end early": Scenario(lambda: EndsEpochsEarly(mlp()), num_steps=20),
    "weight averaging": Scenario(
        lambda: Net(Cnn()),
        pictures,
        callbacks=lambda: [StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)],
        num_steps=NUM_STEPS + 1,  # its last epoch, for the statistics of batch norm, is one step
    ),
}

# What shows images cannot look at token numbers.
OF_IMAGES = ("filters", "saliency", "occlusion", "top_patches", "activation_maximization")


Unwatched = Callable[[str], Trace]


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory: pytest.TempPathFactory) -> Unwatched:
    """Returns what a scenario is without monitors; it is trained once."""

    @cache
    def trained(name: str) -> Trace:
        return trace(SCENARIOS[name].run(tmp_path_factory.mktemp("plain")))

    return trained


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None.")
@pytest.mark.parametrize("name", SCENARIOS)
def test_monitors_leave_no_trace_in_a_run(
    name: str, unwatched: Unwatched, tmp_path: Any, caplog: Any
) -> None:
    scenario, plain = SCENARIOS[name], unwatched(name)
    monitors = watchers(gradients=scenario.gradients)
    watched = scenario.run(tmp_path, monitors)
    assert_same_run(plain, watched)
    assert_watched(watched, monitors, scenario.num_steps, caplog)


class Captures(pl.Callback):
    """Notes at each step by what the engine reads the user's own pass."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        self.kinds[type(session_of(trainer).run.engine._capture).__name__] += 1


# How many of 30 steps are read by a plan, made at step 0: none where a nonlinearity is no module.
IN_BURSTS = {
    "mlp": 20,
    "cnn": 0,
    "checkpointing": 20,
    "hooks of the user": 20,
    "gan": None,
    "accumulation": None,
    "lbfgs": None,
    "bf16-mixed": 0,
    "weight norm": 20,
    "steps without a loss": None,
}


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None.")
@pytest.mark.parametrize("name", IN_BURSTS)
def test_monitors_that_read_in_bursts_leave_no_trace(
    name: str, unwatched: Unwatched, tmp_path: Any
) -> None:
    scenario, captures = SCENARIOS[name], Captures()
    monitor = ActivationMonitor()
    monitor.schedule = Threes(1)
    plain = unwatched(name)
    assert_same_run(plain, scenario.run(tmp_path, [monitor, captures]))
    assert len(monitor.history) >= scenario.num_steps
    assert monitor.guard.counts == {}
    assert captures.kinds.total()
    if IN_BURSTS[name] is not None:
        assert captures.kinds["PlannedCapture"] == IN_BURSTS[name]


def test_a_plain_model_is_read_live_from_its_first_step_on(tmp_path: Any) -> None:
    look = LiveReads()
    train(lambda: Net(mlp()), tmp_path, [ActivationMonitor(every_n_train_steps=1), look])
    assert look.seen == [True] * NUM_STEPS


def test_an_evaluation_that_is_read_gives_the_metrics_of_one_that_is_not(tmp_path: Any) -> None:
    # Left open, a function mode switches the fused path off: padded positions differ by 3.
    make = partial(Transformer, norm_first=True)
    metrics = []
    for monitors in ([], watchers()):
        folder = tmp_path / str(len(monitors))
        run = train(lambda: Net(make()), folder, monitors, make_data=tokens)
        metrics.append(digest(run.trainer.validate(run.module, run.loaders[1], verbose=False)))
    assert metrics[0] == metrics[1]
    assert len(monitors[2].history) == 1 + NUM_STEPS // STEPS_AN_EPOCH


TOGETHER = ("cnn", "hooks of the user, convolutional", "transformer, norm first")


@pytest.mark.parametrize("name", TOGETHER)
def test_all_monitors_of_the_library_together_leave_no_trace(
    name: str, unwatched: Unwatched, tmp_path: Any
) -> None:
    shows_images = "transformer" not in name
    kinds = [kind for kind in SHIPPED if shows_images or kind.stem not in OF_IMAGES]
    monitors = [smallest(kind, every_n_train_steps=None, every_n_epochs=1) for kind in kinds]
    plain = unwatched(name)
    assert_same_run(plain, SCENARIOS[name].run(tmp_path, monitors))
    assert {m.stem: m.guard.counts for m in monitors} == {m.stem: {} for m in monitors}
    assert all(monitor.last_report is not None for monitor in monitors)
