from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny_module
from torch import Tensor

from vis_callbacks.callbacks.activation_maximization.targets import MaximizedTargets, run
from vis_callbacks.engine.isolation import isolated
from vis_callbacks.engine.outputs import Outputs
from vis_callbacks.engine.scores import Unit

UNITS = (Unit("relu", 1), Unit("conv", 0, (2, 3)))


def chosen(classes=None, units=None, *, num_classes=10, max_images=4) -> MaximizedTargets:
    return MaximizedTargets.chosen(classes, units, num_classes=num_classes, max_images=max_images)


def activations(num_rows: int) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(num_rows, 10, generator=generator)
    return scores, {
        "relu": torch.randn(num_rows, 3, 4, 5, generator=generator),
        "conv": torch.randn(num_rows, 2, 4, 5, generator=generator),
    }


# -- which targets


@pytest.mark.parametrize(
    ("num_classes", "max_images", "expected"),
    [(3, 4, (0, 1, 2)), (10, 4, (0, 2, 5, 7)), (1_000, 2, (0, 500)), (1, 4, (0,))],
)
def test_where_nothing_is_asked_for_classes_are_spread_evenly(num_classes, max_images, expected):
    found = chosen(num_classes=num_classes, max_images=max_images)
    assert found == MaximizedTargets(expected, ())


def test_units_alone_leave_the_classes_out():
    assert chosen(units=UNITS) == MaximizedTargets((), UNITS)


def test_what_is_asked_for_is_taken_in_its_order_beyond_the_usual_number():
    found = chosen(classes=[9, 0, 3, 3, 1], units=UNITS)
    assert found.classes == (9, 0, 3, 3, 1)
    assert found.num_rows == 7


def test_a_class_that_the_scores_do_not_have_is_refused():
    with pytest.raises(ValueError, match=r"classes holds 10, .* they have 10. Use 0 to 9"):
        chosen(classes=[3, 10])


def test_pictures_call_classes_by_name_and_units_by_layer():
    found = MaximizedTargets((1, 4), UNITS)
    name = Outputs(class_names=["cat", "dog"]).name
    assert found.names(name) == ["dog", "class 4", "unit relu:1", "unit conv:0@2,3"]
    assert found.names(Outputs().name)[:2] == ["output 1", "output 4"]


# -- their scores


def test_a_row_has_the_score_of_its_own_target():
    targets = MaximizedTargets((7, 2), UNITS)
    scores, layers = activations(4)
    expected = [scores[0, 7], scores[1, 2], layers["relu"][2, 1].max(), layers["conv"][3, 0, 2, 3]]
    assert torch.equal(targets.of_rows(scores, layers), torch.stack(expected))


def test_all_samples_have_a_score_for_each_target():
    targets = MaximizedTargets((7,), UNITS)
    scores, layers = activations(6)
    expected = [scores[:, 7], layers["relu"][:, 1].amax((1, 2)), layers["conv"][:, 0, 2, 3]]
    assert torch.equal(targets.of_all(scores, layers), torch.stack(expected, dim=1))


@pytest.mark.parametrize("targets", [MaximizedTargets((7,), ()), MaximizedTargets((), UNITS[:1])])
def test_classes_alone_and_units_alone_are_rows_as_well(targets):
    scores, layers = activations(1)
    assert torch.equal(targets.of_rows(scores, layers), targets.of_all(scores, layers)[0])


def test_a_row_moves_by_its_own_score_and_by_no_others():
    scores, layers = activations(2)
    scores.requires_grad_()
    MaximizedTargets((7, 2), ()).of_rows(scores, layers)[1].backward()
    assert scores.grad.nonzero().tolist() == [[1, 2]]


def test_the_best_of_a_class_is_among_its_samples():
    targets = MaximizedTargets((0, 2, 1), UNITS[:1])
    scores = torch.tensor([[1.0, 9.0, 2.0, 3.0], [5.0, 1.0, 4.0, 2.0], [9.0, 2.0, 3.0, 1.0]])
    labels = torch.tensor([0, 0, 2])
    # Nothing is of class 1, and a unit belongs to none: the best of all.
    assert targets.best_of_class(scores, labels).tolist() == [1, 2, 1, 0]
    assert targets.best_of_class(scores, None).tolist() == [2, 0, 1, 0]


# -- one pass


def test_one_pass_gives_scores_and_the_layers_of_the_units():
    model, x = tiny_module().eval(), torch.randn(3, 3, 6, 6)
    twice = (Unit("conv", 0), Unit("conv", 1), Unit("relu", 2))
    with isolated(model) as forward, torch.no_grad():
        scores, layers = run(forward, x, twice)
        alone, nothing = run(forward, x, ())
        torch.testing.assert_close(scores, model(x))
        torch.testing.assert_close(layers["conv"].reshape(3, 4, 4, 4), model.conv(x))
    assert list(layers) == ["conv", "relu"]
    assert torch.equal(alone, scores)
    assert nothing == {}


def test_a_layer_that_is_not_met_is_told_with_its_neighbours():
    with (
        isolated(tiny_module()) as forward,
        pytest.raises(ValueError, match=r'layer="rleu" matches none .*nearest: "relu'),
    ):
        run(forward, torch.randn(2, 3, 6, 6), [Unit("rleu", 0)])
