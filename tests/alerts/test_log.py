from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.alerts.reading import read_alerts

from vis_callbacks.alerts.alert import Alert
from vis_callbacks.alerts.log import (
    SCHEMA,
    VERSION,
    alert_from_line,
    alert_to_line,
    append_alerts,
    header_line,
)

ALERT = Alert(
    kind="dying_units",
    severity="warning",
    state="firing",
    step=60,
    epoch=2,
    stage="fit",
    message="Units are dying.",
    layers=("fc1", "fc2"),
    since_step=15,
    evidence={"newly_dead": 0.5, "snapshots_running": 3, "layer": "fc1"},
    sample_size=160,
    could_be=("weight decay",),
    remedy="Restart.",
    monitor="ActivationMonitor",
)

_PLAIN = st.one_of(st.integers(), st.floats(allow_nan=False), st.text())


@given(
    message=st.text(),
    layers=st.lists(st.text(), max_size=3),
    evidence=st.dictionaries(st.text(), _PLAIN, max_size=4),
    since=st.none() | st.integers(0),
)
def test_any_alert_comes_back_from_its_line(
    message: str, layers: list[str], evidence: dict[str, float | str], since: int | None
) -> None:
    alert = replace(
        ALERT, message=message, layers=tuple(layers), evidence=evidence, since_step=since
    )
    line = alert_to_line(alert)
    assert line.count("\n") == 1
    assert alert_from_line(line.encode()) == alert


def test_numbers_that_json_lacks_become_null_and_are_named() -> None:
    alert = replace(ALERT, evidence={"a/b": math.nan, "up": math.inf, "down": -math.inf, "n": 1.0})
    line = alert_to_line(alert)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    values = json.loads(line, parse_constant=refuse)
    assert values["evidence"] == {"a/b": None, "up": None, "down": None, "n": 1.0}
    assert values["not_finite"] == {
        "evidence/a/b": "nan",
        "evidence/up": "inf",
        "evidence/down": "-inf",
    }
    back = alert_from_line(line.encode()).evidence  # type: ignore[union-attr]
    assert math.isnan(back["a/b"])  # type: ignore[arg-type]
    assert (back["up"], back["down"]) == (math.inf, -math.inf)


def test_numpy_numbers_are_written_as_plain_ones() -> None:
    import numpy as np

    alert = replace(ALERT, evidence={"share": np.float32(0.5), "count": np.int64(3)})
    assert json.loads(alert_to_line(alert))["evidence"] == {"share": 0.5, "count": 3}


def test_a_new_file_begins_with_its_header(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "alerts.jsonl"
    append_alerts(path, ALERT)
    append_alerts(path, ALERT)
    lines = path.read_text().splitlines(keepends=True)
    assert lines == [header_line(), alert_to_line(ALERT), alert_to_line(ALERT)]
    assert json.loads(lines[0]) == {"schema": SCHEMA, "version": VERSION}
    log = read_alerts(path)
    assert (log.alerts, log.num_torn, log.version) == ((ALERT, ALERT), 0, VERSION)


def test_a_torn_line_is_closed_before_the_next_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    line = alert_to_line(ALERT)
    path.write_text(header_line() + line + line[:12])
    later = replace(ALERT, step=99)
    append_alerts(path, later)
    log = read_alerts(path)
    assert log.alerts == (ALERT, later)
    assert log.num_torn == 1


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "null",
        "{}",
        '{"schema": "vis-callbacks/alerts"}',
        '{"kind": NaN}',
        "\x00\x00",
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_alert_is_passed_over_and_counted(tmp_path: Path, line: str) -> None:
    path = tmp_path / "alerts.jsonl"
    path.write_text(alert_to_line(ALERT) + line + "\n" + alert_to_line(ALERT))
    log = read_alerts(path)
    assert len(log.alerts) == 2
    assert log.num_torn == 1


def test_bytes_that_are_no_text_are_passed_over_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(b"\xff\xfe\x80\n" + alert_to_line(ALERT).encode())
    log = read_alerts(path)
    assert (len(log.alerts), log.num_torn) == (1, 1)


def test_fields_of_a_later_version_are_passed_over() -> None:
    values = json.loads(alert_to_line(ALERT)) | {"colour": "red"}
    assert alert_from_line(json.dumps(values).encode()) == ALERT


def test_a_full_disk_raises_and_leaves_every_whole_line_readable(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    append_alerts(path, ALERT)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, old[1]))
    try:
        with pytest.raises(OSError, match="large"):
            append_alerts(path, ALERT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    append_alerts(path, replace(ALERT, step=99))
    log = read_alerts(path)
    assert [alert.step for alert in log.alerts] == [60, 99]
    assert log.num_torn == 1


_WRITER = """
import sys
from pathlib import Path
from vis_callbacks.alerts.alert import Alert
from vis_callbacks.alerts.log import append_alerts
path, who, count, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for step in range(count):
    append_alerts(path, Alert(kind=who, severity="warning", state="firing", step=step, epoch=0,
                              stage="fit", message="x" * size))
"""


def writer(path: Path, who: str, count: int, size: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _WRITER, str(path), who, str(count), str(size)])


@pytest.mark.parametrize(("count", "size"), [(500, 50), (75, 20_000)])
def test_lines_of_four_processes_stay_whole(tmp_path: Path, count: int, size: int) -> None:
    path = tmp_path / "alerts.jsonl"
    writers = [writer(path, f"w{i}", count, size) for i in range(4)]
    assert [process.wait() for process in writers] == [0] * 4
    log = read_alerts(path)
    assert log.num_torn == 0
    for who in ("w0", "w1", "w2", "w3"):
        assert [a.step for a in log.alerts if a.kind == who] == list(range(count))


def test_a_kill_at_any_time_leaves_whole_lines_and_appending_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    for attempt in range(6):
        size = path.stat().st_size if path.exists() else 0
        process = writer(path, "w", 100_000, 5_000)
        while (not path.exists() or path.stat().st_size <= size) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(0.004 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert path.stat().st_size > size, "nothing was written before the kill"
        append_alerts(path, ALERT)
        log = read_alerts(path)
        assert log.alerts[-1] == ALERT
        assert log.num_torn <= attempt + 1


def test_the_log_needs_no_torch() -> None:
    code = "import sys, vis_callbacks.alerts.log; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
