"""A real TensorBoard in a real browser: what its user would see of a folder of runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Frame, Locator, Page

ROOT = Path(__file__).parents[2]

CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Both generations of TensorBoard's pages, seen from inside the page.
_TIME_SERIES_CARDS = """
cards => cards.map(card => {
  const image = card.querySelector('img');
  const run = card.querySelector('card-run-name');
  return {
    tag: card.querySelector('tb-truncated-path').getAttribute('title'),
    run: run ? run.textContent.trim() : '',
    width: image ? image.naturalWidth : 0,
    height: image ? image.naturalHeight : 0,
  };
})
"""
_IMAGE_CARDS = """
cards => cards.map(card => {
  const image = card.shadowRoot.querySelector('img');
  return {
    tag: card.tag,
    run: card.run,
    width: image ? image.naturalWidth : 0,
    height: image ? image.naturalHeight : 0,
  };
})
"""


@dataclass(frozen=True)
class Card:
    """One card as shown; the size is that of the picture itself, 0 where there is none."""

    tag: str
    run: str = ""
    width: int = 0
    height: int = 0
    text: str = ""


@dataclass
class TensorBoardPage:
    """The tabs of a running TensorBoard.

    Attributes:
        page: The browser's page.
        address: Where TensorBoard answers.
        complaints: Errors of the browser's console and uncaught exceptions so far.
    """

    page: Page
    address: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text) if message.type == "error" else None
            ),
        )

    def time_series(self) -> list[Card]:
        """Returns the cards of the Time Series tab, all groups unfolded."""
        self._open("timeseries", "metrics-card-group-toolbar")
        folded = self.page.locator("metrics-card-group-toolbar button").filter(
            has=self.page.locator('mat-icon[svgicon="expand_more_24px"]')
        )
        while folded.count():
            folded.first.click()
        self._wait_until_filled()
        self._wait_for_images("image-card")
        return self._cards("card-view", _TIME_SERIES_CARDS)

    def images(self) -> list[Card]:
        """Returns the cards of the Images tab, all groups unfolded."""
        self._open("images", "tf-category-paginated-view")
        self._unfold_categories()
        self._wait_for_images("tf-image-loader")
        return self._cards("tf-image-loader", _IMAGE_CARDS)

    def texts(self) -> list[Card]:
        """Returns the cards of the Text tab, all groups unfolded."""
        self._open("text", "tf-category-paginated-view")
        self._unfold_categories()
        cards = []
        self.page.locator("tf-text-loader").first.wait_for()
        for loader in self.page.locator("tf-text-loader").all():
            words = loader.locator(".text #markdown")
            words.filter(has_text=re.compile(r"\S")).first.wait_for()
            tag, run = loader.evaluate("loader => [loader.tag, loader.run]")
            text = "\n".join(words.all_inner_texts())
            cards.append(Card(tag=tag, run=run, text=text))
        return cards

    def screenshot(self, path: Path) -> None:
        """Writes what is shown as PNG."""
        # Playwright would write to a path from a thread of its own, and keep the thread.
        path.write_bytes(self.page.screenshot())

    def _open(self, tab: str, first_occurrence: str) -> None:
        self.page.goto("about:blank")  # another fragment alone would not load the page anew
        self.page.goto(f"{self.address}/#{tab}")
        self.page.locator(first_occurrence).first.wait_for(state="attached")

    def _unfold_categories(self) -> None:
        # The first one, of the tag filter's finds, is there but hidden.
        categories = self.page.locator("tf-category-paginated-view").filter(visible=True)
        categories.first.wait_for()
        for category in categories.all():
            if not category.evaluate("view => view.opened"):
                category.locator("button.heading").first.click()

    def _wait_until_filled(self) -> None:
        """Scrolls to each card: what is out of sight stays empty."""
        for card in self.page.locator("card-view").all():
            card.scroll_into_view_if_needed()
            card.locator("tb-truncated-path").wait_for()

    def _wait_for_images(self, cards: str) -> None:
        self.page.locator(cards).first.wait_for()
        for image in self.page.locator(f"{cards} img").all():
            image.scroll_into_view_if_needed()
            self.page.wait_for_function(
                "image => image.complete && image.naturalWidth > 0", arg=image.element_handle()
            )

    def _cards(self, cards: str, read: str) -> list[Card]:
        return [Card(**values) for values in self.page.locator(cards).evaluate_all(read)]


@dataclass
class HealthPage(TensorBoardPage):
    """The tab of this project."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # TensorBoard has no icon at this place, which a page of its own would ask for.
        self.page.route("**/favicon.ico", lambda route: route.fulfill(status=204))

    def open(self) -> Frame:
        """Loads the tab without the page around it, which takes long, and returns its frame."""
        self.page.goto(f"{self.address}/data/plugin_entry.html?name=vis_callbacks")
        return self._shown(self.page.main_frame)

    def open_within_tensorboard(self) -> Frame:
        """Loads TensorBoard at the tab and returns its frame."""
        with self.page.expect_event(
            "framenavigated", lambda frame: "name=vis_callbacks" in frame.url
        ) as found:
            self._open("vis_callbacks", "iframe")
        return self._shown(found.value)

    def _shown(self, frame: Frame) -> Frame:
        frame.locator(".verdict").first.wait_for()
        return frame

    def wait_until_loaded(self, image: Locator) -> None:
        """Waits until a picture is there."""
        image.evaluate("image => image.decode()")


def chromium_or_skip() -> str:
    """Returns the path of Chromium; without it the test is skipped, or fails where it must not."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        reason = "there is no chromium on the PATH"
        if os.environ.get("VIS_CALLBACKS_REQUIRE_BROWSER"):
            pytest.fail(f"{reason}, but VIS_CALLBACKS_REQUIRE_BROWSER is set")
        pytest.skip(reason)
    return path


@contextmanager
def served(logdir: Path, *arguments: str, paths: Sequence[Path] = ()) -> Iterator[str]:
    """Starts TensorBoard on a folder, yields its address and ends it.

    Args:
        logdir: The folder.
        arguments: Further ones of its command line.
        paths: Folders to import from before all others.
    """
    with tempfile.TemporaryDirectory() as folder:
        _write_entry_points(Path(folder))
        environment = _environment([*paths, Path(folder)])
        with started(logdir, *arguments, environment=environment) as address:
            yield address


def _write_entry_points(folder: Path) -> None:
    """Installs the tab as pyproject.toml has it, which may be newer than what is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = folder / f"vis_callbacks-{project['version']}.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in points.items())
        for group, points in project["entry-points"].items()
    ]
    info.joinpath("entry_points.txt").write_text("".join(lines))


@contextmanager
def started(
    logdir: Path,
    *arguments: str,
    environment: Mapping[str, str],
    python: Sequence[str] = (sys.executable,),
) -> Iterator[str]:
    """Starts TensorBoard as the Python and the environment have it; otherwise as `served`."""
    # TensorBoard takes port 0 as "any that is free" and prints which one it got.
    command = [*python, "-m", "tensorboard.main", "--logdir", str(logdir)]
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(environment),
    ) as process:
        try:
            address = _address(process)
            _wait_for_runs(process, address)
            yield address
        finally:
            process.terminate()
            process.communicate()


@contextmanager
def browser_page(executable: str) -> Iterator[Page]:
    """Yields a page of a headless Chromium, large enough that cards need no scrolling."""
    from playwright.sync_api import sync_playwright  # not everyone who runs tests has it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=list(CHROMIUM_ARGUMENTS), env=_environment()
        )
        try:
            page = browser.new_page(viewport={"width": 1600, "height": 2400})
            page.set_default_timeout(0)  # the test's own limit is enough
            yield page
        finally:
            browser.close()


def _address(process: subprocess.Popen[str]) -> str:
    lines: list[str] = []
    for line in process.stderr or ():
        lines.append(line)
        if "http://" in line and " at " in line:
            return "http://" + line.split("http://")[1].split("/")[0]
    raise RuntimeError("TensorBoard did not start: " + "".join(lines))


def _wait_for_runs(process: subprocess.Popen[str], address: str) -> None:
    """Waits until the data loader has found a run; before that the page shows an empty folder."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while process.poll() is None:
        try:
            with opener.open(f"{address}/data/runs") as answer:
                if answer.read().strip() != b"[]":
                    return
        except urllib.error.URLError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"TensorBoard at {address} ended before it had found a run.")


def _environment(paths: Sequence[Path] = ()) -> dict[str, str]:
    """Returns the environment without proxies: everything here is on this machine."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    searched = [*map(str, paths), str(ROOT / "src"), kept.get("PYTHONPATH", "")]
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, searched))}
