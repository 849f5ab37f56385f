"""What to write where a model of the user's fails in an extra pass; what is said to write works."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vis_callbacks.engine.advice import advice_for
from vis_callbacks.engine.isolation import isolated

IMAGES = torch.rand(4, 1, 8, 8)
META = torch.rand(4, 3)


class ImageAndMeta(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(67, 2)

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        return self.head(torch.cat([image.flatten(1), meta.expand(len(image), 3)], 1))


class Two(nn.Module):
    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return torch.stack([users, items], 1).float()


class Three(nn.Module):
    def forward(self, image: Tensor, meta: Tensor, *, scale: Tensor) -> Tensor:
        return (image * scale + meta).flatten(1)


class ByName(nn.Module):
    def forward(self, *, pixel_values: Tensor, mask: Tensor | None = None) -> Tensor:
        return pixel_values.flatten(1)


class ByAnyName(nn.Module):
    def forward(self, **fields: Tensor) -> Tensor:
        return fields["x"].flatten(1)


class TakesNothing(nn.Module):
    def forward(self) -> Tensor:
        return torch.zeros(4, 2)


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(16, 64), nn.Unflatten(1, (1, 8, 8)))
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


class ConvGan(Gan):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.ConvTranspose2d(16, 1, 8)


class FrozenBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU())
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)


class AllWithoutGradient(FrozenBackbone):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


class InferenceBackbone(FrozenBackbone):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            features = self.backbone(x)
        return self.head(features)


class DetachedBackbone(FrozenBackbone):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).detach())


class ThroughNumpy(FrozenBackbone):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(torch.from_numpy(x.numpy() * 1)))


class UnpacksBatch(nn.Module):
    def forward(self, batch: Any) -> Tensor:
        image, _ = batch
        return image.flatten(1)


class ReadsBatch(nn.Module):
    def forward(self, batch: Any) -> Tensor:
        return batch["image"].flatten(1)


class AsksBatch(nn.Module):
    def forward(self, batch: Any) -> Tensor:
        return batch.photo.flatten(1)


def scores(model: nn.Module, inputs: Tensor) -> None:
    with isolated(model) as forward:
        forward(inputs)


def gradient(model: nn.Module, inputs: Tensor) -> None:
    with isolated(model) as forward:
        inputs = inputs.clone().requires_grad_()
        torch.autograd.grad(forward(inputs).sum(), [inputs])


def advice_of(do: Callable[[nn.Module, Tensor], None], model: nn.Module, inputs: Tensor) -> str:
    with pytest.raises(Exception, match=r".") as raised:
        do(model, inputs)
    return advice_for(raised.value, model, inputs)


def first_lambda(text: str) -> str:
    """Returns the text as far as the call with which the function ends."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == ")" and depth == 0:
            return text[: place + 1]
    raise AssertionError(f"no call in {text}")


CASES: dict[str, tuple[Callable[[nn.Module, Tensor], None], nn.Module, Tensor, str]] = {
    "two inputs": (
        scores,
        ImageAndMeta(),
        IMAGES,
        r"ImageAndMeta\.forward also takes meta, but an extra pass gives it only the input\.",
    ),
    "two vectors": (scores, Two(), META, r"Two\.forward also takes items"),
    "two columns": (scores, Two(), META[:, 0], r"Two\.forward also takes items"),
    "three inputs": (scores, Three(), IMAGES, r"Three\.forward also takes meta and scale,"),
    "by name": (scores, ByName(), IMAGES, r"ByName\.forward takes its input by name"),
    "by any name": (scores, ByAnyName(), IMAGES, "with the name that it reads in place of x"),
    "noise": (
        scores,
        Gan(),
        IMAGES,
        r"Gan\.forward does not take what was found in the batch, Tensor\(4, 1, 8, 8\) float32\. "
        r".*as the noise of a GAN.*module\.discriminator\(inputs\)",
    ),
    "noise of a convolution": (scores, ConvGan(), IMAGES, r"module\.discriminator\(inputs\)"),
    "a frozen backbone": (
        gradient,
        FrozenBackbone(),
        IMAGES,
        r"do not depend on the input through a graph: a part of FrozenBackbone runs under "
        r"torch\.no_grad\(\).*module\.head\(module\.backbone\(inputs\)\)",
    ),
    "all without gradient": (gradient, AllWithoutGradient(), IMAGES, r"torch\.no_grad\(\)"),
    "a backbone in inference mode": (gradient, InferenceBackbone(), IMAGES, r"inference_mode\(\)"),
    "a detached backbone": (gradient, DetachedBackbone(), IMAGES, "is detached"),
    "through NumPy": (gradient, ThroughNumpy(), IMAGES, "through a graph"),
    "a batch to unpack": (scores, UnpacksBatch(), IMAGES, r"UnpacksBatch\.forward takes a whole"),
    "a batch with names": (scores, ReadsBatch(), IMAGES, r"ReadsBatch\.forward takes a whole"),
    "a batch with attributes": (scores, AsksBatch(), IMAGES, r"SimpleNamespace\(photo=inputs\)"),
}
IGNORE_LISTS_AS_INDICES = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")


@IGNORE_LISTS_AS_INDICES
@pytest.mark.parametrize(("do", "model", "inputs", "words"), CASES.values(), ids=CASES.keys())
def test_the_failure_is_told_in_plain_words_and_what_is_to_be_written_works(
    do, model, inputs, words
):
    advice = advice_of(do, model, inputs)
    assert re.search(words, advice)
    forward_fn = first_lambda(advice.split("forward_fn=")[1])
    # "with fixed values of the right shape"
    forward_fn = forward_fn.replace("meta=torch.zeros_like(inputs)", "meta=torch.zeros(1)")
    given = {"torch": torch, "types": types}
    with isolated(model, forward=eval(forward_fn, given)) as forward:
        found = inputs.clone().requires_grad_()
        output = forward(found)
    if do is gradient:
        assert torch.autograd.grad(output.sum(), [found])[0].abs().sum() > 0


def test_what_is_to_be_written_for_two_inputs_takes_both_of_the_batch():
    model = ImageAndMeta()
    advice = advice_of(scores, model, IMAGES)
    input_fn, forward_fn = re.search(
        r"one tensor: input_fn=(.*) and forward_fn=(.*)\.$", advice
    ).groups()
    inputs = eval(input_fn, {"torch": torch})((IMAGES, META, torch.zeros(4)))
    with isolated(model, forward=eval(forward_fn)) as forward:
        found = forward(inputs)
    assert torch.equal(found, model(IMAGES, META))


def test_all_that_is_missing_is_named():
    advice = advice_for(
        TypeError("Net.forward() missing 3 required positional arguments: 'a', 'b', and 'c'"),
        nn.Identity(),
        IMAGES,
    )
    assert "Net.forward also takes a, b and c" in advice


def test_a_forward_without_an_input_is_told():
    advice = advice_of(scores, TakesNothing(), IMAGES)
    assert "TakesNothing.forward takes no input." in advice


def test_a_mask_is_filled_with_ones():
    advice = advice_for(
        TypeError("Net.forward() missing 1 required positional argument: 'attention_mask'"),
        nn.Identity(),
        IMAGES,
    )
    assert "module(inputs, attention_mask=torch.ones_like(inputs))" in advice


class SilentError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [ValueError("something else"), KeyError("image"), SilentError()])
def test_an_unknown_error_gives_no_advice(error):
    assert advice_for(error, Gan(), IMAGES) == ""
