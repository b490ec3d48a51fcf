"""The maps inside a temporal method, cut and scaled to lie over the frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flowdet.types import Aggregation, FrameFeatures, Geometry, Propagation

__all__ = ["Panel", "panels_of", "spread"]

_Map = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Panel:
    """One frame of the window and how it took part; empty where there is no such frame.

    Attributes:
        label: How far it is from the current frame.
        flow: [2, h, w] (dx, dy) from the current frame to it, in pixels of the original image.
        weight: [h, w] its share in the features of the current frame.
    """

    label: str = ""
    flow: _Map | None = None
    weight: _Map | None = None


def panels_of(features: FrameFeatures, sides: tuple[int, int], size: tuple[int, int]) -> list[Panel]:
    """Panels for the current frame and those around it, from left to right.

    Args:
        features: Of one stream.
        sides: How many panels come before and after that of the current frame; the first is the key frame's of DFF.
        size: (height, width) of the maps.
    """
    match features.origin:
        case Aggregation():
            return _of_window(features, features.origin, sides, size)
        case Propagation(key_frame, flow):
            back = features.index - key_frame
            label = f"key frame, {back} back" if back else "this is the key frame"
            panel = Panel(label, _flow(flow[0], features.geometries[0], size) if flow is not None else None)
            return [panel, *[Panel()] * sum(sides)]
        case None:
            return [Panel()] * (1 + sum(sides))


def spread(offsets: Sequence[int], count: int) -> list[int]:
    """So many of these, evenly spread, with the first and the last; of several the nearest to 0 if it is to be one."""
    if len(offsets) <= count:
        return list(offsets)
    if count == 1:
        return [min(offsets, key=abs)]
    return [offsets[round(place)] for place in np.linspace(0, len(offsets) - 1, count)]


def _of_window(
    features: FrameFeatures, origin: Aggregation, sides: tuple[int, int], size: tuple[int, int]
) -> list[Panel]:
    geometry, (before, after) = features.geometries[0], sides
    places = {reference - features.index: place for place, reference in enumerate(origin.references)}
    own = origin.weights[0, 0]
    if 0 in places:  # the current frame fills slots of the window beside its own
        own = own + origin.weights[0, 1 + places[0]]

    def panel(offset: int) -> Panel:
        flow = None if origin.flows is None else _flow(origin.flows[0, places[offset]], geometry, size)
        return Panel(f"{offset:+d}", flow, _stretch(origin.weights[0, 1 + places[offset]], geometry, size))

    past = [panel(offset) for offset in spread([other for other in places if other < 0], before)]
    future = [panel(offset) for offset in spread([other for other in places if other > 0], after)]
    current = Panel("this frame", None, _stretch(own, geometry, size))
    return [*[Panel()] * (before - len(past)), *past, current, *future, *[Panel()] * (after - len(future))]


def _flow(flow: Tensor, geometry: Geometry, size: tuple[int, int]) -> _Map:
    """Flow [2, h, w] in feature cells as [2, height, width] in pixels of the original image."""
    cells = flow.shape[1:]
    scale_x, scale_y = geometry.scale
    dx = _stretch(flow[0], geometry, size) * (geometry.padded[1] / cells[1] / scale_x)
    dy = _stretch(flow[1], geometry, size) * (geometry.padded[0] / cells[0] / scale_y)
    return np.stack([dx, dy])


def _stretch(values: Tensor, geometry: Geometry, size: tuple[int, int]) -> _Map:
    """A map of feature cells [h, w], its padding cut off, at this (height, width)."""
    height, width = values.shape
    right = width * geometry.valid[1] / geometry.padded[1]
    bottom = height * geometry.valid[0] / geometry.padded[0]
    inside = values[: math.ceil(bottom), : math.ceil(right)].detach().float().cpu().numpy()
    picture = Image.fromarray(np.ascontiguousarray(inside))
    stretched = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=(0, 0, right, bottom))
    return cast("_Map", np.asarray(stretched))
