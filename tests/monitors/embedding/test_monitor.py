from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.monitors.embedding.evaluated import Evaluated, Pair, scalars
from torch import Tensor, nn

from vis_callbacks import EmbeddingMonitor
from vis_callbacks.alerts import metric_names
from vis_callbacks.engine.references import References
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitors.embedding import samples as samples_module
from vis_callbacks.monitors.embedding.reductions import from_bytes
from vis_callbacks.monitors.embedding.samples import samples_of
from vis_callbacks.report import Embedding, Picture, Report

N = 48


class Net(nn.Module):
    """Registers its head first; has a linear layer that is never called, and one reused."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.head = nn.Linear(10, num_classes)
        self.unused = nn.Linear(4, 4)
        self.conv = nn.Conv2d(3, 6, 3)
        self.relu = nn.ReLU()
        self.hidden = nn.Linear(6, 10)
        self.again = nn.Linear(10, 10)

    def features(self, x: Tensor) -> Tensor:
        x = self.hidden(self.relu(self.conv(x)).mean((2, 3)))
        return torch.relu(self.again(torch.relu(self.again(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def images(num_samples: int = N, seed: int = 0) -> Tensor:
    labels = torch.arange(num_samples) % 3
    noise = torch.rand(num_samples, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return 0.5 * noise + 0.5 * F.one_hot(labels, 3)[:, :, None, None]


def batches(x: Tensor, size: int = 16, labels: Tensor | None = None) -> list[Pair]:
    labels = torch.arange(len(x)) % 3 if labels is None else labels
    return list(zip(x.split(size), labels.split(size), strict=True))


def watched(model: nn.Module | None = None, **options) -> Evaluated:
    options = {"method": "pca", "perplexity": 5.0, "probe_layers": [], **options}
    torch.manual_seed(0)
    return Evaluated((model or Net()).eval(), EmbeddingMonitor(**options))


def collected(evaluated: Evaluated, max_probed: int = 8):
    values = {s.probe.name: s.values for s in evaluated.subscriptions}
    return samples_of(values, maps_last=evaluated.monitor.layers is None, max_probed=max_probed)


def pictures(report: Report) -> dict[str, np.ndarray]:
    return {item.tag: item.draw(**item.arrays) for item in report.of(Picture)}


def shown(report: Report) -> list[str]:
    return [item.tag for item in report.of(Picture)]


def words(report: Report, tag: str) -> str:
    """Returns what a map's caption says."""
    (item,) = [item for item in report.of(Picture) if item.tag == tag]
    return " | ".join(item.draw.keywords["caption"])


# -- which rows are collected


@torch.no_grad()
def test_the_features_are_what_goes_into_the_last_linear_layer_of_the_forward_pass():
    seen = watched()
    for _ in range(2):  # the second time it is known which layer that is
        seen.collect(batches(images()))
        samples = collected(seen)
        (features,) = samples.features.values()
        torch.testing.assert_close(features, seen.model.features(images()))
        assert samples.labels.tolist() == (torch.arange(N) % 3).tolist()
        assert samples.predictions.tolist() == seen.model(images()).argmax(1).tolist()


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 7, 48, 100])
def test_the_first_samples_are_taken_whatever_the_batches_are(size):
    seen = watched(num_samples=20)
    seen.collect(batches(images(), size))
    samples = collected(seen)
    (features,) = samples.features.values()
    torch.testing.assert_close(features, seen.model.features(images())[:20])
    assert len(samples.labels) == len(samples.predictions) == len(samples.pixels) == 20
    kept = from_bytes(samples.pixels, samples.ranges)
    torch.testing.assert_close(kept, images()[:20], rtol=0, atol=1 / 255)


class Deep(nn.Module):
    """Calls first what it registers last, so that the last linear layer is no candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(9))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3)).repeat(1, 2)
        for layer in reversed(self.layers):
            x = torch.relu(layer(x))
        return x


@torch.no_grad()
def test_a_last_layer_that_nobody_would_guess_is_found_after_one_batch():
    seen = watched(Deep())
    seen.collect(batches(images(), 16))
    first = collected(seen)
    assert list(first.features) == ["layers.0"]
    assert len(first.labels) == 32  # without the batch that told
    seen.collect(batches(images(), 16))
    assert len(collected(seen).labels) == N


@torch.no_grad()
def test_once_known_only_the_layers_that_are_shown_are_kept():
    seen = watched(Deep(), probe_layers=None)
    seen.collect(batches(images()))
    seen.collect(batches(images()))
    by_name = {s.probe.name: s.values for s in seen.subscriptions}
    assert [n for n, v in by_name["features"].items() if "rows" in v] == ["layers.0"]
    assert len(by_name["features"]) == 9
    probed = [n for n, v in by_name["probes"].items() if "rows" in v]
    assert len(probed) == 8
    assert (probed[0], probed[-1]) == (next(iter(by_name["probes"])), list(by_name["probes"])[-1])


@torch.no_grad()
def test_of_a_first_batch_no_more_rows_are_kept_than_fit(monkeypatch):
    monkeypatch.setattr(samples_module, "_FIRST_BATCH_BYTES", 4 * 16 * 6 * 3)
    seen = watched(Deep(), probe_layers=None)
    report = seen.look(batches(images()))
    samples = collected(seen)
    assert len(samples.probed_labels) == 32
    assert {len(rows) for rows in samples.probed.values()} == {32}
    assert "probe_accuracy/Deep/relu-8" in scalars(report)


class Twice(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(x.flip(3))


@torch.no_grad()
@pytest.mark.parametrize(("model", "num_passes"), [(Net(), 2), (Twice(), 1)])
def test_a_step_that_runs_the_model_twice_over_a_batch_gives_each_sample_once(model, num_passes):
    seen = watched(model)
    seen.collect(batches(images()), num_passes)
    samples = collected(seen)
    assert len(samples.labels) == len(samples.predictions) == N
    (features,) = samples.features.values()
    torch.testing.assert_close(features, seen.model.features(images()))


@torch.no_grad()
def test_a_network_without_a_linear_layer_is_mapped_at_its_last_nonlinearity():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.ReLU())
    seen = watched(model, probe_layers=None)
    seen.collect(batches(images()))
    samples = collected(seen)
    assert list(samples.features) == ["3"]
    torch.testing.assert_close(samples.features["3"], model(images()).mean((2, 3)))
    assert (samples.predictions < 0).all()


@torch.no_grad()
def test_layers_are_mapped_by_name_and_averaged_over_positions():
    seen = watched(layers=["conv", "*/relu*"])
    report = seen.look(batches(images()))
    samples = collected(seen)
    assert list(samples.features) == ["conv", "Net/relu", "Net/relu-1"]
    torch.testing.assert_close(samples.features["conv"], seen.model.conv(images()).mean((2, 3)))
    assert {"embedding/map/conv", "embedding/map/Net/relu-1"} <= set(shown(report))


class Patches(nn.Module):
    """Four patches and a class token."""

    def __init__(self, *, has_token: bool) -> None:
        super().__init__()
        self.cut, self.mix, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 3)
        self.token = nn.Parameter(torch.randn(1, 1, 8)) if has_token else None

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.cut(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            token = self.token + tokens.mean(1, keepdim=True)
            tokens = torch.cat([token, tokens], 1)
        return self.head(self.mix(tokens)[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("has_token", [True, False])
def test_tokens_give_the_class_token_where_there_is_one_and_else_their_mean(has_token):
    model = Patches(has_token=has_token)
    seen = watched(model, layers=["mix"])
    seen.collect(batches(images()))
    outputs: list[Tensor] = []
    model.mix.register_forward_hook(lambda module, args, output: outputs.append(output))
    model(images())
    expected = outputs[0][:, 0] if has_token else outputs[0].mean(1)
    torch.testing.assert_close(collected(seen).features["mix"], expected)


@torch.no_grad()
def test_a_model_with_a_fused_encoder_is_read_by_extra_passes():
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            self.head = nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.encoder(x.flatten(2)[:, :, :12]).mean(1))

    seen = watched(Encoder())
    report = seen.look(batches(images()))
    assert "embedding/map/head" in shown(report)
    assert not seen.monitor.guard.counts  # of layers that are never called


# -- what is said


@torch.no_grad()
def test_one_look_gives_numbers_and_pictures():
    report = watched(method="tsne", probe_layers=None).look(batches(images()), epoch=2, step=30)
    assert {
        "trustworthiness/head",
        "effective_rank/head",
        "class_agreement/head",
        "class_agreement/pixels",
        "probe_accuracy/Net/relu-1",
    } == set(scalars(report))
    drawn = pictures(report)
    assert list(drawn) == [
        "embedding/map/head",
        "embedding/strip/head",
        "embedding/thumbnails/head",
        "embedding/probes",
    ]
    for picture in drawn.values():
        assert picture.dtype == np.uint8
        assert picture.std() > 10
    title = words(report, "embedding/map/head")
    assert title.startswith("input of head: t-SNE, 48 samples; epoch 2, step 30 | trustworthiness")


@torch.no_grad()
def test_pixels_and_features_are_judged_by_the_same_measure():
    numbers = scalars(watched().look(batches(images())))
    assert numbers["class_agreement/pixels"] == 1.0  # the classes are colours
    noise = batches(torch.rand(N, 3, 8, 8))
    assert scalars(watched().look(noise))["class_agreement/pixels"] < 0.6


@torch.no_grad()
def test_the_same_evaluation_again_leaves_the_map_where_it_is():
    seen = watched(method="tsne")
    seen.look(batches(images()), step=10)
    second = seen.look(batches(images()), step=20)
    assert scalars(second)["displacement/head"] < 0.1


@torch.no_grad()
def test_a_shuffled_evaluation_is_matched_sample_by_sample():
    seen = watched()
    seen.look(batches(images()), step=10)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    shuffled = batches(images()[order], labels=(torch.arange(N) % 3)[order])
    assert scalars(seen.look(shuffled, step=20))["displacement/head"] < 0.1


@torch.no_grad()
def test_another_stage_leaves_the_map_of_the_training_alone():
    seen = watched()
    seen.look(batches(images()), step=10)
    before = seen.monitor.state_dict()["monitor"]["maps"]["followed"]["head"]["points"]
    report = seen.look(batches(images(seed=1)), step=20, stage="test")
    after = seen.monitor.state_dict()["monitor"]["maps"]["followed"]["head"]["points"]
    assert torch.equal(before, after)
    assert "embedding/thumbnails/head" in shown(report)
    assert "embedding/strip/head" not in shown(report)


@torch.no_grad()
def test_what_is_misclassified_is_marked():
    report = watched(outputs="classes").look(batches(images()))
    (item,) = [i for i in report.of(Picture) if i.tag == "embedding/map/head"]
    predicted = watched().model(images()).argmax(1)
    assert item.arrays["wrong"].tolist() == (predicted != torch.arange(N) % 3).tolist()


class Right(Net):
    """Tells the classes by their colours."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight.data = torch.eye(3, 10)
        self.head.bias.data.zero_()

    def features(self, x: Tensor) -> Tensor:
        return F.pad(x.mean((2, 3)), (0, 7)) + 0 * super().features(x)


@torch.no_grad()
def test_nothing_is_called_misclassified_before_outputs_and_labels_agree():
    def drawn(seen: Evaluated) -> tuple[bool, bool]:
        report = seen.look(batches(images(60)))
        the_map, the_probes = (
            next(i for i in report.of(Picture) if i.tag.startswith(f"embedding/{name}"))
            for name in ("map", "probes")
        )
        network = the_probes.draw.keywords["network"]
        return "wrong" in the_map.arrays, bool(np.isfinite(network))

    probed = {"probe_layers": ["*/relu-1"]}
    # Of 64 numbers one is always the largest.
    assert drawn(watched(Net(64), **probed)) == (False, False)
    assert drawn(watched(Right(), **probed)) == (True, True)
    assert drawn(watched(Right(), outputs="values", **probed)) == (False, False)


@torch.no_grad()
def test_the_map_of_a_regression_is_coloured_by_its_targets():
    targets = torch.linspace(150.0, 300.0, N)
    seen = watched(Net(1))
    for step in (10, 20):
        report = seen.look(batches(images(), labels=targets), step=step)
    found = {item.tag: item for item in report.of(Picture)}
    assert list(found) == [f"embedding/{name}/head" for name in ("map", "strip", "thumbnails")]
    strip = found.pop("embedding/strip/head").arrays
    for values in (strip["targets"][0, :N], *(i.arrays["targets"] for i in found.values())):
        np.testing.assert_allclose(values, targets)
    assert "wrong" not in found["embedding/map/head"].arrays
    assert {tag.split("/")[0] for tag in scalars(report)} == {
        "trustworthiness", "effective_rank", "displacement"
    }  # fmt: skip
    vivid = pictures(report)["embedding/map/head"]
    assert len(np.unique(vivid[np.ptp(vivid, axis=2) > 80], axis=0)) > N / 2  # a colour each


@torch.no_grad()
def test_the_targets_of_a_followed_map_survive_a_restart():
    first, second = watched(Net(1)), watched(Net(1))
    first.look(batches(images(), labels=torch.rand(N)), step=10)
    second.monitor.load_state_dict(first.monitor.state_dict())
    report = second.look(batches(images(), labels=torch.rand(N)), step=20)
    (strip,) = [item for item in report.of(Picture) if item.tag == "embedding/strip/head"]
    assert np.isfinite(strip.arrays["targets"]).sum(1).tolist() == [N, N]


class Experts(Net):
    """Sends each sample to one of three experts, to the last of them none."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10)) for _ in range(3)
        )

    def features(self, x: Tensor) -> Tensor:
        h = super().features(x)
        for i, expert in enumerate(self.experts):
            rows = (torch.arange(len(h)) % 2 == i).nonzero()[:, 0]
            h = h.index_add(0, rows, expert(h[rows]))
        return torch.relu(h)


@torch.no_grad()
def test_experts_that_see_some_of_the_samples_are_no_candidates():
    seen = watched(Experts(), probe_layers=None)
    for step in (10, 20):
        report = seen.look(batches(images()), step=step)
        assert {"embedding/map/head", "embedding/probes"} <= set(shown(report))
        assert not any("expert" in name for name in collected(seen).probed)
        assert len(collected(seen).probed) == 4  # as without experts, and the sum's
    assert not seen.monitor.guard.counts


class Packed(nn.Module):
    """Has a row a word everywhere: nothing of it can be told apart by sample."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.head(x.flatten(0, 2)[:-1]))


@torch.no_grad()
def test_a_model_whose_rows_are_no_samples_has_nothing_to_show_and_is_told_so():
    with pytest.raises(NothingToShow, match="with one row per sample was found"):
        watched(Packed()).look(batches(images()))


@torch.no_grad()
def test_named_probe_layers_have_a_number_each():
    numbers = scalars(watched(probe_layers=["relu", "*/relu*"]).look(batches(images())))
    probed = [tag for tag in numbers if tag.startswith("probe_accuracy")]
    assert probed == [f"probe_accuracy/{n}" for n in ("relu", "Net/relu", "Net/relu-1")]
    assert not any("probe" in t for t in scalars(watched(probe_layers=[]).look(batches(images()))))


@torch.no_grad()
def test_the_projector_gets_features_names_and_thumbnails():
    report = watched(projector=True, class_names=["a", "b", "c"]).look(batches(images()))
    (embedding,) = report.of(Embedding)
    assert embedding.tag == "embedding/projector/head"
    assert embedding.features.shape == (N, 10)
    assert len(embedding.metadata) == N
    assert embedding.metadata[1].startswith("b")
    assert any("predicted" in row for row in embedding.metadata)
    np.testing.assert_allclose(embedding.thumbnails, images(), atol=2 / 255)


# -- what cannot be mapped


class Constant(Net):
    def features(self, x: Tensor) -> Tensor:
        return 0 * super().features(x)


class Broken(Net):
    def features(self, x: Tensor) -> Tensor:
        features = super().features(x)
        features[::4] = torch.nan
        return features


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [{"method": "tsne"}, {"method": "pca"}, {"method": "tsne", "backend": "sklearn"}],
    ids=["torch", "pca", "sklearn"],
)
def test_constant_features_have_no_map_and_the_picture_says_so(options):
    report = watched(Constant(), **options).look(batches(images()))
    (item,) = report.of(Picture)
    assert "the features of all 48 samples are equal" in words(report, item.tag)
    assert pictures(report)["embedding/map/head"].std() > 5
    assert numbers_of(report, metric_names.FEATURE_SPREAD) == [0.0]
    assert "trustworthiness/head" not in scalars(report)


def numbers_of(report: Report, metric: str) -> list[float]:
    return list(report.rule_metrics()[metric].values())


@torch.no_grad()
def test_samples_with_features_that_are_not_finite_are_left_out_and_counted():
    report = watched(Broken()).look(batches(images()))
    assert "36 samples; epoch" in words(report, "embedding/map/head")
    assert "left out: 12 of 48 samples" in words(report, "embedding/map/head")
    assert scalars(report)["trustworthiness/head"] > 0


@torch.no_grad()
@pytest.mark.parametrize("num_samples", [1, 3])
def test_fewer_than_four_samples_have_no_map(num_samples):
    report = watched(num_samples=num_samples).look(batches(images()))
    said = f"no map: {num_samples} samples have finite features; at least 4 are needed"
    assert said in words(report, "embedding/map/head")


@torch.no_grad()
def test_one_class_is_said_and_nothing_is_made_of_it():
    labels = torch.zeros(N, dtype=torch.int64)
    report = watched(probe_layers=None).look(batches(images(), labels=labels))
    assert "all samples are of one class" in words(report, "embedding/map/head")
    assert not any("agreement" in tag or "probe" in tag for tag in scalars(report))


@torch.no_grad()
@pytest.mark.parametrize("labels", [torch.full((N,), -100), torch.rand(N, 3)])
def test_labels_that_name_no_class_are_none(labels):
    report = watched().look(batches(images(), labels=labels))
    assert "no classes are known" in words(report, "embedding/map/head")
    assert pictures(report)


@torch.no_grad()
@pytest.mark.parametrize(
    "inputs", [torch.randn(N, 5), torch.randint(0, 9, (N, 7)), torch.randn(N, 7, 5)]
)
def test_inputs_that_are_no_images_are_mapped_all_the_same(inputs):
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(5, 3)
            self.table = nn.Embedding(9, 5)

        def forward(self, x: Tensor) -> Tensor:
            if not x.is_floating_point():
                x = self.table(x)
            return self.head(x if x.dim() == 2 else x.mean(1))

    report = watched(Words()).look(batches(inputs))
    assert "embedding/map/head" in shown(report)
    assert ("class_agreement/pixels" in scalars(report)) is inputs.is_floating_point()


@torch.no_grad()
def test_too_many_layers_to_map_are_refused():
    with pytest.raises(ValueError, match=r"names 5 layers.*Name at most 4"):
        watched(layers=["conv", "relu", "hidden", "*/relu*"]).look(batches(images()))


# -- without an evaluation


@torch.no_grad()
def test_without_an_evaluation_the_references_are_looked_at():
    seen = watched(probe_layers=None)
    references = References(inputs=images(), labels=torch.arange(N) % 3, source="a test")

    def read(names: Sequence[str], given: Tensor, site: str = "output"):
        return seen.engine.read_layers(names, given, lambda m, i: m(i), site=site)

    seen.collect(batches(images()))
    expected = seen.look(batches(images()))
    seen.monitor.load_state_dict({})
    seen.monitor._reads_references = True
    report = seen.look([], references=references, read_layers=read)
    assert scalars(report) == pytest.approx(scalars(expected), rel=1e-5)
    assert shown(report) == shown(expected)


# -- state and options


@torch.no_grad()
def test_whole_inputs_are_no_part_of_a_checkpoint():
    seen = watched(num_samples=500)
    seen.monitor.references = References(inputs=images(), labels=None, source="a test")
    seen.look(batches(images()), step=10)
    seen.monitor.references = References(inputs=images(), labels=None, source="a test")
    state = seen.monitor.state_dict()
    assert state["references"] is None
    written = io.BytesIO()
    torch.save(state, written)
    assert len(written.getvalue()) < images().nbytes / 2


@torch.no_grad()
def test_the_state_goes_on_where_it_was():
    options = {"method": "tsne", "probe_layers": None}
    first, second = watched(**options), watched(**options)
    first.look(batches(images()), step=10)
    second.monitor.load_state_dict(first.monitor.state_dict())
    second.collect(batches(images()))
    one, two = (w.look(batches(images()), step=20) for w in (first, second))
    assert scalars(one) == pytest.approx(scalars(two))
    assert shown(one) == shown(two)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "fc"}, r'layers=\'fc\' is not a list of names. Use \["fc"\]'),
        ({"layers": []}, r"layers=\[\] holds no name"),
        ({"probe_layers": [1]}, "probe_layers holds 1"),
        ({"perplexity": 1}, "perplexity=1 is out of range. Use more than 1"),
        ({"perplexity": "30"}, "perplexity='30' is a str"),
        ({"method": "umap"}, 'method=\'umap\' is none of the choices. Use "tsne" or "pca"'),
        ({"backend": "openTSNE"}, "backend='openTSNE' is none of the choices"),
        ({"projector": 1}, "projector=1 is not a bool"),
        (
            {"num_samples": 6000, "backend": "torch"},
            'num_samples=6,000 is too many.*backend="auto"',
        ),
        ({"num_sample": 3}, "has no option 'num_sample'. Nearest: .*num_samples"),
    ],
)
def test_a_wrong_option_says_what_to_write(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        EmbeddingMonitor(**options)


def test_more_samples_are_a_case_for_scikit_learn():
    assert EmbeddingMonitor(num_samples=6000).options.num_samples == 6000
    assert EmbeddingMonitor().options.num_samples == 500
