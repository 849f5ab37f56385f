from __future__ import annotations

import os
from pathlib import Path

import pytest

from vis_callbacks.cards import CARDS, card_of

PAGE = Path(__file__).parent.parent / "docs/cards.md"


def table() -> str:
    rows = [
        f"| `{tag}` | {card.how_to_read} | {'card' if card.is_shown else 'Health'} |"
        for tag, card in CARDS.items()
    ]
    return "\n".join(["| tag | how to read it | where |", "|---|---|---|", *rows, ""])


def test_the_page_of_cards_is_what_the_code_says():
    head, mark, _ = PAGE.read_text().partition("| tag |")
    page = head + table()
    if os.environ.get("VIS_CALLBACKS_WRITE_CARDS"):
        PAGE.write_text(page)
    assert mark
    assert PAGE.read_text() == page, "write it anew: VIS_CALLBACKS_WRITE_CARDS=1 pytest tests/..."


@pytest.mark.parametrize(
    ("tag", "pattern"),
    [
        ("alerts/active", "alerts/active"),
        ("dead_fraction/total", "dead_fraction/total"),
        ("dead_fraction/layer4.1/relu", "dead_fraction/<layer>"),
        ("class_agreement/pixels", "class_agreement/pixels"),
        ("class_agreement/head", "class_agreement/<layer>"),
        ("saliency/gradient", "saliency/<method>"),
        ("saliency/over_time/gradient", "saliency/over_time/<method>"),
        ("filters/over_time/conv1", "filters/over_time/<layer>"),
        ("filter_share/odd/conv1", "filter_share/<which>/<layer>"),
        ("overhead/run_a/activations_percent", "overhead/<monitor>_percent"),
    ],
)
def test_a_tag_is_known_by_the_closest_entry(tag, pattern):
    assert card_of(tag) is CARDS[pattern]


def test_what_is_not_ours_is_shown_without_a_description():
    assert card_of("train_loss") == ("", True)
