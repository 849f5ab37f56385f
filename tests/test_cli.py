from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.runs.stand_ins import (
    ALERT,
    CRITICAL,
    REMARK,
    RESOLVED,
    event_file,
    number,
    picture,
    png,
    record,
    table,
)

from vis_callbacks.alerts.log import append_alerts
from vis_callbacks.cli import main


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    logs = tmp_path / "logs"
    for name in ("healthy", "sick"):
        event_file(logs / name, record(table({"m": [0.5]}, ["fc.1"]), picture("maps"), step=60))
    append_alerts(logs / "sick" / "alerts.jsonl", REMARK, ALERT, RESOLVED)
    return logs


def test_alerts_are_told_in_full_and_remarks_only_if_asked_for(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["alerts", str(logs)]) == 0
    said = capsys.readouterr().out
    first = f"{logs}/sick: step 60: warning: dying_units: Units are dying. (since step 20)"
    assert said.splitlines()[0] == first
    for part in (": resolved: ", "newly_dead = 0.75", "an easy task", ALERT.remedy):
        assert part in said
    assert REMARK.kind not in said
    main(["alerts", str(logs), "--remarks"])
    assert REMARK.kind in capsys.readouterr().out


def test_json_is_strict_and_names_the_run(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append_alerts(logs / "sick" / "alerts.jsonl", replace(ALERT, evidence={"x": float("nan")}))
    main(["alerts", str(logs), "--json"])
    lines = [
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
        for line in capsys.readouterr().out.splitlines()
    ]
    assert [line["run"] for line in lines] == [str(logs / "sick")] * 3
    assert lines[0]["evidence"] == ALERT.evidence


@pytest.mark.parametrize(
    ("run", "severity", "status"),
    [
        ("sick", "warning", 1),
        ("sick", "critical", 0),
        ("healthy", "warning", 0),
        ("", "warning", 1),
    ],
)
def test_the_exit_status_tells_whether_an_alert_was_raised(
    run: str, severity: str, status: int, logs: Path
) -> None:
    assert main(["alerts", str(logs / run), "--fail-on", severity]) == status


def test_a_run_of_which_nothing_is_known_is_not_called_healthy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event_file(tmp_path / "plain", record(number("loss", 1.0), step=1))
    (tmp_path / "empty").mkdir()
    for name, why in {
        "plain": "no monitor of vis-callbacks has written",
        "empty": "holds no run",
        "missing": "is not a folder",
    }.items():
        assert main(["alerts", str(tmp_path / name), "--fail-on", "warning"]) == 2
        assert why in capsys.readouterr().err


def test_torn_lines_are_passed_over_and_counted(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (logs / "sick" / "alerts.jsonl").open("ab") as file:
        file.write(b'\xff\xfe{"kind": 3\n' + b"y" * 3_000_000 + b'\n{"kind": "half')
    assert main(["alerts", str(logs)]) == 0
    assert "2 lines are not alerts" in capsys.readouterr().err


def test_nothing_that_commands_a_terminal_is_printed(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J\r\x9b1m\u202e\x1b]8;;http://x\x07 \ud800"
    append_alerts(
        logs / "sick" / "alerts.jsonl",
        replace(ALERT, message=evil, remedy=evil, kind=evil, evidence={evil: evil}),
    )
    for arguments in ([], ["--json"]):
        main(["alerts", str(logs), *arguments])
        said = capsys.readouterr().out
        assert said.count("x1b[2J") + said.count("u001b[2J") >= 3
        assert all(letter.isprintable() or letter == "\n" for letter in said)


def test_following_goes_on_until_a_severity_is_met(logs: Path) -> None:
    command = [sys.executable, "-m", "vis_callbacks.cli", "alerts", str(logs), "--follow"]
    with subprocess.Popen(
        [*command, "--fail-on", "critical"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "warning: dying_units" in process.stdout.readline()
        append_alerts(logs / "new" / "alerts.jsonl", CRITICAL)
        said = process.stdout.read()
    assert process.returncode == 1
    assert f"{logs}/new: step 80: critical" in said


def test_a_reader_that_has_seen_enough_is_no_failure(logs: Path) -> None:
    command = f"{sys.executable} -m vis_callbacks.cli alerts {logs} --fail-on warning"
    script = f"({command}; echo $? >&2) | head -c 1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == "1"


def test_pictures_are_written_with_their_step(logs: Path, tmp_path: Path) -> None:
    event_file(logs / "sick", record(picture("maps/../../x y"), step=70))
    assert main(["pictures", str(logs), "--out", str(tmp_path / "out")]) == 0
    written = {str(path.relative_to(tmp_path)): path for path in tmp_path.glob("out/**/*.*")}
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.glob("out/**/*") if p.is_file()}
    assert files == {
        "out/healthy/maps/step_00000060.png",
        "out/sick/maps/step_00000060.png",
        "out/sick/maps/_x2e__x2e_/_x2e__x2e_/x_x20_y/step_00000070.png",
    }
    assert written["out/sick/maps/step_00000060.png"].read_bytes() == png()


def test_a_report_is_written(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.html"
    assert main(["report", str(logs / "sick"), "--out", str(out)]) == 0
    assert "MB" in capsys.readouterr().out
    assert "Units are dying." in out.read_text()


def test_a_place_that_cannot_be_written_to_is_told(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(logs), "--out", str(tmp_path / "none" / "report.html")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_without_tensorboard_it_says_what_to_install_and_not_that_there_are_alerts() -> None:
    code = "import sys; sys.modules['tensorboard'] = None; import vis_callbacks.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.match(r"vis-callbacks: .*tensorboard.*\. Event files are read with", done.stderr)
    assert done.stderr.endswith("pip install tensorboard\n")
    assert len(done.stderr.splitlines()) == 1
