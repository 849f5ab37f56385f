"""The names of before, until every part uses the new ones."""

from vis_callbacks.alerts.alert import Outcome, Rule
from vis_callbacks.alerts.history import History
from vis_callbacks.alerts.tracker import AlertTracker

Ledger = AlertTracker


def judge(rules: list[Rule], history: History) -> list[tuple[Rule, Outcome]]:
    """Returns each rule with what it says of the history."""
    return [(rule, rule.check(history)) for rule in rules]
