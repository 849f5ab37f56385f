from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

from tests.runs.stand_ins import ALERT, event_file, number, ours, picture, png, record, table

from vis_callbacks.alerts.log import append_alerts
from vis_callbacks.runs.run import MAX_TABLES, OverTime, Run, Thinned, over_time


def run_of(folder: Path) -> Run:
    run = Run(folder)
    run.refresh()
    return run


def test_a_run_holds_alerts_curves_pictures_and_numbers_of_layers(tmp_path: Path) -> None:
    append_alerts(tmp_path / "alerts.jsonl", ALERT)
    dead = {"dead_fraction": [0.0, None]}
    event_file(tmp_path, record(number("loss", 2.0), picture("maps", 9), step=3))
    event_file(tmp_path, record(table(dead, ["a", "b"]), step=5, wall_time=7.5))
    run = run_of(tmp_path)
    assert run.curves["loss"].items() == [(3, 2.0)]
    assert run.picture("maps", 3) == png(9)
    of_layers = OverTime([5], ["a", "b"], [(0.0,), (None,)], "share")
    assert over_time(run.tables) == {"dead_fraction": of_layers}
    assert (run.last_step, run.last_time, run.is_complete, run.is_watched) == (5, 1e9, True, True)
    assert run.alerts.ranked()[0].alert.kind == "dying_units"
    assert run.problems() == []


def test_pictures_of_the_new_kind_of_summary_are_found(tmp_path: Path) -> None:
    value = ours(b"12", "maps")
    value.metadata.plugin_data.plugin_name = "images"
    value.tensor.string_val.extend([b"8", png(3)])
    event_file(tmp_path, record(value, step=1))
    assert run_of(tmp_path).picture("maps", 1) == png(3)


def test_a_picture_that_is_not_there_is_none(tmp_path: Path) -> None:
    event_file(tmp_path, record(picture("maps"), step=3))
    run = run_of(tmp_path)
    assert run.picture("maps", 4) is None
    assert run.picture("../maps", 3) is None


def test_a_resumed_run_goes_on_in_its_second_file(tmp_path: Path) -> None:
    event_file(tmp_path, record(number("loss", 2.0), step=1), record(number("loss", 1.5), step=2))
    later = "events.out.tfevents.2.host.1.0"
    event_file(tmp_path, record(number("loss", 1.0), step=2), name=later)
    assert run_of(tmp_path).curves["loss"].items() == [(1, 2.0), (2, 1.0)]


def test_what_is_new_changes_the_version(tmp_path: Path) -> None:
    event_file(tmp_path, record(number("loss", 2.0), step=1))
    run = run_of(tmp_path)
    before = run.version
    run.refresh()
    assert run.version == before
    event_file(tmp_path, record(number("loss", 2.0), step=2))
    run.refresh()
    assert run.version != before


def test_without_a_trace_of_a_monitor_a_run_is_not_watched(tmp_path: Path) -> None:
    event_file(tmp_path, record(number("loss", 2.0), step=1))
    assert not run_of(tmp_path).is_watched


def test_numbers_of_layers_that_make_no_sense_are_left_out_and_counted(tmp_path: Path) -> None:
    nonsense = [
        b"{",
        b"[]",
        b'{"layers": ["a"], "metrics": {"m": [1, 2]}}',
        b'{"layers": [1], "metrics": {"m": [1]}}',
        b'{"layers": ["a"], "metrics": {"m": ["x"]}}',
        b'{"layers": ["a"], "metrics": [1]}',
        b'{"layers": 5, "metrics": {}}',
        b"[" * 100_000,
    ]
    event_file(tmp_path, *(record(ours(content), step=1) for content in nonsense))
    run = run_of(tmp_path)
    assert run.tables == {}
    assert run.problems() == ["8 values are left out: of too many tags, or not readable."]


def test_the_number_of_tags_is_bounded(tmp_path: Path) -> None:
    tables = [table({"m": [1.0]}, ["a"], f"{count}") for count in range(MAX_TABLES + 3)]
    event_file(tmp_path, record(*tables, step=1))
    run = run_of(tmp_path)
    assert len(run.tables) == MAX_TABLES
    assert run.num_left_out == 3


def test_thinned_entries_are_even_and_hold_the_first_and_the_latest() -> None:
    kept: Thinned[int] = Thinned(8)
    for step in range(0, 1000, 10):
        kept.add(step, step)
    steps = kept.steps()
    assert len(steps) <= 9
    assert (steps[0], steps[-1], kept.num_seen) == (0, 990, 100)
    assert len({b - a for a, b in itertools.pairwise(steps[:-1])}) == 1


def test_a_heat_map_stays_within_its_cells_and_keeps_the_ends(tmp_path: Path) -> None:
    for step in range(50):
        event_file(tmp_path, record(table({"m": [0.5, math.nan]}, ["a", "b"]), step=step))
    (of_layers,) = over_time(run_of(tmp_path).tables, 2 * 20).values()
    steps = of_layers.steps
    assert (steps[0], steps[-1], len(steps) <= 20) == (0, 49, True)
    assert of_layers.layers == ["a", "b"]
    assert of_layers.rows == [(0.5,) * len(steps), (None,) * len(steps)]


def test_layers_of_two_monitors_stand_below_each_other(tmp_path: Path) -> None:
    one, two = table({"m": [0.5]}, ["a"], "one"), table({"m": [0.25]}, ["b"], "two")
    event_file(tmp_path, record(one, two, step=0))
    assert over_time(run_of(tmp_path).tables) == {
        "m": OverTime([0], ["a", "b"], [(0.5,), (0.25,)], "share")
    }


def test_each_number_has_the_layers_steps_and_scale_of_its_own_monitor(tmp_path: Path) -> None:
    event_file(tmp_path, record(table({"m": [0.5]}, ["a"], "one"), step=0))
    plain = {"layers": ["w"], "metrics": {"n": [3e-9]}, "scale": "power"}
    event_file(tmp_path, record(ours(json.dumps(plain).encode(), "two"), step=7))
    assert over_time(run_of(tmp_path).tables) == {
        "m": OverTime([0], ["a"], [(0.5,)], "share"),
        "n": OverTime([7], ["w"], [(3e-9,)], "power"),
    }


def test_layers_that_join_later_are_not_known_before(tmp_path: Path) -> None:
    event_file(tmp_path, record(table({"m": [0.5]}, ["a"]), step=0))
    event_file(tmp_path, record(table({"m": [0.25, 1.0]}, ["a", "b"]), step=1))
    assert over_time(run_of(tmp_path).tables) == {
        "m": OverTime([0, 1], ["a", "b"], [(0.5, 0.25), (None, 1.0)], "share")
    }
