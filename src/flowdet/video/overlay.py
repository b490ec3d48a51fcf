"""What happens inside a temporal method, drawn with its frame: flow, aggregation weights, key frames, references."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from flowdet.types import Aggregation, Attention, Detections, FrameFeatures, Geometry, Propagation
from flowdet.video.colors import color_wheel, flow_colors, heat_bar, heat_colors, round_up
from flowdet.video.draw import Color, Trails, draw_detections, font_of, label_size, text_height, write_label

__all__ = ["STRIPS", "Crop", "Overlay", "Panel", "Part", "Strip", "draw_overlay", "panels_of", "spread"]

Part = Literal["flow", "weights", "key", "references"]
"""Flow as colours, weights as heat maps, a mark on key frames, what objects attend to in reference frames."""

STRIPS = 3
"""The number of objects whose references are drawn."""

_Picture = NDArray[np.uint8]
_Map = NDArray[np.float32]

_MOST_PANELS = 6
_SMALLEST = 960  # pixels; a smaller picture is enlarged, so that its panels can be seen
_GROUND: Color = (25, 25, 25)
_EMPTY: Color = (45, 45, 45)
_INK: Color = (235, 235, 235)
_KEY: Color = (255, 200, 0)
# Percentiles of flow lengths and of weights from which the colour is full: a few wild cells must not pale the others.
_LONG = 95
_HEAVY = 99


@dataclass(frozen=True)
class Overlay:
    """What is drawn, and how far the window of the method reaches.

    Attributes:
        parts: What to show. Flow and weights get a panel for each reference frame; of more than 6, for 6 of them. Each
            of the objects whose references are shown gets a row.
        past: The number of reference frames before the current one; 1 where a key frame is the only one.
        future: The number of reference frames after it.
    """

    parts: frozenset[Part]
    past: int
    future: int

    @property
    def sides(self) -> tuple[int, int]:
        """The number of panels before and after that of the current frame."""
        after = min(self.future, max(_MOST_PANELS // 2, _MOST_PANELS - self.past))
        return min(self.past, _MOST_PANELS - after), after

    def picture_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (height, width) of the picture that a frame of this (height, width) becomes."""
        layout = _Layout(self, size)
        return layout.height, layout.width


class _Layout:
    """Where everything stands in the picture of a frame of this (height, width), in pixels."""

    def __init__(self, overlay: Overlay, size: tuple[int, int]) -> None:
        rows: list[Part] = [part for part in ("flow", "weights") if part in overlay.parts]
        strips = STRIPS if "references" in overlay.parts else 0
        self.zoom = max(1, round(_SMALLEST / max(size) + 0.25)) if rows or strips else 1
        self.frame = (self.zoom * size[0], self.zoom * size[1])
        self.width = self.frame[1]
        self.font = font_of(max(12, round(self.width / 60)))
        self.gap = max(3, self.width // 160)
        self.line = text_height(self.font) + 2 * self.gap
        before, after = overlay.sides
        self.current = before
        count = before + 1 + after
        cell = max(1, (self.width - (count + 1) * self.gap) // count)
        self.cell = (max(1, round(cell * size[0] / size[1])), cell)
        start = (self.width - count * cell - (count - 1) * self.gap) // 2
        self.columns = [start + number * (cell + self.gap) for number in range(count)]
        row = self.line + self.cell[0]
        self.rows = {part: self.frame[0] + number * row for number, part in enumerate(rows)}
        self.foot = self.frame[0] + len(rows) * row
        head = self.foot + (self.line if rows else 0)
        self.strips = [head + self.line + number * row for number in range(strips)]
        self.height = head + (self.line + strips * row if strips else 0)


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


@dataclass(frozen=True, eq=False)
class Crop:
    """A part of a frame, [h, w, 3] uint8 RGB of at least one pixel, and what stands below it."""

    picture: _Picture
    label: str


Strip = Sequence[Crop]
"""An object, then the RoIs of reference frames that it attends to."""


def draw_overlay(
    image: _Picture,
    detections: Detections,
    features: FrameFeatures,
    overlay: Overlay,
    *,
    trails: Trails | None = None,
    strips: Sequence[Strip] = (),
) -> _Picture:
    """Draws the detections of a frame and, below it, how other frames took part in its features.

    All panels of a row share one scale, which is written above them. The columns are the frames of the window, by
    their distance from the current one; where the window reaches beyond the video they stay empty.

    Args:
        image: [h, w, 3] uint8 RGB; it is left as it is.
        detections: In pixels of this image.
        features: The features of this frame, of one stream.
        overlay: What to draw.
        trails: Lines to draw below the boxes.
        strips: Of at most `STRIPS` objects, if references are shown.

    Returns:
        [H, W, 3] uint8 RGB of the overlay's `picture_size`; a small picture is enlarged if there are panels.
    """
    layout = _Layout(overlay, (image.shape[0], image.shape[1]))
    canvas = Image.new("RGB", (layout.width, layout.height), _GROUND)
    since = _since_key_frame(features) if "key" in overlay.parts else None
    canvas.paste(_with_detections(image, detections, trails or {}, layout, has_edge=since == 0), (0, 0))
    if layout.rows:
        panels = panels_of(features, overlay.sides, layout.cell)
        gray = Image.fromarray(image).convert("L").resize((layout.cell[1], layout.cell[0]), Image.Resampling.BOX)
        shade = np.asarray(gray, np.float32) / np.float32(255)
        _write_labels(canvas, layout, panels)
        if "flow" in layout.rows:
            _draw_flow(canvas, layout, panels, shade)
        if "weights" in layout.rows:
            _draw_weights(canvas, layout, panels, shade)
    if layout.strips:
        _draw_strips(canvas, layout, strips)
    if since is not None:
        _write_since(canvas, layout, since)
    return np.array(canvas)


def _since_key_frame(features: FrameFeatures) -> int | None:
    """The number of frames since the last key frame; None of a method without."""
    match features.origin:
        case Propagation() as origin:
            return features.index - origin.key_frame
        case None:
            return None
    return 0  # a method that has key frames and aggregates does so on them


def _with_detections(
    image: _Picture, detections: Detections, trails: Trails, layout: _Layout, *, has_edge: bool
) -> Image.Image:
    zoom = layout.zoom
    if zoom != 1:
        large = Image.fromarray(image).resize((layout.frame[1], layout.frame[0]), Image.Resampling.BICUBIC)
        trails = {number: [(zoom * x, zoom * y) for x, y in points] for number, points in trails.items()}
        detections = replace(detections, boxes=detections.boxes * np.float32(zoom))
        image = np.asarray(large)
    if has_edge:  # below the boxes and their labels
        edged = Image.fromarray(image)
        corners = (0, 0, edged.width - 1, edged.height - 1)
        ImageDraw.Draw(edged).rectangle(corners, outline=_KEY, width=max(2, layout.gap))
        image = np.asarray(edged)
    return Image.fromarray(draw_detections(image, detections, trails))


def _write_labels(canvas: Image.Image, layout: _Layout, panels: Sequence[Panel]) -> None:
    pen = ImageDraw.Draw(canvas)
    for left, panel in zip(layout.columns, panels, strict=True):
        middle = (left + layout.cell[1] / 2, layout.foot + layout.line / 2)
        pen.text(middle, panel.label, font=layout.font, fill=_INK, anchor="mm")


def _draw_flow(canvas: Image.Image, layout: _Layout, panels: Sequence[Panel], gray: NDArray[np.float32]) -> None:
    lengths = [np.percentile(np.hypot(*panel.flow), _LONG) for panel in panels if panel.flow is not None]
    full = round_up(max(1.0, *lengths)) if lengths else 1.0
    pictures = [None if panel.flow is None else flow_colors(panel.flow, full, gray) for panel in panels]
    _draw_row(canvas, layout, "flow", pictures)
    diameter = round(min(0.8 * layout.cell[0], 0.8 * layout.cell[1], layout.width / 6))
    corner = (
        layout.columns[layout.current] + (layout.cell[1] - diameter) // 2,
        layout.rows["flow"] + layout.line + (layout.cell[0] - diameter) // 2,
    )
    canvas.paste(Image.fromarray(color_wheel(diameter, _EMPTY)), corner)
    scale = f": full colour from {full:g} px" if lengths else ""
    _write_caption(canvas, layout, "flow", f"flow from this frame to the other{scale}")


def _draw_weights(canvas: Image.Image, layout: _Layout, panels: Sequence[Panel], gray: NDArray[np.float32]) -> None:
    weights = [panel.weight for panel in panels if panel.weight is not None]
    # Equal shares get a colour from the lower half.
    full = min(round_up(float(max(np.percentile(weights, _HEAVY), 2 * np.mean(weights)))), 1.0) if weights else 1.0
    pictures = [None if panel.weight is None else heat_colors(panel.weight, full, gray) for panel in panels]
    _draw_row(canvas, layout, "weights", pictures)
    bar_at = _write_caption(canvas, layout, "weights", "weight of each frame, 0")
    bar = heat_bar(layout.cell[1], layout.line - 2 * layout.gap)
    canvas.paste(Image.fromarray(bar), (bar_at, layout.rows["weights"] + layout.gap))
    _write_caption(canvas, layout, "weights", f"{full:g} or more", bar_at + layout.cell[1] + layout.gap)


def _draw_row(canvas: Image.Image, layout: _Layout, part: Part, pictures: Sequence[_Picture | None]) -> None:
    top = layout.rows[part] + layout.line
    for left, picture in zip(layout.columns, pictures, strict=True):
        box = (left, top, left + layout.cell[1], top + layout.cell[0])
        canvas.paste(_EMPTY if picture is None else Image.fromarray(picture), box)


def _write_caption(canvas: Image.Image, layout: _Layout, part: Part, text: str, left: int | None = None) -> int:
    """Writes above a row; returns where the text ends."""
    x = layout.columns[0] if left is None else left
    place = (x, (layout.strips[0] - layout.line if part == "references" else layout.rows[part]) + layout.line / 2)
    ImageDraw.Draw(canvas).text(place, text, font=layout.font, fill=_INK, anchor="lm")
    return x + round(layout.font.getlength(text)) + layout.gap


def _draw_strips(canvas: Image.Image, layout: _Layout, strips: Sequence[Strip]) -> None:
    text = "what each object attends to most: number of the frame, share of its attention"
    _write_caption(canvas, layout, "references", text)
    pen = ImageDraw.Draw(canvas)
    height, width = layout.cell
    for top, strip in zip(layout.strips, strips, strict=False):
        for left, crop in zip(layout.columns, strip, strict=False):
            picture = ImageOps.contain(Image.fromarray(crop.picture), (width, height), Image.Resampling.BICUBIC)
            canvas.paste(_EMPTY, (left, top, left + width, top + height))
            canvas.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
            middle = (left + width / 2, top + height + layout.line / 2)
            pen.text(middle, crop.label, font=layout.font, fill=_INK, anchor="mm")


def _write_since(canvas: Image.Image, layout: _Layout, since: int) -> None:
    """A text on every frame: "key frame", "key frame + 4"."""
    text = f"key frame + {since}" if since else "key frame"
    top = max(0, layout.frame[0] - label_size(layout.font, text)[1])
    write_label(ImageDraw.Draw(canvas), layout.font, text, color=_EMPTY if since else _KEY, corner=(0, top))


def panels_of(features: FrameFeatures, sides: tuple[int, int], size: tuple[int, int]) -> list[Panel]:
    """Returns panels for the current frame and those around it, from left to right; a key frame comes first.

    Args:
        features: The features of one stream.
        sides: The number of panels before and after that of the current frame.
        size: (height, width) of the maps.
    """
    match features.origin:
        case Aggregation():
            return _of_window(features, features.origin, sides, size)
        case Propagation() as origin:
            back = features.index - origin.key_frame
            if back:
                panels = [Panel(f"key frame, {back} back", _carrying(features, origin.flow, size)), Panel()]
            else:
                panels = [Panel(), Panel("this is the key frame")]
            if sides[1] and origin.next_key_frame is not None:
                ahead = f"key frame, {origin.next_key_frame - features.index} ahead"
                panels.append(Panel(ahead, _carrying(features, origin.next_flow, size)))
            return [*panels, *[Panel()] * (1 + sum(sides) - len(panels))]
        case Attention() | None:
            return [Panel()] * (1 + sum(sides))


def spread(offsets: Sequence[int], count: int) -> list[int]:
    """Returns `count` of these, evenly spread, the first and the last among them; a single one is the nearest to 0."""
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


def _carrying(features: FrameFeatures, flow: Tensor | None, size: tuple[int, int]) -> _Map | None:
    """The flow [1, 2, h, w] along which maps were carried, if they were."""
    return None if flow is None else _flow(flow[0], features.geometries[0], size)


def _flow(flow: Tensor, geometry: Geometry, size: tuple[int, int]) -> _Map:
    """Flow [2, h, w] in its cells as [2, height, width] in pixels of the original image."""
    cells = flow.shape[1:]
    scale_x, scale_y = geometry.scale
    dx = _stretch(flow[0], geometry, size) * (geometry.padded[1] / cells[1] / scale_x)
    dy = _stretch(flow[1], geometry, size) * (geometry.padded[0] / cells[0] / scale_y)
    return np.stack([dx, dy])


def _stretch(values: Tensor, geometry: Geometry, size: tuple[int, int]) -> _Map:
    """A map of feature cells [h, w], without its padding, at this (height, width)."""
    height, width = values.shape
    right = width * geometry.valid[1] / geometry.padded[1]
    bottom = height * geometry.valid[0] / geometry.padded[0]
    inside = values[: math.ceil(bottom), : math.ceil(right)].detach().float().cpu().numpy()
    picture = Image.fromarray(np.ascontiguousarray(inside))
    stretched = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=(0, 0, right, bottom))
    return cast("_Map", np.asarray(stretched))
