"""Trading time for memory: the activations of a backbone, computed twice instead of kept."""

from collections.abc import Iterator
from functools import partial
from itertools import chain

from torch import nn
from torch.utils.checkpoint import checkpoint

from flowdet.detectors.efficientnet_lite import EfficientNetLite0
from flowdet.detectors.resnet import ResNet

__all__ = ["checkpoint_backbones"]


def checkpoint_backbones(model: nn.Module) -> None:
    """Lets the trained blocks of every backbone in a model forget what happens inside them until the backward pass.

    Weights, gradients and results stay as they are.
    """
    for block in _trained_blocks(model):
        forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = forward


def _trained_blocks(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        match module:
            case ResNet():
                stages = chain(module.layer1, module.layer2, module.layer3, module.layer4)
            case EfficientNetLite0():
                stages = chain.from_iterable(stage.children() for stage in module.stages)
            case _:
                continue
        yield from (block for block in stages if any(parameter.requires_grad for parameter in block.parameters()))
