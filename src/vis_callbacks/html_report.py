"""The page of the tab as one file that needs neither TensorBoard nor a network."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vis_callbacks.runs.health import as_plain
from vis_callbacks.runs.run import Run
from vis_callbacks.tensorboard_tab.pages import MODULES, image_type, static_file

MAX_RUNS = 10
# A mail takes some 20 MB; base64 makes three bytes four.
MAX_PICTURE_BYTES = 12_000_000

_SOURCE = """
const data = JSON.parse(document.getElementById("data").textContent);
show(document.getElementById("page"), {
  isLive: false,
  runs: async (filter) => {
    const runs = data.runs.filter((run) => run.name.toLowerCase().includes(filter.toLowerCase()));
    return { num_runs: runs.length, runs };
  },
  run: async (name) => data.of[name],
  picture: (run, tag) => data.images[run][tag],
});
const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.classList.toggle("dark", isDark);
"""


def html_report(runs: Sequence[tuple[str, Path]]) -> str:
    """Returns the page of some runs, with the latest picture of each tag.

    Args:
        runs: Names and folders.
    """
    data: dict[str, Any] = {"runs": [], "of": {}, "images": {}}
    words: list[str] = []
    budget = MAX_PICTURE_BYTES
    for name, folder in runs:
        run = Run(folder)
        run.refresh()
        plain = as_plain(run)
        images, budget = _latest_images(run, plain, budget)
        data["runs"].append({"name": name, "level": plain["level"]})
        data["of"][name] = plain
        data["images"][name] = images
        words += [f"{name}: {plain['verdict']}", *map(_in_words, plain["alerts"])]
    title = ", ".join(name for name, _ in runs)[:200]
    return _PAGE.format(
        title=html.escape(title),
        style=static_file("style.css"),
        words=html.escape("\n\n".join(words)),
        data=_within_script(data),
        script=_one_script() + _SOURCE,
    )


def _latest_images(run: Run, plain: dict[str, Any], budget: int) -> tuple[dict[str, str], int]:
    """The latest image by tag, as data: addresses, and what is left of the bytes."""
    images: dict[str, str] = {}
    kept: dict[str, Any] = {}
    for tag, picture in plain["pictures"].items():
        step = picture["steps"][-1]
        image = run.picture(tag, step) or b""
        kind = image_type(image)
        if kind and len(image) <= budget:
            budget -= len(image)
            images[tag] = f"data:{kind};base64,{base64.b64encode(image).decode()}"
            kept[tag] = picture | {"steps": [step]}
    if len(kept) < len(plain["pictures"]):
        left = len(plain["pictures"]) - len(kept)
        plain["problems"] = [*plain["problems"], f"{left} pictures are left out of this report."]
    plain["pictures"] = kept
    return images, budget


def _in_words(alert: dict[str, Any]) -> str:
    where = ", ".join(alert["layers"])
    return (
        f"{alert['severity']} ({alert['state']}), {alert['kind']}, since step {alert['since']}: "
        f"{alert['message']} {where} {alert['remedy']}"
    )


def _one_script() -> str:
    """The modules as one, since a page opened from disk may load none."""
    text = "\n".join(static_file(name) for name in MODULES)
    return re.sub(r"^(?:import .*|export (?=function|class|const))", "", text, flags=re.MULTILINE)


def _within_script(data: dict[str, Any]) -> str:
    """JSON in which nothing can end the script element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<div id="page"><pre>{words}</pre></div>
<script type="application/json" id="data">{data}</script>
<script type="module">
{script}
</script>
</body>
</html>
"""
