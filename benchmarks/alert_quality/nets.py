"""Small networks of the kinds that people train today."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


def mlp(
    inputs: int, *widths: int, outputs: int, act: Activation = nn.ReLU, norm: bool = False
) -> nn.Module:
    """A dense network, with or without BatchNorm."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, width in zip((inputs, *widths), widths, strict=False):
        layers += [nn.Linear(before, width), *([nn.BatchNorm1d(width)] if norm else []), act()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        """Returns the sum."""
        return values + self.body(values)


def residual_mlp(
    inputs: int, width: int, depth: int, outputs: int, act: Activation = nn.ReLU, norm: bool = True
) -> nn.Module:
    """A residual network for tables, after Gorishniy et al. 2021, section 3.2."""
    blocks = [
        Residual(
            *([nn.LayerNorm(width)] if norm else []),
            nn.Linear(width, 2 * width),
            act(),
            nn.Linear(2 * width, width),
        )
        for _ in range(depth)
    ]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, width), *blocks, act(), nn.Linear(width, outputs)
    )


def conv(
    channels: int,
    *widths: int,
    outputs: int,
    act: Activation = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
) -> nn.Module:
    """3x3 convolutions, the first with stride 2, the second pooled, and a mean over the map."""
    layers: list[nn.Module] = []
    for index, (before, width) in enumerate(zip((channels, *widths), widths, strict=False)):
        stride = 2 if index == 0 else 1
        layers += [nn.Conv2d(before, width, 3, stride, padding=1, bias=norm is None)]
        layers += [norm(width)] if norm else []
        layers += [act(), *([nn.MaxPool2d(2)] if index == 1 else [])]
    return nn.Sequential(*layers, *_head(widths[-1], outputs))


def batch_norm(width: int) -> nn.Module:
    return nn.BatchNorm2d(width)


def group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(4, width)


def _head(width: int, outputs: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs)]


class SqueezeExcite(nn.Module):
    """Weighs channels by what all positions say (Hu et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width // 4, 1),
            nn.ReLU(),
            nn.Conv2d(width // 4, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Returns the weighed maps."""
        return maps * self.gate(maps)


def se_resnet(channels: int, width: int, depth: int, outputs: int) -> nn.Module:
    """A residual network with BatchNorm and squeeze-and-excitation."""

    def block() -> nn.Module:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
            layers += [nn.ReLU()]
        return nn.Sequential(Residual(*layers[:-1], SqueezeExcite(width)), nn.ReLU())

    stem = [nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    blocks = [block() for _ in range(depth)]
    return nn.Sequential(*stem, *blocks, *_head(width, outputs))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def forward(self, maps: Tensor) -> Tensor:
        """Returns the normalised maps."""
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


def convnext(channels: int, width: int, depth: int, outputs: int) -> nn.Module:
    """Depthwise 5x5, LayerNorm, and a wide 1x1 part with GELU (Liu et al. 2022)."""
    blocks = [
        Residual(
            nn.Conv2d(width, width, 5, padding=2, groups=width),
            ChannelNorm(width),
            nn.Conv2d(width, 4 * width, 1),
            nn.GELU(),
            nn.Conv2d(4 * width, width, 1),
        )
        for _ in range(depth)
    ]
    stem = [nn.Conv2d(channels, width, 2, stride=2), ChannelNorm(width)]
    return nn.Sequential(*stem, *blocks, *_head(width, outputs))


class Swap(nn.Module):
    """Swaps places and channels around a part."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the tokens, mixed over places."""
        return self.body(tokens.transpose(1, 2)).transpose(1, 2)


class Patches(nn.Module):
    """An image as tokens, with learned positions."""

    def __init__(self, channels: int, size: int, side: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(channels, width, side, stride=side)
        self.positions = nn.Parameter(0.02 * torch.randn((size // side) ** 2, width))

    def forward(self, images: Tensor) -> Tensor:
        """Returns (samples, places, channels)."""
        return self.embedding(images).flatten(2).transpose(1, 2) + self.positions


class MeanOverPlaces(nn.Module):
    """Mean over the places of a sequence."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns (samples, channels)."""
        return tokens.mean(1)


def _token_head(width: int, outputs: int) -> list[nn.Module]:
    return [nn.LayerNorm(width), MeanOverPlaces(), nn.Linear(width, outputs)]


def mixer(channels: int, size: int, side: int, width: int, depth: int, outputs: int) -> nn.Module:
    """Dense layers over places and over channels in turn (Tolstikhin et al. 2021)."""
    places = (size // side) ** 2

    def dense(size: int) -> list[nn.Module]:
        return [nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size)]

    blocks = []
    for _ in range(depth):
        blocks += [Residual(nn.LayerNorm(width), Swap(nn.Sequential(*dense(places))))]
        blocks += [Residual(nn.LayerNorm(width), *dense(width))]
    return nn.Sequential(
        Patches(channels, size, side, width), *blocks, *_token_head(width, outputs)
    )


def block(width: int, *, pre: bool = True, act: str = "gelu") -> nn.Module:
    """Attention with four heads and a feed-forward part."""
    return nn.TransformerEncoderLayer(
        width, 4, 2 * width, 0.0, act, batch_first=True, norm_first=pre
    )


def vit(channels: int, size: int, side: int, width: int, depth: int, outputs: int) -> nn.Module:
    """A vision transformer (Dosovitskiy et al. 2021), pre-norm."""
    blocks = [block(width) for _ in range(depth)]
    return nn.Sequential(
        Patches(channels, size, side, width), *blocks, *_token_head(width, outputs)
    )


class Rows(nn.Module):
    """Rows of numbers as tokens, with learned positions."""

    def __init__(self, inputs: int, width: int, places: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Linear(inputs, width)
        self.positions = nn.Parameter(0.02 * torch.randn(places, width))

    def forward(self, rows: Tensor) -> Tensor:
        """Returns (samples, places, channels)."""
        return self.embedding(rows) + self.positions


def row_transformer(
    width: int, depth: int, outputs: int, *, pre: bool = True, act: str = "relu"
) -> nn.Module:
    """A transformer over the rows of a digit."""
    blocks = [block(width, pre=pre, act=act) for _ in range(depth)]
    return nn.Sequential(Rows(8, width), *blocks, *_token_head(width, outputs))


class Recurrent(nn.Module):
    """An LSTM or a GRU and a linear layer, on its last state or on all of them.

    Args:
        characters: How many there are to embed; 0: the inputs are rows of eight numbers.
    """

    def __init__(self, kind: str, width: int, outputs: int, characters: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width) if characters else None
        self.cells = getattr(nn, kind)(width if characters else 8, width, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, sequences: Tensor) -> Tensor:
        """Returns scores: of each place for characters, else of the sequence."""
        if self.embedding is None:
            return self.head(self.cells(sequences)[0][:, -1])
        return self.head(self.cells(self.embedding(sequences))[0])


class CausalTransformer(nn.Module):
    """Reads characters and says which comes next."""

    def __init__(self, characters: int, context: int, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.positions = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.ModuleList(block(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))

    def forward(self, characters: Tensor) -> Tensor:
        """Returns scores at each place."""
        tokens = self.embedding(characters) + self.positions
        for each in self.blocks:
            tokens = each(tokens, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(tokens))


class UNet(nn.Module):
    """Two scales with a bridge between (Ronneberger et al. 2015)."""

    def __init__(
        self, channels: int, width: int, act: Activation = nn.ReLU, norm: bool = True
    ) -> None:
        super().__init__()

        def part(before: int, after: int) -> nn.Module:
            layers: list[nn.Module] = [nn.Conv2d(before, after, 3, padding=1)]
            return nn.Sequential(*layers, *([nn.BatchNorm2d(after)] if norm else []), act())

        self.down, self.bottom = part(channels, width), part(width, 2 * width)
        self.up, self.head = part(3 * width, width), nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Returns one score a pixel."""
        fine = self.down(images)
        coarse = F.interpolate(self.bottom(F.max_pool2d(fine, 2)), scale_factor=2.0)
        return self.head(self.up(torch.cat([fine, coarse], dim=1)))


def autoencoder(inputs: int, width: int, code: int, act: Activation = nn.ReLU) -> nn.Module:
    """A dense bottleneck."""
    return nn.Sequential(
        mlp(inputs, width, outputs=code, act=act), act(), mlp(code, width, outputs=inputs, act=act)
    )


def conv_autoencoder(width: int, act: Activation = nn.ReLU) -> nn.Module:
    """A bottleneck of maps for gray patches."""
    return nn.Sequential(
        nn.Conv2d(1, width, 4, stride=2, padding=1),
        act(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        act(),
        nn.Conv2d(2 * width, 4, 1),
        nn.ConvTranspose2d(4, width, 4, stride=2, padding=1),
        act(),
        nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
    )


class Variational(nn.Module):
    """A variational autoencoder (Kingma and Welling 2014)."""

    def __init__(self, inputs: int, width: int, code: int, act: Activation = nn.ReLU) -> None:
        super().__init__()
        self.encoder = mlp(inputs, width, outputs=2 * code, act=act)
        self.decoder = mlp(code, width, outputs=inputs, act=act)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns scores of the pixels, and mean and log-variance of the code."""
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + noise * (0.5 * log_variance).exp()), mean, log_variance


class Adversaries(nn.Module):
    """A generator of digits and a discriminator (Goodfellow et al. 2014)."""

    code = 16

    def __init__(self, inputs: int, width: int, act: Activation = nn.ReLU) -> None:
        super().__init__()
        self.generator = nn.Sequential(mlp(self.code, width, width, outputs=inputs, act=act))
        self.discriminator = mlp(inputs, width, width, outputs=1, act=nn.LeakyReLU)

    def forward(self, images: Tensor) -> Tensor:
        """Returns how real images look."""
        return self.discriminator(images)

    def made(self, count: int) -> Tensor:
        """Returns images in 0-1."""
        return self.generator(torch.randn(count, self.code)).sigmoid()
