from __future__ import annotations

import logging
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vis_callbacks import ActivationMonitor
from vis_callbacks.alerts import metric_names
from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.probe import Batch
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Group, Snapshot, Weights
from vis_callbacks.pictures.time_plots import ALIVE, DEAD, NEVER_FIRED
from vis_callbacks.report import Picture, Report, Scalar, transfer


class Forms(nn.Module):
    """The same units in each form that a ReLU may be written in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3)
        self.linear = nn.Linear(12, 16)
        self.again = nn.Linear(16, 16)
        self.functional = nn.Linear(16, 20)
        self.in_place = nn.Linear(20, 24)
        self.relu, self.relu_ = nn.ReLU(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x)).mean((2, 3))
        x = self.relu(self.linear(x))
        x = self.relu(self.again(x))
        x = F.relu(self.functional(x))
        return self.relu_(self.in_place(x))


OWNERS = {
    "relu": "conv",
    "relu-1": "linear",
    "relu-2": "again",
    "Forms/relu": "functional",
    "relu_": "in_place",
}


class Observed:
    """Lets a monitor look at a model without any Trainer."""

    def __init__(self, model: nn.Module, monitor: ActivationMonitor) -> None:
        self.monitor, self.engine = monitor, Engine(model)

        def batch_of(x: Tensor) -> Batch:
            return Batch(inputs=x, labels=None, num_samples=len(x))

        self.subscriptions = {
            probe.name: self.engine.subscribe(probe, guard=monitor.guard, batch_of=batch_of)
            for probe in monitor.probes()
        }

    def look(self, step: int, x: Tensor, *, draws: bool = False, **known) -> Report:
        self.engine.begin([*self.subscriptions.values()], live=False)
        self.engine.start_batch(x)
        self.engine.read_isolated(training=True)
        self.engine.count_batch()
        snapshot = Snapshot(
            **{
                "step": step,
                "trace": self.engine.trace,
                "values": {name: s.values for name, s in self.subscriptions.items()},
                "num_samples": {name: s.num_samples for name, s in self.subscriptions.items()},
                "weights": Weights(self.engine.model),
                "wants_pictures": draws,
                "references": References(inputs=x[:1].clone(), labels=None, source="a test"),
                "read_layers": partial(self.engine.read_layers, forward=lambda m, i: m(i)),
                **known,
            }
        )
        (report,) = transfer([self.monitor.observe(snapshot)])
        return report


def numbers(report: Report, metric: str) -> dict[str, float]:
    return report.rule_metrics()[metric]


def scalars(report: Report) -> dict[str, float]:
    return {item.tag: float(item.value) for item in report.of(Scalar)}


def inputs(seed: int) -> Tensor:
    return torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layer", OWNERS)
@pytest.mark.parametrize("k", [0, 7])
def test_k_units_with_a_bias_of_minus_1000_are_exactly_k_dead_units(layer, k):
    torch.manual_seed(0)
    model = Forms()
    for owner in OWNERS.values():  # all others fire for every input
        nn.init.normal_(getattr(model, owner).weight, std=0.01)
        nn.init.constant_(getattr(model, owner).bias, 1.0)
    observed = Observed(model, ActivationMonitor())
    observed.look(0, inputs(0))
    with torch.no_grad():
        getattr(model, OWNERS[layer]).bias[:k] = -1000.0
    for step in range(1, 4):
        report = observed.look(step, inputs(step))
    widths = numbers(report, metric_names.NUM_UNITS)
    dead = {n: round(s * widths[n]) for n, s in numbers(report, metric_names.DEAD_FRACTION).items()}
    assert dead == {name: k if name == layer else 0 for name in OWNERS}
    assert numbers(report, metric_names.NEWLY_DEAD)[layer] == pytest.approx(k / widths[layer])


def test_totals_weigh_layers_by_their_units():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 30), nn.ReLU(), nn.Linear(30, 10), nn.ReLU())
    nn.init.constant_(model[0].bias, 50.0)
    nn.init.constant_(model[2].bias, -1000.0)
    observed = Observed(model, ActivationMonitor())
    for step in range(3):
        report = observed.look(step, torch.randn(64, 3))
    assert scalars(report)["dead_fraction/total"] == pytest.approx(10 / 40)
    assert scalars(report)["dead_fraction/worst_layer"] == 1.0


def test_the_sparsity_is_the_share_of_exact_zeros():
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    observed = Observed(model, ActivationMonitor(layers=["1"]))
    x = torch.randn(32, 50, generator=torch.Generator().manual_seed(0))
    report = observed.look(0, x)
    assert scalars(report)["sparsity/1"] == pytest.approx((x <= 0).double().mean().item())


def test_the_effective_area_is_one_for_an_even_map_and_one_position_for_a_point():
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    observed = Observed(model, ActivationMonitor())
    point = torch.zeros(4, 2, 5, 5)
    point[..., 2, 2] = 3.0
    assert scalars(observed.look(0, point))["effective_area/total"] == pytest.approx(1 / 25)
    assert scalars(observed.look(1, torch.ones(4, 2, 5, 5)))["effective_area/total"] == 1.0


def test_a_gelu_network_has_no_dead_units_at_all():
    observed = Observed(nn.Sequential(nn.Linear(3, 9), nn.GELU()), ActivationMonitor())
    report = observed.look(0, torch.randn(64, 3))
    assert not any(tag.startswith("dead_fraction") for tag in scalars(report))


def said_at(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= level]


def test_a_network_without_nonlinearity_says_once_what_to_write_and_reads_the_rest(caplog):
    caplog.set_level(logging.INFO, "vis_callbacks")
    monitor = ActivationMonitor()
    observed = Observed(nn.Sequential(nn.Linear(3, 3)), monitor)
    group = Group(name="SGD", kind="SGD", parameter_names=(), lr=0.1)
    for step in range(4):
        report = observed.look(step, torch.randn(8, 3), optimizer=(group,), loss=math.nan)
    assert numbers(report, metric_names.NON_FINITE_LOSS) == {"": 1.0}
    assert scalars(report) == {"learning_rate/SGD": pytest.approx(0.1)}
    (words,) = said_at(caplog)
    assert "ActivationMonitor has nothing to show: no nonlinearity was seen" in words
    assert 'ActivationMonitor(layers=["..."])' in words
    assert not monitor.guard.counts


def grown(model: nn.Sequential, more: int) -> None:
    """Gives a hidden layer more units, behind those it has."""
    first, last = model[0], model[2]
    num_units = first.out_features + more
    model[0], model[2] = nn.Linear(first.in_features, num_units), nn.Linear(num_units, 2)
    with torch.no_grad():
        model[0].weight[: first.out_features] = first.weight
        model[0].bias[: first.out_features] = first.bias
        model[2].weight[:, : first.out_features] = last.weight


def test_a_layer_that_grows_keeps_its_curve_its_dead_units_and_its_pictures():
    model = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 2))
    monitor = ActivationMonitor(layers=["1"], max_maps=4)
    with torch.no_grad():
        model[0].bias += 5.0
    for step in range(6):
        if step == 1:
            with torch.no_grad():
                model[0].bias[:3] = -1000.0
        if step == 5:
            grown(model, 4)
        observed = Observed(model, monitor)  # what it is called does not depend on its units
        report = observed.look(step, torch.randn(64, 3), draws=True)
        monitor.history.append(step, report.rule_metrics())
    assert scalars(report)["dead_fraction/1"] == pytest.approx(3 / 16)
    assert monitor.history.series(metric_names.NUM_UNITS, "1") == (12.0,) * 5 + (16.0,)
    pictures = {item.tag: item for item in report.of(Picture)}
    states = pictures["activations/raster"].arrays["states"]
    assert states.shape == (16, 6)
    assert states[:3, 4:].tolist() == [[DEAD, DEAD]] * 3
    assert states[12:, :5].tolist() == [[-1] * 5] * 4
    assert pictures["activations/maps/1"].draw.keywords["steps"] == list(range(6))
    assert not [rule.kind for rule in monitor.rules if rule.check(monitor.history) is not None]


def test_a_layer_of_an_earlier_run_that_is_not_met_any_more_does_not_matter():
    first, second = ActivationMonitor(), ActivationMonitor()
    wide = nn.Sequential(nn.Linear(3, 9), nn.Tanh(), nn.Linear(9, 9), nn.Tanh())
    Observed(wide, first).look(0, torch.randn(64, 3))
    second.load_state_dict(first.state_dict())
    report = Observed(wide[:2], second).look(5, torch.randn(64, 3))
    assert numbers(report, metric_names.REACHED) == {"1": 64.0, "3": 0.0}


def test_of_many_optimizer_groups_the_smallest_and_the_largest_rate_are_shown():
    groups = tuple(
        Group(name=f"SGD/{i}", kind="SGD", parameter_names=(), lr=rate)
        for i, rate in enumerate([0.1, 0.3, 0.01, 0.2])
    )
    observed = Observed(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), ActivationMonitor())
    report = observed.look(0, torch.randn(8, 3), optimizer=groups)
    rates = {tag: value for tag, value in scalars(report).items() if "learning_rate" in tag}
    assert rates == {"learning_rate/SGD~2f2": 0.01, "learning_rate/SGD~2f1": 0.3} or rates == {
        "learning_rate/SGD/2": 0.01,
        "learning_rate/SGD/1": 0.3,
    }


def test_the_update_ratio_is_that_of_the_norms():
    group = Group(
        name="SGD", kind="SGD", parameter_names=(), lr=0.1,
        weight_norm=torch.tensor(4.0), update_norm=torch.tensor(0.2),
    )  # fmt: skip
    observed = Observed(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), ActivationMonitor())
    report = observed.look(0, torch.randn(8, 3), optimizer=(group,))
    assert scalars(report)["update_ratio/SGD"] == pytest.approx(0.05)


def test_pictures_are_drawn_of_maps_layers_and_units():
    torch.manual_seed(0)
    model = Forms()
    observed = Observed(model, ActivationMonitor(max_maps=4))
    report = observed.look(0, inputs(0), draws=True)
    pictures = {item.tag: item.draw(**item.arrays) for item in report.of(Picture)}
    assert list(pictures) == [
        "activations/maps/relu",
        "activations/maps/relu-2",
        "activations/maps/relu_",
        "activations/unit_life",
        "activations/raster",
    ]
    for picture in pictures.values():
        assert picture.dtype == "uint8"
        assert picture.shape[2] == 3
        assert picture.std() > 10


def test_the_maps_know_which_units_are_dead_and_not_only_silent_on_one_sample():
    torch.manual_seed(0)
    model = Forms()
    model.linear.bias.data[:5] = -1_000.0
    monitor = ActivationMonitor(map_layers=["relu-1"])
    observed = Observed(model, monitor)
    for step in range(4):
        report = observed.look(step, inputs(step), draws=True)
    (strip,) = [item for item in report.of(Picture) if item.tag.startswith("activations/maps")]
    states = strip.arrays["states"].tolist()
    assert states == monitor.dead_units.states("relu-1").tolist()
    assert states[:5] == [NEVER_FIRED] * 5
    assert ALIVE in states[5:]


def test_layers_whose_units_cannot_die_have_no_states():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(2))
    model(inputs(0))
    observed = Observed(model, ActivationMonitor())
    report = observed.look(0, inputs(0), draws=True)
    strips = [item for item in report.of(Picture) if item.tag.startswith("activations/maps")]
    assert strips
    assert not any("states" in strip.arrays for strip in strips)


def test_the_state_goes_on_where_it_was():
    torch.manual_seed(0)
    model = Forms()
    first, second = ActivationMonitor(), ActivationMonitor()
    one = Observed(model, first)
    for step in range(3):
        one.look(step, inputs(step))
    second.load_state_dict(first.state_dict())
    two = Observed(model, second)
    two.engine._layers = one.engine._layers
    assert scalars(one.look(3, inputs(3))) == scalars(two.look(3, inputs(3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "fc"}, r'layers=\'fc\' is not a list of names. Use \["fc"\]'),
        ({"map_layers": [1]}, "map_layers holds 1"),
        ({"max_maps": 0}, "max_maps=0 is too small"),
        ({"max_maps": True}, "max_maps=True is a bool"),
        ({"histograms": "yes"}, "histograms='yes' is not a bool"),
        ({"every_n_steps": 3}, "has no option 'every_n_steps'. Nearest: .*every_n_train_steps"),
    ],
)
def test_a_wrong_option_says_what_to_write(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ActivationMonitor(**options)
