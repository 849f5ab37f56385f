from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vis_callbacks import TopPatchesMonitor
from vis_callbacks.engine.engine import Engine
from vis_callbacks.engine.isolation import call_resolved
from vis_callbacks.engine.probe import Batch
from vis_callbacks.engine.snapshot import Snapshot
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitors.top_patches.records import TopPatches, lots, unpacked
from vis_callbacks.report import Picture, Report, Scalar, transfer


class Net(nn.Module):
    """A module and a function that are nonlinearities, a pooling, attention in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.deep = nn.Conv2d(6, 5, 3)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.relu(self.conv(x)), 2)
        x = F.gelu(self.deep(x))
        return self.head(torch.relu(x.mean((2, 3))))


LAYERS = ["relu", "Net/gelu", "Net/relu"]


class Observed:
    """Lets a monitor look at evaluations of a model without any Trainer."""

    def __init__(self, model: nn.Module, monitor: TopPatchesMonitor) -> None:
        self.monitor, self.engine = monitor, Engine(model)
        (probe,) = monitor.probes()
        self.subscription = self.engine.subscribe(
            probe,
            guard=monitor.guard,
            batch_of=lambda b: Batch(inputs=b[0], labels=b[1], num_samples=len(b[0])),
        )

    def look(
        self,
        images: Tensor | list[Tensor],
        labels: Tensor | None = None,
        step: int = 0,
        **known: Any,
    ) -> Report:
        self.engine.begin([self.subscription], live=False)
        batches = images.split(4) if isinstance(images, Tensor) else images
        parts = [None] * len(batches) if labels is None else labels.split(4)
        for batch in zip(batches, parts, strict=True):
            self.engine.start_batch(batch)
            self.engine.read_isolated(training=False)
            self.engine.count_batch()
        snapshot = Snapshot(
            **{
                "step": step,
                "trace": self.engine.trace,
                "values": {"patches": self.subscription.values},
                "num_samples": {"patches": self.subscription.num_samples},
                "read_layers": lambda names, x: self.engine.read_layers(names, x, call_resolved),
                **known,
            }
        )
        (report,) = transfer([self.monitor.observe(snapshot)])
        return report


def images_of(num_samples: int = 14, size: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(num_samples, 3, size, size, generator=generator)


def tops(report: Report) -> dict[str, TopPatches]:
    return {
        item.tag: unpacked(torch.from_numpy(item.arrays["records"])) for item in report.of(Picture)
    }


def scalars(report: Report) -> dict[str, float]:
    return {item.tag: float(item.value) for item in report.of(Scalar)}


def expected(activation: Tensor, units: list[int], top_k: int) -> list[list[tuple[float, int]]]:
    """Returns by unit value and sample of the strongest, from all activations at once."""
    best = activation.flatten(2).amax(2) if activation.dim() > 2 else activation
    rows = []
    for unit in units:
        drawn = lots(torch.arange(len(best))).tolist()
        order = sorted(range(len(best)), key=lambda n: (-best[n, unit].item(), drawn[n]))[:top_k]
        rows.append([(best[n, unit].item(), n) for n in order])
    return rows


def test_the_patches_are_the_strongest_of_the_whole_evaluation():
    model, images = Net().eval(), images_of()
    observed = Observed(model, TopPatchesMonitor(LAYERS, units=[0, 2, 4], top_k=5))
    for step in (0, 1):  # before and after the receptive fields are known
        report = observed.look(images, step=step)
        maps = observed.engine.read_layers(LAYERS, images, call_resolved)
        for layer in LAYERS:
            top = tops(report)[f"top_patches/{layer}"]
            rows = zip(top.values.tolist(), top.samples.tolist(), strict=True)
            found = [list(zip(values, samples, strict=True)) for values, samples in rows]
            wanted = expected(maps[layer], [0, 2, 4], 5)
            for mine, theirs in zip(found, wanted, strict=True):
                assert [n for _, n in mine] == [n for _, n in theirs]
                assert [v for v, _ in mine] == pytest.approx([v for v, _ in theirs], rel=1e-6)


def test_boxes_are_receptive_fields_at_the_first_snapshot_and_later():
    images = images_of()
    observed = Observed(Net(), TopPatchesMonitor(LAYERS, units=[1]))
    first, second = tops(observed.look(images)), tops(observed.look(images, step=1))
    for layer in LAYERS:
        one, two = (top[f"top_patches/{layer}"] for top in (first, second))
        assert torch.equal(one.boxes, two.boxes)
    sizes = first["top_patches/relu"].boxes[..., 2:] - first["top_patches/relu"].boxes[..., :2]
    assert int(sizes.max()) == 3
    assert int(sizes.min()) == 2  # at a border
    assert second["top_patches/relu"].pixels.shape[-1] == 4  # 3, in steps of 4
    whole = second["top_patches/Net/relu"]
    assert torch.equal(whole.regions[0, 0], torch.tensor([0, 0, 12, 12], dtype=torch.int32))


def test_the_first_snapshot_shows_the_same_pixels_as_later_ones():
    images = images_of()
    observed = Observed(Net(), TopPatchesMonitor(["relu", "Net/gelu"]))
    pictures = [
        {item.tag: item.draw(**{k: v for k, v in item.arrays.items() if k != "before"})
         for item in observed.look(images, step=3).of(Picture)}
        for _ in range(2)
    ]  # fmt: skip
    for tag in pictures[0]:
        # Bytes are made for the box alone or for the image: half a step of these each.
        difference = pictures[0][tag].astype(int) - pictures[1][tag].astype(int)
        assert np.abs(difference).max() <= 2


def test_images_of_other_sizes_are_cut_at_their_own_places():
    model = Net().eval()
    observed = Observed(model, TopPatchesMonitor(["relu"], units=[0], top_k=1))
    observed.look(images_of())
    image = images_of(1, size=18)
    top = tops(observed.look(image, step=1))["top_patches/relu"]
    activation = observed.engine.read_layers(["relu"], image, call_resolved)["relu"][0, 0]
    row, column = divmod(int(activation.argmax()), 18)
    box = [max(row - 1, 0), max(column - 1, 0), min(row + 2, 18), min(column + 2, 18)]
    assert top.boxes[0, 0].tolist() == box


def test_images_of_another_size_than_the_traced_one_are_shown_whole_at_first():
    observed = Observed(Net(), TopPatchesMonitor(["relu"], units=[0], top_k=2))
    report = observed.look([images_of(1), images_of(1, size=18)])
    top = tops(report)["top_patches/relu"]
    boxes = dict(zip(top.samples[0].tolist(), top.boxes[0].tolist(), strict=True))
    assert boxes[1] == [0, 0, 18, 18]
    assert boxes[0] != [0, 0, 12, 12]


def test_images_that_are_not_finite_are_left_out_and_counted():
    images = images_of(6)
    images[2, 0, 3, 3] = math.nan
    observed = Observed(Net(), TopPatchesMonitor(["relu"], units=[0]))
    (item,) = observed.look(images).of(Picture)
    assert item.arrays["ignored"] == 1
    assert 2 not in unpacked(torch.from_numpy(item.arrays["records"])).samples.tolist()[0]


def test_a_dead_unit_has_no_patches():
    model = Net()
    nn.init.constant_(model.conv.bias, 1.0)
    nn.init.normal_(model.conv.weight, std=0.01)
    with torch.no_grad():
        model.conv.bias[3] = -100.0
    (item,) = (
        Observed(model, TopPatchesMonitor(["relu"], units=[2, 3])).look(images_of()).of(Picture)
    )
    assert item.arrays["fired"].tolist() == [14, 0]
    drawn = item.draw(**item.arrays)
    assert drawn.shape[0] > 100


def test_purity_is_the_mean_share_of_the_most_common_class():
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.mean((2, 3)))

    values = torch.tensor([[9.0, 1.0], [8.0, 2.0], [7.0, 3.0], [1.0, 9.0]])
    images = values[:, :, None, None].repeat(1, 1, 4, 4)
    labels = torch.tensor([0, 0, 1, 2])
    observed = Observed(Same(), TopPatchesMonitor(["Same/relu"], top_k=3))
    # Unit 0: classes 0, 0, 1. Unit 1: 2, 1, 0.
    assert scalars(observed.look(images, labels))["class_purity/Same/relu"] == pytest.approx(0.5)


class Saturated(nn.Module):
    """One unit at its upper end for every image, and one that tells the images apart."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(torch.cat([x[:, :1].relu() + 9, 3 * x[:, 1:2]], 1))


def test_a_saturated_unit_is_not_said_to_be_of_the_class_of_the_first_images():
    images = images_of(60)
    observed = Observed(Saturated(), TopPatchesMonitor(["Saturated/relu6"], units=[0, 1]))
    for _ in range(2):
        report = observed.look(images, torch.arange(60) // 20)
        assert scalars(report)["class_purity/Saturated/relu6"] < 1  # of the other unit alone
        (top,) = tops(report).values()
        assert top.ties[0].tolist() == [60] * 9
        assert sorted(top.samples[0].tolist()) != list(range(9))
        assert len(set(top.labels[0].tolist())) > 1


def test_without_arguments_it_shows_the_last_two_layers_whose_units_have_places():
    observed, images = Observed(Net(), TopPatchesMonitor()), images_of()
    named = Observed(observed_model := Net(), TopPatchesMonitor(["relu", "Net/gelu"]))
    observed_model.load_state_dict(observed.engine.model.state_dict())
    for step in (0, 1):
        found, expected = (
            tops(observed.look(images, step=step)),
            tops(named.look(images, step=step)),
        )
        assert list(found) == ["top_patches/relu", "top_patches/Net/gelu"]
        for tag, top in found.items():  # the first batch is not missed
            assert torch.equal(top.samples, expected[tag].samples)
            torch.testing.assert_close(top.values, expected[tag].values)


@pytest.mark.parametrize(
    ("units", "layers"), [([5], ["relu"]), (["relu:2"], ["relu"]), ([0], ["relu", "Net/gelu"])]
)
def test_of_named_units_it_shows_the_last_layers_that_have_them(units, layers):
    found = tops(Observed(Net(), TopPatchesMonitor(units=units)).look(images_of()))
    assert list(found) == [f"top_patches/{layer}" for layer in layers]


def test_a_model_without_a_nonlinearity_has_nothing_to_show_and_is_told_so():
    observed = Observed(nn.Conv2d(3, 4, 3), TopPatchesMonitor())
    with pytest.raises(NothingToShow, match=r"no nonlinearity was seen.*Name the layers"):
        observed.look(images_of())


class Experts(nn.Module):
    """Sends each image to one of two experts."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in "ab")

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([self.experts[i](x[i::2]) for i in (0, 1)]))


def test_a_layer_whose_rows_are_no_images_is_said_once_and_costs_no_other_layer(caplog):
    monitor = TopPatchesMonitor(["experts.0.1", "Experts/relu"])
    observed = Observed(Experts(), monitor)
    with caplog.at_level("INFO", logger="vis_callbacks"):
        for step in (0, 1):
            report = observed.look(images_of(), step=step)
    assert list(tops(report)) == ["top_patches/Experts/relu"]
    said = [record.message for record in caplog.records]
    assert [line for line in said if "the rows of experts.0.1 are not samples" in line] == said[:1]
    assert not monitor.guard.counts
    with pytest.raises(NothingToShow, match="are not samples"):
        Observed(Experts(), TopPatchesMonitor(["experts.0.1"])).look(images_of())
    assert list(tops(Observed(Experts(), TopPatchesMonitor()).look(images_of()))) == [
        "top_patches/Experts/relu"
    ]


def test_without_labels_there_is_no_purity():
    observed = Observed(Net(), TopPatchesMonitor(["relu"]))
    assert list(scalars(observed.look(images_of()))) == ["concentration/relu"]


def test_a_layer_without_positions_has_no_concentration():
    observed = Observed(Net(), TopPatchesMonitor(["Net/relu"]))
    assert scalars(observed.look(images_of())) == {}


def chosen(report: Report) -> list[int]:
    (item,) = report.of(Picture)
    return [item.draw.keywords["page"].candidates[row] for row in item.arrays["rows"].tolist()]


class Wide(nn.Module):
    """40 units whose strength falls with their number."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).amax(1, keepdim=True)
        return torch.relu(mean * torch.linspace(2, 1, 40))


def test_random_units_are_the_same_at_every_snapshot_and_for_every_run():
    runs = []
    for _ in range(2):
        observed = Observed(Wide(), TopPatchesMonitor(["Wide/relu"], max_units=5, seed=3))
        runs += [chosen(observed.look(images_of(), step=step)) for step in range(2)]
    assert runs[0] == runs[1] == runs[2] == runs[3]
    assert len(set(runs[0])) == 5
    other = Observed(Wide(), TopPatchesMonitor(["Wide/relu"], max_units=5, seed=4))
    assert chosen(other.look(images_of())) != runs[0]


def test_the_strongest_units_come_first():
    observed = Observed(Wide(), TopPatchesMonitor(["Wide/relu"], units="strongest", max_units=3))
    assert chosen(observed.look(images_of())) == [0, 1, 2]


def test_the_most_selective_units_come_first():
    class Classes(nn.Module):
        """Unit 1 answers to the images of class 0 alone, unit 0 to all of them."""

        def forward(self, x: Tensor) -> Tensor:
            mark = x[:, 0, 0, 0]
            return torch.relu(torch.stack([x[:, 1, 0, 0], (mark > 0.5) * mark], 1))

    images = images_of(12)
    labels = (images[:, 0, 0, 0] <= 0.5).long()
    images[:, 1, 0, 0] = torch.linspace(1, 2, 12)[torch.randperm(12)]
    monitor = TopPatchesMonitor(["Classes/relu"], units="selective", top_k=4, max_units=1)
    assert chosen(Observed(Classes(), monitor).look(images, labels)) == [1]


def test_named_units_are_read_of_their_layers_alone():
    monitor = TopPatchesMonitor(LAYERS, units=["relu:5", "relu:1", "Net/gelu:0"])
    report = Observed(Net(), monitor).look(images_of())
    assert [item.tag for item in report.of(Picture)] == ["top_patches/relu", "top_patches/Net/gelu"]
    assert [len(item.arrays["rows"]) for item in report.of(Picture)] == [2, 1]


def test_what_was_shown_before_is_known_after_a_restart():
    images = images_of()
    first, second = (TopPatchesMonitor(["relu"]) for _ in range(2))
    Observed(Net(), first).look(images, step=7)
    second.load_state_dict(first.state_dict())
    (item,) = Observed(Net(), second).look(images, step=9).of(Picture)
    assert item.draw.keywords["page"].step_before == 7
    assert item.arrays["before"].shape == (6, 9)
    assert item.arrays["records"].shape[-1] == 72 + 4 * 4  # cut at once: the field is known


def test_no_sample_is_kept_from_one_evaluation_to_the_next():
    monitor = TopPatchesMonitor(["relu"])
    Observed(Net(), monitor).look(images_of())
    assert monitor._sample is None


def test_an_empty_state_begins_anew():
    monitor = TopPatchesMonitor(["relu"])
    Observed(Net(), monitor).look(images_of())
    monitor.load_state_dict({})
    assert monitor.state_dict()["monitor"] == {"fields": {}, "last": {}}


def test_numbers_come_without_pictures_where_none_are_due():
    report = Observed(Net(), TopPatchesMonitor(["relu"])).look(images_of(), wants_pictures=False)
    assert not report.of(Picture)
    assert list(scalars(report)) == ["concentration/relu"]


def test_too_many_layers_are_refused():
    model = nn.Sequential(*(nn.ReLU() for _ in range(21)))
    observed = Observed(model, TopPatchesMonitor([f"{i}" for i in range(21)]))
    with pytest.raises(ValueError, match="matches 21 layers; patches are shown for at most 20"):
        observed.look(images_of(2))


@pytest.mark.contained
def test_an_index_beyond_the_layer_says_how_many_there_are(contained):
    observed = Observed(Net(), TopPatchesMonitor(["relu"], units=[99]))
    observed.look(images_of(2))
    (report,) = contained.reports
    assert '"relu" has 6 units. Use an index from 0 to 5' in report


@pytest.mark.contained
def test_a_field_that_cannot_be_traced_is_reported_and_the_images_are_shown(contained):
    def broken(names: Any, x: Tensor) -> Any:
        raise RuntimeError("broken on purpose")

    observed = Observed(Net(), TopPatchesMonitor(["relu"]))
    (item,) = observed.look(images_of(), read_layers=broken).of(Picture)
    assert len(contained.reports) == 1
    assert item.draw.keywords["page"].field.is_global


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "relu"}, r'layers=\'relu\' is not a list of names. Use \["relu"\]'),
        ({"layers": []}, "holds no name"),
        ({"units": "best"}, 'units="best" is not one of the choices. Use "random", "strongest"'),
        ({"units": 3}, r"units=3 is not a list of units. Use .* or \[3, 17\]"),
        ({"units": []}, "is not a list of units"),
        ({"units": [-1]}, "index=-1 is negative"),
        ({"units": [True]}, "index=True is a bool"),
        ({"units": ["relu"]}, 'unit "relu" is not written as a layer and an index'),
        ({"units": ["relu:3@1,2"]}, 'one position of a unit.*use "relu:3"'),
        ({"top_k": 0}, "top_k=0 is too small"),
        ({"max_units": 0}, "max_units=0 is too small"),
        ({"patches_per_image": 0}, "patches_per_image=0 is too small"),
        ({"show_images": 1}, "show_images=1 is not a bool"),
        ({"seed": 0.5}, "seed=0.5 is a float"),
    ],
)
def test_a_wrong_option_says_what_to_write(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        TopPatchesMonitor(**{"layers": ["relu"], **options})
