"""A system in the form in which PyTorch runs it fastest; its numbers stay the same within rounding."""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flowdet.backends.convolutions import ConvBySize, TransposedConvBySize
from flowdet.systems.detector import VideoDetector

__all__ = ["optimise"]


def optimise(system: VideoDetector) -> VideoDetector:
    """Returns a copy of the system for inference.

    Batch norm is folded into the convolutions, channels lie side by side in memory, and on a CPU convolutions take the
    shortest way for the size of their maps.

    The given system stays as it is; only it can be saved, since the weights of the copy fit no weight file. Both share
    what need not change, so train neither.
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
