"""A system in the form in which PyTorch runs it fastest on a CPU; its numbers stay the same within rounding."""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flowdet.system import VideoDetector

__all__ = ["optimise"]


def optimise(system: VideoDetector) -> VideoDetector:
    """A copy of the system for inference: batch norm folded into the convolutions, channels side by side in memory.

    The given system stays as it is, to be saved or trained: the weights of the copy fit no weight file.
    """
    fast = copy.deepcopy(system).eval().requires_grad_(False)
    for module in list(fast.modules()):
        _fold_norms(module)
    return fast.to(memory_format=torch.channels_last)


def _fold_norms(module: nn.Module) -> None:
    """Folds each batch norm that stands right after a convolution in this module into it."""
    for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())
