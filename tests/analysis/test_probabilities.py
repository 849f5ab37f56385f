from __future__ import annotations

import torch

from vis_callbacks.analysis.probabilities import probabilities


def test_probabilities_are_those_of_the_softmax():
    scores = torch.randn(5, 4)
    torch.testing.assert_close(probabilities(scores), scores.softmax(1))
    torch.testing.assert_close(probabilities(scores.log_softmax(1)), scores.softmax(1))


def test_what_is_a_probability_already_stays():
    shares = torch.randn(5, 4).softmax(1)
    assert torch.equal(probabilities(shares), shares)


def test_a_single_score_is_that_of_a_yes():
    scores = torch.tensor([[-2.0], [0.3]])
    torch.testing.assert_close(probabilities(scores), scores.sigmoid())


def test_scores_at_several_positions_are_averaged():
    scores = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(probabilities(scores), scores.mean((2, 3)).softmax(1))
