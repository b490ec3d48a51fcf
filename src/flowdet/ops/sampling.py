"""Bilinear sampling of feature maps: warping along a flow, and RoIAlign; on CPUs all channels of a cell at once."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import ops

from flowdet.ops.devices import constant, full_precision

__all__ = ["WarpConvention", "resize_flow", "roi_align", "roi_taps", "taps", "warp", "warp_maps", "weighted_cells"]

WarpConvention = Literal["identity", "published"]
"""`identity`: zero flow changes nothing. `published`: zero flow shrinks the sampling positions by (n - 1) / n towards
the upper left corner, which the published weights were trained with."""


def warp(reference: Tensor, flow: Tensor, convention: WarpConvention) -> Tensor:
    """Moves the features of reference frames to where their content lies in the current frame.

    warped[y, x] = reference[y + dy, x + dx], bilinear, the border repeated beyond the map
    (Deep Feature Flow, section 3.2, equation 3).

    Args:
        reference: [b, c, h, w] features.
        flow: [b, 2, h, w] (dx, dy) from the current to the reference frame, in feature cells.
        convention: Which sampling grid, see `WarpConvention`.

    Returns:
        [b, c, h, w] features, of the type of the given ones; positions are float32 at least.
    """
    batch, _, height, width = reference.shape
    if flow.shape != (batch, 2, height, width):
        raise ValueError(f"flow for features {list(reference.shape)} is [b, 2, h, w], not {list(flow.shape)}")
    flow = full_precision(flow)
    x = flow[:, 0] + torch.arange(width, dtype=flow.dtype, device=flow.device)
    y = flow[:, 1] + torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    if flow.device.type == "cpu" and not torch.is_grad_enabled():
        return _warp_cells(reference, x, y, convention)
    grid = torch.stack((x / width, y / height), dim=-1) * 2 - 1
    if convention == "identity":
        grid = grid + constant((1 / width, 1 / height), grid.dtype, grid.device)
    corners = convention == "published"
    maps = reference.to(grid.dtype)
    warped = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=corners)
    return warped.to(reference.dtype)


def _warp_cells(reference: Tensor, x: Tensor, y: Tensor, convention: WarpConvention) -> Tensor:
    """As `warp`, with all channels of a cell at once, which is several times faster on a CPU."""
    batch, channels, height, width = reference.shape
    if convention == "published":
        x, y = x * ((width - 1) / width), y * ((height - 1) / height)
    (columns, x_shares), (rows, y_shares) = taps(x, width), taps(y, height)
    rows = rows + height * torch.arange(batch, device=rows.device)[:, None, None, None]
    cells = rows[..., :, None] * width + columns[..., None, :]
    shares = y_shares[..., :, None] * x_shares[..., None, :]
    warped = weighted_cells(reference, cells.reshape(-1, 4), shares.reshape(-1, 4))
    return warped.view(batch, height, width, channels).permute(0, 3, 1, 2)


def resize_flow(flow: Tensor, size: Sequence[int]) -> Tensor:
    """Returns the flow for maps at another stride.

    Args:
        flow: [b, 2, h, w] (dx, dy) in cells of its own grid.
        size: (height, width) of the maps.

    Returns:
        [b, 2, height, width] (dx, dy) in cells of the maps.
    """
    height, width = size
    if flow.shape[-2:] == (height, width):
        return flow
    factors = (width / flow.shape[-1], height / flow.shape[-2])
    scale = constant(factors, flow.dtype, flow.device)[:, None, None]
    return F.interpolate(flow, (height, width), mode="bilinear", align_corners=False) * scale


def warp_maps(maps: Sequence[Tensor], flow: Tensor, convention: WarpConvention) -> tuple[Tensor, ...]:
    """Warps maps [b, c_i, h_i, w_i] of several strides along one flow [b, 2, h, w], which is resized for each."""
    return tuple(warp(each, resize_flow(flow, each.shape[-2:]), convention) for each in maps)


def taps(positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Returns the two cells between which each position lies; beyond the map both are border cells.

    Args:
        positions: [...] in cells.
        length: Cells of the map along this side.

    Returns:
        Numbers [..., 2] int64 of the cells, and their shares [..., 2].
    """
    inside = positions.clamp(0, length - 1)
    lower = inside.floor()
    share = inside - lower
    neighbours = torch.stack((lower, (lower + 1).clamp(max=length - 1)), dim=-1)
    return neighbours.long(), torch.stack((1 - share, share), dim=-1)


def weighted_cells(maps: Tensor, cells: Tensor, shares: Tensor) -> Tensor:
    """Returns weighted sums of k cells of feature maps.

    Args:
        maps: [b, c, h, w]; copied unless the channels lie side by side (`torch.channels_last`).
        cells: [n, k] int64, positions in b * h * w.
        shares: [n, k], factors of the cells.

    Returns:
        [n, c].
    """
    # The rows of a single map in the usual order would be a view, which PyTorch sums eight times slower.
    rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).contiguous()
    return F.embedding_bag(cells, rows.to(shares.dtype), mode="sum", per_sample_weights=shares).to(maps.dtype)


_SAMPLES = 2


def roi_align(features: Tensor, boxes: Sequence[Tensor], window: int, stride: int) -> Tensor:
    """Returns the features of boxes: the mean of 2x2 samples in each of `window` x `window` bins.

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
    cells, shares = roi_taps(boxes, features.shape[2:], window, stride)
    return weighted_cells(features, cells, shares).view(-1, window, window, features.shape[1]).permute(0, 3, 1, 2)


def roi_taps(boxes: Sequence[Tensor], size: Sequence[int], window: int, stride: int) -> tuple[Tensor, Tensor]:
    """Returns the cells whose weighted sum `roi_align` is, for `weighted_cells`.

    Args:
        boxes: For each of b images [k, 4] xyxy px.
        size: (height, width) of the maps.
        window: Bins along each side.
        stride: Pixels from one feature cell to the next.

    Returns:
        Positions [n * window * window, 16] int64 in b * height * width, bins row by row, and their shares.
    """
    height, width = size
    counts = torch.tensor([len(of_image) for of_image in boxes], device=boxes[0].device)
    image = torch.arange(len(boxes), device=counts.device).repeat_interleave(counts)
    # Half a cell, as "aligned" means: a cell's value belongs to its centre.
    corners = torch.cat(list(boxes)) / stride - 0.5
    samples = torch.arange(window * _SAMPLES, dtype=corners.dtype, device=corners.device)
    steps = (samples + 0.5) / (window * _SAMPLES)
    x, y = (corners[:, side, None] + (corners[:, side + 2] - corners[:, side])[:, None] * steps for side in (0, 1))
    (columns, x_shares), (rows, y_shares) = _roi_taps(x, width, window), _roi_taps(y, height, window)
    cells = (rows[:, :, None, :, None] + height * image[:, None, None, None, None]) * width
    cells = cells + columns[:, None, :, None, :]
    shares = y_shares[:, :, None, :, None] * x_shares[:, None, :, None, :]
    taken = (2 * _SAMPLES) ** 2
    return cells.reshape(-1, taken), shares.reshape(-1, taken)


def _roi_taps(positions: Tensor, length: int, window: int) -> tuple[Tensor, Tensor]:
    """The cells [n, window, k] that make up each bin along one side, and their shares."""
    cells, shares = taps(positions, length)
    # What lies more than a cell beyond the border counts as zero.
    seen = (positions >= -1) & (positions <= length)
    shares = shares * (seen.to(shares.dtype) / _SAMPLES)[..., None]
    return cells.unflatten(1, (window, _SAMPLES)).flatten(2), shares.unflatten(1, (window, _SAMPLES)).flatten(2)
