from __future__ import annotations

import pytest

from vis_callbacks.analysis.selection import evenly_spread


@pytest.mark.parametrize(("total", "most"), [(3, 16), (16, 16), (100, 16), (64, 3)])
def test_the_indexes_are_evenly_spread_and_begin_with_the_first(total, most):
    shown = evenly_spread(total, most)
    assert shown[0] == 0
    assert len(shown) == len(set(shown)) == min(total, most)
    assert max(shown) < total
