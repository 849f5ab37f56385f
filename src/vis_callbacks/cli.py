"""``vis-callbacks``: what runs have written, for a shell, a CI job and a colleague."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from vis_callbacks.alerts.alert import SEVERITIES, Alert
from vis_callbacks.alerts.log import FILE_NAME, alert_from_line, alert_to_line
from vis_callbacks.runs.growing_file import GrowingFile
from vis_callbacks.tags import tag

try:
    from vis_callbacks.html_report import MAX_RUNS, html_report
    from vis_callbacks.runs.health import number_text
    from vis_callbacks.runs.log_folder import find_runs, is_watched
    from vis_callbacks.runs.run import Run
    from vis_callbacks.tensorboard_tab.pages import image_type
except ModuleNotFoundError as missing:
    print(  # noqa: T201
        f"vis-callbacks: {missing}. Event files are read with TensorBoard, and nothing else is "
        "needed: pip install tensorboard",
        file=sys.stderr,
    )
    sys.exit(2)  # 1 would say that there are alerts

EVERY = 2.0  # seconds between two looks at a run that is followed


class UsageError(ValueError):
    """What was asked for cannot be done; the message says what to write."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    0: done. 1: ``--fail-on`` was met. 2: what was asked for cannot be done.
    """
    options = _parser().parse_args(arguments)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:  # a terminal that knows no such letter gets its code
        reconfigure(errors="backslashreplace")
    try:
        return int(options.command(options))
    except (UsageError, OSError) as error:
        print(f"vis-callbacks: {printable(str(error))}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vis-callbacks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="alerts | pictures | report")
    alerts = commands.add_parser(
        "alerts",
        help="print the alerts of runs",
        description="Prints the alerts below each folder, the oldest first. Exits with 1 if "
        "--fail-on is met, with 2 if a folder holds no run.",
    )
    alerts.add_argument("folders", nargs="+", type=Path, metavar="RUN_DIR")
    alerts.add_argument("--follow", action="store_true", help="go on with what is written next")
    alerts.add_argument("--json", action="store_true", help="the lines of alerts.jsonl, with run")
    alerts.add_argument("--remarks", action="store_true", help="also those of severity info")
    alerts.add_argument(
        "--fail-on",
        choices=SEVERITIES[1:],
        help="exit with 1 if one so grave or graver was raised, resolved or not; with --follow at "
        "once",
    )
    alerts.set_defaults(command=_alerts)
    pictures = commands.add_parser("pictures", help="write the pictures of a run as files")
    pictures.add_argument("folder", type=Path, metavar="RUN_DIR")
    pictures.add_argument("--out", type=Path, required=True, metavar="DIR")
    pictures.set_defaults(command=_pictures)
    report = commands.add_parser("report", help="write one page of HTML that needs no network")
    report.add_argument("folder", type=Path, metavar="RUN_DIR")
    report.add_argument("--out", type=Path, required=True, metavar="FILE")
    report.set_defaults(command=_report)
    return parser


# -- alerts


def _alerts(options: argparse.Namespace) -> int:
    followed: dict[Path, GrowingFile] = {}
    for folder in options.folders:
        if not options.follow:
            _require_watched(folder)
    worst, num_torn = -1, 0
    while True:
        for name, path in _alert_files(options.folders):
            for line in followed.setdefault(path, GrowingFile(path)).lines():
                try:
                    alert = alert_from_line(line)
                except ValueError:
                    num_torn += 1
                    continue
                if alert is None:
                    continue
                if alert.state == "firing":
                    worst = max(worst, SEVERITIES.index(alert.severity))
                if options.remarks or alert.severity != "info":
                    _print(_as_json(name, alert) if options.json else _as_text(name, alert))
        is_met = options.fail_on is not None and worst >= SEVERITIES.index(options.fail_on)
        if is_met or not options.follow:
            break
        time.sleep(EVERY)
    num_torn += sum(file.num_too_long for file in followed.values())
    if num_torn:
        print(f"vis-callbacks: {num_torn} lines are not alerts", file=sys.stderr)  # noqa: T201
    if worst < 1 and not options.json:
        _print("no alert")
    return int(is_met)


def _alert_files(folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    for folder in folders:
        for name, run in find_runs(folder):
            yield str(folder / name), run / FILE_NAME


def _as_json(run: str, alert: Alert) -> str:
    values = {"run": run} | json.loads(alert_to_line(alert))
    return json.dumps(values, allow_nan=False)


def _as_text(run: str, alert: Alert) -> str:
    state = "resolved" if alert.state == "resolved" else alert.severity
    since = "" if alert.since_step is None else f" (since step {alert.since_step})"
    evidence = ", ".join(f"{name} = {number_text(v)}" for name, v in alert.evidence.items())
    said = {
        "evidence": evidence,
        "could also be": "; ".join(alert.could_be),
        "remedy": alert.remedy if alert.state == "firing" else "",
    }
    lines = [f"{run}: step {alert.step}: {state}: {alert.kind}: {alert.message}{since}"]
    lines += [f"    {what}: {text}" for what, text in said.items() if text]
    return "\n".join(map(printable, lines))


def printable(text: str) -> str:
    r"""Returns the text without what could command a terminal: ``\x1b`` is written out."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def _print(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:  # `| head` has seen enough; the exit status is still of use
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# -- pictures, report


def _require_run(folder: Path) -> list[tuple[str, Path]]:
    """The runs below a folder, at least one."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give the log folder of a run")
    runs = list(find_runs(folder))
    if not runs:
        raise UsageError(
            f"{folder} holds no run: there is neither an event file nor {FILE_NAME}; give the "
            "folder that TensorBoard is started on"
        )
    return runs


def _require_watched(folder: Path) -> None:
    """Checks that "no alert" can be said of a run below the folder."""
    watched = [is_watched(run) for _, run in _require_run(folder)]
    if not any(watched):
        raise UsageError(
            f"no monitor of vis-callbacks has written into {folder}, so nothing is known of its "
            "alerts; add Trainer(callbacks=vis_callbacks.default_monitors())"
        )


def _pictures(options: argparse.Namespace) -> int:
    count = 0
    for name, folder in _require_run(options.folder):
        run = Run(folder, max_pictures=sys.maxsize)
        run.refresh()
        for problem in run.problems():
            print(f"vis-callbacks: {printable(problem)}", file=sys.stderr)  # noqa: T201
        for spelled, kept in run.pictures.items():
            for step in kept.steps():
                image = run.picture(spelled, step) or b""
                kind = image_type(image)
                if kind is not None:
                    file = f"step_{step:08d}.{kind.removeprefix('image/')}"
                    path = options.out / _inside(name, spelled) / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(image)
                    count += 1
    _print(f"{count} pictures are in {printable(str(options.out))}")
    return 0


def _inside(run: str, spelled: str) -> Path:
    """Folders of a run and a tag, which cannot lead out of the one they are in."""
    parts = [] if run == "." else run.split("/")
    return Path(*map(_safe, [*parts, *spelled.split("/")]))


def _safe(part: str) -> str:
    # A tag of ours is spelled safely already, and is not to be spelled twice.
    is_plain = part.strip(".") and all(letter.isalnum() or letter in "_.-" for letter in part)
    return part if is_plain and part.isascii() and len(part) <= 200 else tag(part)


def _report(options: argparse.Namespace) -> int:
    runs = _require_run(options.folder)
    text = html_report(runs[:MAX_RUNS])
    options.out.write_text(text, "utf-8")
    left = f"; {len(runs) - MAX_RUNS} further runs are left out" if len(runs) > MAX_RUNS else ""
    _print(f"{printable(str(options.out))} ({len(text) / 1e6:.1f} MB){left}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
