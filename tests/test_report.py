import numpy as np
import pytest
import torch
from tests.writers.reading import markdown_to_safe_html

from vis_callbacks.report import (
    Embedding,
    Histogram,
    Markdown,
    Picture,
    Report,
    RuleMetrics,
    Scalar,
    escape_markdown,
    number_of,
    tag,
    transfer,
)

ODD_NAMES = [
    "",
    "/",
    "//",
    "///",
    "a/",
    "/a",
    "a//b",
    "a/b",
    ".",
    "..",
    "../../etc",
    "a.b",
    "a b",
    "a_b",
    "a#b",
    "a_x23_b",
    "a_x5f_x23_b",
    "_x_",
    "_x",
    "_x2#",
    "\x02x23_",
    "_x2_x23_",
    "A",
    "a",
    "a\nb",
    "a\x00b",
    "\x1b[2J",
    "é",
    "é",
    "层",
    "a\ud800",
    "\U0001f600",
    "<img src=x onerror=alert(1)>",
    "a~23b",
    "a%23b",
    "a\\b",
    "n" * 5000,
    "n" * 5001,
    "#" * 60,
    "#" * 61,
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_tag_has_only_characters_that_every_logger_keeps(name):
    spelled = tag("sparsity", name)
    assert spelled.isascii()
    assert all(char.isalnum() or char in "_.-/" for char in spelled)
    assert len(spelled) <= 200
    assert "//" not in spelled
    assert not {".", ".."} & set(spelled.split("/"))


def test_no_two_names_share_a_tag_even_where_case_counts():
    tags = {tag("sparsity", name) for name in ODD_NAMES}
    assert len(tags) == len(set(ODD_NAMES))


def test_no_two_short_names_of_escape_characters_share_a_tag():
    from itertools import product

    names = ["".join(chars) for length in range(6) for chars in product("_x2#", repeat=length)]
    assert len({tag("m", name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "name", ["net.2/relu-1", "layer4.1.relu-1", "fc_x", "_orig_mod", "conv_x1"]
)
def test_an_ordinary_name_stays_readable(name):
    assert tag("sparsity", name) == f"sparsity/{name}"


def test_tensorboardx_does_not_rewrite_a_tag():
    from tensorboardX.summary import _clean_tag

    assert all(_clean_tag(tag("m", name)) == tag("m", name) for name in ODD_NAMES)


def test_a_tag_without_a_layer_is_the_metric():
    assert tag("alerts/active") == "alerts/active"


@pytest.mark.parametrize(
    "text",
    [
        "a|b",
        "`code`",
        "![](http://evil/x.png)",
        "[x](http://evil)",
        "<img src=http://evil>",
        "<http://evil>",
        "**bold** _it_ __b__",
        "# title",
        "--- ===",
        "1. one",
        "- item",
        "&lt;b&gt;",
        "a\nb\r\tc\x1b[2J",
        "a\ud800",
        "\\|",
    ],
)
def test_escaped_markdown_is_shown_as_plain_text(text):
    html = markdown_to_safe_html(escape_markdown(text))
    assert html.startswith("<p>")
    inner = html.removeprefix("<p>").removesuffix("</p>")
    assert "<" not in inner
    assert markdown_to_safe_html(f"| h |\n| --- |\n| {escape_markdown(text)} |").count("<td>") == 1


def report_of(*values):
    return Report(step=3, items=tuple(Scalar(tag=f"s{i}", value=v) for i, v in enumerate(values)))


def test_zero_dimensional_tensors_of_scalars_become_floats():
    (moved,) = transfer([report_of(torch.tensor(2.5), 1.0)])
    assert [item.value for item in moved.items] == [2.5, 1.0]
    assert all(type(item.value) is float for item in moved.items)


DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.complex64,
    torch.complex128,
]


def test_tensors_of_every_type_and_shape_come_back_with_their_values():
    tensors = {}
    for index, dtype in enumerate(DTYPES):
        for shape in [(), (0,), (3,), (2, 3), (0, 4), (1, 2, 1, 5)]:
            values = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape) % 5
            tensors[f"{index}_{len(tensors)}"] = values.to(dtype)
    image = Picture(tag="i", draw=lambda **arrays: np.zeros((1, 1, 3)), arrays=tensors)
    (moved,) = transfer([Report(step=0, items=(image,))])
    assert list(moved.items[0].arrays) == list(tensors)
    for name, tensor in tensors.items():
        array = moved.items[0].arrays[name]
        assert isinstance(array, np.ndarray)
        assert array.shape == tuple(tensor.shape)
        assert array.flags.aligned
        wide = tensor.float() if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn) else tensor
        np.testing.assert_array_equal(array, wide.numpy())


def test_transposed_conjugate_negated_and_sparse_tensors_come_back_with_their_values():
    whole = torch.arange(6).reshape(2, 3) * (1 + 2j)
    tensors = {
        "transposed": whole.T,
        "strided": whole[:, ::2],
        "conjugate": whole.conj(),
        "negated": whole.conj().imag,
        "sparse": torch.eye(3).to_sparse(),
        "expanded": torch.ones(1).expand(4),
        "with_gradient": torch.ones(2, requires_grad=True),
    }
    image = Picture(tag="i", draw=lambda **arrays: np.zeros((1, 1, 3)), arrays=tensors)
    (moved,) = transfer([Report(step=0, items=(image,))])
    for name, tensor in tensors.items():
        dense = tensor.detach().to_dense() if name == "sparse" else tensor.detach()
        np.testing.assert_array_equal(
            moved.items[0].arrays[name], dense.resolve_conj().resolve_neg()
        )


def test_all_reports_of_a_step_are_moved_in_one_transfer(monkeypatch):
    moves = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: (moves.append(self), cpu(self))[1])
    reports = [
        report_of(torch.tensor(1.0), torch.tensor(2)),
        Report(step=3),
        Report(
            step=3,
            items=(
                RuleMetrics(
                    metrics=("m",), layers=("a", "b"), values=torch.ones(2, dtype=torch.bfloat16)
                ),
                Histogram(
                    tag="h", counts=torch.ones(3), edges=np.arange(4.0), total=torch.tensor(3.0)
                ),
                Embedding(tag="e", features=torch.ones(2, 2), thumbnails=torch.zeros(2, 3, 4, 4)),
                Markdown(tag="t", text="x"),
            ),
        ),
    ]
    moved = transfer(reports)
    assert len(moves) == 1
    assert [type(item.value) for item in moved[0].items] == [float, float]
    assert [item.value for item in moved[0].items] == [1.0, 2.0]
    readings, histogram, embedding, text = moved[2].items
    assert readings.values.dtype == np.float32
    assert histogram.total == 3.0
    assert histogram.edges is reports[2].items[1].edges
    assert embedding.thumbnails.shape == (2, 3, 4, 4)
    assert text == reports[2].items[3]


def test_nothing_is_moved_when_there_is_no_tensor(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: pytest.fail("moved"))
    assert transfer([report_of(1.0)]) == [report_of(1.0)]
    assert transfer([]) == []


def test_the_arrays_are_not_reached_by_what_the_network_does_next():
    weights = torch.ones(3)
    (moved,) = transfer([report_of(weights)])
    weights.zero_()
    assert moved.items[0].value.tolist() == [1.0, 1.0, 1.0]
    assert moved.items[0].value.base is None


def test_not_finite_values_pass():
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])
    (moved,) = transfer([report_of(values)])
    assert moved.items[0].value.tobytes() == values.numpy().tobytes()


def test_one_tensor_may_be_in_several_places():
    shared = torch.arange(3)
    pictures = [Picture(tag=t, draw=np.zeros, arrays={"x": shared, "n": 2}) for t in "ab"]
    (moved,) = transfer([Report(step=0, items=(*pictures, Scalar(tag="s", value=shared.sum())))])
    assert [item.arrays["x"].tolist() for item in moved.items[:2]] == [[0, 1, 2]] * 2
    assert moved.items[0].arrays["n"] == 2
    assert moved.items[2].value == 3.0


@pytest.mark.parametrize(
    ("values", "layers"),
    [
        (torch.tensor([[1.0, 2.0], [3.0, 4.0]]), ("a", "b")),
        (((1.0, 2.0), (3.0, 4.0)), ("a", "b")),
        (torch.tensor([1, 3]), ("a",)),
    ],
)
def test_the_numbers_for_the_rules_are_found_by_metric_and_layer(values, layers):
    item = RuleMetrics(metrics=("m", "n"), layers=layers, values=values)
    loss = RuleMetrics(metrics=("loss",), values=torch.tensor(0.5))
    (moved,) = transfer([Report(step=0, items=(item, loss))])
    found = moved.rule_metrics()
    assert [found["m"]["a"], found["n"]["a"], found["loss"][""]] == [1.0, 3.0, 0.5]
    assert set(found["m"]) == set(layers)


def test_of_returns_the_items_of_one_kind_in_order():
    report = Report(step=0, items=(Markdown(tag="b", text=""), Scalar(tag="a", value=1.0)))
    assert report.of(Scalar) == (report.items[1],)


@pytest.mark.parametrize(
    "value", [1, 1.0, True, np.float32(1), np.array(1), np.array([1.0]), np.array([[1]])]
)
def test_one_value_of_any_type_is_a_float(value):
    number = number_of(Scalar(tag="a", value=value))
    assert number == 1.0
    assert type(number) is float


@pytest.mark.parametrize("value", [np.ones(2), np.ones(0)])
def test_more_or_less_than_one_value_is_refused(value):
    with pytest.raises(ValueError, match=r'scalar "a" holds . values'):
        number_of(Scalar(tag="a", value=value))
