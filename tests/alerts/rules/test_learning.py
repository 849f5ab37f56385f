"""The rules of `LearningMonitor`, on histories written by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from tests.alerts.rules.histories import Entry, history_of, joined_entries, run_entry

from vis_callbacks.alerts import metric_names
from vis_callbacks.alerts.alert import Finding, Outcome, Rule, Verdict
from vis_callbacks.alerts.rules.gradients import (
    FrozenByMistake,
    NoGradient,
    SlowLearning,
    VanishingGradient,
)
from vis_callbacks.alerts.rules.inputs import UnscaledInputs
from vis_callbacks.alerts.rules.instability import RateTooHigh
from vis_callbacks.alerts.rules.loss_facts import constant_loss, formula_of
from vis_callbacks.alerts.rules.outputs import (
    ConstantOutputs,
    LossMisfit,
    OneClass,
    ShapesDiffer,
    TargetsOutOfReach,
)
from vis_callbacks.alerts.rules.progress import (
    DivergingLoss,
    HugeFirstLoss,
    LossNotFalling,
    NoBetterThanConstant,
    NonFiniteLoss,
    WrongSign,
)

ENTROPY = 2.3
RULES: tuple[Rule, ...] = (
    NonFiniteLoss(),
    LossMisfit(),
    WrongSign(),
    ShapesDiffer(),
    TargetsOutOfReach(),
    UnscaledInputs(),
    OneClass(),
    DivergingLoss(),
    RateTooHigh(),
    HugeFirstLoss(),
    NoGradient(),
    VanishingGradient(),
    SlowLearning(),
    ConstantOutputs(),
    NoBetterThanConstant(),
    LossNotFalling(),
    FrozenByMistake(),
)


def entry(
    loss: float = 1.0,
    formulas: Mapping[str, float] | None = None,
    constants: Mapping[str, float] | None = None,
    head: str = "",
    weights: Mapping[str, tuple[float, float, float]] | None = None,
    **numbers: float,
) -> Entry:
    """Returns a healthy look at a classifier of ten classes, with some numbers changed."""
    formulas = {"cross_entropy": loss} if formulas is None else formulas
    weights = {"a": (0.1, 1.0, 1e-3), "b": (0.1, 1.0, 1e-3)} if weights is None else weights
    healthy = {
        metric_names.LOSS: loss,
        metric_names.MEAN_LOSS: loss,
        metric_names.BAD_STEP: math.inf,
        metric_names.PLANNED_STEPS: 500.0,
        metric_names.LEARNING_RATE: 0.1,
        metric_names.NUM_OUTPUTS: 10.0,
        metric_names.NUM_ROWS: 32.0,
        metric_names.NUM_LABELS: 1000.0,
        metric_names.OUTPUT_RANGE: 8.0,
        metric_names.OUTPUT_SPREAD: 2.0,
        metric_names.OUTPUT_LOW: -4.0,
        metric_names.OUTPUT_HIGH: 4.0,
        metric_names.ROW_SUM_ERROR: 3.0,
        metric_names.LARGEST_CLASS: 0.1,
        metric_names.LARGEST_PREDICTED: 0.1,
        metric_names.COLUMN_MEAN: 0.5,
        metric_names.COLUMN_STD: 1.0,
        metric_names.SHAPES_DIFFER: 0.0,
    }
    by_layer: dict[str, dict[str, float]] = {
        metric_names.FORMULA_LOSS: dict(formulas),
        metric_names.CONSTANT_LOSS: dict(constants or dict.fromkeys(formulas, ENTROPY)),
        metric_names.GRADIENT_NORM: {name: of[0] for name, of in weights.items()},
        metric_names.PARAMETER_NORM: {name: of[1] for name, of in weights.items()},
        metric_names.UPDATE_NORM: {name: of[2] for name, of in weights.items()},
    }
    if head:
        by_layer[metric_names.HEAD] = {head: 1.0}
    return joined_entries(run_entry(**(healthy | numbers)), by_layer)


def check(rule: Rule, *entries: Entry) -> Outcome:
    return rule.check(history_of(*entries, every=50))


def found(rule: Rule, *entries: Entry) -> Finding:
    outcome = check(rule, *entries)
    assert isinstance(outcome, Finding)
    return outcome


def falling(num: int = 10, **numbers: float) -> list[Entry]:
    return [entry(loss=2.3 * 0.7**i, **numbers) for i in range(num)]


def squares(loss: float, head: str, low: float, high: float, **numbers: float) -> Entry:
    targets = {"target_low": low, "target_high": high, "target_spread": 0.5}
    formulas = {"mse_loss": loss, "l1_loss": loss**0.5}
    return entry(loss, formulas=formulas, head=head, **{**targets, **numbers})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_a_healthy_run_is_left_alone(rule: Rule) -> None:
    history = falling()
    for length in range(1, len(history) + 1):
        assert not isinstance(check(rule, *history[:length]), Finding)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_a_history_without_numbers_is_left_alone(rule: Rule) -> None:
    assert not isinstance(check(rule, *[run_entry(loss=1.0)] * 8), Finding)


# -- which formula the loss is


def test_the_formula_is_the_one_whose_ratio_to_the_loss_stays() -> None:
    pairs = ((3.0, 1.5, 1.0), (2.0, 1.0, 1.0), (5.0, 2.5, 1.0))
    entries = [entry(loss, formulas={"mse_loss": a, "l1_loss": b}) for loss, a, b in pairs]
    formula = formula_of(history_of(*entries))
    assert formula is not None
    assert (formula.name, formula.factor) == ("mse_loss", 2.0)
    assert constant_loss(history_of(*entries)) == pytest.approx(2 * ENTROPY)


def test_a_loss_that_no_formula_gives_has_no_constant() -> None:
    entries = [entry(loss, formulas={"mse_loss": 1.0}) for loss in (3.0, 2.0, 2.5)]
    assert formula_of(history_of(*entries)) is None
    assert math.isnan(constant_loss(history_of(*entries)))


def test_a_formula_that_hardly_moves_is_no_proof() -> None:
    """Of nine formulas one keeps its ratio to a loss that stays where it is, by chance."""
    pairs = ((1.9, 3.5), (1.9003, 3.501), (1.9, 3.5))
    entries = [entry(loss, formulas={"mse_of_all_pairs": value}) for loss, value in pairs]
    assert formula_of(history_of(*entries)) is None


def test_two_looks_are_no_proof_of_a_factor() -> None:
    entries = [entry(x, formulas={"mse_loss": 2 * x}) for x in (3.0, 4.0, 5.0)]
    assert formula_of(history_of(*entries[:2])) is None
    assert formula_of(history_of(*entries)) is not None


# -- loss and output layer


def test_a_softmax_over_one_output_is_told_at_the_first_look() -> None:
    one = entry(num_outputs=1.0, row_sum_error=0.0, output_low=1.0, output_high=1.0)
    assert "softmax over one output" in found(LossMisfit(), one).message


@pytest.mark.parametrize(
    ("name", "head", "brings"),
    [
        ("cross_entropy", "relu", "a softmax of its own"),
        ("cross_entropy", "sigmoid", "a softmax of its own"),
        ("binary_cross_entropy_with_logits", "sigmoid", "a sigmoid of its own"),
    ],
)
def test_a_loss_of_scores_wants_no_activation_before_it(name: str, head: str, brings: str) -> None:
    finding = found(LossMisfit(), entry(formulas={name: 1.0}, head=head, output_low=0.0))
    assert brings in finding.message
    assert f"Remove the {head}" in finding.remedy


def test_a_softmax_is_known_by_its_rows() -> None:
    rows = {"row_sum_error": 1e-7, "output_low": 0.0, "output_high": 0.4}
    assert "ends in a softmax" in found(LossMisfit(), entry(**rows)).message
    once_not = [entry(**rows), entry(**(rows | {"row_sum_error": 0.1}))]
    assert check(LossMisfit(), *once_not) is None


def test_a_cross_entropy_of_what_is_no_probability_is_told() -> None:
    both = {"binary_cross_entropy": 1.0, "mse_loss": 0.3}
    assert "logarithms" in found(LossMisfit(), entry(formulas=both)).message
    fits = entry(formulas=both, output_low=0.1, output_high=0.9)
    assert check(LossMisfit(), fits) is None


def test_where_several_formulas_give_the_loss_nothing_is_said_of_a_misfit() -> None:
    both = {"cross_entropy": 1.0, "cross_entropy_of_probabilities": 1.0}
    rows = {"row_sum_error": 0.0, "output_low": 0.3, "output_high": 0.4}
    assert check(LossMisfit(), entry(formulas=both, **rows)) is None


def test_a_negative_factor_is_a_wrong_sign() -> None:
    wrong = [entry(-x, formulas={"cross_entropy": x}) for x in (2.0, 4.0)]
    assert "wrong sign" in found(WrongSign(), *wrong).message


def test_all_pairs_are_told() -> None:
    pairs = [entry(x, formulas={"mse_of_all_pairs": x, "mse_loss": 1.0}) for x in (2.0, 3.0)]
    assert "(N, 1) and (N,)" in found(ShapesDiffer(), *pairs).message
    assert isinstance(check(ShapesDiffer(), entry(shapes_differ=1.0)), Finding)


@pytest.mark.parametrize(
    ("head", "low", "high", "is_found"),
    [
        ("relu", -1.0, 1.0, True),
        ("relu", 0.0, 9.0, False),
        ("relu", -0.01, 9.0, False),  # noise around 0
        ("sigmoid", 0.0, 100.0, True),
        ("tanh", -1.0, 1.0, False),
        ("", -9.0, 9.0, False),
    ],
)
def test_targets_out_of_reach(head: str, low: float, high: float, is_found: bool) -> None:
    outcome = check(TargetsOutOfReach(), squares(1.0, head, low, high))
    assert isinstance(outcome, Finding) == is_found


@pytest.mark.parametrize("loss", [1.0, 1.5])
def test_labels_of_which_a_loss_makes_its_own_targets_are_not_called_out_of_reach(
    loss: float,
) -> None:
    """A loss that is told by no formula may ask whether the label is class 3, say."""
    formulas = {"mse_loss": 1.0, "l1_loss": 2.0}
    targets = {"target_low": 0.0, "target_high": 3.0, "target_spread": 1.0}
    looks = [entry(x, formulas=formulas, head="sigmoid", **targets) for x in (0.7, loss)]
    assert check(TargetsOutOfReach(), *looks) is None
    seen = [entry(x, formulas={"mse_loss": 1.0}, head="sigmoid", **targets) for x in (0.7, loss)]
    assert isinstance(check(TargetsOutOfReach(), *seen), Finding)


# -- outputs and labels


def test_a_residual_that_is_to_be_0_is_no_constant_output_and_no_label() -> None:
    targets = {"target_low": 0.0, "target_high": 0.0, "target_spread": 0.0}
    small = {"output_low": 1e-4, "output_high": 2e-4, "output_range": 1e-4, "output_spread": 1e-5}
    labels = {"largest_class": 1.0, "largest_predicted": 1.0}
    residual = entry(1e-8, formulas={"mse_loss": 1e-8}, **targets, **small, **labels)
    assert check(ConstantOutputs(), *[residual] * 6) is None
    assert check(OneClass(), *[residual] * 6) is None
    label = entry(0.1, formulas={"binary_cross_entropy": 0.1}, **targets, **small, **labels)
    assert isinstance(check(ConstantOutputs(), *[label] * 6), Finding)
    assert isinstance(check(OneClass(), *[label] * 6), Finding)


def test_outputs_are_constant_after_three_looks() -> None:
    same = entry(output_range=0.0, output_spread=0.0, output_low=0.4, output_high=0.4)
    assert check(ConstantOutputs(), same, same) is None
    assert "is the same" in found(ConstantOutputs(), same, same, same).message
    assert check(ConstantOutputs(), same, same, entry()) is None


def test_batches_of_one_tell_nothing_of_a_spread() -> None:
    same = entry(output_range=0.0, output_low=0.4, output_high=0.4, num_rows=1.0)
    assert check(ConstantOutputs(), same, same, same) is None


def test_outputs_that_hardly_vary_are_told_from_150_steps_on() -> None:
    flat = squares(1.0, "", -1.0, 1.0, output_spread=0.004, output_range=0.01)
    assert check(ConstantOutputs(), *[flat] * 3) is None
    assert "hardly differs" in found(ConstantOutputs(), *[flat] * 4).message


def test_one_class_is_a_remark_until_nothing_else_is_predicted() -> None:
    rare = [entry(largest_class=0.95, largest_predicted=0.9)] * 6
    assert found(OneClass(), *rare).severity == "info"
    never = [entry(largest_class=0.95, largest_predicted=1.0)] * 6
    assert found(OneClass(), *never).severity == "warning"
    assert found(OneClass(), entry(largest_class=1.0)).severity == "warning"
    assert check(OneClass(), entry(largest_class=1.0, num_labels=100.0)) is None


def test_raw_columns_are_a_warning_where_they_do_harm() -> None:
    raw = {"column_mean": 130.0}
    assert found(UnscaledInputs(), *falling(**raw)).severity == "info"
    assert found(UnscaledInputs(), *[entry(2.3, **raw)] * 6).severity == "warning"
    assert found(UnscaledInputs(), entry(14.0, **raw)).severity == "warning"


# -- the loss


def test_a_loss_that_was_not_finite_between_looks_is_told_with_its_step() -> None:
    finding = found(NonFiniteLoss(), entry(), entry(bad_step=37.0))
    assert "since step 37" in finding.message
    assert "0.01 instead of 0.1" in finding.remedy
    raw = found(NonFiniteLoss(), entry(column_std=90.0), entry(bad_step=37.0, column_std=90.0))
    assert raw.remedy.startswith("Normalise the inputs")
    first = found(NonFiniteLoss(), entry(bad_step=0.0))
    assert "before any update" in first.message


def test_nothing_else_is_said_of_progress_after_a_nan() -> None:
    after = [*[entry(2.3)] * 6, entry(2.3, bad_step=260.0)]
    for rule in (NoBetterThanConstant(), LossNotFalling(), ConstantOutputs(), SlowLearning()):
        assert check(rule, *after) is Verdict.UNDECIDED


def test_a_loss_three_times_its_first_diverges() -> None:
    assert check(DivergingLoss(), entry(2.0), entry(6.5)) is None  # below 3 x the constant's
    assert "diverges" in found(DivergingLoss(), entry(2.0), entry(7.5)).message


def test_a_loss_that_falls_far_below_0_is_a_remark() -> None:
    """A likelihood, a critic and a policy have such a loss in health."""
    finding = found(DivergingLoss(), entry(-2.0), entry(-7.5))
    assert "below 0" in finding.message
    assert finding.severity == "info"


def test_how_far_a_loss_grows_that_was_below_0_says_nothing() -> None:
    assert check(DivergingLoss(), entry(0.1), entry(-1.0), entry(7.5)) is None


def test_a_loss_that_rises_within_the_first_steps_is_let_alone() -> None:
    assert DivergingLoss().check(history_of(entry(2.0), entry(9.0), every=4)) is None


def test_a_loss_that_shot_up_and_stays_high_means_a_rate_too_high() -> None:
    shot_up = [entry(2.0, highest_loss=2.0), entry(2.2, highest_loss=7.0)]
    assert check(RateTooHigh(), *shot_up) is None  # it may come down at once
    finding = found(RateTooHigh(), *shot_up, entry(1.5, highest_loss=2.0))
    assert "up to 3.04 times" in finding.message  # of a constant's, which is above the first
    assert "0.01 instead of 0.1" in finding.remedy
    assert check(RateTooHigh(), *shot_up, entry(1.0, highest_loss=2.0)) is None


def test_a_loss_that_shot_up_and_came_down_does_not_diverge() -> None:
    assert check(DivergingLoss(), entry(2.0), entry(1.0, mean_loss=9.0)) is None
    assert isinstance(check(DivergingLoss(), entry(2.0), entry(1.5, mean_loss=9.0)), Finding)


def test_a_loss_that_rose_and_stays_high_while_weights_move_far_means_a_rate_too_high() -> None:
    far = {"a": (0.1, 1.0, 0.02), "b": (0.1, 1.0, 0.02)}

    def stuck(loss: float = 1.9, **numbers) -> list[Entry]:
        numbers = {"weights": far, "highest_loss": 3.0} | numbers
        return [entry(loss, **numbers), entry(2.5, **numbers), *[entry(loss, **numbers)] * 3]

    assert "2 % of their norm" in found(RateTooHigh(), *stuck()).message
    assert check(RateTooHigh(), *stuck()[:3]) is None  # before 150 steps
    assert check(RateTooHigh(), *stuck(weights=None)) is None  # they hardly move
    assert check(RateTooHigh(), *stuck(highest_loss=2.4)) is None
    assert check(RateTooHigh(), *stuck(0.9)) is None
    assert check(RateTooHigh(), *stuck(num_rows=4.0)) is None
    # Single batches of noisy data have such losses, but not all of them together.
    assert check(RateTooHigh(), *stuck(mean_loss=1.9)) is None


def test_of_differences_only_a_loss_above_a_constants_means_a_rate_too_high() -> None:
    far = {"a": (0.1, 1.0, 0.02), "b": (0.1, 1.0, 0.02)}

    def stuck(loss: float) -> list[Entry]:
        constants = {"mse_loss": 1.0}
        formulas = {"mse_loss": loss}
        return [
            entry(loss, formulas=formulas, constants=constants, weights=far, highest_loss=2.0)
        ] * 5

    assert check(RateTooHigh(), *stuck(0.9)) is None  # little can be explained, perhaps
    assert isinstance(check(RateTooHigh(), *stuck(1.1)), Finding)


def test_a_loss_that_stays_while_weights_move_very_far_means_a_rate_too_high() -> None:
    very_far = {"a": (0.1, 1.0, 0.03), "b": (0.1, 1.0, 0.03)}
    assert isinstance(check(RateTooHigh(), *[entry(2.1, weights=very_far)] * 5), Finding)
    assert check(RateTooHigh(), *[entry(1.8, weights=very_far)] * 5) is None


def far_at_first(update: float, **weights: tuple[float, float, float]) -> Entry:
    return entry(2.4, weights=dict.fromkeys("abc", (0.1, 1.0, update)) | weights)


def test_a_first_step_longer_than_the_weights_means_a_rate_too_high() -> None:
    assert found(RateTooHigh(), far_at_first(2.0)).severity == "info"  # it may come down
    finding = found(RateTooHigh(), far_at_first(2.0), entry(2.0))
    assert finding.severity == "warning"
    assert "step 0 alone moved the weights by 2 times their norm" in finding.message
    assert finding.since_step == 0
    assert finding.evidence["weights"] == 3
    assert "0.01 instead of 0.1" in finding.remedy
    assert check(RateTooHigh(), far_at_first(1.4)) is None
    assert check(RateTooHigh(), far_at_first(2.0), entry(1.8)) is None  # it has come down
    assert check(RateTooHigh(), entry(2.4), far_at_first(2.0)) is None


def test_weights_that_begin_as_zeros_and_those_of_a_linear_model_may_go_far_at_once() -> None:
    of_zeros = far_at_first(2.0, a=(0.1, 0.0, 2.0))
    assert check(RateTooHigh(), of_zeros) is None  # of two others
    of_many = joined_entries(far_at_first(2.0), {metric_names.NUM_VALUES: {"a": 2e6, "b": 100.0}})
    assert check(RateTooHigh(), of_many) is None  # so "a" begins close to 0
    linear = {"a": (0.1, 1.0, 20.0), "b": (0.1, 1.0, 20.0)}
    assert check(RateTooHigh(), entry(2.4, weights=linear)) is None


def test_a_first_loss_ten_times_a_constants_is_a_remark() -> None:
    assert "10.4 times" in found(HugeFirstLoss(), entry(24.0)).message
    assert check(HugeFirstLoss(), entry(22.0)) is None


def test_scores_that_are_masked_are_not_called_constant() -> None:
    masked = entry(output_low=-math.inf, output_high=2.0, output_range=math.inf)
    assert check(ConstantOutputs(), *[masked] * 3) is None


def test_no_better_than_a_constant_is_certain_near_the_end_only() -> None:
    stuck = [entry(2.3)] * 10
    assert found(NoBetterThanConstant(), *stuck[:5]).severity == "info"
    assert found(NoBetterThanConstant(), *stuck[:9]).severity == "warning"
    assert check(NoBetterThanConstant(), *stuck[:3]) is None  # before 150 steps
    assert check(NoBetterThanConstant(), *[entry(2.0)] * 9) is None


def test_no_better_than_a_constant_is_certain_where_something_else_points_to_it() -> None:
    raw = [entry(2.3, column_mean=130.0)] * 5
    finding = found(NoBetterThanConstant(), *raw)
    assert finding.severity == "warning"
    assert finding.remedy.startswith("Normalise")
    still = {"a": (0.1, 1.0, 1e-6), "b": (0.1, 1.0, 1e-6)}
    assert "too small" in found(NoBetterThanConstant(), *[entry(2.3, weights=still)] * 5).message


def test_a_loss_that_stays_where_it_began_is_told_without_any_formula() -> None:
    unknown = [entry(1.0 + 1e-3 * (i % 3), formulas={}) for i in range(10)]
    assert found(LossNotFalling(), *unknown[:5]).severity == "info"
    assert found(LossNotFalling(), *unknown).severity == "warning"


def test_a_loss_that_stays_while_classes_are_told_apart_is_a_remark() -> None:
    """Labels that are smoothed by nine tenths, or a network that was trained before."""
    numbers = {metric_names.ACCURACY: 0.9, metric_names.LARGEST_CLASS: 0.1}
    unknown = [entry(2.3 + 1e-3 * (i % 3), formulas={}, **numbers) for i in range(10)]
    assert found(LossNotFalling(), *unknown).severity == "info"


def test_of_networks_that_play_against_each_other_no_loss_is_judged() -> None:
    unknown = [entry(1.0 + 1e-3 * (i % 3), formulas={}, num_optimizers=2.0) for i in range(10)]
    assert check(LossNotFalling(), *unknown) is None
    assert check(SlowLearning(), *unknown) is None
    assert check(DivergingLoss(), *unknown, entry(9.0, formulas={}, num_optimizers=2.0)) is None


# -- gradients and updates


def test_no_gradient_at_three_looks_is_told() -> None:
    none = entry(2.3, weights={"a": (0.0, 1.0, 0.0), "b": (0.0, 1.0, 0.0)})
    assert "between the last layer and the loss" in found(NoGradient(), *[none] * 3).remedy
    assert check(NoGradient(), none, none) is None
    some = entry(2.3, weights={"a": (0.0, 1.0, 0.0), "b": (0.1, 1.0, 1e-3)})
    assert check(NoGradient(), none, none, some) is None


def test_a_gradient_that_has_gone_points_to_the_rate() -> None:
    none = entry(2.3, weights={"a": (0.0, 1.0, 0.0)})
    finding = found(NoGradient(), entry(), *[none] * 3)
    assert "too high" in finding.message
    assert "0.01 instead of 0.1" in finding.remedy
    unknown = {metric_names.LEARNING_RATE: math.nan}
    of_no_rate = [entry(**unknown), *[entry(2.3, weights={"a": (0.0, 1.0, 0.0)}, **unknown)] * 3]
    assert "nan" not in found(NoGradient(), *of_no_rate).message


def test_nothing_is_left_to_learn_at_a_loss_of_0() -> None:
    assert check(NoGradient(), *[entry(0.0, weights={"a": (0.0, 1.0, 0.0)})] * 3) is None


def test_batches_without_a_loss_have_no_gradient_though_others_have_some() -> None:
    none = entry(0.0, weights={"a": (0.0, 1.0, 0.0)}, mean_loss=0.01)  # a margin that is kept
    assert check(NoGradient(), entry(), *[none] * 3) is None


def test_a_gradient_that_vanishes_on_its_way_is_a_remark() -> None:
    weights = {"a": (1e-7, 1.0, 1e-3), "b": (1e-3, 1.0, 1e-3), "c": (0.1, 1.0, 1e-3)}
    finding = found(VanishingGradient(), *[entry(weights=weights)] * 3)
    assert finding.layers == ("a",)


def test_weights_that_hardly_move_mean_a_rate_too_small() -> None:
    still = {"a": (0.1, 1.0, 1e-6), "b": (0.1, 1.0, 1e-6)}
    finding = found(SlowLearning(), *[entry(2.2, weights=still)] * 7)
    assert "1 instead of 0.1" in finding.remedy
    assert check(SlowLearning(), *[entry(2.2, weights=still)] * 5) is None


def test_a_short_path_is_told_from_the_middle_on_while_the_loss_has_fallen() -> None:
    def entries(update: float) -> list[Entry]:
        weights = {"a": (0.1, 1.0, update), "b": (0.1, 1.0, update)}
        return [entry(2.0 * 0.95**i, weights=weights) for i in range(9)]

    slow = entries(3e-4)
    assert isinstance(check(SlowLearning(), *slow), Finding)
    assert isinstance(check(SlowLearning(), *slow[:7]), Finding)
    assert check(SlowLearning(), *slow[:5]) is None  # 200 of 500 steps
    assert check(SlowLearning(), *entries(2e-3)) is None
    assert check(SlowLearning(), *[slow[3]] * 9) is None
    assert check(SlowLearning(), *slow[:8], entry(0.4)) is None  # little is left to learn


def test_a_longer_path_is_short_at_the_end_where_half_of_the_loss_is_left() -> None:
    def entries(update: float, losses: list[float]) -> list[Entry]:
        weights = {"a": (0.1, 1.0, update), "b": (0.1, 1.0, update)}
        return [entry(loss, weights=weights) for loss in losses]

    falls = [2.3 - 0.1 * i for i in range(10)]
    assert isinstance(check(SlowLearning(), *entries(1.5e-3, falls)), Finding)
    assert check(SlowLearning(), *entries(1.5e-3, falls[:9])) is None  # 400 of 500 steps
    assert check(SlowLearning(), *entries(2.5e-3, falls)) is None
    assert check(SlowLearning(), *entries(1.5e-3, [loss - 0.4 for loss in falls])) is None
    noisy = [2.3, 2.0, 1.8, 1.7, 1.64, 1.6, 1.57, 1.55, 1.53, 1.52]  # it is soon where it stays
    assert check(SlowLearning(), *entries(1.5e-3, noisy)) is None


def test_a_fall_that_may_be_chance_is_none() -> None:
    weights = {"a": (0.1, 1.0, 3e-4), "b": (0.1, 1.0, 3e-4)}
    losses = [2.0 * 0.95**i for i in range(9)]

    def noisy(highest: float) -> list[Entry]:
        return [entry(loss, weights=weights, highest_loss=loss + highest) for loss in losses]

    assert isinstance(check(SlowLearning(), *noisy(0.5)), Finding)
    assert check(SlowLearning(), *noisy(2.0)) is None  # 50 losses that far apart


def test_a_network_that_was_trained_before_is_not_slow() -> None:
    still = {"a": (0.1, 1.0, 1e-4), "b": (0.1, 1.0, 1e-4)}
    losses = (2.3, 1.6, 1.1, 0.9, 0.85, 0.82, 0.81, 0.8, 0.79)
    assert check(SlowLearning(), *[entry(loss, weights=still) for loss in losses]) is None


def test_weights_that_went_far_at_once_and_lie_still_are_not_slow() -> None:
    still = {"a": (0.1, 1.0, 3e-4), "b": (0.1, 1.0, 3e-4)}
    far = {"a": (0.1, 1.0, 0.3), "b": (0.1, 1.0, 0.3)}
    entries = [entry(2.0 * 0.95**i, weights=still if i else far) for i in range(9)]
    assert check(SlowLearning(), *entries) is None


def test_weights_that_no_optimizer_holds_are_a_remark() -> None:
    left_out = joined_entries(entry(), {metric_names.WITHOUT_OPTIMIZER: {"c": 1.0}})
    finding = found(FrozenByMistake(), *[left_out] * 3)
    assert (finding.layers, FrozenByMistake.severity) == (("c",), "info")
