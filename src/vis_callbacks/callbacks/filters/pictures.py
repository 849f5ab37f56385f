"""The pictures of a layer's filters: what is in them, and what their captions say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vis_callbacks.alerts import readings
from vis_callbacks.alerts.rules.filters import why_not_judged
from vis_callbacks.callbacks.filters.look import MEASURED, FilterLook
from vis_callbacks.render.filter_grid import (
    FilterPanel,
    Scaling,
    channels_note,
    filter_grid,
    filter_strip,
    percent,
)
from vis_callbacks.render.text import Picture
from vis_callbacks.report import Image, tag

Order = Literal["index", "norm"]

_FEW = 64  # filters that get a number beside their index


@dataclass(frozen=True, kw_only=True)
class FilterPictures:
    """Makes the pictures of a layer.

    Attributes:
        max_filters: The most filters in the grid, those with the largest norm.
        scale: See `filter_scales`.
        order: Of the filters.
    """

    max_filters: int
    scale: Scaling
    order: Order

    def of(self, look: FilterLook, step: int) -> tuple[Image, Image]:
        """Returns the grid beside what was learned, and the film strip."""
        return self._grid(look, step), self._strip(look, step)

    def _grid(self, look: FilterLook, step: int) -> Image:
        numbers = look.numbers
        unknown = torch.zeros_like(numbers.is_dead)
        return Image(
            tag=f"filters/{tag(look.layer.name)}",
            draw=partial(
                _draw_grid,
                caption=_Caption(
                    layer=look.layer.name,
                    step=step,
                    num_filters=look.num_filters,
                    known=dict(look.known),
                    has_verdicts=numbers.noise_like is not None,
                ),
                pictures=self,
            ),
            arrays={
                "filters": look.filters,
                "learned": look.split.learned,
                "learned_share": look.split.learned_share,
                "norms": numbers.norms,
                "rough": numbers.roughness,
                "noise_like": unknown if numbers.noise_like is None else numbers.noise_like,
                "is_dead": numbers.is_dead,
                "measured": look.measured,
            },
        )

    def _strip(self, look: FilterLook, step: int) -> Image:
        record = look.record
        places = record.strip_places
        return Image(
            tag=f"filters/over_time/{tag(look.layer.name)}",
            draw=partial(
                _draw_strip,
                layer=look.layer.name,
                steps=tuple(record.steps),
                num_filters=look.num_filters,
                first_step=record.first_step,
                pictures=self,
            ),
            arrays={
                "frames": torch.stack(record.frames),
                "norms": look.numbers.norms[places],
            },
        )


@dataclass(frozen=True, kw_only=True)
class _Caption:
    """What is known of a grid before its numbers have crossed to the host."""

    layer: str
    step: int
    num_filters: int
    known: Mapping[str, float]
    has_verdicts: bool


def _draw_grid(
    filters: NDArray[Any],
    learned: NDArray[Any],
    learned_share: NDArray[Any],
    norms: NDArray[Any],
    rough: NDArray[Any],
    noise_like: NDArray[np.bool_],
    is_dead: NDArray[np.bool_],
    measured: NDArray[Any],
    *,
    caption: _Caption,
    pictures: FilterPictures,
) -> Picture:
    numbers = dict(zip(MEASURED, map(float, measured), strict=True)) | dict(caption.known)
    shown = _chosen(norms, pictures)
    is_few = caption.has_verdicts and len(shown) <= _FEW
    labels = [f"{i} {_noise_label(rough[i])}" if is_few else f"{i}" for i in shown]
    shares = np.nan_to_num(learned_share[shown])
    panels = (
        FilterPanel(
            filters=filters[shown],
            title="the filters",
            labels=labels,
            framed=noise_like[shown] if caption.has_verdicts else None,
            crossed=is_dead[shown],
        ),
        FilterPanel(
            filters=learned[shown],
            title="what training added: "
            f"{percent(1 - numbers[readings.INHERITED_SHARE])} of the energy",
            labels=[_share_label(share) for share in shares],
            missing=shares == 0,
        ),
    )
    num_broken = int(np.count_nonzero(~np.isfinite(norms)))
    lines = _lines(caption, numbers, filters.shape, len(shown), pictures)
    lines.append(f"magenta: not finite ({num_broken} filters)" if num_broken else "")
    lines.append("hatched: nothing learned" if (shares == 0).any() else "")
    return filter_grid(panels, lines, scaling=pictures.scale)


def _chosen(norms: NDArray[Any], pictures: FilterPictures) -> NDArray[np.intp]:
    """Returns which filters are shown, in order: the largest; those not finite count as such."""
    by_norm = np.argsort(-np.nan_to_num(norms, nan=np.inf), kind="stable")
    chosen = by_norm[: pictures.max_filters]
    return chosen if pictures.order == "norm" else np.sort(chosen)


def _lines(
    caption: _Caption,
    numbers: Mapping[str, float],
    shape: Sequence[int],
    num_shown: int,
    pictures: FilterPictures,
) -> list[str]:
    """Returns the caption, the most important first."""
    size = "x".join(map(str, shape[2:]))
    left_out = caption.num_filters - num_shown
    which = f"{num_shown} of {caption.num_filters} filters" if left_out else f"{num_shown} filters"
    largest = f", the largest ones; {left_out} are left out" if left_out else ""
    scale = {"filter": "each filter has a scale of its own", "layer": "one scale for all"}
    return [
        f"{caption.layer}: {which} of {size}{largest}; step {caption.step:,}",
        *_noise_lines(caption, numbers),
        _learned_line(numbers),
        _decay_line(numbers),
        _odd_line(numbers),
        f"{channels_note(shape[1], len(shape) - 2)}; {scale[pictures.scale]}, up to the 99 % "
        "quantile",
    ]


def _noise_lines(caption: _Caption, numbers: Mapping[str, float]) -> list[str]:
    reason = why_not_judged(
        kernel_size=numbers[readings.KERNEL_SIZE],
        first_step=numbers[readings.FIRST_STEP],
        initial_roughness=numbers[readings.INITIAL_ROUGHNESS],
        roughness_error=numbers[readings.ROUGHNESS_ERROR],
        rate=numbers[readings.LEARNING_RATE],
        change=numbers[readings.FILTER_CHANGE],
        has_stepped=caption.step > numbers[readings.FIRST_STEP],
    )
    lines = [f"No verdict on noise: {reason}." if reason else ""]
    if numbers[readings.KERNEL_SIZE] <= 1:
        return lines
    noise = (
        f"noise {numbers[readings.FILTER_NOISE]:.2f} (white noise has 1, a constant 0); it was "
        f"{numbers[readings.INITIAL_ROUGHNESS]:.2f} at step {numbers[readings.FIRST_STEP]:,.0f}"
    )
    if caption.has_verdicts:
        count = round(numbers[readings.NOISE_LIKE] * numbers[readings.NUM_FILTERS])
        verdict = (
            f"orange frame: {count} that cannot be told from noise; healthy networks keep some"
            if count
            else "no filter is taken for noise"
        )
        return [*lines, noise, verdict]
    return [*lines, noise, "so small a filter alone cannot be told from noise: none is framed"]


def _learned_line(numbers: Mapping[str, float]) -> str:
    rough = numbers[readings.LEARNED_ROUGHNESS]
    change = numbers[readings.FILTER_CHANGE]
    line = f"moved by {percent(change)} of the norm since step {numbers[readings.FIRST_STEP]:,.0f}"
    if np.isfinite(rough):
        line += f"; noise of the learned part {rough:.2f}"
        if np.isfinite(numbers[readings.INPUT_ROUGHNESS]):
            line += f" (of the inputs {numbers[readings.INPUT_ROUGHNESS]:.2f})"
    return line


def _decay_line(numbers: Mapping[str, float]) -> str:
    left = numbers[readings.DECAY_LEFT]
    if not np.isfinite(left):
        return ""
    return f"weight decay alone has left {percent(left)} of the initial weights"


def _odd_line(numbers: Mapping[str, float]) -> str:
    words = {
        readings.DEAD_FILTERS: "near zero (crossed)",
        readings.DOMINATING_FILTERS: "far larger than the median",
        readings.DUPLICATED_FILTERS: "nearly equal to another one",
    }
    counts = {
        metric: round(numbers[metric] * numbers[readings.NUM_FILTERS])
        for metric in words
        if np.isfinite(numbers[metric])
    }
    return ", ".join(f"{count} {words[metric]}" for metric, count in counts.items() if count)


def _draw_strip(
    frames: NDArray[Any],
    norms: NDArray[Any],
    *,
    layer: str,
    steps: Sequence[int],
    num_filters: int,
    first_step: int,
    pictures: FilterPictures,
) -> Picture:
    if pictures.order == "norm":
        frames = frames[:, np.argsort(-np.nan_to_num(norms, nan=np.inf), kind="stable")]
    which = f"{frames.shape[1]} of {num_filters}" if frames.shape[1] < num_filters else "all"
    first = "the initial weights" if first_step == 0 else "the first ones that were seen"
    scale = {"filter": "a filter", "layer": "the layer"}[pictures.scale]
    lines = [
        f"{layer}: {which} filters over time; below each frame: what changed since the one before",
        f"step {first_step:,}: {first}; {scale} has one scale in all frames, its changes another",
        f"{channels_note(frames.shape[2], frames.ndim - 3)}; every filter stays at its place",
    ]
    return filter_strip(frames, steps, lines, scaling=pictures.scale)


def _noise_label(rough: float) -> str:
    """Returns a noise in three characters: ``".87"``, ``"1.1"``."""
    if not np.isfinite(rough):
        return "?"
    return f"{rough:.1f}" if rough > 0.995 else f"{rough:.2f}".removeprefix("0")


def _share_label(share: float) -> str:
    """Returns a share in few characters: ``"12 %"``, ``"<1 %"``."""
    return f"{100 * share:.0f} %" if share >= 0.01 or share == 0 else "<1 %"
