"""Text on pictures."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageDraw, ImageFont

__all__ = ["Color", "Font", "font_of", "ink_on", "text_height", "write_label"]

Color = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@lru_cache(maxsize=16)
def font_of(size: int) -> Font:
    """The font of every picture, so many pixels high."""
    return ImageFont.load_default(size=size)


def text_height(font: Font) -> int:
    """Pixels from the top of a capital to the foot of a descender."""
    _, ascent, _, descent = font.getbbox("Ag")
    return round(descent - ascent)


def ink_on(ground: Color) -> Color:
    """Black or white, whichever is easier to read on this ground."""
    red, green, blue = ground
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else (255, 255, 255)


def write_label(
    pen: ImageDraw.ImageDraw, font: Font, text: str, *, color: Color, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    """Writes on a coloured ground above this corner of a box, or wherever next to it the picture has room.

    Args:
        pen: Of the picture.
        font: One of `font_of`.
        text: One line.
        color: Of the ground.
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
    pen.text((left + margin, top + margin - ascent), text, font=font, fill=ink_on(color))
