"""Only plain tensors are handed to arithmetic of ours."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from vis_callbacks.engine.plain_tensors import how_to_make_plain, is_plain, plain

X = torch.rand(4, 3)


class Carrying(torch.Tensor):
    """Carries more along, as MONAI's MetaTensor does, and fails wherever its code is run."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("code of the subclass was run")


class Computing(torch.Tensor):
    """Does its own arithmetic, as quantised weights and distributed tensors do."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError("arithmetic of the subclass was run")


def fake() -> torch.Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(X)


PLAIN = {
    "floating": X,
    "with a graph": X.clone().requires_grad_() * 1,
    "a parameter": nn.Parameter(X),
    "tokens": torch.ones(4, 3, dtype=torch.int64),
    "bytes": torch.ones(4, 3, dtype=torch.uint8),
    "bools": X > 0.5,
    "half": X.half(),
    "a subclass that carries more": X.as_subclass(Carrying),
    "without samples": X[:0],
}


@pytest.mark.parametrize("tensor", PLAIN.values(), ids=PLAIN.keys())
def test_a_plain_tensor_keeps_its_numbers_and_loses_all_else(tensor):
    assert is_plain(tensor)
    made = plain(tensor)
    assert type(made) is torch.Tensor
    assert not made.requires_grad
    with torch._C.DisableTorchFunctionSubclass():
        assert torch.equal(made, tensor)


OTHERS: dict[str, tuple[Any, str]] = {
    "quantised": (
        lambda: torch.quantize_per_tensor(X, 0.1, 0, torch.quint8),
        r"quantised.*batch\[0\]\.dequantize\(\) and .*quantize_per_tensor\(inputs, 0\.1, 0, "
        r"torch\.quint8\)",
    ),
    "quantised by channel": (
        lambda: torch.quantize_per_channel(X, torch.ones(3), torch.zeros(3), 1, torch.qint8),
        r"quantised.*batch\[0\]\.dequantize\(\)$",
    ),
    "complex": (
        lambda: torch.view_as_complex(torch.rand(4, 3, 2)),
        r"complex.*view_as_real\(batch\[0\]\)",
    ),
    "sparse": (
        lambda: X.to_sparse(),
        r"sparse.*to_dense\(\).*to_sparse\(layout=torch\.sparse_coo\)",
    ),
    "sparse by rows": (lambda: X.to_sparse_csr(), r"to_sparse\(layout=torch\.sparse_csr\)"),
    "of MKL-DNN": (lambda: X.to_mkldnn(), r"to_dense\(\).*to_mkldnn\(\)"),
    "nested": (
        lambda: torch.nested.nested_tensor([X, X[:2]]),
        r"nested tensor.*to_padded_tensor\(0\.0\)",
    ),
    "nested, jagged": (
        lambda: torch.nested.nested_tensor([X, X[:2]], layout=torch.jagged),
        r"nested tensor.*to_padded_tensor",
    ),
    "meta": (lambda: X.to("meta"), "a Tensor on meta without numbers of its own"),
    "fake": (fake, "a FakeTensor on cpu without numbers of its own"),
    "float8": (
        lambda: X.to(torch.float8_e4m3fn),
        r"float8_e4m3fn.*inputs\.to\(torch\.float8_e4m3fn\)",
    ),
    "uint16": (lambda: torch.zeros(3, dtype=torch.uint16), r"uint16.*batch\[0\]\.float\(\)"),
    "a subclass with its own arithmetic": (lambda: X.as_subclass(Computing), "a Computing on cpu"),
}


MADE_WITH_WARNINGS = pytest.mark.filterwarnings("ignore::UserWarning")  # of kinds that may go


@MADE_WITH_WARNINGS
@pytest.mark.parametrize(("make", "words"), OTHERS.values(), ids=OTHERS.keys())
def test_any_other_tensor_is_told_and_so_is_what_to_write(make, words):
    tensor = make()
    assert not is_plain(tensor)
    assert re.search(words, how_to_make_plain(tensor))


def test_a_tensor_inside_a_transform_is_none_of_ours():
    seen = []
    torch.func.grad(lambda x: (seen.append(is_plain(x)), x.sum())[1])(X)
    assert seen == [False]


ROUND_TRIPS = ("quantised", "complex", "sparse", "of MKL-DNN", "float8")


@MADE_WITH_WARNINGS
@pytest.mark.parametrize("kind", ROUND_TRIPS)
def test_what_is_to_be_written_gives_the_model_the_tensor_it_had(kind):
    tensor = OTHERS[kind][0]()
    advice = how_to_make_plain(tensor).split(" Write ")[1]
    there, back = advice.split(" and forward_fn=")
    inputs = eval(there.removeprefix("input_fn="), {"torch": torch})((tensor, None))
    assert is_plain(inputs)
    given = eval(back, {"torch": torch})(lambda x: x, inputs)
    assert (given.dtype, given.layout, given.is_quantized) == (
        tensor.dtype,
        tensor.layout,
        tensor.is_quantized,
    )
