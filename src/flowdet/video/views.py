"""What happens inside a temporal method, drawn with its frame: flow, aggregation weights, key frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flowdet.types import Detections, FrameFeatures, Propagation
from flowdet.video.colors import color_wheel, flow_colors, heat_bar, heat_colors, round_up
from flowdet.video.draw import draw_detections
from flowdet.video.labels import Color, font_of, text_height, write_label
from flowdet.video.panels import Panel, panels_of

__all__ = ["Part", "View", "draw_view"]

Part = Literal["flow", "weights", "key"]
"""Flow as colours, weights as heat maps, a mark on key frames."""

_Picture = NDArray[np.uint8]

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
class View:
    """What is drawn, and how far the window of the method reaches.

    Attributes:
        parts: What to show. Flow and weights get panels, one for a reference frame; of many, 6 that are spread evenly.
        past: Reference frames before the current one; 1 for DFF, whose key frame is the only one.
        future: Reference frames after it.
    """

    parts: frozenset[Part]
    past: int
    future: int

    @property
    def sides(self) -> tuple[int, int]:
        """How many panels stand before and after that of the current frame."""
        after = min(self.future, max(_MOST_PANELS // 2, _MOST_PANELS - self.past))
        return min(self.past, _MOST_PANELS - after), after

    def picture_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) of the picture that a frame of this (height, width) becomes."""
        layout = _Layout(self, size)
        return layout.height, layout.width


class _Layout:
    """Where everything stands in the picture of a frame of this (height, width), pixels."""

    def __init__(self, view: View, size: tuple[int, int]) -> None:
        rows: list[Part] = [part for part in ("flow", "weights") if part in view.parts]
        self.zoom = max(1, round(_SMALLEST / max(size) + 0.25)) if rows else 1
        self.frame = (self.zoom * size[0], self.zoom * size[1])
        self.width = self.frame[1]
        self.font = font_of(max(12, round(self.width / 60)))
        self.gap = max(3, self.width // 160)
        self.line = text_height(self.font) + 2 * self.gap
        before, after = view.sides
        self.current = before
        count = before + 1 + after
        cell = max(1, (self.width - (count + 1) * self.gap) // count)
        self.cell = (max(1, round(cell * size[0] / size[1])), cell)
        start = (self.width - count * cell - (count - 1) * self.gap) // 2
        self.columns = [start + number * (cell + self.gap) for number in range(count)]
        row = self.line + self.cell[0]
        self.rows = {part: self.frame[0] + number * row for number, part in enumerate(rows)}
        self.foot = self.frame[0] + len(rows) * row
        self.height = self.foot + (self.line if rows else 0)


def draw_view(image: _Picture, detections: Detections, features: FrameFeatures, view: View) -> _Picture:
    """Draws the detections of a frame and, below it, how its features came about.

    All panels of a row share one scale, which is written above them. The columns are the frames of the window, by
    their distance from the current one; where the window reaches beyond the video they stay empty.

    Args:
        image: [h, w, 3] uint8 RGB; it is left as it is.
        detections: In pixels of this image.
        features: Of this frame, of one stream.
        view: Suits the method that gave them.

    Returns:
        [H, W, 3] uint8 RGB of the view's `picture_size`; a small picture is enlarged if there are panels.
    """
    layout = _Layout(view, (image.shape[0], image.shape[1]))
    canvas = Image.new("RGB", (layout.width, layout.height), _GROUND)
    canvas.paste(_with_detections(image, detections, layout), (0, 0))
    if layout.rows:
        panels = panels_of(features, view.sides, layout.cell)
        gray = Image.fromarray(image).convert("L").resize((layout.cell[1], layout.cell[0]), Image.Resampling.BOX)
        shade = np.asarray(gray, np.float32) / np.float32(255)
        _write_labels(canvas, layout, panels)
        if "flow" in layout.rows:
            _draw_flow(canvas, layout, panels, shade)
        if "weights" in layout.rows:
            _draw_weights(canvas, layout, panels, shade)
    if "key" in view.parts and features.origin is not None:
        # A method that has key frames and aggregates does so on them.
        key_frame = features.origin.key_frame if isinstance(features.origin, Propagation) else features.index
        _mark_key_frame(canvas, layout, features.index - key_frame)
    return np.array(canvas)


def _with_detections(image: _Picture, detections: Detections, layout: _Layout) -> Image.Image:
    if layout.zoom == 1:
        return Image.fromarray(draw_detections(image, detections))
    large = Image.fromarray(image).resize((layout.frame[1], layout.frame[0]), Image.Resampling.BICUBIC)
    boxes = detections.boxes * np.float32(layout.zoom)
    return Image.fromarray(draw_detections(np.asarray(large), replace(detections, boxes=boxes)))


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
    full = round_up(float(max(np.percentile(weights, _HEAVY), 2 * np.mean(weights)))) if weights else 1.0
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
    """Writes above a row, and tells where the text has ended."""
    x = layout.columns[0] if left is None else left
    place = (x, layout.rows[part] + layout.line / 2)
    ImageDraw.Draw(canvas).text(place, text, font=layout.font, fill=_INK, anchor="lm")
    return x + round(layout.font.getlength(text)) + layout.gap


def _mark_key_frame(canvas: Image.Image, layout: _Layout, distance: int) -> None:
    """A frame around key frames, and a text on all: "key frame", "key frame + 4"."""
    pen = ImageDraw.Draw(canvas)
    height, width = layout.frame
    if not distance:
        pen.rectangle((0, 0, width - 1, height - 1), outline=_KEY, width=max(2, layout.gap))
    text = f"key frame + {distance}" if distance else "key frame"
    color = _EMPTY if distance else _KEY
    write_label(pen, layout.font, text, color=color, corner=(0, height), size=(width, height))
