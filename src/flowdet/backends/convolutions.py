"""Convolutions that take the shortest way for the size of their map, on a CPU: Winograd's, or one matrix product.

Winograd's algorithm computes 3x3 convolutions with a quarter of the multiplications (Lavin and Gray, 2016, F(4x4,
3x3)). On maps of few cells, one matrix product is faster, since reordering the weights for the usual way takes longer.
"""

from collections.abc import Sequence
from typing import Final, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ConvBySize",
    "TransposedConvBySize",
    "conv_by_product",
    "count_tiles",
    "transform_kernel",
    "transposed_conv_by_product",
    "winograd_conv",
]

_LEAST_CHANNELS = 128
_LEAST_TILES = 32

# 4 outputs along a side need 6 inputs. These points, with infinity, are more exact than the usual 0, 1, -1, 2, -2.
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
_KERNEL, _OUT, _IN = 3, 4, 6
# More tiles at once leave the caches, fewer make thin matrix products.
_TILES_AT_ONCE = 256
_KERNELS_AT_ONCE = 32


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Of a kernel [6, 3], of a row of inputs [6, 6] and of a row of products [4, 6], by Cook and Toom."""
    points = torch.tensor(_POINTS, dtype=torch.float64)
    gaps = points[:, None] - points
    scale = gaps.fill_diagonal_(1).prod(dim=1)
    infinity = torch.zeros(1, _IN, dtype=torch.float64)
    kernel = torch.cat((points[:, None] ** torch.arange(_KERNEL) / scale[:, None], infinity[:, -_KERNEL:]))
    kernel[-1, -1] = 1
    products = torch.cat((points[:, None] ** torch.arange(_OUT), infinity[:, -_OUT:])).T.contiguous()
    products[-1, -1] = 1
    inputs = torch.cat([_polynomial([q for q in _POINTS if q != p]) for p in _POINTS] + [_polynomial(list(_POINTS))])
    return kernel, inputs, products


def _polynomial(roots: list[float]) -> Tensor:
    """Coefficients [1, 6] of the polynomial with these roots, lowest power first."""
    coefficients = torch.zeros(_IN, dtype=torch.float64)
    coefficients[0] = 1
    for root in roots:
        coefficients = coefficients.roll(1) - root * coefficients
    return coefficients[None]


_OF_KERNEL, _of_inputs, _of_products = _transforms()
# Along both sides at once, as one matrix.
_OF_INPUTS: Final = torch.kron(_of_inputs, _of_inputs).float()
_OF_PRODUCTS: Final = torch.kron(_of_products, _of_products).float()


def transform_kernel(weight: Tensor) -> Tensor:
    """Returns a kernel [co, ci, 3, 3] as `winograd_conv` needs it: [36, ci, co], four times as large."""
    outputs, inputs = weight.shape[:2]
    transformed = weight.new_empty(_IN * _IN, inputs, outputs)
    # In parts, because double precision takes memory.
    for start in range(0, outputs, _KERNELS_AT_ONCE):
        part = slice(start, start + _KERNELS_AT_ONCE)
        both = torch.einsum("ij,abjk,lk->ilba", _OF_KERNEL, weight[part].double(), _OF_KERNEL)
        transformed[:, :, part] = both.flatten(0, 1)
    return transformed


def count_tiles(size: Sequence[int], dilation: int = 1) -> int:
    """Returns the number of 4x4 tiles of a map [h, w]; with dilation d, of all its d x d interleaved maps."""
    height, width = size
    side = _OUT * dilation
    return -(-height // side) * -(-width // side) * dilation**2


def winograd_conv(x: Tensor, kernel: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    """A 3x3 convolution of stride 1 whose padding is its dilation; on the CPU, for inference.

    Its rounding errors are a few millionths of the largest output, like those of the direct sums.

    Args:
        x: [b, ci, h, w], best with the channels side by side in memory.
        kernel: As `transform_kernel` returns it.
        bias: [co].
        dilation: Cells from one tap of the kernel to the next.

    Returns:
        [b, co, h, w], with the channels side by side in memory.
    """
    at_once = max(1, _TILES_AT_ONCE // count_tiles(x.shape[2:], dilation))
    parts = [_convolved(part.permute(0, 2, 3, 1), kernel, dilation) for part in x.split(at_once)]
    y = parts[0] if len(parts) == 1 else torch.cat(parts)
    return (y if bias is None else y + bias).permute(0, 3, 1, 2)


def _convolved(x: Tensor, kernel: Tensor, dilation: int) -> Tensor:
    """[b, h, w, ci] to [b, h, w, co]."""
    batch, height, width, channels = x.shape
    side = _OUT * dilation
    rows, columns = -(-height // side), -(-width // side)
    below, right = rows * side + dilation - height, columns * side + dilation - width
    padded = F.pad(x, (0, 0, dilation, right, dilation, below))
    # Interleaved maps [b, rows, d, columns, d, c], then tiles of 6x6 that overlap by 2.
    apart = padded.unflatten(2, (-1, dilation)).unflatten(1, (-1, dilation))
    tiles = apart.unfold(3, _IN, _OUT).unfold(1, _IN, _OUT).permute(7, 6, 0, 1, 2, 3, 4, 5)
    taken = _OF_INPUTS @ tiles.reshape(_IN * _IN, -1)
    products = torch.bmm(taken.view(_IN * _IN, -1, channels), kernel)
    y = (_OF_PRODUCTS @ products.flatten(1)).view(_OUT, _OUT, batch, rows, dilation, columns, dilation, -1)
    y = y.permute(2, 3, 0, 4, 5, 1, 6, 7).reshape(batch, rows * side, columns * side, -1)
    return y[:, :height, :width]


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


class ConvBySize(nn.Module):
    """A convolution that takes the shortest way for the size of its map.

    On large maps that is `winograd_conv`, whose kernel has four times the weights and is made when first needed; on
    maps with fewer cells than channels it is one matrix product.

    Args:
        conv: The convolution, see `suits`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self._kernel: Tensor | None = None
        self._is_dilated = conv.dilation != (1, 1)
        self._knows_winograd = conv.kernel_size == (3, 3) and conv.stride == (1, 1) and conv.padding == conv.dilation

    @property
    def weight(self) -> Tensor:
        """That of the convolution, for methods that apply it in other ways, too."""
        return self.conv.weight

    @staticmethod
    def suits(module: nn.Module) -> TypeGuard[nn.Conv2d]:
        """Whether a module is a square convolution on the CPU, larger than 1x1, with channels enough."""
        return (
            isinstance(module, nn.Conv2d)
            and module.weight.device.type == "cpu"
            and module.groups == 1
            and module.kernel_size != (1, 1)
            and all(
                len({*sides}) == 1 for sides in (module.kernel_size, module.stride, module.padding, module.dilation)
            )
            and not isinstance(module.padding, str)
            and min(module.in_channels, module.out_channels) >= _LEAST_CHANNELS
        )

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution."""
        dilation = self.conv.dilation[0]
        if self._knows_winograd and len(x) * count_tiles(x.shape[2:], dilation) >= _LEAST_TILES:
            if self._kernel is None:
                self._kernel = transform_kernel(self.conv.weight)
            return winograd_conv(x, self._kernel, self.conv.bias, dilation)
        conv = self.conv.to(memory_format=torch.channels_last)
        stride, padding = conv.stride[0], conv.padding[0]
        if not self._is_dilated and x[:, 0].numel() < stride**2 * conv.in_channels:
            assert isinstance(padding, int)
            return conv_by_product(x, conv.weight, conv.bias, stride, padding)
        found: Tensor = conv(x)
        return found


class TransposedConvBySize(nn.Module):
    """A transposed convolution to twice the size that is one matrix product on maps with fewer cells than channels.

    Args:
        conv: The transposed convolution, see `suits`.
    """

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = conv.to(memory_format=torch.channels_last)

    @staticmethod
    def suits(module: nn.Module) -> TypeGuard[nn.ConvTranspose2d]:
        """Whether a module is of the kind of `transposed_conv_by_product`, on the CPU."""
        return (
            isinstance(module, nn.ConvTranspose2d)
            and module.weight.device.type == "cpu"
            and module.groups == 1
            and module.bias is None
            and (module.kernel_size, module.stride, module.padding) == ((4, 4), (2, 2), (1, 1))
            and (module.dilation, module.output_padding) == ((1, 1), (0, 0))
            and module.in_channels >= _LEAST_CHANNELS
        )

    def forward(self, x: Tensor) -> Tensor:
        """As the transposed convolution."""
        if x[:, 0].numel() < self.conv.in_channels:
            return transposed_conv_by_product(x, self.conv.weight)
        found: Tensor = self.conv(x)
        return found
