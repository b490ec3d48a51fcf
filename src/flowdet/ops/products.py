"""Convolutions as one matrix product: on maps of few cells, reordering the weights for the usual way takes longer."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["conv_by_product", "transposed_conv_by_product"]


def conv_by_product(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """A convolution with a square kernel.

    Args:
        x: [b, ci, h, w], best with the channels side by side in memory.
        weight: [co, ci, k, k], best with the channels side by side too: then nothing is copied.
        bias: [co].
        stride: Along both sides.
        padding: On all sides.

    Returns:
        [b, co, h', w'], with the channels side by side in memory.
    """
    kernel = weight.shape[2]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    taken = padded.unfold(1, kernel, stride).unfold(2, kernel, stride).permute(0, 1, 2, 4, 5, 3)
    rows = taken.reshape(taken.shape[:3].numel(), -1)
    y = F.linear(rows, weight.permute(0, 2, 3, 1).flatten(1), bias)
    return y.view(*taken.shape[:3], -1).permute(0, 3, 1, 2)


def transposed_conv_by_product(x: Tensor, weight: Tensor) -> Tensor:
    """A transposed convolution with a 4x4 kernel, stride 2 and padding 1: to twice the size.

    Args:
        x: [b, ci, h, w], best with the channels side by side in memory.
        weight: [ci, co, 4, 4], best with the channels side by side too.

    Returns:
        [b, co, 2 h, 2 w], with the channels side by side in memory.
    """
    batch, channels, height, width = x.shape
    cells = x.permute(0, 2, 3, 1).reshape(-1, channels)
    spread = (cells @ weight.permute(0, 2, 3, 1).flatten(1)).view(batch, height, width, 4, 4, -1)
    y = x.new_zeros(batch, 2 * height + 2, 2 * width + 2, weight.shape[1])
    for row in range(4):
        for column in range(4):
            y[:, row : row + 2 * height : 2, column : column + 2 * width : 2] += spread[:, :, :, row, column]
    return y[:, 1:-1, 1:-1].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
