from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from vis_callbacks.engine.scores import NoGradientError
from vis_callbacks.monitors.saliency import science
from vis_callbacks.monitors.saliency.methods import (
    METHODS,
    Method,
    noisy_copies,
    way_from_zero,
)
from vis_callbacks.monitors.saliency.science import (
    attribute,
    grad_cam,
    rank_correlation,
    remembered,
    saliency_maps,
    share_in_mask,
    shrunk,
    upsampled,
)

CLASSES = torch.tensor([0, 2, 1])
# Sums of a few hundred products in float64.
CLOSE = {"rtol": 1e-10, "atol": 1e-12}
AS_CAPTUM = {"rtol": 1e-6, "atol": 1e-12}


def images(seed: int = 0, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 3, size, size, dtype=torch.float64, generator=generator)


def scored(model, classes: Tensor = CLASSES):
    """Returns the score of each sample's class, for whole copies of the samples."""
    return lambda x: model(x).gather(1, classes.repeat(len(x) // len(classes))[:, None])[:, 0]


def integrated(num_steps: int) -> Method:
    points = partial(way_from_zero, num_steps=num_steps)
    return Method(points=points, times_input=True, is_complete=True)


def smooth(num_copies: int, **options) -> Method:
    return Method(points=partial(noisy_copies, num_copies=num_copies), **options)


def flat_sum(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


class SmallCNN(nn.Module):
    """Module ReLUs, each used once and by one consumer: what captum is right for."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.second = nn.Conv2d(6, 8, 3, padding=1, bias=bias)
        self.relu2 = nn.ReLU()
        self.head = nn.Linear(8, 4, bias=bias)
        self.double()

    def features(self, x: Tensor) -> Tensor:
        return self.relu2(self.second(self.pool(self.relu1(self.first(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))

    def layer_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        scores = self.head(features.mean((2, 3))).gather(1, CLASSES[:, None])
        return features.detach(), torch.autograd.grad(scores.sum(), features)[0]


# -- closed forms


def test_the_saliency_of_a_linear_network_is_the_largest_weight_of_the_channels():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)).double()
    values = attribute("gradient", scored(linear), images()).values
    weights = linear[1].weight[CLASSES].view(3, 3, 8, 8)
    assert torch.equal(values, weights)
    assert torch.equal(saliency_maps(values), weights.abs().amax(1))


def test_gradient_times_input_of_a_network_without_biases_adds_up_to_the_score():
    model = SmallCNN(bias=False)
    values = attribute("input_x_gradient", scored(model), images()).values
    torch.testing.assert_close(values.flatten(1).sum(1), scored(model)(images()), **CLOSE)


def test_grad_cam_of_a_mean_and_a_linear_layer_is_the_class_activation_map():
    model = SmallCNN()
    features, gradient = model.layer_gradient(images())
    weights = model.head.weight[CLASSES]
    expected = torch.einsum("nu,nuhw->nhw", weights, features).clamp(min=0) / features[0, 0].numel()
    torch.testing.assert_close(grad_cam(features, gradient), expected, **CLOSE)
    assert expected.max() > 0


@pytest.mark.parametrize("num_steps", [1, 7, 50])
def test_integrated_gradients_of_a_quadratic_score_are_exact(num_steps):
    # Gauss and Legendre's places are exact for the polynomials that they are enough for.
    values = attribute(
        integrated(num_steps),
        lambda x: x.square().flatten(1).sum(1),
        images(),
    )
    torch.testing.assert_close(values.values, images().square(), **CLOSE)
    assert values.completeness_error.max() < 1e-12


def test_integrated_gradients_add_up_to_what_the_way_makes_of_the_score():
    found = attribute("integrated_gradients", scored(SmallCNN()), images())
    assert found.completeness_error.shape == (3,)
    assert found.completeness_error.max() < 0.05


def test_the_completeness_error_tells_of_too_few_steps():
    errors = []
    for num_steps in (1, 2):  # two places are exact for the third power that the gradient is
        found = attribute(integrated(num_steps), lambda x: x.pow(4).flatten(1).sum(1), images())
        errors.append(found.completeness_error)
    torch.testing.assert_close(errors[0], torch.full((3,), 0.5, dtype=torch.float64))
    assert errors[1].max() < 1e-12


def test_smoothgrad_of_a_linear_score_is_its_gradient():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)).double()
    plain = attribute("gradient", scored(linear), images()).values
    smooth = attribute("smoothgrad", scored(linear), images()).values
    torch.testing.assert_close(smooth, plain, **CLOSE)


def test_the_noise_of_smoothgrad_has_a_share_of_each_images_own_range():
    inputs = torch.stack([images()[0], 10 * images()[0]])
    points = list(noisy_copies(inputs, num_copies=200, noise=0.2))
    noise = torch.stack([point - inputs for point, _ in points])
    ranges = inputs.flatten(1).amax(1) - inputs.flatten(1).amin(1)
    spread = noise.std((0, 2, 3, 4))
    torch.testing.assert_close(spread, 0.2 * ranges, rtol=0.02, atol=0)  # of 38,400 numbers
    assert sum(weight for _, weight in points) == pytest.approx(1)


# -- a rule and an estimator are chosen apart


def test_any_rule_goes_with_any_estimator():
    found = attribute(smooth(3, rule="guided"), scored(SmallCNN()), images())
    plain = attribute(smooth(3), scored(SmallCNN()), images())
    assert found.used.num_relus == 2
    assert (found.values - plain.values).abs().max() > 1e-3


@pytest.mark.parametrize("max_rows", [1, 3, 7, 1000])
@pytest.mark.parametrize("method", ["smoothgrad", "integrated_gradients"])
def test_the_result_does_not_depend_on_how_many_run_at_a_time(method, max_rows, monkeypatch):
    rows = []

    def score(x: Tensor) -> Tensor:
        rows.append(len(x))
        return scored(model)(x)

    model = SmallCNN()
    expected = attribute(method, scored(model), images())
    monkeypatch.setattr(science, "_MAX_VALUES", max_rows * images()[0].numel())
    found = attribute(method, score, images())
    torch.testing.assert_close(found.values, expected.values, **CLOSE)
    of_gradients = rows[:-1] if method == "integrated_gradients" else rows
    assert max(of_gradients) <= max(3, max_rows)


def test_large_inputs_run_one_copy_at_a_time():
    rows = []

    def score(x: Tensor) -> Tensor:
        rows.append(len(x))
        return flat_sum(x)

    attribute(smooth(3), score, torch.rand(2, 3, 512, 512))
    assert rows == [2, 2, 2]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_something_to_every_image(method):
    model = SmallCNN()
    found = attribute(method, scored(model), images(), layer_gradient=model.layer_gradient)
    assert found.values.isfinite().all()
    assert found.values.flatten(1).abs().amax(1).min() > 0
    assert not found.values.requires_grad
    assert (found.used is None) == (METHODS[method].rule == "gradient")
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("method", [name for name in METHODS if name != "smoothgrad"])
def test_images_do_not_influence_each_other(method):
    model = SmallCNN()

    def of_first(x: Tensor) -> tuple[Tensor, Tensor]:
        features, gradient = model.layer_gradient(x.repeat(3, 1, 1, 1))
        return features[:1], gradient[:1]

    together = attribute(method, scored(model), images(), layer_gradient=model.layer_gradient)
    of_first_class = scored(model, CLASSES[:1])
    alone = attribute(method, of_first_class, images()[:1], layer_gradient=of_first)
    torch.testing.assert_close(alone.values, together.values[:1], **CLOSE)


# -- what goes wrong


def test_a_rule_without_relus_is_refused():
    gelu = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.GELU(), nn.Linear(5, 4)).double()
    with pytest.raises(
        ValueError, match=r'"guided".*no ReLU was called.*Use the method "gradient"'
    ):
        attribute("guided_backprop", scored(gelu), images())


def test_a_score_that_does_not_depend_on_the_input_is_refused():
    model = SmallCNN()
    with pytest.raises(NoGradientError, match="no gradient leads from the score to the inputs"):
        attribute("gradient", lambda x: model(x.detach())[:, 0].detach(), images())


def test_grad_cam_needs_a_layer():
    with pytest.raises(ValueError, match="Grad-CAM needs layer_gradient="):
        attribute("grad_cam", scored(SmallCNN()), images())


def test_grad_cam_needs_positions():
    with pytest.raises(ValueError, match=r"activation \(3, 8\), without positions"):
        grad_cam(torch.ones(3, 8), torch.ones(3, 8))


def test_grad_cam_needs_images():
    with pytest.raises(
        ValueError, match=r"positions \(4, 4\) cannot be laid over .* size \(9, 9, 9\)"
    ):
        upsampled(torch.ones(3, 4, 4), torch.ones(3, 2, 9, 9, 9))


# -- networks that overwrite


class Overwriting(nn.Module):
    """Writes over its input, and, where dropout gives back its input, over a ReLU's result."""

    def __init__(self, overwrites: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.drop, self.head = nn.Dropout(), nn.Linear(6, 4)
        self.overwrites = overwrites
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = x.sub_(0.1) if self.overwrites else x - 0.1
        hidden = torch.tanh(self.first(x))
        out = self.drop(F.relu(self.second(hidden)))
        if self.overwrites:
            out += hidden
            out *= out.sigmoid()
        else:
            out = (out + hidden) * (out + hidden).sigmoid()
        return self.head(out.mean((2, 3)))


@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "deconvnet", "smoothgrad"])
def test_a_network_that_overwrites_has_the_same_gradient_as_one_that_does_not(method):
    expected = attribute(method, scored(Overwriting(False)), images())
    given = images()
    found = attribute(method, scored(Overwriting(True)), given)
    torch.testing.assert_close(found.values, expected.values, **CLOSE)
    assert found.used == expected.used
    assert torch.equal(given, images())
    assert expected.values.abs().max() > 0


def test_another_error_of_the_network_is_its_own():
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        attribute("gradient", broken, images())


# -- what is said of the way


def test_nonlinearities_that_the_rule_left_alone_are_counted_for_one_pass(monkeypatch):
    net = Overwriting(False)
    monkeypatch.setattr(science, "_MAX_VALUES", images().numel())
    found = attribute(smooth(4, rule="guided"), scored(net), images()).used
    assert (found.num_relus, found.left_out) == (1, {"tanh": 1, "sigmoid": 1})
    assert attribute("gradient", scored(net), images()).used is None


@pytest.mark.parametrize(
    ("shape", "positions", "expected"),
    [
        ((3, 3, 8, 8), (2, 4), (3, 1, 8, 8)),
        ((3, 8, 8), (2, 4), (3, 8, 8)),  # images without an axis of channels
        ((3, 2, 9), (4,), (3, 1, 9)),
        ((3, 9), (4,), (3, 9)),
    ],
)
def test_grad_cam_lies_over_inputs_of_any_axes(shape, positions, expected):
    features = torch.rand(3, 5, *positions)
    found = attribute(
        "grad_cam",
        flat_sum,
        torch.rand(shape),
        layer_gradient=lambda x: (features, torch.ones_like(features)),
    )
    assert found.values.shape == expected
    assert (found.values > 0).all()


def test_the_share_of_positions_that_the_score_does_not_depend_on_is_told():
    features = torch.rand(3, 5, 4, 4, dtype=torch.float64)
    gradient = torch.zeros_like(features)
    gradient[0, 2, :, 0] = -1.0
    gradient[1, :, 0, 0] = 1.0
    found = attribute(
        "grad_cam", scored(SmallCNN()), images(), layer_gradient=lambda x: (features, gradient)
    )
    assert found.without_gradient.tolist() == [12 / 16, 15 / 16, 1.0]


# -- captum, where it is right and where it is not


@pytest.fixture
def captum():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of each hook it sets
        yield pytest.importorskip("captum.attr")


PEERS = {
    "gradient": lambda c, model: c.Saliency(model),
    "guided_backprop": lambda c, model: c.GuidedBackprop(model),
    "deconvnet": lambda c, model: c.Deconvolution(model),
    "input_x_gradient": lambda c, model: c.InputXGradient(model),
    "integrated_gradients": lambda c, model: c.IntegratedGradients(model),
    "guided_grad_cam": lambda c, model: c.GuidedGradCam(model, model.relu2),
}
# Its Saliency takes magnitudes; its guided Grad-CAM enlarges without smoothing by default.
PEER_OPTIONS = {"gradient": {"abs": False}, "guided_grad_cam": {"interpolate_mode": "bilinear"}}


@pytest.mark.parametrize("method", PEERS)
def test_captum_agrees(method, captum):
    model = SmallCNN()
    found = attribute(method, scored(model), images(), layer_gradient=model.layer_gradient)
    options = PEER_OPTIONS.get(method, {})
    peer = PEERS[method](captum, model).attribute(
        images().requires_grad_(), target=CLASSES, **options
    )
    torch.testing.assert_close(found.values, peer.detach(), **AS_CAPTUM)
    assert found.values.abs().max() > 1e-6


def test_captum_agrees_on_smoothgrad_with_the_same_noise(captum):
    model = SmallCNN()
    saliency = captum.Saliency(model)
    peers = [
        weight * saliency.attribute(point.requires_grad_(), CLASSES, abs=False)
        for point, weight in noisy_copies(images())
    ]
    found = attribute("smoothgrad", scored(model), images())
    torch.testing.assert_close(found.values, sum(peers), **AS_CAPTUM)


def test_captum_agrees_on_grad_cam_before_it_is_enlarged(captum):
    model = SmallCNN()
    peer = captum.LayerGradCam(model, model.relu2).attribute(images(), CLASSES)
    found = grad_cam(*model.layer_gradient(images()))
    torch.testing.assert_close(found, peer[:, 0].clamp(min=0).detach(), **AS_CAPTUM)


with_a_rule = pytest.mark.parametrize(
    ("method", "peer"), [("guided_backprop", "GuidedBackprop"), ("deconvnet", "Deconvolution")]
)


class Functional(SmallCNN):
    """The same network by functions: captum finds no ReLU there."""

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.pool(F.relu(self.first(x)))))


class Shared(SmallCNN):
    """What goes into the second ReLU has another consumer."""

    def features(self, x: Tensor) -> Tensor:
        before = self.second(self.pool(self.relu1(self.first(x))))
        return self.relu2(before) - 0.5 * before


@with_a_rule
def test_captum_gives_the_plain_gradient_for_functional_relus_and_we_do_not(method, peer, captum):
    found = attribute(method, scored(Functional()), images()).values
    assert torch.equal(found, attribute(method, scored(SmallCNN()), images()).values)
    wrong = getattr(captum, peer)(Functional()).attribute(images().requires_grad_(), CLASSES)
    plain = attribute("gradient", scored(Functional()), images()).values
    torch.testing.assert_close(wrong.detach(), plain, **CLOSE)
    assert (found - plain).abs().max() > 1e-3


@with_a_rule
def test_captum_is_wrong_where_a_relus_input_has_a_second_consumer(method, peer, captum):
    model = Shared()
    found = attribute(method, scored(model), images()).values
    wrong = getattr(captum, peer)(model).attribute(images().requires_grad_(), CLASSES)
    torch.testing.assert_close(found, by_hand(model, METHODS[method].rule), **CLOSE)
    assert (wrong.detach() - found).abs().max() > 1e-3


def by_hand(model: Shared, rule: str) -> Tensor:
    """Returns the ruled gradient of `Shared`, by the chain rule written out."""
    x = images().requires_grad_()
    first = model.first(x)
    hidden = first.detach().clamp(min=0).requires_grad_()
    before = model.second(model.pool(hidden))
    features = (before.clamp(min=0) - 0.5 * before).detach().requires_grad_()
    scores = model.head(features.mean((2, 3))).gather(1, CLASSES[:, None])

    def passed(above: Tensor, given: Tensor) -> Tensor:
        return above.clamp(min=0) * ((given > 0) if rule == "guided" else 1)

    (above,) = torch.autograd.grad(scores.sum(), features)
    (at_hidden,) = torch.autograd.grad(before, hidden, passed(above, before) - 0.5 * above)
    return torch.autograd.grad(first, x, passed(at_hidden, first))[0]


# -- what is measured of maps


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 7), (2, 1, 7)),  # vectors
        ((2, 5, 7), (2, 5, 7)),  # images without channels
        ((2, 3, 5, 7), (2, 5, 7)),
        ((2, 3, 4, 5, 7), (2, 5, 7)),  # volumes: the middle slice
    ],
)
@pytest.mark.parametrize("is_signed", [True, False])
def test_inputs_of_every_form_get_a_map(shape, expected, is_signed):
    assert saliency_maps(torch.randn(shape), is_signed=is_signed).shape == expected


def test_a_map_is_the_largest_magnitude_of_the_channels_or_their_sum():
    values = torch.tensor([[[[1.0, -5]], [[-3, 2]]]])
    assert saliency_maps(values).tolist() == [[[3.0, 5.0]]]
    assert saliency_maps(values, is_signed=True).tolist() == [[[-2.0, -3.0]]]
    volume = torch.zeros(1, 1, 5, 2, 2)
    volume[0, 0, 2] = 7.0
    assert saliency_maps(volume).mean() == 7.0  # the middle slice


def test_the_rank_correlation_is_that_of_scipy_ties_included():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(5, 6, 7, generator=generator)
    second = first + torch.randn(5, 6, 7, generator=generator)
    second[second < 0] = 0
    expected = [
        spearmanr(a.abs().flatten(), b.abs().flatten()).statistic
        for a, b in zip(first, second, strict=True)
    ]
    assert rank_correlation(first, second).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_constant_map_is_like_nothing():
    assert rank_correlation(torch.ones(1, 4, 4), torch.randn(1, 4, 4)).isnan().all()


def test_the_share_inside_a_mask_counts_magnitudes():
    maps = torch.tensor([[[1.0, -3], [2, 2]]])
    masks = torch.tensor([[[0, 255], [0, 0]]])
    assert share_in_mask(maps, masks).tolist() == [3 / 8]


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"shape \(1, 3, 3\) do not fit maps of shape \(1, 2, 2\)"):
        share_in_mask(torch.ones(1, 2, 2), torch.ones(1, 3, 3))


def test_large_maps_are_remembered_small_and_tiny_gradients_are_not_lost():
    kept = remembered(1e-20 * torch.randn(2, 200, 200))
    assert kept.shape == (2, 64, 64)
    assert kept.dtype == torch.float16
    assert kept.abs().mean() > 0.1
    assert not remembered(torch.zeros(2, 4, 4)).any()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((30, 40), (30, 40)), ((128, 64), (64, 32)), ((1, 500), (1, 64)), ((3, 500), (3, 64))],
)
def test_maps_shrink_to_the_longer_side(size, expected):
    assert shrunk(torch.ones(2, *size), 64).shape == (2, *expected)
