"""Detections drawn into a picture."""

from __future__ import annotations

import colorsys
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flowdet.types import Detections
from flowdet.video.labels import Color, font_of, write_label

__all__ = ["draw_detections"]

_GOLDEN_RATIO = 0.618034  # steps of it spread hues so that near labels differ most
_SMALLEST_TEXT = 11  # pixels; below it the default font cannot be read


def draw_detections(image: NDArray[np.uint8], detections: Detections) -> NDArray[np.uint8]:
    """Returns a copy of the picture with a labelled box for each detection, such as "car 0.93".

    A class has the same colour in every picture. Where boxes overlap, the one with the higher score is on top.

    Args:
        image: [h, w, 3] uint8 RGB; it is left as it is.
        detections: Their boxes are in pixels of this image; what lies outside of it is not drawn.

    Returns:
        [h, w, 3] uint8 RGB.
    """
    if not len(detections):
        return image.copy()
    height, width = image.shape[:2]
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    line = max(1, round(min(height, width) / 300))
    font = font_of(max(_SMALLEST_TEXT, round(min(height, width) / 36)))
    for index in np.argsort(detections.scores, kind="stable"):
        x1, y1, x2, y2 = detections.boxes[index]
        if not (x1 <= x2 and y1 <= y2 and x1 < width and y1 < height and x2 >= 0 and y2 >= 0):
            continue
        label = int(detections.labels[index])
        text = f"{detections.class_names[label]} {detections.scores[index]:.2f}"
        left, right = (round(float(np.clip(x, 0, width - 1))) for x in (x1, x2))
        top, bottom = (round(float(np.clip(y, 0, height - 1))) for y in (y1, y2))
        color = _color(label)
        pen.rectangle((left, top, right, bottom), outline=color, width=line)
        write_label(pen, font, text, color=color, corner=(left, top), size=canvas.size)
    return np.array(canvas)


@lru_cache(maxsize=256)
def _color(label: int) -> Color:
    """A bright colour of the class; near labels get distant hues."""
    hue = label * _GOLDEN_RATIO % 1.0
    value = 1.0 if label % 2 else 0.85
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.8, value)
    return round(255 * red), round(255 * green), round(255 * blue)
