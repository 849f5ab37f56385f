"""The door through which TensorBoard enters.

TensorBoard ends at once if this module cannot be imported, so it imports nothing but TensorBoard
itself. What fails behind it is shown in the tab.
"""

from __future__ import annotations

import json
import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from vis_callbacks.tensorboard_tab.pages import Pages

_log = logging.getLogger("vis_callbacks")


class HealthTab(base_plugin.TBPlugin):  # type: ignore[misc]
    """The plugin as TensorBoard knows it.

    What answers is imported with the first question, so that TensorBoard starts as fast as
    without it. Where it cannot be imported, or fails, the page says why.
    """

    plugin_name = "vis_callbacks"

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._context = context

    @cached_property
    def _pages(self) -> Pages | None:
        """What answers; None where it cannot be had, and `_answer` then says why."""
        try:
            from vis_callbacks.tensorboard_tab.pages import Pages

            return Pages.of(self._context)
        except Exception as error:  # noqa: BLE001 - the page is to say why
            _log.exception("The Health tab cannot be shown. TensorBoard goes on without it.")
            self._why = f"The Health tab of vis-callbacks cannot be shown: {error!r}."
            return None

    def get_plugin_apps(self) -> dict[str, Any]:
        """Returns what answers at which route."""
        return {"/*": Request.application(self._answer)}

    def is_active(self) -> bool:
        """Returns whether the tab stands in the bar and not in the list of inactive ones."""
        return self._pages is None or self._pages.has_runs()

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Returns how the page is loaded; it polls by itself."""
        return base_plugin.FrontendMetadata(
            es_module_path="/index.js", tab_name="Health", disable_reload=True
        )

    def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            refusal = {"error": "Only GET is answered here."}
            return respond(request, refusal, code=405, headers=[("Allow", "GET, HEAD")])
        if self._pages is None:
            return _page_that_says(request, self._why)
        try:
            return self._pages.answer(request, request.path.rpartition("/")[2])
        except Exception as error:  # noqa: BLE001 - the page is to say why
            _log.exception("The Health tab could not answer.")
            return respond(request, {"error": f"The server failed: {error!r}"}, code=500)


def respond(
    request: Request, content: Any, kind: str = "application/json", **options: Any
) -> Response:
    """Returns an answer with the headers that TensorBoard wants: no sniffing, no cache."""
    answer: Response = http_util.Respond(request, content, kind, **options)
    return answer


def _page_that_says(request: Request, text: str) -> Response:
    script = (
        "export function render() { document.body.style.font = '16px sans-serif'; "
        f"document.body.textContent = {json.dumps(text)}; }}"
    )
    return respond(request, script, "application/javascript")
