"""Detections drawn into a picture, and text on pictures."""

from __future__ import annotations

import colorsys
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from anyascii import anyascii
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flowdet.types import Detections

__all__ = [
    "Color",
    "Font",
    "Trails",
    "draw_detections",
    "font_of",
    "label_size",
    "readable",
    "text_height",
    "write_label",
]

Color = tuple[int, int, int]
Trails = Mapping[int, Sequence[tuple[float, float]]]
"""Where tracks have been: by track id points (x, y) px, original image, oldest first."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_GOLDEN_RATIO = 0.618034  # steps of it spread hues so that near labels differ most
_SMALLEST_TEXT = 11  # pixels; below it the default font cannot be read
_ROWS_AWAY = 4  # how many labels a label may stand away from its box to find room
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
    """Returns a copy of the picture with a labelled box for each detection, such as "car  0.93" or "car #7  0.93".

    A class has the same colour in every picture, with track ids a track. Where boxes overlap, the one with the higher
    score is on top. A label stands above its box, or else inside, below, beside or further above, wherever it does not
    cover another label.

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
    labels: dict[int, _Label] = {}
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
        number = "" if ids is None else f" #{ids[index]}"
        labels[index] = _Label(
            f"{name}{number}  {detections.scores[index]:.2f}", font, color, (left, top, right, bottom)
        )
    # Scores change their order from frame to frame; in this one labels keep their places longer.
    order = np.lexsort((detections.boxes[:, 0], detections.labels)) if ids is None else np.argsort(ids, kind="stable")
    in_order = [index for index in order if index in labels]
    places = dict(zip(in_order, _places([labels[index] for index in in_order], canvas.size), strict=True))
    for index, written in labels.items():
        write_label(pen, written.font, written.text, color=written.color, corner=places[index])
    return np.array(canvas)


@dataclass(frozen=True, slots=True)
class _Label:
    """What is written, and the (left, top, right, bottom) of its box in pixels, all of them inside the picture."""

    text: str
    font: Font
    color: Color
    box: tuple[int, int, int, int]


def _places(labels: Sequence[_Label], size: tuple[int, int]) -> list[tuple[int, int]]:
    """The upper left corners of labels in a picture of this (width, height), each where it covers others least."""
    taken = np.zeros((len(labels), 4), np.int64)
    for number, label in enumerate(labels):
        corners = _corners(label.box, label_size(label.font, label.text), size)
        overlaps = np.minimum(corners[:, None, 2:], taken[:number, 2:]) - np.maximum(
            corners[:, None, :2], taken[:number, :2]
        )
        covered = overlaps.clip(0).prod(axis=2).sum(axis=1)
        taken[number] = corners[covered.argmin()]
    return [(int(left), int(top)) for left, top in taken[:, :2]]


def _corners(box: tuple[int, int, int, int], label: tuple[int, int], size: tuple[int, int]) -> NDArray[np.int64]:
    """Where a label of this (width, height) may stand: [n, 4] left, top, right, bottom, the best first."""
    left, top, right, bottom = box
    width, height = label
    start, end, over, under = left, right + 1 - width, top - height, bottom + 1
    outside = [(start, over), (end, over), (start, under), (end, under), (right + 1, top), (start - width, top)]
    inside = [(start, top), (end, top), (start, under - height), (end, under - height)]
    # A label inside a small box would hide the object.
    near = outside + inside if under - top < 3 * height else outside[:1] + inside[:2] + outside[1:] + inside[2:]
    far = [(start, place) for row in range(1, _ROWS_AWAY + 1) for place in (over - row * height, under + row * height)]
    corners = np.array(near + far).clip(0, (max(0, size[0] - width), max(0, size[1] - height)))
    return np.hstack([corners, corners + label])


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


def label_size(font: Font, text: str) -> tuple[int, int]:
    """Returns the (width, height) in pixels of the ground that `write_label` writes on."""
    _, ascent, length, descent = _extent(font, text)
    margin = _margin(descent)
    return round(length) + 2 * margin, round(descent - ascent) + 2 * margin


def write_label(pen: ImageDraw.ImageDraw, font: Font, text: str, *, color: Color, corner: tuple[int, int]) -> None:
    """Writes on a coloured ground.

    Args:
        pen: Draws into the picture.
        font: Has all characters of the text.
        text: One line.
        color: The colour of the ground.
        corner: (x, y) of the upper left corner of the ground.
    """
    left, top = corner
    width, height = label_size(font, text)
    _, ascent, _, descent = _extent(font, text)
    margin = _margin(descent)
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=color)
    pen.text((left + margin, top + margin - ascent), text, font=font, fill=_ink_on(color))


@lru_cache(maxsize=1024)
def _extent(font: Font, text: str) -> tuple[float, float, float, float]:
    return font.getbbox(text)


def _margin(descent: float) -> int:
    return max(1, round(descent / 6))


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
