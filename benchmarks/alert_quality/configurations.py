"""The table of what is trained: half of it to tune rules by, the other half to try them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import nn

from benchmarks.alert_quality import data, nets, tasks
from benchmarks.alert_quality.tasks import Task

FACTORS = (0.01, 0.1, 1 / 3, 1.0, 10 / 3, 10.0, 100.0)  # of a configuration's rate


Part = Literal["tune", "test", "fresh", "last"]


@dataclass(frozen=True)
class Configuration:
    """One network with its data, optimizer and batch, which is trained at several rates.

    Attributes:
        part: Thresholds were taken from "tune", and judged by "test". What was mended after that
            is judged by "fresh", and what was added later still by "last".
        rate: A usual one; the best of the ladder around it is found out.
    """

    name: str
    part: Part
    task: Task
    net: Callable[[], nn.Module]
    optimizer: str
    rate: float
    batch: int = 32
    schedule: str = "constant"
    steps: int = 240

    @property
    def is_adversarial(self) -> bool:
        """Whether there are two networks, each with an optimizer of its own."""
        return self.task.score.__qualname__.startswith("adversarial")


_CONFIGURATIONS: list[Configuration] = []


def _add(part: Part, name: str, task: Task, net: object, *rest: object) -> None:
    _CONFIGURATIONS.append(Configuration(name, part, task, net, *rest))  # type: ignore[arg-type]


tune, test, fresh, last = (partial(_add, part) for part in ("tune", "test", "fresh", "last"))
relu, gelu, silu, tanh, leaky = nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.LeakyReLU
bn, gn = nets.batch_norm, nets.group_norm
_digits, _rows, _patches = map(tasks.classes, (data.digits, data.digit_rows, data.patches))
_clusters, _cells = tasks.classes(data.many_classes), tasks.yes_or_no(data.cancer)
_friedman, _friedman2, _houses = map(tasks.values, (data.friedman, data.friedman2, data.houses))
_wrong, _noisy = tasks.classes(data.wrong_labels), tasks.values(data.noisy_friedman)
_huber = tasks.values(data.houses, F.huber_loss)
_huber2 = tasks.values(data.friedman2, F.smooth_l1_loss)
_text, _masks, _copy = tasks.characters(), tasks.masks(), tasks.copies(data.digit_table)
_copy_maps, _code = tasks.copies(data.gray_patches), tasks.variational()
_pairs, _gan = tasks.contrastive(data.digits), tasks.adversarial()
_photo_pairs = tasks.contrastive(data.patches)


def _mlp(inputs: int, *widths: int, outputs: int, **options: object) -> Callable[[], nn.Module]:
    return partial(nets.mlp, inputs, *widths, outputs=outputs, **options)


def _conv(channels: int, *widths: int, outputs: int, **options: object) -> Callable[[], nn.Module]:
    return partial(nets.conv, channels, *widths, outputs=outputs, **options)


def _text_net(width: int, depth: int = 2) -> nn.Module:
    return nets.CausalTransformer(data.num_characters(), data.CONTEXT, width, depth)


def _text_cells(kind: str, width: int) -> nn.Module:
    return nets.Recurrent(kind, width, data.num_characters(), data.num_characters())


# fmt: off
# Dense.
tune("mlp-relu", _digits, _mlp(64, 64, 64, outputs=10), "momentum", .03)
tune("mlp-wide-adam", _digits, _mlp(64, 128, 128, outputs=10), "Adam", 1e-3, 64)
tune("mlp-gelu", _digits, _mlp(64, 64, 64, outputs=10, act=gelu), "AdamW", 3e-3, 32, "warm-up")
tune("mlp-tanh", _clusters, _mlp(20, 64, 64, outputs=6, act=tanh), "Adam", 3e-3)
tune("mlp-bn", _clusters, _mlp(20, 64, 64, outputs=6, norm=True), "Nesterov", .03, 64, "cosine")
tune("mlp-batch4", _digits, _mlp(64, 48, 48, outputs=10), "momentum", .003, 4)
test("mlp-deep-relu", _digits, _mlp(64, 64, 64, 64, 64, outputs=10), "SGD", .1)
test("mlp-onecycle", _digits, _mlp(64, 96, 96, outputs=10), "Adam", 3e-3, 64, "OneCycle")
test("mlp-silu", _clusters, _mlp(20, 64, 64, outputs=6, act=silu), "NAdam", 2e-3)
test("mlp-tanh-sgd", _digits, _mlp(64, 64, 64, outputs=10, act=tanh), "momentum", .03, 16)
test("mlp-lion", _clusters, _mlp(20, 128, 64, outputs=6), "Lion", 3e-4, 32, "cosine")
test("mlp-batch4", _clusters, _mlp(20, 48, 48, outputs=6), "Adam", 1e-3, 4)
test("mlp-leaky", _digits, _mlp(64, 64, 64, outputs=10, act=leaky), "RMSprop", 1e-3, 128)
# Tables, with residual networks and without.
tune("table-res-relu", _friedman, partial(nets.residual_mlp, 10, 32, 3, 1), "AdamW", 1e-3, 64)
tune("table-res-lion", _houses, partial(nets.residual_mlp, 8, 32, 2, 1), "Lion", 3e-4, 64, "cosine")
tune("table-huber", _huber, _mlp(8, 64, 64, outputs=1), "Adam", 3e-3, 32, "OneCycle")
tune("table-gelu", _friedman2, _mlp(4, 64, 64, outputs=1, act=gelu), "momentum", .03)
tune("cells", _cells, _mlp(30, 32, outputs=1), "SGD", .1, 16)
tune("table-clusters", _clusters, partial(nets.residual_mlp, 20, 32, 2, 6, gelu), "AdamW", 3e-3, 128, "warm-up")
test("table-res-silu", _houses, partial(nets.residual_mlp, 8, 32, 3, 1, silu), "AdamW", 2e-3, 128, "warm-up")
test("table-res-plain", _friedman2, partial(nets.residual_mlp, 4, 32, 3, 1, relu, False), "Adam", 1e-3)
test("table-huber-res", _huber2, partial(nets.residual_mlp, 4, 48, 2, 1), "NAdam", 1e-3, 64)
test("table-mse-relu", _friedman, _mlp(10, 64, 64, outputs=1), "momentum", .01, 32, "cosine")
test("cells-res", _cells, partial(nets.residual_mlp, 30, 32, 2, 1), "Lion", 1e-4, 16)
test("table-tanh", _houses, _mlp(8, 64, 64, outputs=1, act=tanh), "Adam", 3e-3, 256)
test("table-clusters-res", _clusters, partial(nets.residual_mlp, 20, 32, 3, 6), "momentum", .02, 64, "OneCycle")
# Convolutional.
tune("conv-plain", _patches, _conv(3, 12, 24, 24, outputs=12), "Adam", 2e-3)
tune("conv-plain-sgd", _digits, _conv(1, 16, 32, 32, outputs=10), "momentum", .03)
tune("conv-bn", _patches, _conv(3, 12, 24, 24, outputs=12, norm=bn), "momentum", .03)
tune("conv-bn-adamw", _digits, _conv(1, 12, 24, 24, outputs=10, norm=bn), "AdamW", 3e-3, 16, "warm-up")
tune("conv-silu-gn", _patches, _conv(3, 12, 24, 24, outputs=12, act=silu, norm=gn), "NAdam", 2e-3)
tune("conv-leaky-onecycle", _digits, _conv(1, 16, 32, outputs=10, act=leaky), "momentum", .05, 64, "OneCycle")
tune("se-resnet", _patches, partial(nets.se_resnet, 3, 12, 2, 12), "Nesterov", .03, 32, "cosine")
tune("convnext", _digits, partial(nets.convnext, 1, 12, 2, 10), "AdamW", 3e-3, 32, "warm-up")
test("conv-plain-nesterov", _patches, _conv(3, 12, 24, 24, outputs=12), "Nesterov", .03, 32, "cosine")
test("conv-plain-batch4", _digits, _conv(1, 12, 24, 24, outputs=10), "Adam", 1e-3, 4, "constant", 320)
test("conv-gelu", _patches, _conv(3, 12, 24, 24, outputs=12, act=gelu), "AdamW", 3e-3, 32, "warm-up")
test("conv-bn-sgd", _digits, _conv(1, 16, 32, 32, outputs=10, norm=bn), "SGD", .1, 64)
test("conv-bn-onecycle", _patches, _conv(3, 12, 24, 48, outputs=12, norm=bn), "Adam", 3e-3, 32, "OneCycle")
test("conv-bn-lion", _digits, _conv(1, 16, 24, outputs=10, norm=bn), "Lion", 3e-4)
test("conv-tanh", _digits, _conv(1, 16, 32, outputs=10, act=tanh), "Adam", 2e-3)
test("se-resnet-adamw", _digits, partial(nets.se_resnet, 1, 12, 2, 10), "AdamW", 3e-3, 32, "warm-up")
test("se-resnet-sgd", _patches, partial(nets.se_resnet, 3, 12, 2, 12), "momentum", .03, 16)
test("convnext-lion", _patches, partial(nets.convnext, 3, 12, 2, 12), "Lion", 3e-4, 32, "warm-up")
test("convnext-adam", _digits, partial(nets.convnext, 1, 12, 3, 10), "Adam", 2e-3, 16)
# Tokens.
tune("mixer", _digits, partial(nets.mixer, 1, 8, 2, 24, 2, 10), "AdamW", 2e-3, 32, "warm-up")
tune("vit", _patches, partial(nets.vit, 3, 16, 4, 24, 2, 12), "AdamW", 2e-3, 16, "warm-up")
tune("vit-adam", _digits, partial(nets.vit, 1, 8, 2, 24, 1, 10), "Adam", 2e-3, 16)
tune("rows-post-norm", _rows, partial(nets.row_transformer, 24, 2, 10, pre=False), "Adam", 1e-3)
tune("lstm-rows", _rows, partial(nets.Recurrent, "LSTM", 48, 10), "Adam", 5e-3)
tune("text-transformer", _text, partial(_text_net, 24, 1), "AdamW", 3e-3, 16, "warm-up")
test("mixer-lion", _patches, partial(nets.mixer, 3, 16, 4, 24, 2, 12), "Lion", 3e-4, 32, "cosine")
test("mixer-adam", _digits, partial(nets.mixer, 1, 8, 2, 32, 1, 10), "NAdam", 2e-3, 64)
test("vit-onecycle", _digits, partial(nets.vit, 1, 8, 2, 24, 2, 10), "Adam", 3e-3, 16, "OneCycle")
test("vit-sgd", _patches, partial(nets.vit, 3, 16, 4, 24, 1, 12), "momentum", .05)
test("rows-pre-norm", _rows, partial(nets.row_transformer, 24, 2, 10), "AdamW", 2e-3, 32, "warm-up")
test("gru-rows", _rows, partial(nets.Recurrent, "GRU", 48, 10), "RMSprop", 3e-3)
test("lstm-text", _text, partial(_text_cells, "LSTM", 48), "Adam", 1e-2, 16)
test("text-transformer-lion", _text, partial(_text_net, 24, 1), "Lion", 5e-4, 16, "warm-up")
# Pictures as targets, codes, pairs, adversaries.
tune("unet", _masks, partial(nets.UNet, 3, 8), "Adam", 3e-3, 16)
tune("autoencoder", _copy, partial(nets.autoencoder, 64, 64, 8), "Adam", 3e-3)
tune("vae", _code, partial(nets.Variational, 64, 64, 6), "Adam", 3e-3)
tune("simclr", _pairs, _conv(1, 16, 32, 32, outputs=24, norm=bn), "Adam", 3e-3, 24)
tune("gan", _gan, partial(nets.Adversaries, 64, 64), "Adam", 1e-2, 64, "constant", 400)
test("unet-plain", _masks, partial(nets.UNet, 3, 8, leaky, False), "momentum", .1, 16)
test("unet-gelu", _masks, partial(nets.UNet, 3, 8, gelu), "AdamW", 3e-3, 16, "warm-up")
test("autoencoder-silu", _copy, partial(nets.autoencoder, 64, 96, 10, silu), "AdamW", 3e-3, 64, "cosine")
test("conv-autoencoder", _copy_maps, partial(nets.conv_autoencoder, 16), "NAdam", 3e-3)
test("vae-relu-onecycle", _code, partial(nets.Variational, 64, 96, 8), "Adam", 5e-3, 64, "OneCycle")
test("simclr-photos", _photo_pairs, _conv(3, 12, 24, 24, outputs=24, norm=bn), "momentum", .05, 24, "cosine")
test("gan-leaky", _gan, partial(nets.Adversaries, 64, 64, leaky), "RMSprop", 1e-2, 64, "constant", 400)
# Added after rules had been mended by what the test part said.
fresh("mlp-gelu-batch8", _digits, _mlp(64, 64, 32, outputs=10, act=gelu), "Adam", 2e-3, 8)
fresh("mlp-relu-rmsprop", _clusters, _mlp(20, 64, 64, outputs=6), "RMSprop", 1e-3, 32)
fresh("mlp-bn-silu", _digits, _mlp(64, 64, 64, outputs=10, act=silu, norm=True), "AdamW", 3e-3, 64, "OneCycle")
fresh("table-leaky", _houses, _mlp(8, 48, 48, outputs=1, act=leaky), "Nesterov", .02, 16, "cosine")
fresh("table-res-gelu", _friedman, partial(nets.residual_mlp, 10, 32, 2, 1, gelu), "NAdam", 2e-3, 32)
fresh("table-huber-tanh", _huber2, _mlp(4, 48, 48, outputs=1, act=tanh), "AdamW", 3e-3, 64, "warm-up")
fresh("conv-gn-gelu", _digits, _conv(1, 12, 24, 24, outputs=10, act=gelu, norm=gn), "Adam", 3e-3)
fresh("conv-relu-batch8", _digits, _conv(1, 16, 24, outputs=10), "momentum", .02, 8)
fresh("gru-digits", _rows, partial(nets.Recurrent, "GRU", 32, 10), "Adam", 5e-3, 64)
fresh("rows-lion", _rows, partial(nets.row_transformer, 24, 1, 10), "Lion", 5e-4, 32, "warm-up")
fresh("autoencoder-tanh", _copy, partial(nets.autoencoder, 64, 48, 12, tanh), "momentum", .5, 32)
# Added when the rules were as they are, to know the rate of false alarms better.
fresh("mlp-relu-cosine", _digits, _mlp(64, 96, 96, outputs=10), "AdamW", 2e-3, 32, "cosine")
fresh("mlp-silu-momentum", _digits, _mlp(64, 64, 64, outputs=10, act=silu), "momentum", .05, 64, "warm-up")
fresh("mlp-tanh-adam", _digits, _mlp(64, 64, 64, outputs=10, act=tanh), "Adam", 2e-3, 16)
fresh("mlp-leaky-lion", _clusters, _mlp(20, 64, 64, outputs=6, act=leaky), "Lion", 5e-4)
fresh("mlp-nadam-onecycle", _clusters, _mlp(20, 96, 48, outputs=6), "NAdam", 2e-3, 32, "OneCycle")
fresh("mlp-bn-adam", _digits, _mlp(64, 64, 64, outputs=10, norm=True), "Adam", 3e-3)
fresh("cells-relu", _cells, _mlp(30, 48, 48, outputs=1), "Adam", 1e-3)
fresh("cells-gelu", _cells, _mlp(30, 32, 32, outputs=1, act=gelu), "momentum", .03, 16, "cosine")
fresh("cells-res-silu", _cells, partial(nets.residual_mlp, 30, 32, 2, 1, silu), "AdamW", 1e-3, 32, "warm-up")
fresh("table-rmsprop", _houses, _mlp(8, 64, 64, outputs=1), "RMSprop", 1e-3, 64)
fresh("table-silu-cosine", _friedman, _mlp(10, 64, 64, outputs=1, act=silu), "Adam", 3e-3, 32, "cosine")
fresh("table-res-momentum", _houses, partial(nets.residual_mlp, 8, 32, 2, 1), "momentum", .01, 64)
fresh("table-huber-gelu", _huber, _mlp(8, 64, 64, outputs=1, act=gelu), "NAdam", 2e-3)
fresh("table-clusters-tanh", _clusters, partial(nets.residual_mlp, 20, 32, 2, 6, tanh), "Adam", 3e-3, 64)
fresh("conv-silu", _digits, _conv(1, 12, 24, 24, outputs=10, act=silu), "AdamW", 3e-3, 32, "cosine")
fresh("conv-leaky", _patches, _conv(3, 12, 24, 24, outputs=12, act=leaky), "Adam", 2e-3)
fresh("conv-bn-gelu", _digits, _conv(1, 12, 24, 24, outputs=10, act=gelu, norm=bn), "momentum", .05, 32, "OneCycle")
fresh("conv-bn-nadam", _patches, _conv(3, 12, 24, 24, outputs=12, norm=bn), "NAdam", 2e-3)
fresh("conv-gn-relu", _patches, _conv(3, 12, 24, 24, outputs=12, norm=gn), "Nesterov", .03)
fresh("conv-tanh-momentum", _digits, _conv(1, 16, 32, outputs=10, act=tanh), "momentum", .05, 16)
fresh("se-resnet-nadam", _digits, partial(nets.se_resnet, 1, 12, 2, 10), "NAdam", 2e-3)
fresh("convnext-onecycle", _digits, partial(nets.convnext, 1, 12, 2, 10), "AdamW", 4e-3, 32, "OneCycle")
fresh("mixer-nesterov", _digits, partial(nets.mixer, 1, 8, 2, 24, 2, 10), "Nesterov", .05)
fresh("vit-lion", _digits, partial(nets.vit, 1, 8, 2, 24, 1, 10), "Lion", 3e-4, 32, "warm-up")
fresh("rows-deep", _rows, partial(nets.row_transformer, 24, 3, 10), "AdamW", 2e-3, 32, "warm-up")
fresh("lstm-rmsprop", _rows, partial(nets.Recurrent, "LSTM", 32, 10), "RMSprop", 3e-3)
fresh("gru-text", _text, partial(_text_cells, "GRU", 48), "Adam", 5e-3, 16)
fresh("autoencoder-gelu", _copy, partial(nets.autoencoder, 64, 64, 10, gelu), "Adam", 2e-3)
fresh("conv-autoencoder-gelu", _copy_maps, partial(nets.conv_autoencoder, 12, gelu), "AdamW", 3e-3)
fresh("unet-silu", _masks, partial(nets.UNet, 3, 8, silu), "Adam", 3e-3, 16)
fresh("vae-adamw", _code, partial(nets.Variational, 64, 48, 6), "AdamW", 3e-3)
# Added after the first step of `rate_too_high` and the second pace of `slow_learning`; tasks whose
# loss stays high among them.
last("mlp-wrong-labels", _wrong, _mlp(64, 64, 64, outputs=10), "Adam", 1e-3)
last("mlp-wrong-labels-gelu", _wrong, _mlp(64, 64, 48, outputs=10, act=gelu), "momentum", .02, 16)
last("conv-wrong-labels", _wrong, _conv(1, 12, 24, outputs=10, norm=bn), "AdamW", 2e-3, 32, "cosine")
last("table-noisy", _noisy, _mlp(10, 64, 64, outputs=1), "Adam", 2e-3)
last("table-noisy-silu", _noisy, _mlp(10, 64, 64, outputs=1, act=silu), "momentum", .01, 16)
last("table-noisy-res", _noisy, partial(nets.residual_mlp, 10, 32, 2, 1, gelu), "AdamW", 2e-3, 64, "warm-up")
last("mlp-relu-nadam", _digits, _mlp(64, 64, 64, outputs=10), "NAdam", 1e-3, 16)
last("mlp-rmsprop", _digits, _mlp(64, 96, 96, outputs=10), "RMSprop", 1e-3)
last("conv-gelu-nesterov", _patches, _conv(3, 12, 24, 24, outputs=12, act=gelu), "Nesterov", .03, 32, "cosine")
last("conv-rmsprop", _digits, _conv(1, 16, 24, outputs=10, norm=bn), "RMSprop", 1e-3, 64)
last("se-resnet-lion", _patches, partial(nets.se_resnet, 3, 12, 2, 12), "Lion", 3e-4, 32, "warm-up")
last("vit-nadam", _patches, partial(nets.vit, 3, 16, 4, 24, 2, 12), "NAdam", 1e-3, 16)
last("lstm-onecycle", _rows, partial(nets.Recurrent, "LSTM", 40, 10), "AdamW", 1e-2, 32, "OneCycle")
last("text-transformer-wide", _text, partial(_text_net, 32, 1), "Adam", 2e-3, 16)
last("autoencoder-rmsprop", _copy, partial(nets.autoencoder, 64, 64, 10), "RMSprop", 1e-3)
last("unet-momentum", _masks, partial(nets.UNet, 3, 8), "momentum", .1, 16)
# fmt: on

CONFIGURATIONS = {f"{each.part}/{each.name}": each for each in _CONFIGURATIONS}
