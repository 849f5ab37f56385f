from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vis_callbacks import ActivationMonitor
from vis_callbacks.alerts import readings
from vis_callbacks.callbacks.activations import monitor as home
from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.probe import Batch
from vis_callbacks.engine.references import References
from vis_callbacks.engine.snapshot import Group, Snapshot, Weights
from vis_callbacks.render.raster import ALIVE, DEAD, NEVER_FIRED, REVIVED
from vis_callbacks.report import Image, Report, Scalar, transfer


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

    def look(self, step: int, x: Tensor, **known) -> Report:
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
                "wants_pictures": False,
                **known,
            }
        )
        (report,) = transfer([self.monitor.observe(snapshot)])
        return report


def numbers(report: Report, metric: str) -> dict[str, float]:
    return report.readings()[metric]


def scalars(report: Report) -> dict[str, float]:
    return {item.tag: float(item.value) for item in report.of(Scalar)}


def inputs(seed: int) -> Tensor:
    return torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layer", OWNERS)
@pytest.mark.parametrize("k", [0, 3, 7])
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
    widths = numbers(report, readings.NUM_UNITS)
    dead = {n: round(s * widths[n]) for n, s in numbers(report, readings.DEAD_FRACTION).items()}
    assert dead == {name: k if name == layer else 0 for name in OWNERS}
    assert numbers(report, readings.NEWLY_DEAD)[layer] == pytest.approx(k / widths[layer])


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


def test_a_network_without_nonlinearity_says_what_to_write():
    observed = Observed(nn.Sequential(nn.Linear(3, 3)), ActivationMonitor())
    with pytest.raises(ValueError, match=r"ActivationMonitor\(layers="):
        observed.look(0, torch.randn(8, 3))


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
    x = inputs(0)
    references = References(inputs=x[:1].clone(), labels=None, source="a test")
    report = observed.look(
        0,
        x,
        wants_pictures=True,
        references=references,
        read_layers=lambda names, given: observed.engine.read_layers(
            names, given, lambda m, i: m(i)
        ),
    )
    pictures = {item.tag: item.draw(**item.arrays) for item in report.of(Image)}
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
        x = inputs(step)
        report = observed.look(
            step,
            x,
            wants_pictures=True,
            references=References(inputs=x[:1], labels=None, source="a test"),
            read_layers=lambda names, given: observed.engine.read_layers(
                names, given, lambda m, i: m(i)
            ),
        )
    (strip,) = [item for item in report.of(Image) if item.tag.startswith("activations/maps")]
    states = strip.arrays["states"].tolist()
    assert states == monitor.life.states("relu-1").tolist()
    assert states[:5] == [NEVER_FIRED] * 5
    assert ALIVE in states[5:]


def test_layers_whose_units_cannot_die_have_no_states():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.LazyLinear(2))
    model(inputs(0))
    observed = Observed(model, ActivationMonitor())
    report = observed.look(
        0,
        inputs(0),
        wants_pictures=True,
        references=References(inputs=inputs(0)[:1], labels=None, source="a test"),
        read_layers=lambda names, given: observed.engine.read_layers(
            names, given, lambda m, i: m(i)
        ),
    )
    strips = [item for item in report.of(Image) if item.tag.startswith("activations/maps")]
    assert strips
    assert not any("states" in strip.arrays for strip in strips)


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """Collects the captions of what would be drawn."""
    captions: list[str] = []

    def record(values, *rest, **_):
        captions.extend(rest[-1])
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(home, "raster", record)
    monkeypatch.setattr(home, "heat_map", record)
    return captions


def raster_of(percents: list[int], latest: list[list[int]]) -> None:
    home._draw_raster(
        np.array([[ALIVE, state] for states in latest for state in states]),
        np.array(percents),
        widths={name: len(states) for name, states in zip("abc", latest, strict=False)},
        steps=[0, 60],
        min_samples=160,
    )


@pytest.mark.parametrize(
    ("percents", "latest", "words"),
    [
        ([0, 0], [[ALIVE] * 2, [ALIVE, REVIVED]], "of a; no unit of any layer is dead"),
        ([0, 50], [[ALIVE] * 2, [DEAD, ALIVE]], "of b; the layer with most dead units (50 %)"),
        ([0, 0], [[ALIVE] * 2, [DEAD] + [ALIVE] * 300], "of b; 1 of them dead"),
        # Too few samples yet, or too few units: "never fired" is not "dead".
        ([0, 0], [[ALIVE] * 2, [NEVER_FIRED, ALIVE]], "of a; no unit of any layer has died"),
        # -1: units that cannot die.
        ([-1, 0], [[DEAD] * 2, [ALIVE] * 2], "of b; no unit of any layer is dead"),
    ],
)
def test_the_raster_says_whether_any_unit_is_dead(said, percents, latest, words):
    raster_of(percents, latest)
    assert said[0] == f"life of the units {words}"


def test_the_first_row_is_said_to_be_the_first_layer(said):
    home._draw_unit_life(
        np.zeros((2, 2)), rows=["a", "b"], steps=[0, 60], what="dead", num_samples=64
    )
    assert "first layer on top" in said[0]


def test_the_state_goes_on_where_it_was():
    torch.manual_seed(0)
    model = Forms()
    first, second = ActivationMonitor(), ActivationMonitor()
    one = Observed(model, first)
    for step in range(3):
        one.look(step, inputs(step))
    second.restore(first.state())
    two = Observed(model, second)
    two.engine._layers = one.engine._layers
    assert scalars(one.look(3, inputs(3))) == scalars(two.look(3, inputs(3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "fc"}, r'layers=\'fc\' is no list of names. Use \["fc"\]'),
        ({"map_layers": [1]}, "map_layers holds 1"),
        ({"max_maps": 0}, "max_maps=0 is too small"),
        ({"max_maps": True}, "max_maps=True is a bool"),
        ({"histograms": "yes"}, "histograms='yes' is no bool"),
        ({"every_n_steps": 3}, "has no option 'every_n_steps'. Nearest: .*every_n_train_steps"),
    ],
)
def test_a_wrong_option_says_what_to_write(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ActivationMonitor(**options)
