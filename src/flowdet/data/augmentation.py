"""Augmentation: random flips, zooms and colours of a training clip, the same for all its frames."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowdet.errors import ConfigError
from flowdet.inputs import resize_bilinear

__all__ = [
    "PUBLISHED_AUGMENTATION",
    "STRONGER_AUGMENTATION",
    "Augmentation",
    "ClipTransform",
    "draw_transform",
    "recoloured",
]

_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random transforms of a clip; the defaults are those of the published training.

    Attributes:
        flip: Probability of mirroring left and right.
        zoom: Range of the scale relative to detection, drawn log-uniformly: below 1 the whole frame gets smaller,
            above 1 a part of the frame is cut out and enlarged.
        colour: Largest relative change of brightness, contrast and saturation.
    """

    flip: float = 0.5
    zoom: tuple[float, float] = (1.0, 1.0)
    colour: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"the probability of a flip is from 0 to 1, not {self.flip}")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ConfigError(f"the zoom is a range above 0, its smaller end first, not {self.zoom}")
        if not 0 <= self.colour < 1:
            raise ConfigError(f"colours change by a share from 0 to below 1, not {self.colour}")


PUBLISHED_AUGMENTATION = Augmentation()
"""Only flips."""

STRONGER_AUGMENTATION = Augmentation(zoom=(0.7, 1.6), colour=0.25)
"""For small systems and small data sets, which overfit otherwise."""


@dataclass(frozen=True, slots=True)
class ClipTransform:
    """One draw of an augmentation, applied to all frames of a clip.

    Attributes:
        window: The part that is cut out, (x1, y1, x2, y2) whole px of the original image.
        size: (height, width) px that the window is resized to.
        flip: Whether it is mirrored after that.
        colour: Factors of brightness, contrast and saturation.
    """

    window: tuple[int, int, int, int]
    size: tuple[int, int]
    flip: bool = False
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def apply_to_image(self, image: NDArray[np.uint8]) -> Tensor:
        """Returns an original image [h, w, 3] as the network will see it, [*size, 3] uint8."""
        x1, y1, x2, y2 = self.window
        part = torch.from_numpy(np.require(image[y1:y2, x1:x2], requirements=("C", "W")))
        frame = resize_bilinear(part, self.size)
        frame = frame.flip(1) if self.flip else frame
        return frame if self.colour == (1.0, 1.0, 1.0) else recoloured(frame, *self.colour)

    def apply_to_boxes(self, boxes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Cuts boxes [n, 4] xyxy px of the original image to the window and moves them with the pixels.

        Returns:
            [k, 4] xyxy px of the resized frame, and a mask [n] of the boxes kept: those with their centre in the
            window.
        """
        corner = np.array(self.window[:2], np.float32)
        extent = np.array(self.window[2:], np.float32) - corner
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2 - corner
        kept: NDArray[np.bool_] = np.all((centres >= 0) & (centres <= extent), axis=1)
        seen = np.array(self.size[::-1], np.float32)
        moved = ((boxes[kept] - np.tile(corner, 2)) * np.tile(seen / extent, 2)).clip(0, np.tile(seen, 2))
        if self.flip:
            moved[:, [0, 2]] = self.size[1] - moved[:, [2, 0]]
        return moved, kept


def draw_transform(
    size: tuple[int, int],
    boxes: NDArray[np.float32],
    fitted: tuple[int, int],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> ClipTransform:
    """Draws the transform of a clip; a part that is cut out holds the centre of at least one box.

    Args:
        size: (height, width) of the original images.
        boxes: [n, 4] xyxy px of the current frame, n at least 1.
        fitted: (height, width) that a whole image is resized to for detection.
        augmentation: Ranges of the draw.
        rng: Random number generator.
    """
    flip = bool(rng.random() < augmentation.flip)
    zoom = float(np.exp(rng.uniform(*np.log(augmentation.zoom))))
    brightness, contrast, saturation = rng.uniform(1 - augmentation.colour, 1 + augmentation.colour, 3).tolist()
    height, width = (max(round(side / max(zoom, 1)), 1) for side in size)
    chosen = boxes[rng.integers(len(boxes))]
    x = _start(size[1], width, (chosen[0] + chosen[2]) / 2, rng)
    y = _start(size[0], height, (chosen[1] + chosen[3]) / 2, rng)
    seen = (max(round(fitted[0] * min(zoom, 1)), 1), max(round(fitted[1] * min(zoom, 1)), 1))
    return ClipTransform((x, y, x + width, y + height), seen, flip, (brightness, contrast, saturation))


def _start(length: int, part: int, inside: float, rng: np.random.Generator) -> int:
    """Draws where a part of a length begins so that it holds a point."""
    first = max(int(np.ceil(inside - part)), 0)
    last = min(int(inside), length - part)
    return int(rng.integers(first, last + 1))


def recoloured(frame: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Returns a frame [h, w, 3] uint8 with other brightness, contrast (about middle grey) and saturation."""
    pixels = frame.to(torch.float32)
    grey = (pixels * pixels.new_tensor(_GREY)).sum(dim=-1, keepdim=True)
    vivid = grey + (pixels - grey) * saturation
    return (((vivid - 128) * contrast + 128) * brightness).round().clamp(0, 255).to(torch.uint8)
