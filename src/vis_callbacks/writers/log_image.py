"""Pictures for a logger that takes them itself, such as Weights & Biases."""

from __future__ import annotations

from typing import Any

from vis_callbacks.writers.media import Media, Picture


class LogImageOutlet:
    """A logger that has ``log_image``, such as WandbLogger."""

    takes: tuple[type[Media], ...] = (Picture,)

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def write(self, media: Media, *, step: int, patience: float) -> None:
        """Hands one picture over."""
        if isinstance(media, Picture):
            captions = {"caption": [media.caption]} if media.caption else {}
            self._logger.log_image(key=media.tag, images=[media.pixels], step=step, **captions)
