"""Renews the pictures of the Health tab in the documentation.

python -m tests.system.health_screenshots demo_runs docs/images/health
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.system.tensorboard_page import HealthPage, browser_page, chromium_or_skip, served


def main(logdir: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with served(logdir) as address, browser_page(chromium_or_skip()) as page:
        tab = HealthPage(page, address)
        page.set_viewport_size({"width": 1280, "height": 1250})
        frame = tab.open_within_tensorboard()
        frame.locator(".card button.layer").first.click()
        frame.locator(".thumb img").last.evaluate("image => image.decode()")
        frame.locator("canvas").hover(position={"x": 400, "y": 30})
        tab.screenshot(folder / "one_run.png")
        page.evaluate("document.body.classList.add('dark-mode')")
        frame.get_by_label("show healthy beside").click()
        panel = frame.get_by_label("run healthy", exact=True)
        panel.locator(".thumb img").last.evaluate("image => image.decode()")
        page.set_viewport_size({"width": 1280, "height": 1500})
        tab.screenshot(folder / "two_runs_dark.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
