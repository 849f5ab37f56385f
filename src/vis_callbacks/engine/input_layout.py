"""Which axes of an input are places that lie beside each other: of time, an image or a volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from vis_callbacks.engine.scores import refused_inputs
from vis_callbacks.guard import NothingToShow

InputKind = Literal["signal", "image", "volume"]

_MOST_SIGNAL_CHANNELS = 4  # an image of so few rows would be none
_COLOURS = (1, 3)


@dataclass(frozen=True)
class InputLayout:
    """Brings inputs into the form (samples, channels, *places), and back.

    Attributes:
        kind: Whether there are one, two or three axes of places.
        channel_axis: None where there are no channels.
    """

    kind: InputKind
    channel_axis: int | None

    def arranged(self, inputs: Tensor) -> Tensor:
        """Returns (samples, channels, *places)."""
        if self.channel_axis is None:
            return inputs.unsqueeze(1)
        return inputs.movedim(self.channel_axis, 1)

    def restored(self, arranged: Tensor) -> Tensor:
        """Returns the inputs as the model takes them."""
        if self.channel_axis is None:
            return arranged.squeeze(1)
        return arranged.movedim(1, self.channel_axis)


def find_layout(inputs: Tensor, model: nn.Module) -> InputLayout:
    """Returns which axes of the inputs are places.

    Three axes are images without channels, unless the model has 1-D convolutions (samples,
    channels, time), a recurrent layer (samples, time, features), or the second axis is as short
    as that of channels. Of four and five axes channels come last, or after the frames, where
    only there one or three are found. Raises NothingToShow where there are no places, or where
    the inputs name things instead of measuring them.
    """
    is_measured = inputs.is_floating_point() or inputs.is_complex()
    why = ""
    if inputs.dim() < 2 or (inputs.dim() < 3 and is_measured):
        why = "whose features are not neighbours as pixels are"
    elif not is_measured and inputs.dim() < 4:  # a raw image has four axes
        why = "which are indices of tokens or categories, not quantities"
    elif inputs.dim() > 5:
        why = "with more axes than a volume or a video has"
    if why:
        raise NothingToShow(refused_inputs(inputs, why))
    if inputs.dim() == 3:
        return _of_three_axes(inputs, model)
    kind: InputKind = "image" if inputs.dim() == 4 else "volume"
    other = 3 if inputs.dim() == 4 else 2
    is_other = inputs.shape[1] not in _COLOURS and inputs.shape[other] in _COLOURS
    return InputLayout(kind, other if is_other else 1)


def _of_three_axes(inputs: Tensor, model: nn.Module) -> InputLayout:
    modules = list(model.modules())
    if any(isinstance(module, nn.Conv1d) for module in modules):
        return InputLayout("signal", 1)
    if any(isinstance(module, nn.RNNBase) for module in modules):
        return InputLayout("signal", 2)
    if inputs.shape[1] <= _MOST_SIGNAL_CHANNELS < inputs.shape[2]:
        return InputLayout("signal", 1)
    return InputLayout("image", None)
