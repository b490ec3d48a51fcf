"""A system in the form in which PyTorch runs it fastest on a CPU; its numbers stay the same within rounding."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flowdet.ops.winograd import count_tiles, transform_kernel, winograd_conv
from flowdet.system import VideoDetector

__all__ = ["WinogradConv", "optimise"]

_LEAST_CHANNELS = 128
_LEAST_TILES = 32


class WinogradConv(nn.Module):
    """A convolution that takes the way of `winograd_conv` on maps large enough for it to be the shorter one.

    The kernel for that way has four times the weights; it is made when first needed.

    Args:
        conv: The convolution, see `suits`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self._kernel: Tensor | None = None

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether a module is a 3x3 convolution of stride 1 with channels enough."""
        return (
            isinstance(module, nn.Conv2d)
            and module.weight.device.type == "cpu"
            and module.kernel_size == (3, 3)
            and module.stride == (1, 1)
            and module.groups == 1
            and module.padding == module.dilation
            and module.dilation[0] == module.dilation[1]
            and min(module.in_channels, module.out_channels) >= _LEAST_CHANNELS
        )

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution."""
        dilation = self.conv.dilation[0]
        if len(x) * count_tiles(*x.shape[2:], dilation) < _LEAST_TILES:
            found: Tensor = self.conv.to(memory_format=torch.channels_last)(x)
            return found
        if self._kernel is None:
            self._kernel = transform_kernel(self.conv.weight)
        return winograd_conv(x, self._kernel, self.conv.bias, dilation)


def optimise(system: VideoDetector) -> VideoDetector:
    """A copy of the system for inference.

    Batch norm is folded into the convolutions, channels lie side by side in memory, and on a CPU 3x3 convolutions take
    fewer multiplications.

    The given system stays as it is, to be saved: the weights of the copy fit no weight file. What need not change is
    shared by both, so train neither.
    """
    shared = {id(each): nn.Parameter(each.detach(), requires_grad=False) for each in system.parameters()}
    fast = copy.deepcopy(system, shared).eval()
    for module in list(fast.modules()):
        _fold_norms(module)
    for module in list(fast.modules()):
        for name, child in module.named_children():
            if WinogradConv.suits(child):
                setattr(module, name, WinogradConv(child))
            elif isinstance(child, (nn.Conv2d, nn.ConvTranspose2d)):
                child.to(memory_format=torch.channels_last)
    return fast


def _fold_norms(module: nn.Module) -> None:
    """Folds each batch norm that stands right after a convolution in this module into it."""
    for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())
