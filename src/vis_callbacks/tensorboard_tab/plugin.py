"""The door through which TensorBoard enters.

TensorBoard ends at once if this module cannot be imported, so it imports nothing but TensorBoard
itself. What fails behind it is shown in the tab.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug.wrappers import Request, Response

App = Callable[[Request], Response]

_log = logging.getLogger("vis_callbacks")


class HealthLoader(base_plugin.TBLoader):  # type: ignore[misc]
    """Makes the tab, or one that says why it cannot be made."""

    def load(self, context: base_plugin.TBContext) -> HealthTab:
        """Returns the plugin for a TensorBoard that starts."""
        try:
            from vis_callbacks.tensorboard_tab.pages import Pages

            pages = Pages.of(context)
            return HealthTab(pages.apps(), pages.has_runs)
        except Exception as error:  # noqa: BLE001 - TensorBoard would start without the tab
            _log.exception("The Health tab cannot be shown. TensorBoard goes on without it.")
            said = f"The Health tab of vis-callbacks cannot be shown: {error!r}. "
            return HealthTab({"/index.js": _page_that_says(said)}, lambda: True)


class HealthTab(base_plugin.TBPlugin):  # type: ignore[misc]
    """The plugin as TensorBoard knows it.

    Args:
        apps: By route, what answers a request.
        is_active: Whether there is anything to show; TensorBoard asks every 30 seconds.
    """

    plugin_name = "vis_callbacks"

    def __init__(self, apps: Mapping[str, App], is_active: Callable[[], bool]) -> None:
        self._apps = apps
        self._is_active = is_active

    def get_plugin_apps(self) -> dict[str, Any]:
        """Returns what answers at which route."""
        return {route: Request.application(_contained(app)) for route, app in self._apps.items()}

    def is_active(self) -> bool:
        """Returns whether the tab stands in the bar and not in the list of inactive ones."""
        return self._is_active()

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Returns how the page is loaded; it polls by itself."""
        return base_plugin.FrontendMetadata(
            es_module_path="/index.js", tab_name="Health", disable_reload=True
        )


def _contained(app: App) -> App:
    """The app, which answers GET and HEAD alone, and with a sentence where it fails."""

    def answer(request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            refusal = {"error": "Only GET is answered here."}
            return respond(request, refusal, code=405, headers=[("Allow", "GET, HEAD")])
        try:
            return app(request)
        except Exception as error:  # noqa: BLE001 - the page is to say why
            _log.exception("The Health tab could not answer.")
            return respond(request, {"error": f"The server failed: {error!r}"}, code=500)

    return answer


def respond(
    request: Request, content: Any, kind: str = "application/json", **options: Any
) -> Response:
    """Returns an answer with the headers that TensorBoard wants: no sniffing, no cache."""
    answer: Response = http_util.Respond(request, content, kind, **options)
    return answer


def _page_that_says(text: str) -> App:
    script = (
        "export function render() { document.body.style.font = '16px sans-serif'; "
        f"document.body.textContent = {json.dumps(text)}; }}"
    )
    return lambda request: respond(request, script, "application/javascript")
