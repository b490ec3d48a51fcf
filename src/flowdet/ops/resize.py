"""Bilinear resizing of 8-bit images, bit for bit as the published systems were trained with."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["fit_size", "resize_bilinear"]

_COEFFICIENT_BITS = 11


def fit_size(size: tuple[int, int], long_side: int, short_side: int) -> tuple[int, int]:
    """Returns the largest (height, width) of the same shape within the two limits; no side is below 1."""
    factor = min(long_side / max(size), short_side / min(size))
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


def _taps(length: int, target: int, *, whole_at_border: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Left neighbour [target], right neighbour [target] and fixed-point weights [2, target] of the target pixels."""
    position = ((np.arange(target) + 0.5) * (1 / (target / length)) - 0.5).astype(np.float32)
    left: NDArray[np.int64] = np.floor(position).astype(np.int64)
    share = (position - left.astype(np.float32)).astype(np.float32)
    if whole_at_border:
        share[(left < 0) | (left >= length - 1)] = 0
    one = np.float32(1 << _COEFFICIENT_BITS)
    weights = np.stack((np.rint((1 - share) * one), np.rint(share * one))).astype(np.int32)
    neighbours = np.stack((left, left + 1)).clip(0, length - 1)
    return torch.from_numpy(neighbours[0]), torch.from_numpy(neighbours[1]), torch.from_numpy(weights)


def resize_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes as OpenCV's INTER_LINEAR does: 11-bit weights, rows first, no antialiasing.

    Args:
        image: [h, w, c] uint8.
        size: (height, width) of the result.

    Returns:
        [height, width, c] uint8.
    """
    if tuple(image.shape[:2]) == size:
        return image
    # OpenCV weighs columns beyond the border with 0 and 1, but rows with their shares, which rounds differently.
    x0, x1, wx = (taps.to(image.device) for taps in _taps(image.shape[1], size[1], whole_at_border=True))
    y0, y1, wy = (taps.to(image.device) for taps in _taps(image.shape[0], size[0], whole_at_border=False))
    used, rows = torch.cat((y0, y1)).unique(return_inverse=True)
    source = image.index_select(0, used).to(torch.int32)
    # In place, since each of these maps is as large as the image and four bytes a value.
    lines = source.index_select(1, x0).mul_(wx[0][:, None])
    lines += source.index_select(1, x1).mul_(wx[1][:, None])
    lines >>= 4
    upper = lines.index_select(0, rows[: size[0]]).mul_(wy[0][:, None, None])
    lower = lines.index_select(0, rows[size[0] :]).mul_(wy[1][:, None, None])
    upper >>= 16
    lower >>= 16
    upper += lower
    upper += 2
    upper >>= 2
    return upper.clamp_(0, 255).to(torch.uint8)
