"""Pictures with outlined objects, drawn on the spot."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowdet.data.coco import OutlinedObject, Still

__all__ = ["rectangle", "still", "waves"]


def waves(size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """A smooth texture [h, w, 3] without any two like places."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.full((*size, 3), 128.0)
    for channel in range(3):
        for _ in range(6):
            along_x, along_y = rng.uniform(-0.2, 0.2, 2)
            image[..., channel] += 18 * np.sin(along_x * x + along_y * y + rng.uniform(0, 6))
    return image.round().clip(0, 255).astype(np.uint8)


def rectangle(x1: float, y1: float, x2: float, y2: float, *, label: int = 0) -> OutlinedObject:
    """An object with an upright rectangle as its outline."""
    return OutlinedObject(label, (np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32),))


def still(path: Path, image: NDArray[np.uint8], objects: Sequence[OutlinedObject]) -> Still:
    """Writes the picture without loss."""
    Image.fromarray(image).save(path)
    return Still(path, tuple(objects))
