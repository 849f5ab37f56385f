"""Pictures as PNG files, where no logger takes them."""

from __future__ import annotations

from pathlib import Path

from vis_callbacks.writers.budget import RESERVE_FOR_MEDIA, require_room
from vis_callbacks.writers.media import Media, Picture


class ImageFolderOutlet:
    """PNG files, ``<folder>/images/<tag>/step_<step>.png``."""

    takes: tuple[type[Media], ...] = (Picture,)

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "images"

    def write(self, media: Media, *, step: int, patience: float) -> None:
        """Writes one picture, whole or not at all."""
        if not isinstance(media, Picture):
            return
        folder = self._folder.joinpath(*media.tag.split("/"))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step_{step:08d}.png"
        require_room(path, len(media.png), RESERVE_FOR_MEDIA)
        unfinished = path.with_suffix(".part")
        try:
            unfinished.write_bytes(media.png)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
