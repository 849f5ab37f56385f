"""Which of many are looked at."""

from __future__ import annotations


def evenly_spread(total: int, most: int) -> list[int]:
    """Returns at most ``most`` indexes, evenly spread over ``total``."""
    count = min(total, most)
    return [index * total // count for index in range(count)]
