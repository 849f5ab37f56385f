from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tests.identity import assert_identical, digest, fingerprint
from tests.tiny import (
    NUM_CLASSES,
    NUM_STEPS,
    TinyModule,
    tiny_fit,
    tiny_loader,
    tiny_module,
    tiny_trainer,
)
from tests.writers.reading import images as pictures_in
from tests.writers.reading import scalars as scalars_in
from torch import Tensor, nn

from vis_callbacks import SaliencyMonitor, Snapshot
from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.references import References, take_references
from vis_callbacks.engine.scores import Unit
from vis_callbacks.guard import NothingToShow
from vis_callbacks.monitors.saliency.methods import METHODS
from vis_callbacks.report import Picture, Report, Scalar, transfer

EVERY_METHOD = tuple(METHODS)


def looked(monitor: SaliencyMonitor, model: nn.Module, step: int = 0, **known: Any) -> Report:
    """Lets the monitor look at a model without any Trainer."""
    with isolated(model) as forward:
        snapshot = Snapshot(
            **{"step": step, "forward": forward, "references": references(), **known}
        )
        (report,) = transfer([monitor.observe(snapshot)])
    return report


def references(**changes: Any) -> References:
    inputs, labels = next(iter(tiny_loader()))
    return References(**{"inputs": inputs, "labels": labels, "source": "a test", **changes})


def scalars(report: Report) -> dict[str, float]:
    return {item.tag: float(item.value) for item in report.of(Scalar)}


def picture(report: Report, tag: str = "saliency/gradient") -> Picture:
    return {item.tag: item for item in report.of(Picture)}[tag]


def caption(report: Report, tag: str = "saliency/gradient") -> str:
    """Returns what a picture says of how it was made."""
    return "\n".join(map(str, words_of(report, tag)[-1]))


def words_of(report: Report, tag: str = "saliency/gradient") -> list[tuple[str, ...]]:
    """Returns what stands over and under each tile, row by row, and over the whole picture."""
    found: list[tuple[str, ...]] = []

    def noted(rows, lines, **_) -> np.ndarray:
        found.extend((tile.title, *tile.lines) for row in rows for tile in row.tiles)
        found.append(tuple(lines))
        return np.zeros((1, 1, 3), dtype=np.uint8)

    shown = picture(report, tag)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vis_callbacks.monitors.saliency.pictures.tile_table", noted)
        shown.draw(**shown.arrays)
    return found


def drawn(report: Report) -> dict[str, np.ndarray]:
    return {item.tag: item.draw(**item.arrays) for item in report.of(Picture)}


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, NUM_CLASSES))


# -- what is explained


def test_the_map_of_a_linear_network_is_the_largest_weight_of_each_class():
    model = linear()
    report = looked(SaliencyMonitor(target="label"), model)
    expected = model[1].weight[references().labels].view(-1, 3, 6, 6).abs().amax(1)
    np.testing.assert_array_equal(picture(report).arrays["maps"][0], expected.detach())


def test_label_and_prediction_stand_side_by_side():
    model, given = linear(), references()
    arrays = picture(looked(SaliencyMonitor(outputs="classes"), model)).arrays
    scores = model(given.inputs)
    predicted = scores.argmax(1)
    assert (predicted != given.labels).any()
    weights = model[1].weight.view(NUM_CLASSES, 3, 6, 6).abs().amax(1).detach()
    np.testing.assert_array_equal(arrays["indices"], torch.stack([given.labels, predicted]))
    np.testing.assert_array_equal(arrays["maps"], weights[torch.stack([given.labels, predicted])])
    shares = scores.softmax(1)
    np.testing.assert_allclose(
        arrays["values"],
        torch.stack([shares.gather(1, given.labels[:, None])[:, 0], shares.amax(1)]).detach(),
        rtol=1e-6,
    )


@pytest.mark.parametrize("target", ["label", "predicted", 2])
def test_one_target_has_one_map(target):
    arrays = picture(looked(SaliencyMonitor(target=target), tiny_module())).arrays
    assert arrays["maps"].shape == (1, 4, 6, 6)


def test_a_class_that_the_scores_do_not_have_is_refused():
    with pytest.raises(ValueError, match=r"target=7 is not a class of these scores, which have 3"):
        looked(SaliencyMonitor(target=7), tiny_module())


@pytest.mark.parametrize("unit", ["relu:1", Unit("relu", 1), "relu:1@2,3", "conv:0"])
def test_a_unit_is_explained_instead_of_a_class(unit):
    monitor = SaliencyMonitor(unit=unit)
    arrays = picture(looked(monitor, tiny_module())).arrays
    assert arrays["maps"].shape == (1, 4, 6, 6)
    assert (arrays["indices"] == -1).all()
    active = arrays["values"][0] > 0
    assert active.any()
    assert (arrays["maps"][0][active].reshape(active.sum(), -1).max(1) > 0).all()


def test_a_unit_at_a_position_sees_its_receptive_field_alone():
    arrays = picture(looked(SaliencyMonitor(unit="conv:0@1,2"), tiny_module())).arrays
    seen = arrays["maps"][0] > 0
    expected = np.zeros((6, 6), dtype=bool)
    expected[1:4, 2:5] = True
    assert (seen == expected).all()


def test_the_sum_over_positions_sees_the_whole_image():
    monitor = SaliencyMonitor(unit="conv:0", positions="sum")
    arrays = picture(looked(monitor, tiny_module())).arrays
    assert (arrays["maps"][0] > 0).all()


def test_a_unit_that_is_not_there_is_told_with_its_neighbours():
    with pytest.raises(ValueError, match=r'layer="rleu" matches none .*nearest: "relu'):
        looked(SaliencyMonitor(unit="rleu:1"), tiny_module())


# -- methods


def test_every_method_is_drawn_for_classes():
    monitor = SaliencyMonitor(methods=EVERY_METHOD)
    pictures = drawn(looked(monitor, tiny_module()))
    assert list(pictures) == [f"saliency/{method}" for method in EVERY_METHOD]
    for tag, array in pictures.items():
        assert array.dtype == np.uint8, tag
        assert array.std() > 10, tag


def test_every_method_is_drawn_for_a_unit():
    monitor = SaliencyMonitor(methods=EVERY_METHOD, unit="relu:1", positions="sum")
    pictures = drawn(looked(monitor, tiny_module()))
    assert len(pictures) == len(EVERY_METHOD)


def test_a_method_that_does_not_suit_the_network_is_left_out_alone_and_said_once(caplog):
    monitor, model = SaliencyMonitor(methods=["guided_backprop", "gradient"]), linear()
    for step in (0, 1):
        report = looked(monitor, model, step)
        assert "saliency/gradient" in drawn(report)
        assert "saliency/guided_backprop" not in drawn(report)
    (line,) = (record.message for record in caplog.records)
    assert "the map of guided_backprop is left out: the rule" in line
    assert 'Use the method "gradient"' in line


def test_what_the_rule_did_not_apply_to_is_told():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Hardswish(), nn.Flatten(), nn.Linear(64, 3), nn.Sigmoid()
    )
    report = looked(SaliencyMonitor(methods=["guided_backprop"]), net)
    said = "1 ReLUs per pass followed the rule, 1 hardswish, 1 sigmoid did not"
    assert said in caption(report, "saliency/guided_backprop")


def test_grad_cam_looks_where_it_is_told():
    monitor = SaliencyMonitor(methods=["grad_cam"], cam_layer="norm")
    words = caption(looked(monitor, tiny_module()), "saliency/grad_cam")
    assert words.startswith("Grad-CAM: where the units of the layer norm speak for the output\n")
    assert "was chosen" not in words


def test_grad_cam_finds_the_last_layer_with_maps():
    report = looked(SaliencyMonitor(methods=["grad_cam"]), tiny_module())
    words = caption(report, "saliency/grad_cam")
    assert "units of the layer relu speak" in words
    assert "the last that all paths from the input to the output pass" in words


def test_without_a_layer_with_maps_grad_cam_says_so(caplog):
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 5), nn.ReLU(), nn.Linear(5, 3))
    assert not looked(SaliencyMonitor(methods=["grad_cam"]), model).items
    assert (
        "the map of grad_cam is left out: no layer with the positions of the input lies"
        in caplog.text
    )
    assert "cam_layer=" in caplog.text


def test_grad_cams_layer_is_looked_for_once_a_run():
    model, monitor = tiny_module(), SaliencyMonitor(methods=["grad_cam", "guided_grad_cam"])
    num_passes = []
    for _ in range(3):
        with isolated(model) as forward:
            calls: list[int] = []
            model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
            monitor.observe(Snapshot(step=0, forward=forward, references=references()))
            num_passes.append(len(calls))
    assert num_passes[0] - num_passes[1] == 1
    assert num_passes[1] == num_passes[2] > 0


class ClassToken(nn.Module):
    """Reads the first token alone: the last block's other tokens have no say."""

    def __init__(self, head: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, NUM_CLASSES)
        nn.init.normal_(self.head.weight, std=head)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)
        return self.head(self.encoder(tokens)[:, 0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("head", [1.0, 0.0])
def test_grad_cam_of_a_class_token_looks_where_all_tokens_have_a_say(head):
    report = looked(SaliencyMonitor(methods=["grad_cam"]), ClassToken(head))
    found = picture(report, "saliency/grad_cam")
    assert "the layer encoder.layers.0.norm2 speak" in caption(report, "saliency/grad_cam")
    assert (found.arrays["without_gradient"] == (0 if head else 1)).all()
    assert drawn(report)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_a_map_that_most_positions_have_no_part_in_says_so():
    monitor = SaliencyMonitor(methods=["grad_cam"], cam_layer="encoder.layers.1.norm2")
    report = looked(monitor, ClassToken())
    found, said = picture(report, "saliency/grad_cam"), "\nthe gradient is 0 at 100% of the layer's"
    assert (found.arrays["without_gradient"] == 1).all()
    assert (found.arrays["maps"] == 0).all()
    assert said in caption(report, "saliency/grad_cam")
    found.arrays["without_gradient"] = np.array([0.4, 0.5, 0.5, 0.9])
    assert "the gradient is 0 at" not in caption(report, "saliency/grad_cam")


def test_tokens_lie_where_their_patches_were(tmp_path):
    torch.manual_seed(0)
    wide = nn.Sequential(
        nn.Conv2d(3, 6, 2, 2), nn.Flatten(2), Transposed(), nn.Linear(6, 6), Mean(), nn.Linear(6, 3)
    )
    given = references(inputs=torch.randn(4, 3, 6, 10))
    monitor = SaliencyMonitor(methods=["grad_cam"])
    maps = picture(looked(monitor, wide, references=given), "saliency/grad_cam").arrays["maps"]
    assert monitor._chosen_layer.grid == (3, 5)
    assert maps.shape[2:] == (6, 10)


class Transposed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def test_tokens_that_no_patches_give_are_refused(caplog):
    model = nn.Sequential(nn.Flatten(2), nn.Linear(36, 7), Transposed(), Mean(), nn.Linear(3, 3))
    monitor = SaliencyMonitor(methods=["gradient", "grad_cam"], cam_layer="2")
    assert list(drawn(looked(monitor, model))) == ["saliency/gradient"]
    assert 'cam_layer="2" has an activation (2, 7, 3)' in caplog.text


# -- whether the outputs are classes


def one_logit() -> nn.Module:
    """Its logit is above 0 where the mean of the image is."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 1))
    nn.init.constant_(model[1].weight, 1.0)
    nn.init.zeros_(model[1].bias)
    return model


def bright_and_dark() -> References:
    inputs = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(4, 1, 1, 1).expand(4, 3, 6, 6)
    return references(inputs=inputs.clone(), labels=torch.tensor([1, 0, 0, 1]))


def test_a_single_logit_is_explained_for_the_true_label():
    options = {"methods": ["input_x_gradient"], "class_names": ["cat", "dog"]}
    report = looked(SaliencyMonitor(**options), one_logit(), references=bright_and_dark())
    arrays = picture(report, "saliency/input_x_gradient").arrays
    assert arrays["indices"].tolist() == [[1, 0, 0, 1], [1, 0, 1, 0]]
    assert np.sign(arrays["maps"].mean((2, 3))).tolist() == [[1, 1, -1, -1], [1, 1, 1, 1]]
    assert arrays["values"].round().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    words = words_of(report, "saliency/input_x_gradient")
    assert words[1] == ("label", "dog", "p = 1.00")
    assert ("predicted", "dog", "p = 1.00, wrong") in words


def test_where_every_prediction_is_right_one_map_a_sample_says_all():
    given = replace(bright_and_dark(), labels=torch.tensor([1, 0, 1, 0]))
    monitor = SaliencyMonitor(overlay=False, outputs="classes")
    report = looked(monitor, one_logit(), references=given)
    words = words_of(report)
    assert [line[0] for line in words[:8]] == ["image", "label"] * 4
    assert {line[-1] for line in words[1:8:2]} == {"p = 1.00, right"}


@pytest.mark.parametrize(("channels", "titles"), [(3, {"on it"}), (1, set())])
def test_colour_images_are_shown_in_grey_below_their_maps(channels, titles):
    inputs = torch.rand(4, channels, 6, 6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36 * channels, 3))
    report = looked(SaliencyMonitor(target=1), model, references=references(inputs=inputs))
    assert {line[0] for line in words_of(report)[:-1]} == {"image", "output 1"} | titles


def test_a_single_value_is_none_of_a_class():
    report = looked(
        SaliencyMonitor(outputs="values", overlay=False), one_logit(), references=bright_and_dark()
    )
    words = words_of(report)
    assert words[1] == ("output 0", "output 0", "value 108")
    assert words[3] == ("output 0", "output 0", "value -108")


def test_the_second_class_of_a_single_logit_can_be_asked_for():
    monitor = SaliencyMonitor(methods=["input_x_gradient"], target=1)
    report = looked(monitor, one_logit(), references=bright_and_dark())
    arrays = picture(report, "saliency/input_x_gradient").arrays
    assert np.sign(arrays["maps"].mean((0, 2, 3))).tolist() == [1, -1, 1, -1]


def test_outputs_that_are_no_classes_are_called_by_their_number():
    torch.manual_seed(0)
    embedding = nn.Sequential(nn.Flatten(), nn.Linear(108, 64))
    given = references(labels=torch.tensor([0, 1, 99, -1]))
    for options in ({}, {"outputs": "values"}):
        report = looked(SaliencyMonitor(**options), embedding, references=given)
        text = "\n".join(str(line) for line in words_of(report))
        assert "highest output" in text
        assert "output " in text
        assert "wrong" not in text
        assert "p = " not in text
        assert "class" not in text
        assert ("the labels do not tell yet" in text) == ("outputs" not in options)
    titles = [line[0] for line in words_of(report)[:12]]
    assert titles == ["image", "highest output", "on it"] * 4


def test_labels_that_agree_make_the_outputs_classes():
    inputs = torch.eye(3).repeat(8, 1)[:, :, None, None].expand(-1, 3, 6, 6)
    given = references(inputs=inputs.clone(), labels=torch.arange(24) % 3)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    monitor, seen = SaliencyMonitor(), []
    for step in range(4):
        report = looked(monitor, model, step, references=given)
        seen.append(words_of(report)[1])
    assert seen[0] == ("output = label", "output 0", "value 1")
    assert seen[3] == ("label", "class 0", "p = 1.00, right")
    strip = picture(report, "saliency/over_time/gradient")
    assert strip.arrays["are_classes"].tolist() == [False, False, True, True]
    words = words_of(report, "saliency/over_time/gradient")
    assert words[2] == ("step 1", "output 0", "value 1")
    assert words[4] == ("step 3", "class 0", "p = 1.00")


# -- numbers


def test_the_numbers_of_a_first_snapshot():
    monitor = SaliencyMonitor(methods=["gradient", "integrated_gradients"])
    found = scalars(looked(monitor, tiny_module()))
    assert set(found) == {
        "saliency/effective_area/gradient",
        "saliency/effective_area/integrated_gradients",
        "saliency/completeness_error/integrated_gradients",
    }
    assert all(0 < value <= 1 for value in found.values())


def test_an_unchanged_network_has_the_same_maps_again():
    monitor, model = SaliencyMonitor(methods=["gradient", "smoothgrad"]), tiny_module()
    looked(monitor, model)
    found = scalars(looked(monitor, model, step=1))
    assert found["saliency/similarity/gradient"] == pytest.approx(1)
    assert found["saliency/similarity/smoothgrad"] == pytest.approx(1)


def test_the_share_inside_a_mask_is_that_of_a_linear_network():
    masks = torch.zeros(4, 6, 6)
    masks[:, :2] = 1
    model = linear()
    report = looked(SaliencyMonitor(target="label"), model, references=references(masks=masks))
    maps = torch.from_numpy(picture(report).arrays["maps"][0])
    expected = (maps[:, :2].sum((1, 2)) / maps.sum((1, 2))).mean().item()
    assert scalars(report)["saliency/in_mask/gradient"] == pytest.approx(expected)


def test_the_sanity_score_of_a_linear_network_is_about_zero():
    # Its map is the weights of the top layer, which are replaced by random ones: 4 maps of 36
    # random numbers.
    report = looked(SaliencyMonitor(target="label", sanity_check=True), linear())
    assert abs(scalars(report)["saliency/sanity_score/gradient"]) < 0.3


# -- inputs and outputs of other forms


def test_missing_labels_are_told():
    monitor = SaliencyMonitor(outputs="classes")
    report = looked(monitor, tiny_module(), references=references(labels=None))
    assert "\nno usable labels: the predicted class instead\n" in caption(report)


def test_a_label_beyond_the_scores_is_told():
    labels = torch.tensor([0, 1, 99, -1])
    monitor = SaliencyMonitor(class_names=["a", "b", "c"])
    report = looked(monitor, tiny_module(), references=references(labels=labels))
    said = "2 of 4 labels are none of the 3 classes: the predicted class instead"
    assert f"\n{said}\n" in caption(report)
    assert picture(report).arrays["labels"].tolist() == [0, 1, -1, -1]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: nn.Linear(7, 3), (4, 7)),
        (
            lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
            (4, 2, 9),
        ),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(30, 1)), (4, 5, 6)),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(300, 3)), (4, 1, 10, 30)),
        (lambda: nn.Conv2d(3, 5, 3), (4, 3, 8, 8)),  # scores at positions
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 3)), (4, 2, 6, 6, 6)),
        (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (4, 3, 140, 90)),
    ],
)
def test_inputs_and_scores_of_every_form_are_drawn(model, shape):
    given = references(inputs=torch.randn(shape), labels=torch.tensor([0, 1, 0, 1]))
    monitor = SaliencyMonitor(methods=["gradient", "integrated_gradients"])
    looked(monitor, net := model(), references=given)
    assert len(drawn(looked(monitor, net, step=1, references=given))) == 4


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.ones(4, 12, dtype=torch.int64), r"Tensor\(4, 12\) int64"),  # tokens
        (torch.ones(4, 3, 6, 6, dtype=torch.uint8), r"Tensor\(4, 3, 6, 6\) uint8"),
    ],
)
def test_inputs_that_have_no_gradient_are_refused_with_what_to_write(inputs, words):
    with pytest.raises(NothingToShow, match=f"{words}, which are not floating point.*input_fn"):
        looked(SaliencyMonitor(), tiny_module(), references=references(inputs=inputs))


@pytest.mark.parametrize("shape", [(4, 12), (4, 2, 500)])
def test_what_is_no_image_is_called_an_input_and_seen(shape):
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape[1:])), 3))
    report = looked(SaliencyMonitor(), model, references=references(inputs=torch.randn(shape)))
    assert "to a small change of each value\n" in caption(report)
    assert words_of(report)[0][0] == "input"
    assert picture(report).arrays["images"].shape[-1] <= 128
    assert drawn(report)["saliency/gradient"].shape[0] > 150


def test_a_backbone_without_gradients_has_nothing_to_show():
    class Backbone(TinyModule):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.relu(self.norm(self.conv(x))).mean((2, 3))
            return self.head(torch.relu(self.hidden(features)))

    with pytest.raises(NothingToShow, match=r"a part of it runs under torch\.no_grad"):
        looked(SaliencyMonitor(methods=["grad_cam", "gradient"]), Backbone())


def test_a_unit_of_an_expert_that_got_no_sample_has_nothing_to_show():
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.expert, self.head = nn.ReLU(), nn.Linear(108, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.head(torch.cat([self.expert(x[:0]), x]))

    with pytest.raises(NothingToShow, match=r'layer "expert" gives 0 rows for 4 samples'):
        looked(SaliencyMonitor(unit="expert:1"), Experts())


def test_without_reference_samples_it_says_what_to_write():
    with pytest.raises(NothingToShow, match="input_fn=lambda batch"):
        looked(SaliencyMonitor(), tiny_module(), references=None)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_weights_that_broke_down_are_still_drawn(value):
    model = tiny_module()
    nn.init.constant_(model.head.weight, value)
    report = looked(SaliencyMonitor(methods=["gradient", "grad_cam", "smoothgrad"]), model)
    assert all(array.dtype == np.uint8 for array in drawn(report).values())


def test_a_snapshot_for_numbers_only_draws_nothing():
    assert not looked(SaliencyMonitor(), tiny_module(), wants_pictures=False).of(Picture)


# -- the strip


def test_the_strip_grows_and_the_state_goes_on_where_it_was():
    first, second, model = SaliencyMonitor(), SaliencyMonitor(), tiny_module()
    for step in (0, 5):
        report = looked(first, model, step)
    assert "saliency/over_time/gradient" in drawn(report)
    second.load_state_dict(first.state_dict())
    looks = [drawn(looked(monitor, model, 9)) for monitor in (first, second)]
    for tag, array in looks[0].items():
        assert np.array_equal(array, looks[1][tag])


def test_an_evaluation_outside_of_fit_leaves_the_strip_alone():
    monitor, model = SaliencyMonitor(), tiny_module()
    looked(monitor, model, 0)
    report = looked(monitor, model, 0, stage="test")
    assert list(drawn(report)) == ["saliency/gradient"]
    assert monitor._films["gradient"].steps == [0]


# -- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"methods": "gradient"},
            r"methods='gradient' is not a list of names. Use \[\"gradient\"\]",
        ),
        ({"methods": ["saliency"]}, 'no method "saliency". Use gradient, guided_backprop'),
        ({"methods": []}, "holds no name"),
        ({"target": "lable"}, r'target="lable" is not a target.*nearest: "label"'),
        ({"unit": "relu"}, r'unit "relu" is not written as .* Use "layer4.1.relu-1:17"'),
        ({"unit": 3}, r'unit=3 is a int. Use "layer4.1.relu-1:17"'),
        (
            {"positions": "mean"},
            r'positions=.mean. is none of the choices. Use "strongest" or "sum"',
        ),
        ({"cam_layer": 3}, "cam_layer=3 is not a name"),
        ({"mask_fn": "mask"}, "mask_fn=.mask. cannot be called"),
        ({"sanity_check": 1}, "sanity_check=1 is not a bool"),
        ({"sanity_check": True, "unit": "relu:1"}, "Leave it off with unit="),
    ],
)
def test_a_wrong_option_says_what_to_write(options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        SaliencyMonitor(**options)


def test_masks_are_kept_for_the_samples_that_are_chosen():
    inputs, labels = torch.arange(4.0)[:, None], torch.tensor([1, 1, 0, 0])
    kept = take_references(
        (inputs, labels), 2, source="", mask_fn=lambda batch: 10 * batch[0][:, 0]
    )
    assert kept.inputs[:, 0].tolist() == [0, 2]
    assert kept.masks.tolist() == [0, 20]


@pytest.mark.parametrize("given", [None, torch.ones(3, 2, 2)])
def test_masks_that_do_not_fit_the_batch_are_refused(given):
    with pytest.raises(TypeError, match=r"mask_fn returned .* for a batch of 4 samples. Return"):
        take_references(torch.ones(4, 3), 2, source="", mask_fn=lambda batch: given)


# -- in a run


class AllFrozenButTheHead(TinyModule):
    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)
        self.head.requires_grad_(True)


class FrozenNorm(TinyModule):
    """Its batch norm stays in evaluation mode while all else trains."""

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        self.norm.eval()
        return self


class CheckpointedTwin(TinyModule):
    """Runs its forward twice in a step."""

    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        return super().forward(x)


def fitted(folder: Path, module: Any, monitors: list[Any], **options: Any) -> Trainer:
    torch.manual_seed(3)  # the global numbers that Dropout draws
    trainer = tiny_trainer(folder, monitors, max_epochs=1, **options)
    trainer.fit(module, tiny_loader(), tiny_loader())
    return trainer


def made(cls: type[TinyModule]) -> TinyModule:
    torch.manual_seed(0)
    return cls()


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (TinyModule, {}),  # Dropout and BatchNorm
        (TinyModule, {"precision": "bf16-mixed"}),
        (TinyModule, {"precision": "bf16-true"}),
        (TinyModule, {"precision": "64-true"}),
        (AllFrozenButTheHead, {}),
        (FrozenNorm, {}),
        (CheckpointedTwin, {}),
        (TinyModule, {"accumulate_grad_batches": 2}),
    ],
)
def test_maps_are_made_and_the_run_is_the_same_to_the_bit(cls, options, tmp_path):
    plain = fitted(tmp_path, made(cls), [], **options)
    plain = (fingerprint(plain), digest(plain.lightning_module.losses))
    monitor = SaliencyMonitor(
        methods=["gradient", "guided_backprop", "grad_cam"],
        sanity_check=True,
        every_n_train_steps=1,
    )
    trainer = fitted(tmp_path, made(cls), [monitor], **options)
    assert monitor.guard.counts == {}
    maps = picture(monitor.last_report).arrays["maps"]
    assert np.isfinite(maps).all()
    assert (maps.reshape(len(maps), 4, -1).max(2) > 0).all()
    assert_identical(plain[0], fingerprint(trainer))
    assert plain[1] == digest(trainer.lightning_module.losses)


@pytest.mark.parametrize("entry", ["validate", "test"])
def test_an_evaluation_alone_is_explained(entry, tmp_path):
    monitor = SaliencyMonitor()
    trainer = tiny_trainer(tmp_path, [monitor], logger=TensorBoardLogger(tmp_path))
    getattr(trainer, entry)(made(TinyModule), tiny_loader(), verbose=False)
    assert monitor.guard.counts == {}
    found = pictures_in(Path(trainer.logger.log_dir), f"{entry}/saliency/gradient")
    assert found[0].std() > 10


def test_a_fit_writes_pictures_and_numbers_at_its_epochs(tmp_path):
    monitor = SaliencyMonitor(all_cards=True)
    trainer = tiny_fit(tmp_path, [monitor], logger=TensorBoardLogger(tmp_path))
    folder = Path(trainer.logger.log_dir)
    steps = [0, NUM_STEPS // 2 - 1, NUM_STEPS - 1]
    assert list(pictures_in(folder, "saliency/gradient")) == steps
    assert list(pictures_in(folder, "saliency/over_time/gradient")) == steps[1:]
    assert list(scalars_in(folder, "saliency/similarity/gradient")) == steps[1:]


def test_the_same_images_are_explained_at_every_epoch(tmp_path):
    monitor, seen = SaliencyMonitor(every_n_train_steps=1), []
    watched = monitor.observe

    def noted(snapshot: Snapshot) -> Report:
        seen.append(digest(snapshot.references.inputs))
        return watched(snapshot)

    monitor.observe = noted
    tiny_fit(tmp_path, [monitor])
    assert len(seen) == NUM_STEPS
    assert len(set(seen)) == 1


def test_the_references_come_from_a_mask_fn_that_sees_the_batch(tmp_path):
    monitor = SaliencyMonitor(mask_fn=lambda batch: (batch[0] > 0).any(1))
    tiny_fit(tmp_path, [monitor])
    assert monitor.references.masks.shape == (4, 6, 6)
    assert 0 < scalars(monitor.last_report)["saliency/in_mask/gradient"] < 1
