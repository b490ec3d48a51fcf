"""Detections drawn into a picture, and text on pictures."""

from __future__ import annotations

import colorsys
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache

import numpy as np
from anyascii import anyascii
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flowdet.types import Detections

__all__ = ["Color", "Font", "Trails", "draw_detections", "font_of", "readable", "text_height", "write_label"]

Color = tuple[int, int, int]
Trails = Mapping[int, Sequence[tuple[float, float]]]
"""Where tracks have been: by track id points (x, y) px, original image, oldest first."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_GOLDEN_RATIO = 0.618034  # steps of it spread hues so that near labels differ most
_SMALLEST_TEXT = 11  # pixels; below it the default font cannot be read
_NO_CHARACTER = "\uffff"  # no font has it: it is drawn as the box of a missing glyph
# Fonts of many alphabets that systems bring, where there is no fontconfig to ask.
_WIDE_FONTS = (
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "arial.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "msgothic.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "AppleSDGothicNeo.ttc",
)


def draw_detections(
    image: NDArray[np.uint8], detections: Detections, trails: Trails | None = None
) -> NDArray[np.uint8]:
    """Returns a copy of the picture with a labelled box for each detection, such as "car 0.93" or "car #7 0.93".

    A class has the same colour in every picture, with track ids a track. Where boxes overlap, the one with the higher
    score is on top.

    Args:
        image: [h, w, 3] uint8 RGB; it is left as it is.
        detections: Their boxes are in pixels of this image; what lies outside of it is not drawn.
        trails: Lines to draw below the boxes.

    Returns:
        [h, w, 3] uint8 RGB.
    """
    if not len(detections):
        return image.copy()
    height, width = image.shape[:2]
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    line = max(1, round(min(height, width) / 300))
    size = max(_SMALLEST_TEXT, round(min(height, width) / 36))
    for track, points in (trails or {}).items():
        pen.line(points, fill=_color(track), width=line, joint="curve")
    ids = detections.track_ids
    for index in np.argsort(detections.scores, kind="stable"):
        x1, y1, x2, y2 = detections.boxes[index]
        if not (x1 <= x2 and y1 <= y2 and x1 < width and y1 < height and x2 >= 0 and y2 >= 0):
            continue
        label = int(detections.labels[index])
        name, font = readable(detections.class_names[label], size)
        left, right = (round(float(np.clip(x, 0, width - 1))) for x in (x1, x2))
        top, bottom = (round(float(np.clip(y, 0, height - 1))) for y in (y1, y2))
        color = _color(label if ids is None else int(ids[index]))
        pen.rectangle((left, top, right, bottom), outline=color, width=line)
        number = "" if ids is None else f"#{ids[index]} "
        text = f"{name} {number}{detections.scores[index]:.2f}"
        write_label(pen, font, text, color=color, corner=(left, top), size=canvas.size)
    return np.array(canvas)


def font_of(size: int) -> Font:
    """Returns the font of captions, `size` pixels high; it has Latin letters only."""
    return _font(None, size)


@lru_cache(maxsize=1024)
def readable(name: str, size: int) -> tuple[str, Font]:
    """Returns a name of any alphabet, and a font that has all its characters.

    That is the default font or one of the system's; without one the name comes in Latin letters.

    Args:
        name: One line.
        size: Height of the font in pixels.
    """
    if _has_all(_font(None, size), name):
        return name, _font(None, size)
    for file in (*_fontconfig_fonts(name), *_WIDE_FONTS):
        with suppress(OSError):  # there is no such font
            if _has_all(_font(file, size), name):
                return name, _font(file, size)
    return anyascii(name) or "?", _font(None, size)


def text_height(font: Font) -> int:
    """Returns the pixels from the top of a capital to the foot of a descender."""
    _, ascent, _, descent = font.getbbox("Ag")
    return round(descent - ascent)


def write_label(
    pen: ImageDraw.ImageDraw, font: Font, text: str, *, color: Color, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    """Writes on a coloured ground above this corner of a box, or wherever next to it the picture has room.

    Args:
        pen: Draws into the picture.
        font: Has all characters of the text.
        text: One line.
        color: The colour of the ground.
        corner: (x, y) of the upper left corner of the box.
        size: (width, height) of the picture.
    """
    _, ascent, length, descent = font.getbbox(text)
    margin = max(1, round(descent / 6))
    width, height = round(length) + 2 * margin, round(descent - ascent) + 2 * margin
    left = max(0, min(corner[0], size[0] - width))
    top = corner[1] - height if corner[1] >= height else corner[1]
    top = max(0, min(top, size[1] - height))
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=color)
    pen.text((left + margin, top + margin - ascent), text, font=font, fill=_ink_on(color))


@lru_cache(maxsize=256)
def _color(label: int) -> Color:
    """A bright colour of the class or track; near numbers get distant hues."""
    hue = label * _GOLDEN_RATIO % 1.0
    value = 1.0 if label % 2 else 0.85
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.8, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _ink_on(ground: Color) -> Color:
    """Black or white, whichever is easier to read on this ground."""
    red, green, blue = ground
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else (255, 255, 255)


def _fontconfig_fonts(name: str) -> list[str]:
    """Files that fontconfig proposes for the characters of a name; none where it is not installed."""
    charset = " ".join(sorted({f"{ord(character):x}" for character in name}))
    try:
        done = subprocess.run(
            ["fc-match", "-s", "-f", "%{file}\n", f":charset={charset}"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [file for file in done.stdout.splitlines()[:3] if file.lower().endswith((".ttf", ".otf", ".ttc"))]


@lru_cache(maxsize=64)
def _font(file: str | None, size: int) -> Font:
    return ImageFont.load_default(size=size) if file is None else ImageFont.truetype(file, size)


def _has_all(font: Font, text: str) -> bool:
    missing = bytes(font.getmask(_NO_CHARACTER))
    return all(character == " " or bytes(font.getmask(character)) != missing for character in set(text))
