"""Flow and weights as colours."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["color_wheel", "flow_colors", "heat_bar", "heat_colors", "round_up"]

_Picture = NDArray[np.uint8]
_Map = NDArray[np.float32]

# The usual wheel (Baker et al., A Database and Evaluation Methodology for Optical Flow, 2007): its colours stand as far
# apart as the eye tells them, hence the uneven steps from red over yellow, green, cyan, blue and magenta back to red.
_CORNERS = np.array([(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)], np.float32)
_STEPS = np.cumsum((0, 15, 6, 4, 11, 13, 6)) / 55
# From dark and cold to bright and warm; the brightness rises evenly, so it is read without colours too.
_HEAT = np.array([(16, 12, 58), (98, 20, 120), (190, 50, 96), (240, 122, 40), (252, 246, 164)], np.float32)
_NICE = (1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0)
_FLOW_SHADE = 0.4
_HEAT_SHADE = 0.3


def round_up(value: float) -> float:
    """Returns the next of 1, 1.5, 2, 3, 5 and 7.5 times a power of ten: easy to read on a scale that seldom changes."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in _NICE if value <= power * step * (1 + 1e-6))


def flow_colors(flow: _Map, full: float, gray: _Map | None = None) -> _Picture:
    """Returns flow in the colours of a wheel: the direction is the hue, the length the saturation, no motion is white.

    Args:
        flow: [2, h, w] (dx, dy), pixels.
        full: The length from which the colour is full.
        gray: [h, w] brightness in [0, 1] of a picture that shines through; it changes neither hue nor saturation.

    Returns:
        [h, w, 3] uint8 RGB. Red leads to the right, yellow down, cyan left and violet up.
    """
    turn = np.arctan2(flow[1], flow[0]) / (2 * np.pi) % 1.0
    hue = np.stack([np.interp(turn, _STEPS, corner) for corner in _CORNERS.T], axis=-1)
    length = np.minimum(np.hypot(flow[0], flow[1]) / full, 1.0)[..., None]
    color = 1 - length * (1 - hue)
    if gray is not None:
        color = color * (1 - _FLOW_SHADE + _FLOW_SHADE * gray[..., None])
    return _bytes(255 * color)


def color_wheel(diameter: int, ground: tuple[int, int, int]) -> _Picture:
    """Returns a disc [diameter, diameter, 3] with the colour of each flow where it leads from the centre."""
    axis = (np.arange(diameter, dtype=np.float32) + 0.5) * (2 / diameter) - 1
    flow = np.stack(np.broadcast_arrays(axis[None], axis[:, None]))
    rim = (1 - np.hypot(flow[0], flow[1])) * (diameter / 2)
    share = np.clip(rim + 0.5, 0, 1)[..., None]
    return _bytes(share * flow_colors(flow, 1.0) + (1 - share) * np.array(ground))


def heat_colors(values: _Map, full: float, gray: _Map | None = None) -> _Picture:
    """Returns values from 0 (dark) to `full` (bright) as colours over a grey picture.

    Args:
        values: [h, w].
        full: The value of the last colour.
        gray: [h, w] brightness in [0, 1] of the picture that shines through.

    Returns:
        [h, w, 3] uint8 RGB.
    """
    places = np.linspace(0, 1, len(_HEAT))
    color = np.stack([np.interp(values / full, places, channel) for channel in _HEAT.T], axis=-1)
    if gray is not None:
        color = (1 - _HEAT_SHADE) * color + _HEAT_SHADE * 255 * gray[..., None]
    return _bytes(color)


def heat_bar(width: int, height: int) -> _Picture:
    """Returns the colours of `heat_colors` [height, width, 3] from 0 to full over a medium grey."""
    values = np.broadcast_to(np.linspace(0, 1, width, dtype=np.float32), (height, width))
    return heat_colors(values, 1.0, np.full((height, width), 0.5, np.float32))


def _bytes(color: NDArray[np.floating]) -> _Picture:
    picture: _Picture = np.clip(np.rint(color), 0, 255).astype(np.uint8)
    return picture
