from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vis_callbacks.analysis.neighbours import squared_distances, trustworthiness
from vis_callbacks.analysis.procrustes import spread
from vis_callbacks.callbacks.embedding.followed_map import FollowedMap, Layout, MapStep, matched
from vis_callbacks.callbacks.plain import require_plain

N = 90


def clusters(num_samples: int = N, seed: int = 0) -> Tensor:
    centres = 4 * torch.randn(6, 12, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(num_samples, 12, generator=torch.Generator().manual_seed(seed))
    return centres[torch.arange(num_samples) % 6] + noise


def prints(num_samples: int = N) -> np.ndarray:
    return np.arange(1_000, 1_000 + num_samples)


def followed(features: Tensor, layout: Layout | None = None) -> tuple[FollowedMap, MapStep]:
    """Returns a map that is followed from these features on."""
    kept, layout = FollowedMap(), layout or Layout()
    made = kept.follow(features, squared_distances(features), prints(len(features)), layout)
    kept.keep(0, made, prints(len(features)), np.arange(len(features)) % 6)
    return kept, made


def follow(kept: FollowedMap, features: Tensor, fingerprints: np.ndarray, **layout) -> MapStep:
    return kept.follow(features, squared_distances(features), fingerprints, Layout(**layout))


def test_the_k_th_of_equal_fingerprints_is_the_k_th_of_before():
    before = np.array([5, 7, 5, 9])
    assert matched(before, np.array([9, 5, 5, 5, 8])).tolist() == [3, 0, 2, -1, -1]


def test_the_same_features_leave_the_map_where_it_is():
    kept, first = followed(clusters())
    assert first.before is None
    second = follow(kept, clusters(), prints())
    assert float(second.displacement) < 0.05
    assert second.note == ""
    assert torch.equal(second.before, first.points)


def test_a_network_that_has_turned_its_features_leaves_the_map_where_it_is():
    kept, _ = followed(clusters())
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q
    second = follow(kept, clusters() @ turn + 3, prints())
    assert float(second.displacement) < 0.05


def test_two_maps_from_scratch_would_lie_far_apart():
    # The claims above are not such as any two maps would pass.
    noise = 0.3 * clusters(seed=3)
    first, second = followed(clusters())[1], followed(clusters() + noise)[1]
    apart = (first.points - second.points).norm(dim=1).median() / spread(first.points)
    assert apart > 0.15


def test_features_that_move_a_little_move_the_map_a_little():
    kept, _ = followed(clusters())
    second = follow(kept, clusters() + 0.2 * clusters(seed=3), prints())
    assert 0 < float(second.displacement) < 0.15


def test_samples_in_another_order_are_known_again():
    kept, _ = followed(clusters())
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    second = follow(kept, clusters()[order], prints()[order.numpy()])
    assert float(second.displacement) < 0.05


def test_new_samples_begin_among_their_neighbours_and_are_counted():
    kept, _ = followed(clusters(), Layout(perplexity=10.0))
    features = torch.cat([clusters(), clusters(30, seed=4)])
    second = follow(kept, features, prints(N + 30), perplexity=10.0)
    assert second.note == "30 samples are new"
    assert second.before[N:].isnan().all()
    assert second.before[:N].isfinite().all()
    assert float(second.displacement) < 0.15
    assert trustworthiness(squared_distances(features), second.points) > 0.9


def test_a_map_of_other_samples_begins_afresh_and_says_so():
    kept, _ = followed(clusters())
    second = follow(kept, clusters(seed=5), prints() + 60)
    assert second.note == "begun afresh: only 30 of 90 samples are those of the last map"
    assert second.before is None
    assert second.displacement is None
    kept.keep(10, second, prints() + 60, np.zeros(N, np.int64))
    assert [frame.step for frame in kept.frames] == [10]


def test_a_strip_keeps_the_first_and_the_latest_of_its_frames():
    kept, made = followed(clusters(20), Layout(method="pca"))
    for step in range(1, 40):
        again = MapStep(points=made.points, before=made.points)
        kept.keep(step, again, prints(20), np.zeros(20, np.int64))
    steps = [frame.step for frame in kept.frames]
    assert len(steps) == 8
    assert (steps[0], steps[-1]) == (0, 39)


def test_principal_components_that_change_places_are_turned_back():
    scale = torch.ones(12)
    first_then_second, second_then_first = scale.clone(), scale.clone()
    first_then_second[:2] = torch.tensor([9.0, 8.0])
    second_then_first[:2] = torch.tensor([8.0, 9.0])
    noise = torch.randn(N, 12, generator=torch.Generator().manual_seed(0))
    kept, first = followed(noise * first_then_second, Layout(method="pca"))
    second = follow(kept, noise * second_then_first, prints(), method="pca")
    assert float(second.displacement) < 0.2
    by_itself = followed(noise * second_then_first, Layout(method="pca"))[1]
    apart = (first.points - by_itself.points).norm(dim=1).median() / spread(first.points)
    assert apart > 0.5


def test_scikit_learn_lays_out_and_follows_as_well():
    layout = Layout(backend="sklearn", perplexity=10.0)
    kept, first = followed(clusters(60), layout)
    assert trustworthiness(squared_distances(clusters(60)), first.points) > 0.9
    second = kept.follow(clusters(60), squared_distances(clusters(60)), prints(60), layout)
    assert float(second.displacement) < 0.1


@pytest.mark.parametrize("is_new", [True, False])
def test_the_state_is_plain_and_goes_on_where_it_was(is_new):
    kept = FollowedMap() if is_new else followed(clusters())[0]
    require_plain(kept.state(), "state")
    other = FollowedMap.from_state(kept.state())
    first, second = (follow(m, clusters(seed=2), prints()) for m in (kept, other))
    assert torch.equal(first.points, second.points)
    assert [frame.step for frame in other.frames] == [frame.step for frame in kept.frames]
