"""A system in the form in which PyTorch runs it fastest on a CPU; its numbers stay the same within rounding."""

import copy
from itertools import pairwise
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flowdet.ops.products import conv_by_product, transposed_conv_by_product
from flowdet.ops.winograd import count_tiles, transform_kernel, winograd_conv
from flowdet.systems.detector import VideoDetector

__all__ = ["ConvBySize", "TransposedConvBySize", "optimise"]

_LEAST_CHANNELS = 128
_LEAST_TILES = 32


class ConvBySize(nn.Module):
    """A convolution that takes the shortest way for the size of its map.

    On large maps that is `winograd_conv`, whose kernel has four times the weights and is made when first needed, on
    maps with fewer cells than channels one matrix product.

    Args:
        conv: The convolution, see `suits`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self._kernel: Tensor | None = None
        self._is_dilated = conv.dilation != (1, 1)
        self._knows_winograd = conv.kernel_size == (3, 3) and conv.stride == (1, 1) and conv.padding == conv.dilation

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


def optimise(system: VideoDetector) -> VideoDetector:
    """A copy of the system for inference.

    Batch norm is folded into the convolutions, channels lie side by side in memory, and on a CPU convolutions take the
    shortest way for the size of their maps.

    The given system stays as it is, to be saved: the weights of the copy fit no weight file. What need not change is
    shared by both, so train neither.
    """
    shared = {id(each): nn.Parameter(each.detach(), requires_grad=False) for each in system.parameters()}
    fast = copy.deepcopy(system, shared).eval()
    for module in list(fast.modules()):
        _fold_norms(module)
    for module in list(fast.modules()):
        for name, child in module.named_children():
            if ConvBySize.suits(child):
                setattr(module, name, ConvBySize(child))
            elif TransposedConvBySize.suits(child):
                setattr(module, name, TransposedConvBySize(child))
            elif isinstance(child, (nn.Conv2d, nn.ConvTranspose2d)):
                child.to(memory_format=torch.channels_last)
    return fast


def _fold_norms(module: nn.Module) -> None:
    """Folds each batch norm that stands right after a convolution in this module into it."""
    for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())
