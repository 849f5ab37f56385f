"""The zoo that alerts are judged by: its trainings, their truth, and the table."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import pytest
import torch
from benchmarks.alert_quality import nets, table
from benchmarks.alert_quality.configurations import CONFIGURATIONS, FACTORS
from benchmarks.alert_quality.followed import Followed, followed
from benchmarks.alert_quality.optimizers import OPTIMIZERS, SCHEDULES, schedule_of
from benchmarks.alert_quality.outcomes import Outcome, Said, outcomes
from benchmarks.alert_quality.page import page
from benchmarks.alert_quality.published import (
    auto_trainer,
    dead_relu,
    dead_relu_detector,
)
from benchmarks.alert_quality.replay import replayed
from benchmarks.alert_quality.table import Share
from benchmarks.alert_quality.training import Job, run
from benchmarks.alert_quality.zoo import Runs, best_rung, first_jobs, job_of, more_jobs
from scipy.stats import binomtest
from torch import nn

NAME = "tune/cells"


def row(rung, score, seed=0, name=NAME):
    return {"configuration": name, "rung": rung, "seed": seed, "score": score, "steps": 240}


def ladder(*scores):
    return [row(rung, score) for rung, score in enumerate(scores)]


def nothing_said(row):
    return [], []


@pytest.fixture(scope="module")
def result():
    logging.disable(logging.ERROR)
    try:
        return run(Job("tune/mlp-relu", 6, 0))  # a hundred times a usual rate
    finally:
        logging.disable(logging.NOTSET)


def test_replaying_what_was_remembered_gives_the_alerts_of_the_run(result):
    histories = json.loads(json.dumps(result["histories"]))
    again = [[alert.step, alert.kind, alert.severity] for alert in replayed(histories)]
    assert again
    assert sorted(again) == sorted(result["alerts"])


def test_a_training_tells_its_outcome_and_what_the_published_rules_need(result):
    assert len(result["losses"]) == result["steps"] == 240
    assert -1 <= result["score"] <= 1
    assert [look["step"] for look in result["looks"]] == [39, 79, 119, 159, 199, 239]
    assert all(0 <= look["dead"] <= 1 and look["first_gradient"] >= 0 for look in result["looks"])


def test_trainings_that_are_done_are_not_done_again(tmp_path, result):
    runs = Runs(tmp_path)
    runs.add(dict(result))
    again = Runs(tmp_path)
    assert [job_of(each) for each in again.rows] == [Job("tune/mlp-relu", 6, 0)]
    assert json.dumps(again.histories(again.rows[0])) == json.dumps(result["histories"])


def test_the_parts_share_no_configuration():
    said = {
        part: {
            (str(each.net()), each.task.data.__name__, each.optimizer, each.batch)
            for each in CONFIGURATIONS.values()
            if each.part == part
        }
        for part in ("tune", "test")
    }
    assert min(map(len, said.values())) > 25
    assert not said["tune"] & said["test"]


def test_every_configuration_is_trained_at_every_rate_before_it_gets_other_seeds():
    assert len({*first_jobs()}) == len(CONFIGURATIONS) * len(FACTORS)
    assert more_jobs(ladder(0.1, 0.5)) == []
    more = more_jobs(ladder(0.1, 0.5, 0.9, 0.95, 0.9, 0.5, 0.1))
    usual = [job for job in more if job.rung == 3]
    assert len(usual) == 5
    assert not any(job.seed == 0 for job in more)


def test_of_rates_that_are_equally_good_the_middle_is_the_best():
    assert best_rung(ladder(0.1, 0.9, 0.9, 0.9, 0.5, 0.2, 0.1)) == 2


def test_sick_is_what_ends_three_points_below_the_best_rate():
    found = outcomes(ladder(0.2, 0.92, 0.94, 0.96, 0.95, 0.5, 0.1), nothing_said)
    assert [each.is_sick for each in found] == [True, True, False, False, False, True, True]
    assert [each.is_too_low for each in found] == [True, True] + [False] * 5
    assert [each.is_too_high for each in found] == [False] * 5 + [True, True]


def test_a_seed_without_luck_at_the_best_rate_is_not_sick():
    rows = [*ladder(0.2, 0.92, 0.94, 0.96, 0.95, 0.5, 0.1), row(3, 0.9, seed=1)]
    rows += [row(3, 0.97, seed=seed) for seed in (2, 3)]
    assert [each.is_sick for each in outcomes(rows, nothing_said) if each.seed == 1] == [False]


def test_a_configuration_whose_ladder_has_gaps_is_not_judged():
    assert outcomes(ladder(0.2, 0.9), nothing_said) == []


@pytest.mark.parametrize(("count", "total"), [(0, 5), (9, 10), (430, 431)])
def test_intervals_are_wilson_s(count, total):
    expected = binomtest(count, total).proportion_ci(method="wilson")
    assert Share(count, total).interval() == pytest.approx((expected.low, expected.high))


def outcome(of_best, is_sick, *kinds):
    said = tuple(Said(kind, "warning", share) for kind, share in kinds)
    return Outcome(NAME, 0, of_best, 0.5, 0.9, is_sick, said, (), {})


def test_the_table_counts_trainings_and_not_alerts():
    found = [
        outcome(1.0, False),
        outcome(1.0, False, ("a", 0.2)),
        outcome(10.0, True, ("a", 0.5), ("a", 0.9), ("b", 0.1)),
        outcome(0.1, True),
    ]
    by_rule = {line.rule: line for line in table.lines(found) if line.severity != "critical"}
    of_all, of_a = by_rule["any"], by_rule["a"]
    assert (of_a.precision, of_a.false) == (Share(1, 2), Share(1, 2))
    assert (of_a.too_high, of_a.too_low, of_a.delay) == (Share(1, 1), Share(0, 1), 0.5)
    assert (of_all.precision, of_all.delay) == (Share(1, 2), 0.1)


def test_the_page_says_the_parts_and_the_shares_of_each_rate():
    trainings = [outcome(1.0, False), outcome(0.1, True, ("slow_learning", 0.6))]
    trainings += [replace(each, configuration="test/mlp-silu") for each in trainings]
    done = [Followed("slow_learning", 0.2, 0.8, 0.03), Followed("slow_learning", 0.2, 0.1, 0.03)]
    text = page(trainings, [*table.lines(trainings)], done, 3)
    assert "4 small trainings: 2 configurations" in text
    assert "taken from 1 configurations" in text
    assert "| `slow_learning` | warning | 1.00 (.21-1.00), 1 of 1 |" in text
    assert "| 1/10 | 1.00 (.21-1.00), 1 of 1 | - |" in text
    assert "| `slow_learning` | .50 (.09-.91), 1 of 2 | 0.20, 0.45 |" in text
    assert "3 alerts whose remedy" in text


def said_at(rung, score, remedy="", kind="diverging_loss"):
    said = (Said(kind, "critical", 0.5, remedy),) if remedy else ()
    best = FACTORS[rung] / FACTORS[3]
    return Outcome("tune/cells", 0, best, score, 0.9, score < 0.8, said, (), row(rung, score))


@pytest.mark.parametrize(
    ("remedy", "there", "scores"),
    [
        ("Restart with learning rate 1 (a tenth of 10).", "", [0.5]),
        ("Lower the learning rate tenfold, and again until the loss falls.", "and again", [0.9]),
        ("Lower the learning rate tenfold, and again until the loss falls.", "", [0.5]),
        ("Try ten times the learning rate, or a tenth of it.", "", [0.1]),
        ("Look at the batch.", "", []),
    ],
    ids=["a tenth", "again", "again, but it is mended", "the first one counts", "another change"],
)
def test_a_remedy_is_followed_on_the_ladder_of_rates(remedy, there, scores):
    # A hundred times, ten times and once the configuration's rate.
    followed_there = f"tenfold {there}" if there else ""
    trainings = [said_at(5, 0.2, remedy), said_at(3, 0.5, followed_there, "diverging_loss")]
    trainings += [said_at(6, 0.1), said_at(1, 0.9)]
    done, num_others = followed(trainings)
    of_first = [one for one in done if one.before == 0.2]
    assert [one.after for one in of_first] == scores
    assert num_others == (not scores)
    assert all(one.is_better is (one.after > 0.23) for one in of_first)


def test_a_configuration_that_learns_nothing_is_not_judged():
    assert outcomes(ladder(-0.3, -0.2, -0.1, 0.0, 0.01, -0.5, -1.0), nothing_said) == []


def look(step, **numbers):
    usual = {
        "inactive": 0.0,
        "dead": 0.0,
        "loss": 1.0,
        "zero_gradients": 0.1,
        "first_gradient": 1.0,
        "first_by_last": 1.0,
    }
    return {"step": step, **usual, **numbers}


def test_published_rules_speak_where_they_should():
    assert dead_relu([look(1, inactive=0.4), look(2, inactive=0.6)]) == 2
    assert dead_relu_detector([look(1, dead=0.2)]) == 1
    assert auto_trainer([look(1), look(2, loss=math.nan)]) == 2
    rising = [look(i, accuracy=0.2 * i, test_accuracy=0.2 * i) for i in range(1, 5)]
    assert auto_trainer(rising) is None
    flat = [look(i, accuracy=0.1, test_accuracy=0.1) for i in range(1, 5)]
    assert auto_trainer(flat) == 2


def test_lion_steps_by_the_sign_of_its_momentum():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = OPTIMIZERS["Lion"]([weight], lr=0.5)
    weight.grad = torch.tensor([3.0, -0.1])
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([0.95 - 0.5, -1.9 + 0.5]))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_ends_below_where_it_was_highest_unless_it_is_constant(name):
    optimizer = OPTIMIZERS["Adam"](nn.Linear(1, 1).parameters(), lr=1.0)
    scheduler = schedule_of(name, optimizer, 1.0, 40)["scheduler"]
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(1.0, rel=0.05)
    assert rates[-1] == 1.0 if name == "constant" else rates[-1] < 0.05


def test_a_channel_norm_makes_the_channels_of_a_place_normal():
    maps = nets.ChannelNorm(8)(torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(maps.mean(1), torch.zeros(2, 3, 3), atol=1e-5, rtol=0)
