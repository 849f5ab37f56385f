"""The names under which a run's layers are shown: each layer keeps its own for the whole run."""

from __future__ import annotations

from itertools import count

from vis_callbacks.engine.capture import CapturedActivation, Site
from vis_callbacks.engine.layers import nth_call
from vis_callbacks.engine.probe import LayerInfo

_Key = tuple[Site, str]  # as a capture gives it


class LayerNames:
    """Gives each layer its name, and keeps what is known of it.

    Two calls from ``training_step`` may share a name and yet be different layers; the number of
    units tells. But a head that grows is the same layer with another number of units. So a
    number that is new takes the name over from one that this occasion has not met, and only a
    number that comes back after that has a name of its own.

    Attributes:
        trace: The layers in the order in which they were met, by name. What goes *into* a
            module is no layer and has the module's name.
    """

    def __init__(self) -> None:
        self.trace: dict[str, LayerInfo] = {}
        self._names: dict[_Key, dict[int, str]] = {}  # by number of units
        self._replaced: dict[_Key, set[int]] = {}
        self._met: dict[_Key, set[int]] = {}

    def start_occasion(self) -> None:
        """Begins another step or evaluation: within one, no name changes its layer."""
        self._met.clear()

    def note(self, captured: CapturedActivation) -> str:
        """Returns the layer's name, and puts one that is met for the first time into the trace."""
        key = (captured.site, captured.name)
        num_units = captured.values.shape[captured.unit_axis]
        names = self._names.setdefault(key, {})
        met = self._met.setdefault(key, set())
        if num_units not in names:
            self._name(key, num_units, names, met)
            if captured.site == "output":
                self._put_into_trace(names[num_units], captured, num_units)
        met.add(num_units)
        return names[num_units]

    def _name(self, key: _Key, num_units: int, names: dict[int, str], met: set[int]) -> None:
        replaced = self._replaced.setdefault(key, set())
        earlier = [other for other in names if other not in met]
        if earlier and num_units not in replaced:
            names[num_units] = names.pop(earlier[0])
            replaced.add(earlier[0])
            return
        taken = {*self.trace, *names.values()} if key[0] == "output" else {*names.values()}
        free = (nth_call(key[1], call) for call in count())
        names[num_units] = next(name for name in free if name not in taken)

    def _put_into_trace(self, name: str, captured: CapturedActivation, num_units: int) -> None:
        weighted = captured.weighted
        self.trace[name] = LayerInfo(
            name=name,
            kind=captured.kind,
            shape=tuple(captured.values.shape),
            num_units=num_units,
            weight_name=weighted.weight_name if weighted else None,
            is_gate=captured.is_gate,
            touches_input=bool(weighted and weighted.touches_input),
        )
