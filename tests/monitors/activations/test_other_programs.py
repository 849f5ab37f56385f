"""Programs that are more than (image, label) -> scores of a plain stack of layers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.callbacks import ModelPruning
from tests.tiny import tiny_trainer
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset

from vis_callbacks import ActivationMonitor
from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.alert import Finding
from vis_callbacks.report import Picture

NUM_STEPS = 24


class Program(LightningModule):
    """A classifier of 16 numbers into 4 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.05)


def train(
    tmp_path: Path,
    program: LightningModule,
    others: Sequence[Callback] = (),
    num_steps: int = NUM_STEPS,
    **options: object,
) -> ActivationMonitor:
    """Returns the monitor of a run of 32 samples a step, looked at every second step."""
    torch.manual_seed(0)
    labels = torch.arange(32 * num_steps) % 4
    inputs = torch.randn(4, 16)[labels] + 0.5 * torch.randn(len(labels), 16)
    monitor = ActivationMonitor(**{"every_n_train_steps": 2, **options})
    monitor.picture_schedule = None  # at every snapshot
    trainer = tiny_trainer(tmp_path, [*others, monitor], max_epochs=1)
    trainer.fit(program, DataLoader(TensorDataset(inputs, labels), 32))
    assert len(monitor.history) == num_steps // 2
    return monitor


def latest(monitor: ActivationMonitor, metric: str) -> dict[str, float]:
    history = monitor.history
    return {layer: history.latest(metric, layer) for layer in history.layers(metric)}


def remarks(monitor: ActivationMonitor) -> dict[str, Finding]:
    """Returns what the rules find at the end, mere remarks as well."""
    found = {rule.kind: rule.check(monitor.history) for rule in monitor.rules}
    return {kind: finding for kind, finding in found.items() if isinstance(finding, Finding)}


def drawn(monitor: ActivationMonitor) -> dict[str, Picture]:
    assert monitor.last_report is not None
    return {image.tag: image for image in monitor.last_report.of(Picture)}


class Experts(Program):
    """Sends each sample to one expert of three, never to the last; looks in or leaves it out."""

    def __init__(self, *, skips_empty: bool) -> None:
        super().__init__()
        self.skips_empty = skips_empty
        self.gate, self.head = nn.Linear(16, 3), nn.Linear(16, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16)) for _ in range(3)
        )
        self.gate.bias.data[2] = -1e3
        del self.net

    def forward(self, x: Tensor) -> Tensor:
        p = self.gate(x).softmax(1)
        h = x
        for number, expert in enumerate(self.experts):
            rows = (p.argmax(1) == number).nonzero()[:, 0]
            if len(rows) or not self.skips_empty:
                h = h.index_add(0, rows, expert(x[rows]) * p[rows, number : number + 1])
        return self.head(h)


@pytest.mark.parametrize("skips_empty", [False, True])
def test_an_expert_that_is_never_chosen_is_remarked_on_and_never_dead(tmp_path, skips_empty):
    monitor = train(tmp_path, Experts(skips_empty=skips_empty))
    assert not monitor.alerts
    dead = latest(monitor, metric_names.DEAD_FRACTION)
    assert list(dead) == ["experts.0.1", "experts.1.1"]
    if not skips_empty:  # else it was never met
        remark = remarks(monitor)["unreached_layers"]
        assert remark.layers == ("experts.2.1",)
        assert "No sample reached 'experts.2.1'" in remark.message
        assert remark.since_step == 0
        assert not [tag for tag in drawn(monitor) if "experts.2" in tag]
    reached = latest(monitor, metric_names.REACHED)
    assert sum(reached.values()) == 32
    assert all(0 < reached[layer] < 32 for layer in dead)


class Nodes(Program):
    """Graphs of unlike sizes: the rows of its layers are nodes, of all samples one by one."""

    def forward(self, x: Tensor) -> Tensor:
        num_nodes = 2 + torch.arange(len(x)) % 5
        of_graph = torch.arange(len(x)).repeat_interleave(num_nodes)
        h = self.net[:4](x[of_graph] + 0.1 * torch.arange(len(of_graph))[:, None])
        pooled = torch.zeros(len(x), 32).index_add(0, of_graph, h)
        return self.net[4](pooled / num_nodes[:, None])


class Packed(Program):
    """Sequences of unlike lengths, packed: rows are steps in time of all samples together."""

    def forward(self, x: Tensor) -> Tensor:
        lengths = 1 + torch.arange(len(x)) % 4
        steps = x[:, None].repeat(1, 4, 1)
        packed = pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
        h = self.net[:4](packed.data)[: len(x)]  # the first step of each
        return self.net[4](h[packed.unsorted_indices])


@pytest.mark.parametrize("program", [Nodes, Packed])
def test_rows_that_are_no_samples_are_counted_as_rows_and_said_to_be(tmp_path, program):
    monitor = train(tmp_path, program())
    assert not monitor.alerts
    assert set(latest(monitor, metric_names.COUNTS_ROWS).values()) == {1.0}
    assert set(latest(monitor, metric_names.REACHED).values()) == {32.0}
    pictures = drawn(monitor)
    assert {"activations/maps/net.1", "activations/maps/net.3"} <= pictures.keys()
    for picture in pictures.values():
        assert picture.draw(**picture.arrays).std() > 10


def test_an_alert_on_rows_says_rows(tmp_path):
    class Dying(Nodes):
        def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
            if batch_idx == 8:
                self.net[0].bias.data[:] = -1e3
                self.net[0].weight.data *= 1.1

    monitor = train(tmp_path, Dying())
    alert = next(alert for alert in monitor.alerts if alert.kind == "dying_units")
    assert f"0 on all of the latest {alert.sample_size} rows" in alert.message
    assert alert.evidence["counted"] == "rows"


class TeacherStudent(Program):
    """The teacher is called in the step alone; ``forward`` is the student's."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Sequential(
            nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
        )

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        with torch.no_grad():
            target = self.teacher(batch[0]).softmax(1)
        return F.cross_entropy(self(batch[0]), target)


def test_the_maps_are_those_of_layers_that_a_pass_of_the_sample_reaches(tmp_path):
    monitor = train(tmp_path, TeacherStudent())
    assert "teacher.1" in latest(monitor, metric_names.DEAD_FRACTION)
    strips = {tag: i for tag, i in drawn(monitor).items() if tag.startswith("activations/maps")}
    assert list(strips) == ["activations/maps/net.1", "activations/maps/net.3"]
    for strip in strips.values():
        assert len(strip.draw.keywords["steps"]) > 1


def info_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]


def test_a_layer_named_for_maps_that_no_pass_reaches_is_said_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vis_callbacks")
    monitor = train(tmp_path, TeacherStudent(), map_layers=["*.1"])
    tags = [tag for tag in drawn(monitor) if tag.startswith("activations/maps")]
    assert tags == ["activations/maps/net.1"]
    (words,) = [line for line in info_lines(caplog) if "maps" in line]
    assert "does not reach teacher.1" in words
    assert "forward_fn=lambda model, inputs:" in words


class Masked(Program):
    """Needs a second input, so that a pass of one sample alone is not possible later on."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None and self.global_step > 0:
            raise TypeError("missing a mask")
        return self.net(x)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0], torch.ones(1)), batch[1])


def test_maps_that_cannot_be_had_are_left_out_alone_and_that_is_said_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, "vis_callbacks")
    monitor = train(tmp_path, Masked())
    assert list(drawn(monitor)) == ["activations/unit_life", "activations/raster"]
    assert not monitor.guard.counts
    (words,) = [line for line in info_lines(caplog) if "maps" in line]
    assert words.startswith("ActivationMonitor leaves out maps of activations and goes on")
    assert "TypeError: missing a mask" in words
    assert "map_layers=[]" in words


class PruneUnits(Callback):
    """Takes the weights of units away in the middle of the run."""

    def __init__(self, take_away: Callable[[nn.Linear], object], at: int) -> None:
        self.take_away, self.at = take_away, at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == self.at:
            for layer in (pl_module.net[0], pl_module.net[2]):
                layer.bias.data[:24] = 0.0
                self.take_away(layer)


def by_mask(layer: nn.Linear) -> None:
    mask = torch.ones_like(layer.weight)
    mask[:24] = 0.0
    prune.custom_from_mask(layer, "weight", mask)


class Mask(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * (torch.arange(len(weight)) >= 24)[:, None]


def by_parametrization(layer: nn.Linear) -> None:
    parametrize.register_parametrization(layer, "weight", Mask())


def by_hand(layer: nn.Linear) -> None:
    """As it is after ``prune.remove``; a unit of 0 that no gradient reaches stays so."""
    layer.weight.data[:24] = 0.0
    layer.bias.data[:24] = -1.0


def nearly_all(layer: nn.Linear) -> None:
    prune.random_unstructured(layer, "weight", amount=0.9)


@pytest.mark.parametrize(
    ("take_away", "at"),
    # Weights that are 0 from the start, with no mask to tell why, may be a mistake.
    [(by_mask, 0), (by_mask, 12), (by_parametrization, 0), (by_hand, 12), (nearly_all, 12)],
)
def test_pruned_units_are_not_dead_and_pruned_weights_have_not_shrunk(tmp_path, take_away, at):
    monitor = train(tmp_path, Program(), [PruneUnits(take_away, at)])
    assert not monitor.alerts
    assert not remarks(monitor).keys() & {"newly_dead_units", "collapsing_weights"}
    if take_away is not nearly_all:
        assert max(latest(monitor, metric_names.DEAD_FRACTION).values()) < 0.1
        assert monitor.dead_units.states("net.1").tolist()[:24] == [-1] * 24


def test_lightnings_own_pruning_raises_no_alert(tmp_path):
    pruning = ModelPruning(
        "l1_unstructured", amount=0.8, use_global_unstructured=True, verbose=0,
        prune_on_train_epoch_end=True, parameter_names=["weight"],
    )  # fmt: skip
    torch.manual_seed(0)
    labels = torch.arange(32 * 10) % 4
    inputs = torch.randn(4, 16)[labels] + 0.5 * torch.randn(len(labels), 16)
    monitor = ActivationMonitor(every_n_train_steps=2)
    trainer = tiny_trainer(tmp_path, [pruning, monitor], max_epochs=3)
    trainer.fit(Program(), DataLoader(TensorDataset(inputs, labels), 32))
    assert not monitor.alerts
    num_weights = monitor.history.series(metric_names.NUM_WEIGHTS, "net.3")
    assert num_weights[-1] < 0.3 * num_weights[0]


class Growing(Program):
    """Gets eight more units in the middle of the run, behind those it has."""

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        if batch_idx == 10:
            before, after = self.net[2], self.net[4]
            self.net[2], self.net[4] = nn.Linear(32, 40), nn.Linear(40, 4)
            self.net[2].weight.data[:32], self.net[2].bias.data[:32] = before.weight, before.bias
            self.net[4].weight.data[:, :32] = after.weight


def test_a_layer_that_grows_raises_no_alert_and_no_failure(tmp_path):
    monitor = train(tmp_path, Growing())
    assert not monitor.alerts
    assert "net.3" in latest(monitor, metric_names.NUM_UNITS)
