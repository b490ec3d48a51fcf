"""RoIAlign (Mask R-CNN, section 3), for CPUs in a form that uses all cores."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import ops

from flowdet.ops.gather import taps, weighted_cells

__all__ = ["roi_align"]

_SAMPLES = 2


def roi_align(features: Tensor, boxes: Sequence[Tensor], window: int, stride: int) -> Tensor:
    """Features of boxes, the mean of 2x2 samples in each of `window` x `window` bins.

    Args:
        features: [b, c, h, w].
        boxes: For each of the b images [k, 4] xyxy px.
        window: Bins along each side.
        stride: Pixels from one feature cell to the next.

    Returns:
        [n, c, window, window], n the number of boxes in all.
    """
    if features.device.type != "cpu" or torch.is_grad_enabled():
        pooled: Tensor = ops.roi_align(features, list(boxes), window, 1 / stride, _SAMPLES, aligned=True)
        return pooled
    batch, channels, height, width = features.shape
    counts = torch.tensor([len(of_image) for of_image in boxes])
    image = torch.arange(batch).repeat_interleave(counts)
    # Half a cell, as "aligned" means: a cell's value belongs to its centre.
    corners = torch.cat(list(boxes)) / stride - 0.5
    steps = (torch.arange(window * _SAMPLES) + 0.5) / (window * _SAMPLES)
    x, y = (corners[:, side, None] + (corners[:, side + 2] - corners[:, side])[:, None] * steps for side in (0, 1))
    (columns, x_shares), (rows, y_shares) = _taps(x, width, window), _taps(y, height, window)
    cells = (rows[:, :, None, :, None] + height * image[:, None, None, None, None]) * width
    cells = cells + columns[:, None, :, None, :]
    shares = y_shares[:, :, None, :, None] * x_shares[:, None, :, None, :]
    taken = (2 * _SAMPLES) ** 2
    summed = weighted_cells(features, cells.reshape(-1, taken), shares.reshape(-1, taken))
    return summed.view(-1, window, window, channels).permute(0, 3, 1, 2)


def _taps(positions: Tensor, length: int, window: int) -> tuple[Tensor, Tensor]:
    """The cells [n, window, k] that make up each bin along one side, and their shares."""
    cells, shares = taps(positions, length)
    # What lies more than a cell beyond the border counts as zero.
    seen = (positions >= -1) & (positions <= length)
    shares = shares * (seen / _SAMPLES)[..., None]
    return cells.unflatten(1, (window, _SAMPLES)).flatten(2), shares.unflatten(1, (window, _SAMPLES)).flatten(2)
