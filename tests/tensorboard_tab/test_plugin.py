"""The tab's server as TensorBoard calls it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.security_validator import SecurityValidatorMiddleware
from tensorboard.plugins.base_plugin import TBContext
from tests.runs.stand_ins import ALERT, NASTY, event_file, number, ours, picture, png, record, table
from werkzeug.test import Client, TestResponse

from vis_callbacks.alerts.log import append_alerts
from vis_callbacks.tensorboard_tab.pages import MAX_LISTED, MODULES, STATIC, static_file
from vis_callbacks.tensorboard_tab.plugin import HealthTab


def tab_on(folder: Path, logdir_spec: str = "") -> HealthTab:
    flags = SimpleNamespace(logdir_spec=logdir_spec)
    return HealthTab(TBContext(logdir=str(folder), flags=flags))


def client_of(tab: HealthTab) -> Client:
    return Client(SecurityValidatorMiddleware(tab.get_plugin_apps()["/*"]))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Two runs, one of them sick, and a secret beside the log folder."""
    logs = tmp_path / "logs"
    for name in ("healthy", "sick"):
        numbers = table({"dead_fraction": [0.5]}, ["fc.1"])
        values = (numbers, picture("maps/fc.1"), number("loss", 1.0))
        event_file(logs / name, record(*values, step=60))
    append_alerts(logs / "sick" / "alerts.jsonl", ALERT)
    event_file(tmp_path / "secret", record(picture("maps"), step=60))
    return logs


@pytest.fixture
def client(logs: Path) -> Client:
    return client_of(tab_on(logs))


def test_the_runs_are_listed_with_what_their_alerts_say(client: Client) -> None:
    assert client.get("/runs").json == {
        "num_runs": 2,
        "runs": [{"name": "healthy", "level": "quiet"}, {"name": "sick", "level": "warning"}],
    }
    assert client.get("/runs?filter=SICK").json["runs"] == [{"name": "sick", "level": "warning"}]


def test_a_run_is_sent_once_and_then_only_what_is_new(client: Client, logs: Path) -> None:
    run = client.get("/run?run=sick").json
    assert (run["level"], run["last_step"]) == ("warning", 60)
    assert run["metrics"]["dead_fraction"]["layers"] == ["fc.1"]
    again = f"/run?run=sick&version={run['version']}"
    assert client.get(again).json == {"version": run["version"], "is_unchanged": True}
    event_file(logs / "sick", record(number("loss", 0.5), step=70))
    assert client.get(again).json["last_step"] == 70


def test_a_picture_comes_as_it_was_written(client: Client) -> None:
    answer = client.get("/picture?run=sick&tag=maps/fc.1&step=60")
    assert (answer.data, answer.content_type) == (png(), "image/png")


def test_what_is_no_picture_is_not_sent(client: Client, logs: Path) -> None:
    svg = ours(b"1", "evil")
    svg.metadata.plugin_data.plugin_name = "images"
    svg.tensor.string_val.extend([b"1", b"<svg onload='alert(1)'/>"])
    event_file(logs / "sick", record(svg, step=61))
    client.get("/run?run=sick")
    assert client.get("/picture?run=sick&tag=evil&step=61").status_code == 404


UNKNOWN = ["", "../secret", "..%2fsecret", "%2e%2e/secret", "..%252fsecret", "/etc", "sick/../sick",
           "sick%00", ".", "healthy/.", "x" * 100_000, "a&run=sick", "%ff"]  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN, ids=lambda name: name[:20])
@pytest.mark.parametrize("route", ["/run?run=", "/picture?tag=maps&step=60&run="])
def test_a_run_that_is_not_there_is_not_found_and_nothing_is_opened(
    route: str, name: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.get("/runs")
    monkeypatch.setattr("os.open", lambda *_: pytest.fail("a file was opened"))
    answer = client.get(route + name)
    assert answer.status_code == 404
    assert answer.json == {"error": "There is no run of this name."}


@pytest.mark.parametrize("query", ["", "tag=maps/fc.1", "tag=maps/fc.1&step=x", "tag=x&step=60",
                                   "tag=maps/fc.1&step=61", "tag=maps/fc.1&step=1e99"])  # fmt: skip
def test_a_picture_that_is_not_there_is_not_found(query: str, client: Client) -> None:
    client.get("/run?run=sick")
    assert client.get(f"/picture?run=sick&{query}").status_code == 404


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch", "options"])
def test_only_reading_is_answered(method: str, client: Client) -> None:
    assert getattr(client, method)("/run?run=sick").status_code == 405


def test_the_headers_are_those_that_tensorboard_wants(client: Client) -> None:
    answers: list[TestResponse] = [client.get(f"/{name}") for name in STATIC]
    answers += [client.get(path) for path in ("/runs", "/run?run=sick", "/run?run=none")]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_long_list_of_runs_is_cut_and_counted(tmp_path: Path) -> None:
    for count in range(MAX_LISTED + 5):
        append_alerts(tmp_path / f"run{count}" / "alerts.jsonl", ALERT)
    listed = client_of(tab_on(tmp_path)).get("/runs").json
    assert (listed["num_runs"], len(listed["runs"])) == (MAX_LISTED + 5, MAX_LISTED)


def test_the_tab_is_active_once_a_monitor_has_written(tmp_path: Path, logs: Path) -> None:
    assert tab_on(logs).is_active()
    event_file(tmp_path / "plain", record(number("loss", 1.0), step=1))
    assert not tab_on(tmp_path / "plain").is_active()
    assert not tab_on(tmp_path / "missing").is_active()


def test_several_log_folders_are_read(logs: Path) -> None:
    client = client_of(tab_on(Path(), f"a:{logs / 'sick'},b:{logs}"))
    names = [run["name"] for run in client.get("/runs").json["runs"]]
    assert names == ["a", "b/healthy", "b/sick"]


def test_a_log_folder_elsewhere_is_explained(tmp_path: Path, caplog: Any) -> None:
    client = client_of(HealthTab(TBContext(logdir="gs://bucket/logs", flags=None)))
    assert "the log folder is gs://bucket/logs" in client.get("/index.js").text
    assert "cannot be shown" in caplog.text


@pytest.mark.contained
def test_a_fault_behind_the_door_is_shown_in_the_tab(
    logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vis_callbacks.tensorboard_tab.pages", None)
    tab = tab_on(logs)
    assert tab.is_active()
    script = client_of(tab).get("/index.js").text
    assert script.startswith("export function render()")
    assert "vis_callbacks.tensorboard_tab.pages" in script


@pytest.mark.contained
def test_a_fault_in_an_answer_is_one_sentence(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr("vis_callbacks.tensorboard_tab.pages.as_plain", fail)
    answer = client.get("/run?run=sick")
    assert answer.status_code == 500
    assert answer.json == {"error": "The server failed: RuntimeError('broken on purpose')"}


def test_neither_tab_nor_command_line_loads_what_training_needs() -> None:
    code = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in set(sys.argv[2:]):
            raise AssertionError(name)

sys.meta_path.insert(0, Refuse())
import vis_callbacks.cli
from types import SimpleNamespace
from tensorboard.plugins.base_plugin import TBContext
from vis_callbacks.tensorboard_tab.plugin import HealthTab
tab = HealthTab(TBContext(logdir=sys.argv[1], flags=SimpleNamespace(logdir_spec="")))
print(tab._pages)
"""
    heavy = ("torch", "lightning", "pytorch_lightning", "matplotlib", "sklearn", "numpy")
    command = [sys.executable, "-c", code, ".", *heavy]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "Pages object" in done.stdout) == (0, True), done.stderr


def test_the_page_never_makes_markup_of_text() -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
    for name in ("index.js", *MODULES):
        assert not re.search(forbidden, static_file(name)), name


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for name in STATIC:
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"]*", static_file(name))
        assert [a for a in addresses if "www.w3.org/2000/svg" not in a] == [], name


def test_the_door_imports_nothing_of_ours_before_it_is_asked() -> None:
    code = "import sys, vis_callbacks.tensorboard_tab.plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = [name for name in done.stdout.split() if name.startswith("vis_callbacks.")]
    assert ours == ["vis_callbacks.tensorboard_tab", "vis_callbacks.tensorboard_tab.plugin"]


def test_an_unknown_address_is_not_found(client: Client) -> None:
    for path in ("/", "/none", "/../cli.py", "/static/page.js/x"):
        assert client.get(path).status_code == 404


def test_names_of_a_run_stay_what_they_are(tmp_path: Path) -> None:
    event_file(tmp_path / NASTY.replace("/", ""), record(table({"m": [1.0]}, [NASTY]), step=1))
    client = client_of(tab_on(tmp_path))
    (listed,) = client.get("/runs").json["runs"]
    run = client.get("/run", query_string={"run": listed["name"]}).json
    assert run["metrics"]["m"]["layers"] == [NASTY]
