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
    with pytest.raises(TypeError, match=missing):
        Alert.from_plain({name: value for name, value in PLAIN.items() if name != missing})
