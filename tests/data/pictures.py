"""Pictures drawn on the spot."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["waves"]


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
