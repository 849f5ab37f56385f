"""What the tab asks of the server: the page's own files, the runs, one run, one picture."""

from __future__ import annotations

import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from tensorboard.plugins.base_plugin import TBContext
from werkzeug.wrappers import Request, Response

from vis_callbacks.runs.health import as_plain, verdict_of_alerts
from vis_callbacks.runs.log_folder import LogFolder
from vis_callbacks.tensorboard_tab.plugin import respond

# In the order in which each may use what stands before it.
MODULES = ("dom.js", "scale.js", "chart.js", "heat_map.js", "run_panel.js", "page.js")
STATIC = {"index.js": "application/javascript", "style.css": "text/css"} | dict.fromkeys(
    MODULES, "application/javascript"
)
MAX_LISTED = 100
# How long an answer may read; the page shows how far it came and asks again.
SECONDS = 1.0
# By the first bytes. SVG is left out: it can hold scripts.
_IMAGE_TYPES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


def image_type(image: bytes) -> str | None:
    """Returns the media type of an encoded image; None if it is none that is shown."""
    return next((kind for start, kind in _IMAGE_TYPES.items() if image.startswith(start)), None)


def static_file(name: str) -> str:
    """Returns the text of one of the page's own files."""
    return files("vis_callbacks.tensorboard_tab").joinpath("static", name).read_text("utf-8")


class Pages:
    """Answers the requests of the tab.

    Args:
        folder: The runs that TensorBoard was started on.
    """

    def __init__(self, folder: LogFolder) -> None:
        self._folder = folder

    @classmethod
    def of(cls, context: TBContext) -> Pages:
        """Returns the pages for the log folder, or folders, that TensorBoard was started on.

        Raises:
            ValueError: The folder is not on this machine.
        """
        spec = getattr(context.flags, "logdir_spec", "") or ""
        parts = [part.partition(":") for part in spec.split(",") if part]
        roots = {name if path else "": path or name for name, _, path in parts}
        roots = roots or {"": str(context.logdir)}
        for path in roots.values():
            if "://" in path:
                raise ValueError(f"it reads folders of this machine, and the log folder is {path}")
        return cls(LogFolder({name: Path(path).expanduser() for name, path in roots.items()}))

    def answer(self, request: Request, route: str) -> Response:
        """Answers the request for a file, or with data."""
        if route in STATIC:
            return respond(request, static_file(route), STATIC[route])
        data = {"runs": self._runs, "run": self._run, "picture": self._picture}
        return data.get(route, _nothing_there)(request)

    def has_runs(self) -> bool:
        """Returns whether a monitor has written into any of the runs."""
        return any(map(self._folder.is_watched, self._folder.names()[:MAX_LISTED]))

    def _runs(self, request: Request) -> Response:
        """The runs whose name holds ``filter``, and what their alerts say."""
        wanted = request.args.get("filter", "").lower()
        names = [name for name in self._folder.names() if wanted in name.lower()]
        until = time.monotonic() + SECONDS
        listed = [self._entry(name, until) for name in names[:MAX_LISTED]]
        return _answer(request, {"num_runs": len(names), "runs": listed})

    def _entry(self, name: str, until: float) -> dict[str, str]:
        """The level is unknown while it is not read, and where no monitor has written."""
        alerts = self._folder.alerts(name)
        level = "unknown"
        if alerts is not None and time.monotonic() < until:
            alerts.refresh(until)
            if alerts.is_complete and self._folder.is_watched(name):
                level = verdict_of_alerts(alerts).level
        return {"name": name, "level": level}

    def _run(self, request: Request) -> Response:
        """All of one run but its pictures; little where the page has seen this version."""
        run = self._folder.run(request.args.get("run", ""))
        if run is None:
            return _unknown_run(request)
        with run.lock:
            run.refresh(SECONDS)
            if request.args.get("version") == run.version:
                return _answer(request, {"version": run.version, "is_unchanged": True})
            return _answer(request, as_plain(run))

    def _picture(self, request: Request) -> Response:
        """One encoded image, by run, tag and step."""
        run = self._folder.run(request.args.get("run", ""))
        if run is None:
            return _unknown_run(request)
        step = request.args.get("step", -1, type=int)
        tag = request.args.get("tag", "")
        image = run.picture(tag, step)
        if image is None:  # the run may have been forgotten since the page was shown
            run.refresh(SECONDS)
            image = run.picture(tag, step) or b""
        kind = image_type(image)
        if kind is None:
            return _answer(request, {"error": "There is no such picture."}, 404)
        return respond(request, image, kind, expires=3600)


def _nothing_there(request: Request) -> Response:
    return _answer(request, {"error": "There is nothing at this address."}, 404)


def _unknown_run(request: Request) -> Response:
    return _answer(request, {"error": "There is no run of this name."}, 404)


def _answer(request: Request, content: dict[str, Any], code: int = 200) -> Response:
    return respond(request, content, code=code)
