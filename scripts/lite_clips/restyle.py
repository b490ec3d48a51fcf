"""Drawings in other styles, so that a detector learns what they show rather than who drew them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from flowdet.errors import ConfigError

__all__ = ["RestyleConfig", "restyled"]

_OPAQUE = 128
_LARGEST_SIDE = 112


@dataclass(frozen=True, slots=True)
class RestyleConfig:
    """How often and how far drawings change their style.

    Attributes:
        bend: Largest shift of a knot of the 3x3 net that the drawing is stretched over, as a share of its sides.
        hue: Probability of other hues.
        flat: Probability that shades become a few flat colours.
        pale: Probability that colours fade, up to a line drawing.
        lines: Probability that the edges within the drawing become dark lines.
        outline: Probability of a line around it.
    """

    bend: float = 0.1
    hue: float = 0.4
    flat: float = 0.3
    pale: float = 0.15
    lines: float = 0.3
    outline: float = 0.4

    def __post_init__(self) -> None:
        for name in ("bend", "hue", "flat", "pale", "lines", "outline"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} of a restyled drawing is from 0 to 1, not {getattr(self, name)}")


def restyled(image: Image.Image, rng: np.random.Generator, config: RestyleConfig) -> Image.Image:
    """Returns a drawing in another style.

    Args:
        image: RGBA, transparent around the drawing.
        rng: Random number generator.
        config: How often and how far the drawing changes.

    Returns:
        RGBA, cropped to the drawing, with sides of at most about 112 px, which keeps this fast.
    """
    image = image.copy()
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    width = max(1, round(max(image.size) * rng.uniform(0.015, 0.05)))
    image = _bent(ImageOps.expand(image, width + 1, (0, 0, 0, 0)), rng, config.bend)
    colours, alpha = image.convert("RGB"), image.getchannel("A")
    # The order is that in which somebody would draw: colours, then lines over them.
    if rng.random() < config.hue:
        colours = _other_hues(colours, rng)
    if rng.random() < config.flat:
        colours = colours.filter(ImageFilter.MedianFilter(3)).quantize(int(rng.integers(3, 9))).convert("RGB")
    ink = tuple(int(value) for value in rng.integers(0, 70, 3))
    if rng.random() < config.pale:
        paper = Image.new("RGB", image.size, tuple(int(value) for value in rng.integers(200, 256, 3)))
        colours = Image.blend(colours, paper, rng.uniform(0.3, 0.9))
    if rng.random() < config.lines:
        colours.paste(ink, mask=_edges(image.convert("RGB"), width))
    if rng.random() < config.outline:
        drawn = colours
        colours = Image.new("RGB", image.size, ink)
        colours.paste(drawn, mask=alpha)
        alpha = alpha.filter(ImageFilter.MaxFilter(2 * width + 1))
    image = colours.copy()
    image.putalpha(alpha)
    return image.crop(alpha.point(lambda value: 255 * (value > _OPAQUE)).getbbox())


def _bent(image: Image.Image, rng: np.random.Generator, bend: float) -> Image.Image:
    """Stretches an image over a 3x3 net whose knots are shifted."""
    size = np.array(image.size)
    steps = (np.linspace(0, 1, 4)[:, None] * size).round()
    corners = steps.astype(int)
    knots = np.stack(np.meshgrid(steps[:, 0], steps[:, 1], indexing="ij"), axis=-1)
    source: NDArray[np.float64] = knots + rng.uniform(-bend, bend, (4, 4, 2)) * size
    mesh = [
        (
            (int(corners[i, 0]), int(corners[j, 1]), int(corners[i + 1, 0]), int(corners[j + 1, 1])),
            tuple(source[[i, i, i + 1, i + 1], [j, j + 1, j + 1, j]].flatten().tolist()),
        )
        for i in range(3)
        for j in range(3)
    ]
    return image.transform(image.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _other_hues(colours: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turns all hues by one angle, mostly a small one, and scales the saturation."""
    pixels = np.array(colours.convert("HSV"))
    reach = 128 if rng.random() < 0.25 else 20
    pixels[..., 0] += np.uint8(rng.integers(-reach, reach) % 256)
    pixels[..., 1] = (pixels[..., 1] * rng.uniform(0.3, 1.4)).clip(0, 255)
    return Image.fromarray(pixels, "HSV").convert("RGB")


def _edges(colours: Image.Image, width: int) -> Image.Image:
    """Returns a mask of the edges between colours, as thick as an outline."""
    edges = colours.filter(ImageFilter.GaussianBlur(1)).filter(ImageFilter.FIND_EDGES).convert("L")
    return edges.point(lambda value: 255 * (value > 40)).filter(ImageFilter.MaxFilter(2 * (width // 2) + 1))
