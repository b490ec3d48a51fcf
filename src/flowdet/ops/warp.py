"""Warping of feature maps along a flow (bilinear sampling)."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["WarpConvention", "warp"]

WarpConvention = Literal["identity", "published"]
"""`identity`: zero flow changes nothing. `published`: zero flow shrinks the sampling positions by (n - 1) / n towards
the upper left corner, which the published weights were trained with."""


def warp(reference: Tensor, flow: Tensor, convention: WarpConvention) -> Tensor:
    """Brings the features of reference frames to the place where their content stands in the current frame.

    warped[y, x] = reference[y + dy, x + dx], bilinear, the border repeated beyond the map
    (Deep Feature Flow, section 3.2, equation 3).

    Args:
        reference: [b, c, h, w] features.
        flow: [b, 2, h, w] (dx, dy) from the current to the reference frame, in feature cells.
        convention: Which sampling grid, see `WarpConvention`.

    Returns:
        [b, c, h, w] features.
    """
    batch, _, height, width = reference.shape
    if flow.shape != (batch, 2, height, width):
        raise ValueError(f"flow for features {list(reference.shape)} is [b, 2, h, w], not {list(flow.shape)}")
    x = flow[:, 0] + torch.arange(width, dtype=flow.dtype, device=flow.device)
    y = flow[:, 1] + torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    grid = torch.stack((x / width, y / height), dim=-1) * 2 - 1
    if convention == "published":
        return F.grid_sample(reference, grid, mode="bilinear", padding_mode="border", align_corners=True)
    half_cell = grid.new_tensor([1 / width, 1 / height])
    return F.grid_sample(reference, grid + half_cell, mode="bilinear", padding_mode="border", align_corners=False)
