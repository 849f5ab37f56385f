"""What to write where the user's model fails in an extra pass: advice in plain words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from vis_callbacks.engine.scores import describe
from vis_callbacks.guard import Catch

_SHAPES = (
    r"mat1 and mat2 (shapes|must have the same dtype)",
    r"expected input\[.*channels",
    r"[Ee]xpected .*\b\d-?D\b.* input",
    r"should be unbatched 2-?D or batched 3-?D",
    r"input\.size\(-1\) must be equal to input_size",
    r"Expected [23]D or [34]D .*got \dD",
    r"normalized_shape|running_mean should contain|expecting embedding dimension",
    r"The size of tensor a .* must match",
    r"is invalid for input of size",
    r"number of subscripts in the equation",
    r"Expected size for first two dimensions",
    r"Expected tensor for argument .*indices",
    r"Input type .* should be the same",
)
_NO_GRAPH = (
    r"does not require grad and does not have a grad_fn",
    r"Set allow_unused=True",
    r"Inference tensors cannot be saved for backward",
    r"Can't call numpy\(\) on Tensor that requires grad",
)
_TAKEN_APART = (
    r"values to unpack",
    r"too many indices for tensor",
    r"only integers, slices",
    r"'Tensor' object has no attribute",
)
_WHOLE_BATCHES = ("batch", "data", "sample", "samples", "item", "example", "b")
_LOOKING = ("discriminator", "disc", "critic", "netd", "d", "classifier", "encoder", "backbone")
_INPUT_NAMES = ("pixel_values", "image", "images", "x", "input", "inputs", "input_ids")


def advice_for(error: BaseException, model: nn.Module, inputs: object) -> str:
    """Returns in a sentence or two what to write, nothing where the error is not a known one.

    It was raised by a pass of ours through ``model``, whose ``forward`` was given the inputs.
    """
    words = ""
    with Catch():  # a message of the user's may fail itself
        words = str(error)
    if found := re.search(r"(\w+)\.forward\(\) missing .*arguments?: (.+)", words):
        return _of_arguments(found[1], re.findall(r"'(\w+)'", found[2]), model, inputs)
    if found := re.search(r"(\w+)\.forward\(\) takes \d+ positional .* were given", words):
        return _of_names(found[1], model)
    parameters = _parameters(model)
    is_of_batch = bool(parameters) and parameters[0].name.lower() in _WHOLE_BATCHES
    if is_of_batch and _matches(words, _TAKEN_APART):
        return _of_whole_batches(words, model)
    if _matches(words, _NO_GRAPH):
        return _of_graphs(model)
    return _of_shapes(model, inputs) if _matches(words, _SHAPES) else ""


def _of_arguments(owner: str, names: list[str], model: nn.Module, inputs: object) -> str:
    """Advises where ``forward`` takes more than the input."""
    if owner == type(model).__name__:  # Python names those by position first
        required = [
            p.name
            for p in _parameters(model)[1:]
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        names = required if set(names) <= set(required) else names
    fills = ["ones" if "mask" in name else "zeros" for name in names]
    given = ", ".join(
        f"{name}=torch.{fill}_like(inputs)" for name, fill in zip(names, fills, strict=True)
    )
    listed = ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
    advice = (
        f"{owner}.forward also takes {listed}, but an extra pass gives it only the input. Write "
        f"forward_fn=lambda module, inputs: module(inputs, {given}), with fixed values of the "
        "right shape"
    )
    if len(names) != 1 or not isinstance(inputs, Tensor):
        return f"{advice}."
    return f"{advice}; or put both into one tensor: {_both_in_one(inputs)}."


def _both_in_one(inputs: Tensor) -> str:
    """Returns the two functions that join two inputs of a batch and part them again."""
    shape = tuple(inputs.shape[1:])
    if not shape:
        return (
            "input_fn=lambda batch: torch.stack(batch[:2], 1) and forward_fn=lambda module, "
            "inputs: module(*inputs.unbind(1))"
        )
    first = f"inputs[:, :{prod(shape)}]"
    first = first if len(shape) == 1 else f"{first}.unflatten(1, {shape})"
    return (
        "input_fn=lambda batch: torch.cat([part.flatten(1) for part in batch[:2]], 1) and "
        f"forward_fn=lambda module, inputs: module({first}, inputs[:, {prod(shape)}:])"
    )


def _of_names(owner: str, model: nn.Module) -> str:
    """Advises where ``forward`` takes its input by name only."""
    parameters = _parameters(model)
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    if not names and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        return (
            f"{owner}.forward takes no input. Write forward_fn=lambda module, inputs: ... that "
            "runs the network on the inputs and returns the scores."
        )
    name = next((name for name in names if name in _INPUT_NAMES), (names or ["x"])[0])
    return (
        f"{owner}.forward takes its input by name. Write "
        f"forward_fn=lambda module, inputs: module({name}=inputs)"
        + ("." if names else ", with the name that it reads in place of x.")
    )


def _of_whole_batches(words: str, model: nn.Module) -> str:
    """Advises where ``forward`` takes a whole batch apart."""
    attribute = re.search(r"'Tensor' object has no attribute '(\w+)'", words)
    given = "(inputs, None)" if "unpack" in words else '{"image": inputs}'
    if attribute is not None:
        given = f"types.SimpleNamespace({attribute[1]}=inputs)"
    return (
        f"{type(model).__name__}.forward takes a whole batch, but an extra pass gives it only "
        f"the input. Write forward_fn=lambda module, inputs: module({given}), in the form that "
        "forward expects."
    )


def _of_graphs(model: nn.Module) -> str:
    """Advises where no gradient reaches the input."""
    children = list(networks_in(model))
    chain = "inputs"
    for name in children if 1 < len(children) <= 3 else ("backbone", "head"):
        chain = f"module.{name}({chain})"
    return (
        "the scores do not depend on the input through a graph: a part of "
        f"{type(model).__name__} runs under torch.no_grad() or torch.inference_mode(), or its "
        "output is detached. Write a forward_fn that runs this part with gradients, such as "
        f"forward_fn=lambda module, inputs: {chain}."
    )


def _of_shapes(model: nn.Module, inputs: object) -> str:
    """Advises where ``forward`` takes something else than what was found in the batch."""
    children = list(networks_in(model))
    by_lower = {name.lower(): name for name in children}
    last = (children or ["discriminator"])[-1]
    name = next((by_lower[word] for word in _LOOKING if word in by_lower), last)
    return (
        f"{type(model).__name__}.forward does not take what was found in the batch, "
        f"{describe(inputs)}. If another part of the batch is its input, write "
        "input_fn=lambda batch: ... that returns it; if none is, as the noise of a GAN, have "
        "another network looked at: "
        f"forward_fn=lambda module, inputs: module.{name}(inputs)."
    )


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # written in C
        return []


def networks_in(module: nn.Module) -> dict[str, nn.Module]:
    """Returns the children that have parameters, by name."""
    return {
        n: child for n, child in module.named_children() if any(True for _ in child.parameters())
    }


def _matches(words: str, patterns: Sequence[str]) -> bool:
    return any(re.search(pattern, words) for pattern in patterns)
