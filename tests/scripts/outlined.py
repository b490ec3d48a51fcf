"""Pictures with outlined objects, drawn on the spot."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scripts.lite_clips.stills import OutlinedObject, Still

__all__ = ["rectangle", "still"]


def rectangle(x1: float, y1: float, x2: float, y2: float, *, label: int = 0) -> OutlinedObject:
    """An object with an upright rectangle as its outline."""
    return OutlinedObject(label, (np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32),))


def still(path: Path, image: NDArray[np.uint8], objects: Sequence[OutlinedObject]) -> Still:
    """Writes the picture without loss."""
    Image.fromarray(image).save(path)
    return Still(path, tuple(objects))
