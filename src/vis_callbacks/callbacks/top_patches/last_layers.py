"""Which layers `TopPatchesMonitor` shows where none are named."""

from __future__ import annotations

from torch import Tensor

_NUM_LAYERS = 2


class LastLayers:
    """The last two layers whose units have places, or else the last; found in a first batch.

    Which these are is known when the batch is over. Until then each layer that comes takes the
    place of an earlier one, whose patches are let go of.
    """

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._have_places = False
        self.is_settled = False

    @property
    def chosen(self) -> list[str]:
        """Their names so far."""
        return list(self._kept)

    def settle(self) -> None:
        """Keeps to what has been found, and lets go of the first batch's patches."""
        self._kept, self.is_settled = {name: {} for name in self._kept}, True

    def may_want(self, layer: str, *, has_places: bool) -> bool:
        """Whether the layer may be one of them."""
        if self.is_settled:
            return layer in self._kept
        return has_places or not self._have_places

    def keep(self, layer: str, found: dict[str, Tensor], *, has_places: bool) -> None:
        """Takes what was found of a layer that is wanted."""
        if self.is_settled:
            return
        count = _NUM_LAYERS - 1 if has_places and self._have_places else 0
        for name in list(self._kept)[: max(0, len(self._kept) - count)]:
            for value in self._kept.pop(name).values():
                value.set_()  # type: ignore[call-overload]  # the engine holds it, too
        self._kept[layer], self._have_places = found, has_places or self._have_places
