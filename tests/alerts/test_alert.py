from __future__ import annotations

from typing import Any

import pytest

from vis_callbacks.alerts.alert import Alert

PLAIN: dict[str, Any] = {
    "kind": "dying_units",
    "severity": "warning",
    "state": "firing",
    "step": 60,
    "epoch": 0,
    "stage": "fit",
    "message": "Units are dying.",
}


def test_what_is_not_said_takes_its_default() -> None:
    alert = Alert.from_plain(PLAIN)
    assert (alert.layers, alert.evidence, alert.since_step, alert.time) == ((), {}, None, None)


def test_plain_values_are_lists_and_dictionaries_throughout() -> None:
    alert = Alert.from_plain(PLAIN | {"layers": ["a"], "evidence": {"share": 0.5}})
    plain = alert.as_plain()
    assert (plain["layers"], plain["evidence"]) == (["a"], {"share": 0.5})
    assert Alert.from_plain(plain) == alert


@pytest.mark.parametrize("missing", list(PLAIN))
def test_an_alert_without_a_needed_field_is_refused(missing: str) -> None:
    with pytest.raises(ValueError, match=f"not an alert: .*{missing}"):
        Alert.from_plain({name: value for name, value in PLAIN.items() if name != missing})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", 1),
        ("severity", "grave"),
        ("state", "over"),
        ("step", "60"),
        ("step", True),
        ("epoch", 0.5),
        ("message", None),
        ("layers", "fc"),
        ("layers", [1]),
        ("evidence", 3),
        ("could_be", None),
    ],
)
def test_a_field_that_no_alert_holds_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match="not an alert"):
        Alert.from_plain(PLAIN | {name: value})
