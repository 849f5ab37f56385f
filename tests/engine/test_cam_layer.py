from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.mlp_mixer import MlpMixer
from timm.models.vision_transformer import VisionTransformer as TimmTransformer
from torch import Tensor, nn
from torchvision import models

from vis_callbacks.engine.cam_layer import CamLayer, choose_cam_layer, named_cam_layer
from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.score_functions import class_score, layer_gradient
from vis_callbacks.engine.scores import MethodUnsuitedError, NoGradientError
from vis_callbacks.monitors.saliency.science import grad_cam


def second_class(scores: Tensor) -> Tensor:
    return scores[:, 1]


def chosen(model: nn.Module, x: Tensor, **options) -> CamLayer:
    with isolated(model) as forward:
        return choose_cam_layer(forward, x, lambda x: second_class(forward(x)), **options)


def transformer(**options) -> TimmTransformer:
    return TimmTransformer(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, **options)


Case = tuple[Callable[[], nn.Module], int, str, tuple[int, ...]]
NETWORKS: dict[str, Case] = {
    "resnet18": (models.resnet18, 64, "layer4.1.relu-1", (2, 2)),
    "mobilenet_v2": (models.mobilenet_v2, 64, "features.18.2", (2, 2)),
    "squeezenet": (models.squeezenet1_1, 64, "classifier.2", (3, 3)),
    "googlenet": (
        lambda: models.googlenet(aux_logits=False, init_weights=False),
        64,
        "inception5b",
        (2, 2),
    ),
    "convnext": (
        lambda: models.ConvNeXt([models.convnext.CNBlockConfig(12, None, 2)], num_classes=3),
        32,
        "features.1.1",
        (8, 8),
    ),
    "swin": (
        lambda: models.SwinTransformer([4, 4], 12, [2, 2], [2, 2], [4, 4], num_classes=3),
        32,
        "features.3.1",
        (4, 4),
    ),
    # The head begins as zeros in these two.
    "vit": (
        lambda: models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=5),
        32,
        "encoder.layers.encoder_layer_0",
        (4, 4),
    ),
    "mixer": (
        lambda: MlpMixer(img_size=32, patch_size=8, num_blocks=2, embed_dim=32),
        32,
        "blocks.1",
        (4, 4),
    ),
    "vit with registers": (lambda: transformer(reg_tokens=4), 32, "blocks.1", (4, 4)),
    "vit with a mean": (
        lambda: transformer(class_token=False, global_pool="avg"),
        32,
        "blocks.2",
        (4, 4),
    ),
}
SLOW: dict[str, Case] = {
    "densenet": (lambda: models.DenseNet(8, (3, 2), 16), 64, "DenseNet/relu", (8, 8)),
    "inception_v3": (
        lambda: models.inception_v3(aux_logits=False, init_weights=False),
        128,
        "Mixed_7c",
        (2, 2),
    ),
    "resmlp": (lambda: timm.create_model("resmlp_12_224", img_size=32), 32, "blocks.11", (2, 2)),
    "swin of timm": (
        lambda: timm.create_model("swin_tiny_patch4_window7_224", img_size=56),
        56,
        "layers.3.blocks.1",
        (2, 2),
    ),
}


def cut_at(model: nn.Module, layer: str) -> None:
    """Lets no gradient through the layer, a module's call or the root's own function."""
    name, _, call = layer.partition("-")
    calls = [-1]

    def without_gradient(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        calls[0] += 1
        return output.detach() if calls[0] == int(call or 0) else None

    model.get_submodule(name).register_forward_hook(without_gradient)


@pytest.mark.parametrize(
    "name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_all_of_the_score_comes_through_the_layer_from_most_of_its_positions(name):
    make, size, layer, grid = {**NETWORKS, **SLOW}[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(3, 3, size, size)
    assert chosen(model, x) == CamLayer(layer, grid, is_chosen=True)
    for part in model.modules():
        if isinstance(part, nn.Linear) and not part.weight.any():
            nn.init.normal_(part.weight)
    with isolated(model) as forward:
        targets = torch.ones(3, dtype=torch.int64)
        _, gradient = layer_gradient(forward, class_score(forward, targets), layer)(
            x.clone().requires_grad_()
        )
        assert (gradient != 0).any(1).float().mean() > 0.5
        if "/" not in layer:
            cut_at(model, layer)
            leaf = x.clone().requires_grad_()
            score = second_class(forward(leaf)).sum()
            found = None
            if score.requires_grad:
                (found,) = torch.autograd.grad(score, leaf, allow_unused=True)
            assert found is None or not found.any()


class Residual(nn.Module):
    """Its last ReLU is one of two paths; the sum of both is what a block returns."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.block = Sum()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.gate = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.stem(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return self.head(self.pool(x).flatten(1))


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.conv(x))


def images(size: int = 6) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_where_only_pooling_follows_more_positions_go_before_fewer():
    model = Residual()
    model.gate = nn.Identity()
    assert chosen(model, images()).name == "block"


@pytest.mark.filterwarnings("ignore::UserWarning")  # captum warns of its hooks
def test_captum_agrees_on_the_map_of_the_output_of_a_block():
    captum = pytest.importorskip("captum.attr")
    model, x = Residual().double().eval(), images().double()
    targets = torch.tensor([2, 0])
    with isolated(model) as forward:
        at_layer = layer_gradient(forward, class_score(forward, targets), "block")
        found = grad_cam(*at_layer(x.requires_grad_()))
    peer = captum.LayerGradCam(model, model.block).attribute(x, targets)[:, 0].clamp(min=0)
    torch.testing.assert_close(found, peer.detach(), rtol=1e-6, atol=1e-12)
    assert found.max() > 1e-6


def test_behind_a_gate_lies_another_layer():
    assert chosen(Residual(), images()) == CamLayer("pool", (2, 2), is_chosen=True)


@pytest.mark.parametrize(
    ("before", "found"), [("stem.0", "stem.0"), ("block.conv", "block.conv"), ("block", "block")]
)
def test_a_unit_is_explained_up_to_and_with_its_own_layer(before, found):
    assert chosen(Residual(), images(), before=before).name == found


class TwoStreams(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        streams = [F.relu(part(x)).mean((2, 3)) for part in (self.left, self.right)]
        return self.head(torch.cat(streams, 1))


def test_streams_that_never_meet_as_maps_have_no_such_layer():
    with pytest.raises(MethodUnsuitedError, match=r'on all paths .* Name .*cam_layer="\.\.\."'):
        chosen(TwoStreams(), images())


def test_a_score_without_a_gradient_is_told():
    class Cut(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    frozen = Cut().requires_grad_(False)
    for model in (Cut(), frozen):
        with pytest.raises(NoGradientError, match="no gradient leads from the score to the inputs"):
            chosen(model, images())


def test_a_network_in_which_nothing_fires_is_looked_at_again():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3)
    )
    nn.init.constant_(model[3].bias, -100.0)
    assert chosen(model, images()) == CamLayer("1", (4, 4), is_chosen=True, is_final=False)


def test_a_network_that_overwrites_what_its_gradient_needs_is_looked_at():
    class Overwriting(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = self.block(self.stem(x.mul_(2)))
            return self.head(self.pool(x.sigmoid_().mul_(2)).flatten(1))

    assert chosen(Overwriting(), images()).name == "Overwriting/sigmoid"


# -- a layer that the user names


def test_tokens_of_overlapping_patches_lie_as_the_network_made_them():
    model = nn.Sequential(nn.Conv2d(3, 6, 4, 3), nn.ReLU(), nn.Flatten(2), nn.Linear(8, 8))
    with isolated(model) as forward:
        x = torch.randn(2, 3, 8, 14)
        assert named_cam_layer(forward, x, "1").grid == (2, 4)


def test_a_layer_whose_positions_are_none_of_the_image_is_refused():
    with isolated(nn.Sequential(nn.Flatten(2), nn.Linear(36, 7))) as forward:
        words = r'cam_layer="1" has an activation \(2, 3, 7\) for 2 inputs \(3, 6, 6\)'
        with pytest.raises(MethodUnsuitedError, match=words):
            named_cam_layer(forward, images(), "1")


class Images(nn.Module):
    """Takes images without an axis of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x.unsqueeze(1))).mean((2, 3)))


class Steps(nn.Module):
    """Takes a series with its time first: (samples, time, features)."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.steps(x)).mean(1))


def test_inputs_of_other_axes_have_their_own_positions():
    series = nn.Sequential(
        nn.Conv1d(2, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    volume = nn.Sequential(
        nn.Conv3d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    assert chosen(Images(), torch.randn(2, 8, 9)).grid == (6, 7)
    assert chosen(series, torch.randn(2, 2, 21)).grid == (10,)
    assert chosen(volume, torch.randn(2, 2, 5, 6, 7)).grid == (3, 4, 5)
    with pytest.raises(MethodUnsuitedError, match="on all paths"):
        chosen(Steps(), torch.randn(2, 7, 5))


def test_windows_are_no_samples():
    model = models.SwinTransformer([4, 4], 12, [2], [2], [4, 4], num_classes=3)

    class Windows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x.unfold(2, 2, 2).flatten(0, 1))

    words = "positions are not those of the input"
    with (
        isolated(nn.Sequential(Windows())) as forward,
        pytest.raises(MethodUnsuitedError, match=words),
    ):
        named_cam_layer(forward, images(), "0/relu")
    with isolated(model) as forward:
        assert named_cam_layer(forward, torch.randn(2, 3, 32, 32), "features.1.0").grid == (8, 8)


def test_a_layer_that_is_not_there_is_left_to_whoever_reads_it():
    with isolated(Residual()) as forward:
        assert named_cam_layer(forward, images(), "blok") == CamLayer("blok")
