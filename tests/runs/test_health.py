from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.runs.stand_ins import (
    ALERT,
    CRITICAL,
    NASTY,
    RESOLVED,
    event_file,
    number,
    picture,
    record,
    table,
)

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.alerts.log import append_alerts
from vis_callbacks.runs.health import MAX_CARDS, Verdict, as_plain, verdict_of
from vis_callbacks.runs.run import Run


def run_with(folder: Path, *alerts: Alert) -> Run:
    event_file(folder, record(table({"m": [0.5]}, ["fc.1"]), step=100))
    append_alerts(folder / "alerts.jsonl", *alerts)
    run = Run(folder)
    run.refresh()
    return run


def test_the_verdict_names_the_worst_alert_where_and_since_when(tmp_path: Path) -> None:
    verdict = verdict_of(run_with(tmp_path, ALERT, replace(ALERT, kind="other"), CRITICAL))
    text = "Critical: dying_units in fc.1, fc.3 since step 20 and 1 other alert"
    assert verdict == Verdict("critical", text)


def test_without_an_alert_the_verdict_says_up_to_where(tmp_path: Path) -> None:
    assert verdict_of(run_with(tmp_path)) == Verdict("quiet", "No alert up to step 100")


def test_resolved_alerts_are_told(tmp_path: Path) -> None:
    verdict = verdict_of(run_with(tmp_path, ALERT, RESOLVED))
    text = "No alert is firing up to step 100; 1 alert resolved by step 90"
    assert verdict == Verdict("quiet", text)


def test_a_run_without_monitors_is_not_called_healthy(tmp_path: Path) -> None:
    event_file(tmp_path, record(number("loss", 1.0), step=1))
    run = Run(tmp_path)
    run.refresh()
    assert verdict_of(run).level == "unwatched"


def test_a_page_of_a_run_is_strict_json_and_bounded(tmp_path: Path) -> None:
    many = [replace(ALERT, cause=str(count), message="m" * 20_000) for count in range(300)]
    run = run_with(tmp_path, *many, replace(CRITICAL, evidence={"loss": float("nan")}))
    event_file(tmp_path, record(number("loss", float("inf")), number("x", float("nan")), step=3))
    run.refresh()
    plain = as_plain(run)
    text = json.dumps(plain, allow_nan=False)
    assert len(text) < 2_000_000
    assert (len(plain["alerts"]), plain["num_alerts"]) == (MAX_CARDS, 301)
    assert plain["curves"] == {"loss": [(3, None)], "x": [(3, None)]}
    assert plain["alerts"][0]["evidence"][0] == ["loss", "nan"]


def test_a_picture_knows_its_layer_also_where_the_tag_spells_it_otherwise(tmp_path: Path) -> None:
    tag = (
        "activations/maps/_x3c_img_x20_src_x3d_x_x20_onerror_x3d__x22_window.broken_x3d_1_x22__x3e_"
    )
    event_file(tmp_path, record(table({"m": [0.5]}, [NASTY]), picture(tag), step=1))
    run = Run(tmp_path)
    run.refresh()
    assert as_plain(run)["pictures"] == {tag: {"steps": [1], "num_written": 1, "layer": NASTY}}


def test_the_filters_of_a_module_belong_to_its_weight(tmp_path: Path) -> None:
    event_file(tmp_path, record(table({"m": [0.5]}, ["fc.1.weight"]), step=1))
    event_file(tmp_path, record(picture("filters/fc.1"), step=1))
    run = Run(tmp_path)
    run.refresh()
    assert as_plain(run)["pictures"]["filters/fc.1"]["layer"] == "fc.1.weight"
