from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from vis_callbacks.monitors.top_patches.marks import NotFollowedError
from vis_callbacks.monitors.top_patches.receptive_field import ReceptiveField, receptive_fields

# -- reading fields, and probing them


def outputs_of(net: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    """Runs a network and returns what its modules of these names put out."""
    modules, found = dict(net.named_modules()), {}
    handles = [
        modules[name].register_forward_hook(
            lambda module, args, output, name=name: found.__setitem__(name, output)
        )
        for name in names
    ]
    net(x)
    for handle in handles:
        handle.remove()
    return found


def thin(net: nn.Module) -> nn.Module:
    """Returns the network with one channel everywhere: the same fields for little work."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                own = (child.kernel_size, child.stride, child.padding, child.dilation)
                setattr(module, name, nn.LazyConv2d(1, *own, bias=False))
            elif isinstance(child, nn.BatchNorm2d | nn.Linear):
                setattr(module, name, nn.Identity())
    return net


def fields_of(net: nn.Module, names: list[str], *shape: int) -> Mapping[str, ReceptiveField]:
    net = net.eval()
    with torch.no_grad():
        return receptive_fields(lambda x: outputs_of(net, names, x), torch.rand(1, *shape))


def field_of(function: Callable[[Tensor], Tensor], *shape: int) -> ReceptiveField:
    with torch.no_grad():
        return receptive_fields(lambda x: {"it": function(x)}, torch.rand(1, *shape))["it"]


def extent(gradient: Tensor, axis: int) -> tuple[int, int] | None:
    """Returns the first pixel along an axis that has a gradient and the one behind the last."""
    others = [d for d in range(gradient.dim()) if d != 2 + axis]
    touched = (gradient != 0).sum(others).nonzero().flatten()
    return (int(touched[0]), int(touched[-1]) + 1) if len(touched) else None


def linear_copy(net: nn.Module) -> nn.Module:
    """Returns the network with positive weights, without nonlinearities, mean for max pooling.

    Then no path is cut and no two cancel, so that the gradient reaches what is seen and no
    more. Each weight averages: sums would leave the floats.
    """
    net = copy.deepcopy(net).double().eval()
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU | nn.Hardswish):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                pool = nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode)
                setattr(module, name, pool)
        if isinstance(module, nn.LazyConv2d):  # no pass has met it
            continue
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
        elif isinstance(module, nn.ConvTranspose1d):
            nn.init.constant_(module.weight, 0.1)
    return net


# -- figures


@pytest.mark.parametrize(
    ("model", "layer", "size", "stride"),
    [
        ("alexnet", "features.10", 163, 16),  # the fifth convolution; its ReLU is features.11
        ("alexnet", "features.12", 195, 32),
        ("vgg16", "features.30", 212, 32),
        ("resnet50", "layer4", 427, 32),
    ],
)
def test_the_figures_of_known_networks(model, layer, size, stride):
    with torch.device("meta"):
        net = getattr(torchvision.models, model)(weights=None)
    net = thin(net)
    field = fields_of(net, [layer], 3, 224, 224)[layer]
    assert (field.size, field.stride) == ((size, size), (stride, stride))
    assert field.reason == ""
    assert field.notes == ()


# -- small networks, probed at every position


def cat_branches(x: Tensor) -> Tensor:
    small, large = (
        F.avg_pool1d(x, 3, 1, 1),
        F.conv1d(x, torch.full((2, 2, 7), 0.1).to(x), padding=3),
    )
    return torch.cat([small, large], 1)


def channels_last(x: Tensor) -> Tensor:
    x = F.avg_pool1d(x, 4, 4).transpose(1, 2)  # (samples, positions, channels)
    return F.linear(x, torch.full((5, 2), 0.3).to(x)).transpose(1, 2)


def decoder(x: Tensor) -> Tensor:
    skip = F.avg_pool1d(x, 2, 2)
    deep = F.avg_pool1d(skip, 4, 4)
    up = F.conv_transpose1d(deep, torch.full((2, 2, 6), 0.1).to(x), stride=4, padding=1)
    return F.avg_pool1d(skip + up, 3, 1, 1)


PROBED: dict[str, Callable[[Tensor], Tensor]] = {
    "stride": lambda x: F.avg_pool1d(F.avg_pool1d(x, 5, 2, 2), 3, 2),
    "dilation": lambda x: F.conv1d(x, torch.full((3, 2, 3), 0.1).to(x), padding=4, dilation=4),
    "groups": lambda x: F.conv1d(x, torch.full((2, 1, 5), 0.1).to(x), padding=2, groups=2),
    "transposed": lambda x: F.conv_transpose1d(
        F.avg_pool1d(x, 3, 3), torch.full((2, 3, 4), 0.1).to(x), stride=2, padding=1
    ),
    "transposed with dilation": lambda x: F.conv_transpose1d(
        F.avg_pool1d(x, 4, 4), torch.full((2, 3, 3), 0.1).to(x), stride=2, dilation=3
    ),
    "a decoder with a skip": decoder,
    "nearest": lambda x: F.avg_pool1d(F.interpolate(F.avg_pool1d(x, 4, 4), scale_factor=3), 3, 1),
    "linear": lambda x: F.interpolate(F.avg_pool1d(x, 4, 4), scale_factor=2, mode="linear"),
    "linear, an odd ratio": lambda x: F.interpolate(F.avg_pool1d(x, 4, 4), size=17, mode="linear"),
    "uneven adaptive pooling": lambda x: F.adaptive_avg_pool1d(F.avg_pool1d(x, 2, 2), 7),
    "a residual sum": lambda x: x + F.avg_pool1d(x, 9, 1, 4),
    "a concatenation": cat_branches,
    "channels last": channels_last,
    "a slice with a step": lambda x: F.avg_pool1d(x[:, :, 3::2], 3, 1),
    "a slice from behind": lambda x: F.avg_pool1d(x[:, :, -20:], 3, 2),
    "padding": lambda x: F.avg_pool1d(F.pad(x, (5, 2)), 3, 2),
    "reflection": lambda x: F.avg_pool1d(F.pad(x, (2, 2), mode="reflect"), 5, 1),
    "a part of the channels": lambda x: F.avg_pool1d(x.chunk(2, 1)[1], 3, 2),
    "channels shuffled": lambda x: F.avg_pool1d(x, 3, 2)
    .unflatten(1, (1, 2)).transpose(1, 2).flatten(1, 2),
    "in place": lambda x: F.avg_pool1d(x, 3, 1, 1).mul_(2).add_(x).relu_(),
    "a sum over channels": lambda x: F.avg_pool1d(x, 3, 2).sum(1, keepdim=True),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBED)
def test_every_position_sees_what_its_gradient_reaches(name):
    function, length = PROBED[name], 40
    field = field_of(lambda x: function(x.double()), 2, length)
    x = torch.rand(1, 2, length, dtype=torch.float64, requires_grad=True)
    out = function(x)
    windows = field.windows(out.shape[2:], [length])[:, 0].tolist()
    assert field.axes[0] is not None
    num_inside = 0
    for position, window in enumerate(windows):
        (gradient,) = torch.autograd.grad(out[0, :, position].sum(), x, retain_graph=True)
        found = extent(gradient, 0)
        if found is None:  # a place that sees padding alone, or the bias
            continue
        assert found == tuple(window)
        num_inside += 1
    assert num_inside > 2


def test_padding_behind_a_stride_that_does_not_reach_the_border_sees_no_pixel():
    def net(x: Tensor) -> Tensor:
        return F.avg_pool1d(F.avg_pool1d(x, 3, 2), 3, 1, 1)

    field = field_of(net, 1, 8)  # the first pooling reads the pixels 0 to 6
    assert field.windows((3,), (8,))[:, 0].tolist() == [[0, 5], [0, 7], [2, 7]]
    assert ReceptiveField.from_state_dict(field.state_dict()) == field
    # Of another size the pattern alone is known, which may be a pixel too wide.
    assert field.windows((3,), (9,))[2, 0].tolist() == [2, 9]


def test_height_and_width_are_told_apart():
    field = field_of(lambda x: F.max_pool2d(x, (3, 5), (1, 2), (1, 0)), 3, 12, 15)
    assert (field.size, field.stride) == ((3, 5), (1, 2))
    assert field.grid == (12, 6)
    windows = field.windows((12, 6), (12, 15))
    assert windows[6 * 2 + 3].tolist() == [[1, 4], [6, 11]]  # row 2, column 3


def test_a_transposed_map_keeps_its_axes():
    field = field_of(lambda x: F.max_pool2d(x, (3, 5)).transpose(2, 3), 3, 12, 15)
    assert field.size == (3, 5)
    assert field.grid == (3, 4)
    assert field.windows((3, 4), (12, 15))[1].tolist() == [[3, 6], [0, 5]]


def test_a_volume_has_three_axes():
    field = field_of(lambda x: F.avg_pool3d(x, (1, 2, 3)), 1, 4, 6, 9)
    assert field.size == (1, 2, 3)


def test_tokens_of_patches_are_where_the_patches_are():
    cut = nn.Conv2d(3, 8, 4, 4)
    field = field_of(lambda x: cut(x).flatten(2), 3, 8, 12)
    assert field.grid == (6,)
    assert field.windows((6,), (8, 12))[4].tolist() == [[4, 8], [4, 8]]


def test_a_pixel_shuffle_divides_the_stride():
    field = field_of(lambda x: F.pixel_shuffle(F.avg_pool2d(x, 4), 2), 4, 16, 16)
    assert (field.size, field.stride) == ((4, 4), (2, 2))


def test_a_map_of_another_size_has_the_same_field():
    field = field_of(lambda x: F.conv_transpose2d(x, torch.ones(3, 2, 4, 4), stride=2), 3, 9, 9)
    again = field_of(lambda x: F.conv_transpose2d(x, torch.ones(3, 2, 4, 4), stride=2), 3, 7, 8)
    grid = again.grid
    assert torch.equal(field.windows(grid, (7, 8)), again.windows(grid, (7, 8)))


def test_an_uneven_map_is_known_at_its_own_size_alone():
    field = field_of(lambda x: F.adaptive_avg_pool2d(x, (5, 5)), 3, 12, 12)
    assert len(field.windows((5, 5), (12, 12))) == 25
    assert field.windows((6, 6), (14, 14)) is None


# -- what sees the whole image


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: F.linear(x.flatten(1), torch.ones(5, 3 * 64)), "a fully connected layer"),
        (lambda x: x.mean((2, 3)), "global pooling"),
        (lambda x: F.adaptive_max_pool2d(x, 1), "global pooling"),
        (lambda x: x.flatten(2).softmax(2).reshape(x.shape), "attention"),
        (lambda x: attention(x), "attention"),
        (lambda x: x + attention(x), "attention"),
        (lambda x: torch.fft.rfft2(x).real, "fft"),
    ],
)
def test_what_joins_all_positions_sees_the_whole_image_and_says_why(function, reason):
    field = field_of(function, 3, 8, 8)
    assert None in field.axes
    assert reason in field.reason


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x.roll(1, 2), [[8, 9], [0, 1], [1, 2]]),
        (lambda x: F.avg_pool1d(x, 2) + x[:, :, :4], [[0, 2], [1, 4], [2, 6]]),
        (lambda x: torch.cat([x[:, :, 5:], x], 2), [[5, 6], [6, 7], [7, 8]]),
        (lambda x: x + x[:, :, :2].mean(2, keepdim=True), [[0, 2], [0, 2], [0, 3]]),
    ],
    ids=["roll", "different strides", "strung together", "a sum with a part"],
)
def test_what_fits_no_pattern_is_measured_place_by_place(function, expected):
    field = field_of(function, 1, 9)
    assert field.windows(field.grid, (9,))[:3, 0].tolist() == expected


def attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
    return mixed.transpose(1, 2).reshape(x.shape)


def test_one_axis_may_be_lost_and_the_other_not():
    field = field_of(lambda x: F.max_pool2d(x, 3).mean(3), 3, 9, 9)
    assert field.size == (3, None)
    assert field.windows((3,), (9, 9))[1].tolist() == [[3, 6], [0, 9]]


def test_what_was_written_into_a_part_is_not_taken_for_a_constant():
    def written(x: Tensor) -> Tensor:
        canvas = torch.zeros(1, 3, 8, 8)
        canvas[:, :, 2:6] = x[:, :, 2:6].mean((2, 3), keepdim=True)
        return canvas

    field = field_of(written, 3, 8, 8)
    assert field.windows((8, 8), (8, 8))[16].tolist() == [[2, 6], [0, 8]]


def test_what_was_overwritten_by_another_view_is_not_what_it_was():
    def overwritten(x: Tensor) -> Tensor:
        local = x * 2
        local.flatten(2).copy_(x.flatten(2).softmax(2))
        return local

    assert field_of(overwritten, 3, 8, 8).is_global


def test_what_does_not_depend_on_the_input_is_not_followed():
    assert "could not be followed" in field_of(lambda x: torch.ones(1, 3, 4, 4), 3, 8, 8).reason


def test_inputs_without_positions_are_seen_whole():
    field = field_of(lambda x: x * 2, 7)
    assert field.axes == ()
    assert field.is_global


def test_a_network_that_refuses_nan_is_told_apart_from_one_that_fails():
    def refuses(x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ValueError("NaN in the images")
        return x

    with pytest.raises(NotFollowedError, match="cannot be measured: NaN in the images"):
        field_of(refuses, 3, 8, 8)
    with pytest.raises(RuntimeError, match="shape"):
        field_of(lambda x: x.reshape(-1, 7), 3, 8, 8)


def test_values_that_choose_what_is_computed_are_not_followed():
    table = torch.rand(256, 3)
    with pytest.raises(NotFollowedError, match="choose what is computed"):
        field_of(lambda x: table[(255 * x[:, 0]).long()].movedim(3, 1), 3, 8, 8)


def test_nan_that_a_network_replaces_is_followed_all_the_same():
    field = field_of(lambda x: F.avg_pool2d(torch.where(x > 0, x, 0).nan_to_num(), 3), 3, 9, 9)
    assert (field.size, field.stride) == ((3, 3), (3, 3))


# -- what is only said


def test_a_squeeze_and_excite_gate_keeps_the_field_and_is_said():
    gate = SqueezeExcitation(4, 2)
    field = field_of(lambda x: gate(F.avg_pool2d(x, 3, 1, 1)), 4, 12, 12)
    assert field.size == (3, 3)
    assert "squeeze-and-excite" in field.notes[0]


@pytest.mark.parametrize(
    "norm",
    [nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm([4, 12, 12])],
    ids=lambda norm: type(norm).__name__,
)
def test_a_normalisation_over_positions_keeps_the_field_and_is_said(norm):
    field = field_of(lambda x: norm(F.avg_pool2d(x, 3, 1, 1)), 4, 12, 12)
    assert field.size == (3, 3)
    assert "normalisation" in field.notes[0]


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4).eval(), nn.PReLU(4), nn.Hardswish()])
def test_what_works_at_single_places_has_nothing_to_be_said_of(norm):
    field = field_of(lambda x: norm(F.avg_pool2d(x, 3, 1, 1)), 4, 12, 12)
    assert (field.size, field.notes) == ((3, 3), ())


def test_a_sum_with_a_global_mean_is_no_gate():
    field = field_of(lambda x: x + x.mean((2, 3), keepdim=True), 4, 12, 12)
    assert field.is_global


def test_a_field_goes_through_plain_values():
    field = field_of(lambda x: F.conv_transpose2d(x, torch.ones(3, 2, 4, 4), stride=2), 3, 9, 9)
    assert ReceptiveField.from_state_dict(field.state_dict()) == field


# -- every convolution of whole networks


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(weights=None),
    "googlenet": lambda: torchvision.models.googlenet(weights=None, init_weights=False),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(weights=None),
}


def without_gates(net: nn.Module) -> nn.Module:
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, SqueezeExcitation):
                setattr(module, name, nn.Identity())
    return net


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_sees_what_its_gradient_reaches(name):
    with torch.device("meta"):
        net = NETWORKS[name]()
    net = thin(without_gates(net)).eval()
    names = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and "aux" not in n]
    names = names[:: len(names) // 16]  # 16 at least, from the first on
    fields = fields_of(net, names, 3, 64, 64)
    longest = max(field.size[0] for field in fields.values())
    length = (longest // 32 + 3) * 32  # a strip with room on both sides, as narrow as can be
    for axis, shape in enumerate(((length, 32), (32, length))):
        x = torch.ones(1, 3, *shape, dtype=torch.float64, requires_grad=True)
        outputs = outputs_of(linear_copy(net), names, x)
        assert len(fields) == len(outputs) > 15
        for layer, output in outputs.items():
            middle = output.shape[2 + axis] // 2
            score = output.select(2 + axis, middle).sum()
            (gradient,) = torch.autograd.grad(score, x, retain_graph=True)
            assert extent(gradient, axis) == fields[layer].axes[axis].pattern.at(middle), layer


BORDERS: dict[str, tuple[tuple[str, ...], int]] = {
    "squeezenet1_0": (
        ("features.3.expand3x3", "features.7.expand3x3", "features.12.expand3x3"),
        128,
    ),
    "inception_v3": (
        ("Conv2d_2b_3x3.conv", "Mixed_5b.branch5x5_2.conv", "Mixed_6a.branch3x3dbl_3.conv"),
        100,
    ),
}


@pytest.mark.parametrize("name", BORDERS)
def test_the_last_position_of_a_strided_network_sees_what_its_gradient_reaches(name):
    names, side = BORDERS[name]
    with torch.device("meta"):
        options = {"init_weights": False} if name == "inception_v3" else {}
        net = getattr(torchvision.models, name)(weights=None, **options)
    net = thin(net).eval()
    fields = fields_of(net, list(names), 3, side, side)
    x = torch.ones(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    ends = []
    for layer, output in outputs_of(linear_copy(net), list(names), x).items():
        (gradient,) = torch.autograd.grad(output[..., -1].sum(), x, retain_graph=True)
        windows = fields[layer].windows(output.shape[2:], (side, side))
        assert extent(gradient, 1) == tuple(windows[-1, 1].tolist()), layer
        ends.append(int(windows[-1, 1, 1]))
    assert min(ends) < side  # else the border would tell nothing


def test_kernels_of_many_channels_read_no_further_than_one():
    net = torchvision.models.mobilenet_v3_small(weights=None).eval()
    fields = fields_of(net, ["features.1", "features.4"], 3, 64, 64)
    assert [field.size for field in fields.values()] == [(7, 7), (63, 63)]
    assert [len(field.notes) for field in fields.values()] == [1, 1]  # the gates
