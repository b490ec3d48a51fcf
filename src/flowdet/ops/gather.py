"""Bilinear sampling as weighted sums of cells, which is fast where a map's channels lie side by side in memory."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["taps", "weighted_cells"]


def taps(positions: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The two cells between which each position lies, the border carried on.

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
    """Sums of k cells of feature maps.

    Args:
        maps: [b, c, h, w]; copied unless the channels lie side by side (`torch.channels_last`).
        cells: [n, k] int64, positions in b * h * w.
        shares: [n, k], factors of the cells.

    Returns:
        [n, c].
    """
    # Of a single map in the usual order the rows would be a view, which is summed by another code, eight times slower.
    rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).contiguous()
    return F.embedding_bag(cells, rows, mode="sum", per_sample_weights=shares)
