"""What remedies name first, by what the numbers show: each order was tried on buggy programs."""

from __future__ import annotations

import math

from tests.alerts.rules.test_learning import entry, falling, found

from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.rules.gradients import NoGradient
from vis_callbacks.alerts.rules.inputs import UnscaledInputs
from vis_callbacks.alerts.rules.outputs import ConstantOutputs, LossMisfit
from vis_callbacks.alerts.rules.progress import DivergingLoss, NonFiniteLoss

RAW_INPUTS = {metric_names.COLUMN_MEAN: 127.0, metric_names.COLUMN_STD: 80.0}
RAW_TARGETS = {metric_names.TARGET_SPREAD: 36.0}
CONSTANT = {metric_names.OUTPUT_RANGE: 0.0, metric_names.OUTPUT_SPREAD: 0.0}


def test_targets_are_normalised_as_well_as_inputs() -> None:
    remedy = found(UnscaledInputs(), *falling(**RAW_INPUTS, **RAW_TARGETS)).remedy
    assert remedy.startswith(
        "Normalise the inputs (mean 127, standard deviation 80) and the targets (standard"
        " deviation 36): subtract the mean"
    )


def test_a_loss_that_was_never_finite_is_exchanged_too() -> None:
    looks = falling(**RAW_INPUTS, **{metric_names.BAD_STEP: 0.0})
    assert "use one that takes scores" in found(UnscaledInputs(), *looks).remedy


def test_a_misfit_names_what_is_out_of_scale_besides() -> None:
    look = entry(head="softmax", **{metric_names.NUM_OUTPUTS: 1.0}, **RAW_INPUTS)
    remedy = found(LossMisfit(), look).remedy
    assert remedy.index("sigmoid") < remedy.index("Normalise the inputs")


def test_without_a_gradient_a_scale_comes_before_the_rate() -> None:
    gone = {"a": (0.0, 1.0, 0.0), "b": (0.0, 1.0, 0.0)}
    looks = [entry(), *[entry(weights=gone, **RAW_TARGETS) for _ in range(3)]]
    remedy = found(NoGradient(), *looks).remedy
    assert remedy.startswith("Normalise the targets")
    assert remedy.index("Restart") < remedy.index("a tenth of the learning rate (0.01 instead")


def test_weights_that_start_too_large_come_before_the_rate() -> None:
    high = [entry(loss=50.0, constants={"cross_entropy": 2.3}), entry(loss=500.0)]
    looks = [*high, *[entry(loss=math.inf, **{metric_names.BAD_STEP: 3.0}) for _ in range(2)]]
    remedy = found(NonFiniteLoss(), *looks).remedy
    begin = (
        "Look at the batch of step 3 for NaN. If it contains none: Use the layers' own"
        " initialisation"
    )
    assert remedy.startswith(begin)
    assert "tenfold (to 0.01 instead of 0.1), and again until the loss stays finite" in remedy


def test_a_loss_that_grows_for_no_other_reason_means_the_rate() -> None:
    looks = [entry(loss=2.3), *[entry(loss=50.0) for _ in range(9)]]
    assert found(DivergingLoss(), *looks).remedy.startswith("Lower the learning rate tenfold")


def test_constant_outputs_of_one_class_mean_the_labels() -> None:
    one = {metric_names.LARGEST_CLASS: 1.0}
    remedy = found(ConstantOutputs(), *[entry(**CONSTANT, **one) for _ in range(3)]).remedy
    assert remedy.startswith("Look at the labels")


def test_constant_outputs_without_another_cause_mean_the_initialisation() -> None:
    remedy = found(ConstantOutputs(), *[entry(**CONSTANT) for _ in range(3)]).remedy
    assert "Kaiming's method" in remedy
